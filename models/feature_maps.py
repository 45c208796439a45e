"""FeatureMaps: what chosen layers of a network make of a picture, and when two such answers are alike."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from timm.models import create_feature_extractor
from torch import Tensor, nn


class FeatureMaps(nn.Module):
    """The outputs of some layers of a network, instead of its own; nothing behind the last of them is computed.

    To be wrapped in ``models.frozen.Frozen`` for a perceptual term or a task. In a yaml::

        _target_: models.frozen.Frozen
        network:
          _target_: models.feature_maps.FeatureMaps
          network: {_target_: models.heads.teacher.TimmTeacher, backbone: resnet18, weights: FILE}
          layers: [net.layer1, net.layer2]

    Args:
        network: takes pictures (B, 3, H, W) in [0, 1]; its normalisation is inside.
        layers: names of the modules whose outputs, maps (B, C, h, w), are returned, in this order.

    Raises:
        ValueError: there is no such layer, or no layer is named.
    """

    def __init__(self, network: nn.Module, layers: Sequence[str]):
        super().__init__()
        names = [name for name, _ in network.named_modules() if name]
        if not layers or (unknown := [layer for layer in layers if layer not in names]):
            wrong = f"names {unknown}, which are not there" if layers else "is empty"
            raise ValueError(
                f"`layers` {wrong}; {type(network).__name__} has {', '.join(names[:40])}"
                + (", ..." if len(names) > 40 else "")
            )
        self.layers = tuple(layers)
        # Traced, not hooked: hooks would mix up the answers of threads.
        self.extract = create_feature_extractor(network.eval(), list(layers))

    def forward(self, x: Tensor) -> list[Tensor]:
        """Maps (B, C, h, w) of pictures (B, 3, H, W) in [0, 1], one for each of ``layers``."""
        found = self.extract(x)
        return [found[layer] for layer in self.layers]


def unit_features(maps: Sequence[Tensor]) -> Tensor:
    """Maps as one vector an image, (B, N) float32: the squared distance of two such is their mean distance by layer.

        |u - v|^2 = mean over layers of mean over positions of |f / |f| - g / |g||^2,  in [0, 4]

    with f and g the channels at one position; u . v is their mean cosine.

    Args:
        maps: (B, C, h, w), of any sizes.

    Reference: Zhang et al., The Unreasonable Effectiveness of Deep Features as a Perceptual Metric, CVPR 2018,
    https://arxiv.org/abs/1801.03924, equation 1. Differs from the paper: no learned weights of channels.
    """
    parts = []
    for features in maps:
        positions = features.shape[-2] * features.shape[-1]
        parts.append(F.normalize(features.float(), dim=1).flatten(1) / (positions * len(maps)) ** 0.5)
    return torch.cat(parts, 1)


def feature_distance(features: Tensor, others: Tensor) -> Tensor:
    """Squared distance of ``unit_features`` (B, N), (B,) in [0, 4]."""
    return (features - others).square().sum(1)
