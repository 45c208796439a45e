"""Perceptual: how far the decode is from the original in the eyes of a network."""

import torch
from torch import Tensor, nn

from losses.term import Term
from models.feature_maps import feature_distance, unit_features
from models.outputs import CodecOutput


class Perceptual(Term):
    """Mean squared distance of unit-normalised features, averaged over positions, layers and images; in [0, 4].

    A network that trained this term does not judge what it trained: choose another for that.

    Args:
        network: (B, 3, H, W) in [0, 1] -> maps of the layers that count (models/feature_maps.py), in
            ``models.frozen.Frozen``.
        layer: the decode is of the file up to this layer; ``None``: of the whole.

    Reference: Zhang et al., CVPR 2018, https://arxiv.org/abs/1801.03924, equation 1. Differs from the paper: no learned
    weights of channels.
    """

    def __init__(self, network: nn.Module, *, layer: str | None = None):
        super().__init__()
        self.network, self.layer = network, layer
        self.reads = ("pixels" if layer is None else f"pixels@{layer}",)

    def forward(self, output: CodecOutput, batch: dict) -> Tensor:
        """Scalar >= 0."""
        with torch.no_grad():
            original = unit_features(self.network(batch["image"]))
        return feature_distance(unit_features(self.network(output.read(self.reads[0]))), original).mean()
