"""Bits per image: a rate that keeps its size whatever the picture's, layer by layer."""

from collections.abc import Mapping

import torch
from torch import Tensor

from losses.term import Term
from models.outputs import CodecOutput


class BitsPerImage(Term):
    """R: mean over the batch of the weighed sum of all layers' bits, in bits per image.

    For codecs whose bits do not grow with the picture: per pixel, a thousand bits are a number that every other term
    drowns.

    Args:
        weights: {layer: weight}; 1 where not named.

    Raises:
        ValueError: a weight below 0, or (in ``forward``) for a layer that is not there.
    """

    reads = ("bits",)

    def __init__(self, weights: Mapping[str, float] | None = None):
        super().__init__()
        self.weights = dict(weights or {})
        if negative := {name: weight for name, weight in self.weights.items() if weight < 0}:
            raise ValueError(f"weights={negative}: bits must not be rewarded, give 0 or more")

    def forward(self, output: CodecOutput, batch: dict) -> Tensor:
        """Scalar >= 0."""
        if unknown := sorted(set(self.weights) - set(output.bits)):
            raise ValueError(f"weights name the layers {unknown}; the codec has {sorted(output.bits)}")
        weighed = [self.weights.get(name, 1.0) * bits for name, bits in output.bits.items()]
        return torch.stack(weighed).sum(0).mean()
