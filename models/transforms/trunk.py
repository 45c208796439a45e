"""Encoders on a timm network: a map from one of its levels, or a vector from the average of its last."""

from collections.abc import Callable

from torch import Tensor, nn

from models.heads.features import TimmFeatures
from models.outputs import LatentSpec

PIXELS = LatentSpec("map", 3, "", stride=1)


class TrunkMap(nn.Module):
    """Pictures to a map: the level of stride ``stride``, and one 1x1 convolution.

    Args:
        channels: of the map.
        stride: pixels per position; one of the network's own.
        features: builds the network: called as ``features(PIXELS, max_stride=stride)`` (TimmFeatures).

    Raises:
        ValueError: the network has no level of that stride.
    """

    def __init__(self, channels: int, *, stride: int = 16, features: Callable[..., TimmFeatures]):
        super().__init__()
        self.features = features(PIXELS, max_stride=stride)
        if self.features.strides[-1] != stride:
            raise ValueError(f"stride={stride} must be one of the network's levels {self.features.strides}")
        self.stride = stride
        self.project = nn.Conv2d(self.features.channels[-1], channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1], sides multiples of the stride, to (B, channels, H/stride, W/stride)."""
        return self.project(self.features(x)[-1])


class TrunkVector(nn.Module):
    """Pictures to a vector: the average of the last level, and one linear layer.

    Args:
        channels: of the vector.
        features: builds the network: called as ``features(PIXELS)`` (TimmFeatures). Coarse levels see much of the
            picture and little of its contrast; ``max_stride`` ends earlier.
    """

    def __init__(self, channels: int, *, features: Callable[[LatentSpec], TimmFeatures]):
        super().__init__()
        self.features = features(PIXELS)
        self.linear = nn.Linear(self.features.channels[-1], channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] to (B, channels)."""
        return self.linear(self.features(x)[-1].mean((-2, -1)))
