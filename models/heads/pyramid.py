"""Feature pyramids: maps of a backbone, each joined with what the coarser ones know.

    features  coarse -> ... -> fine     1x1 lateral convolutions, summed on the way up

Reference: Lin et al., CVPR 2017, https://arxiv.org/abs/1612.03144.
"""

from collections.abc import Callable, Sequence
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from models.heads.norms import group_norm
from models.outputs import LatentSpec


def conv_block(in_channels: int, out_channels: int) -> nn.Sequential:
    """3x3 convolution, group norm, GELU."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False), group_norm(out_channels), nn.GELU()
    )


def enlarge(x: Tensor, factor: int, mode: str = "bilinear") -> Tensor:
    """Each position becomes factor x factor pixels (half-pixel centres: nothing shifts)."""
    corners = {} if mode == "nearest" else {"align_corners": False}
    return x if factor == 1 else F.interpolate(x, scale_factor=factor, mode=mode, **corners)


class Laterals(nn.ModuleList):
    """1x1 convolutions to one width, summed from coarse to fine.

    Args:
        channels: of each map, fine to coarse.
        strides: of each.
        width: channels of the results.
        mode: how coarser maps are enlarged.
    """

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        width: int,
        mode: Literal["bilinear", "nearest"] = "bilinear",
    ):
        super().__init__(nn.Conv2d(own, width, 1) for own in channels)
        self.strides, self.mode = tuple(strides), mode

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Maps (B, channels, h, w), fine to coarse -> the same with ``width`` channels."""
        merged = [self[-1](maps[-1])]
        for i in range(len(maps) - 2, -1, -1):
            factor = self.strides[i + 1] // self.strides[i]
            merged.insert(0, enlarge(merged[0], factor, self.mode) + self[i](maps[i]))
        return merged


class FeaturePyramid(nn.Module):
    """A backbone and its pyramid: maps of one width at several strides.

    Args:
        spec: what is read; a map.
        features: builds the backbone: called as ``features(spec)``; returns a list of maps, fine to coarse, and gives
            their ``channels`` and ``strides`` (TimmFeatures).
        width: channels of the maps.
        min_stride: maps finer than this are left out.

    Attributes:
        strides: image pixels per position of each map.
        out_channels: ``width``, as torchvision's detectors call it.

    Raises:
        ValueError: every map is finer than ``min_stride``.
    """

    def __init__(
        self,
        spec: LatentSpec,
        *,
        features: Callable[[LatentSpec], nn.Module],
        width: int,
        min_stride: int = 1,
    ):
        super().__init__()
        self.features = features(spec)
        levels = zip(self.features.strides, self.features.channels, strict=True)
        levels = [level for level in levels if level[0] >= min_stride]
        if not levels:
            raise ValueError(
                f"`min_stride`={min_stride} leaves no map of this backbone; its strides: {self.features.strides}"
            )
        self.strides = tuple(stride for stride, _ in levels)
        self.out_channels = width
        self.lateral = Laterals([channels for _, channels in levels], self.strides, width)
        self.smooth = nn.ModuleList(conv_block(width, width) for _ in levels)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Maps (B, width, h, w), fine to coarse, covering the input padded at the right and the bottom."""
        merged = self.lateral(self.features(x)[-len(self.strides) :])
        return [smooth(level) for smooth, level in zip(self.smooth, merged, strict=True)]
