"""Heads that give points in pixels: from pooled features, or as the centre of a heatmap."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from models.heads.norms import group_norm
from models.heads.pyramid import Laterals
from models.outputs import LatentSpec


class FeaturePoints(nn.Module):
    """Backbone features, averaged in a coarse grid over the picture, and one linear layer to coordinates.

    Args:
        specs: the one map that is read, pixels or a latent.
        num_outputs: number of points.
        features: builds the backbone: called as ``features(spec)``; returns a list of maps, fine to coarse, and
            publishes their ``channels`` and ``strides`` (TimmFeatures).
        width: channels that are averaged.
        grid: cells a side that are averaged apart: where a point is, is lost in one average.

    Raises:
        ValueError: more than one map is read.
    """

    def __init__(
        self,
        specs: Sequence[LatentSpec],
        num_outputs: int,
        *,
        features: Callable[[LatentSpec], nn.Module],
        width: int = 64,
        grid: int = 4,
    ):
        super().__init__()
        if len(specs) != 1:
            raise ValueError(f"FeaturePoints reads one map, not {len(specs)}")
        self.features = features(specs[0])
        self.stride = self.features.strides[-1]
        self.reduce = nn.Conv2d(self.features.channels[-1], width, 1)
        self.pool = nn.AdaptiveAvgPool2d(grid)
        self.linear = nn.Linear(grid**2 * width, 2 * num_outputs)

    def forward(self, x: Tensor, *, size: tuple[int, int]) -> Tensor:
        """Pixels (B, num_outputs, 2) of a map (B, M, h, w) that covers an image of ``size`` (H, W)."""
        height, width = ((side + self.stride - 1) // self.stride for side in size)
        last = self.features(x)[-1][..., :height, :width]
        # In tenths of the image, from its centre: a fresh layer is not far off, and a step does not lead out of it.
        shares = 0.1 * self.linear(self.pool(self.reduce(last)).flatten(1)).float().unflatten(1, (-1, 2))
        sides = torch.tensor([size[1], size[0]], device=x.device, dtype=torch.float32)
        return (0.5 + shares) * sides - 0.5


class HeatmapPoints(nn.Module):
    """Backbone features, a heatmap a point, and the heatmap's centre of mass: finer than its grid.

    Args:
        specs: the one map that is read, pixels or a latent.
        num_outputs: number of points.
        features: as in ``FeaturePoints``.
        width: channels between features and heatmaps.

    Raises:
        ValueError: more than one map is read.

    Reference: Sun et al., Integral Human Pose Regression, ECCV 2018, https://arxiv.org/abs/1711.08229, equation 3.
    Differs from the paper: heatmaps have the stride of the finest map of features.
    """

    def __init__(
        self,
        specs: Sequence[LatentSpec],
        num_outputs: int,
        *,
        features: Callable[[LatentSpec], nn.Module],
        width: int = 64,
    ):
        super().__init__()
        if len(specs) != 1:
            raise ValueError(f"HeatmapPoints reads one map, not {len(specs)}")
        self.features = features(specs[0])
        self.stride = self.features.strides[0]
        self.lateral = Laterals(self.features.channels, self.features.strides, width, mode="nearest")
        self.heat = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            group_norm(width),
            nn.GELU(),
            nn.Conv2d(width, num_outputs, 1),
        )

    def forward(self, x: Tensor, *, size: tuple[int, int]) -> Tensor:
        """Pixels (B, num_outputs, 2) of a map (B, M, h, w) that covers an image of ``size`` (H, W)."""
        merged, stride = self.lateral(self.features(x))[0], self.stride
        height, width = ((side + stride - 1) // stride for side in size)
        heat = self.heat(merged)[..., :height, :width].float()
        shares = heat.flatten(2).softmax(2).unflatten(2, heat.shape[2:])
        centres = [
            stride * (torch.arange(side, device=x.device, dtype=torch.float32) + 0.5) - 0.5
            for side in (width, height)
        ]
        return torch.stack([shares.sum(2) @ centres[0], shares.sum(3) @ centres[1]], -1)
