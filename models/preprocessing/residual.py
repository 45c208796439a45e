"""A small filter: the picture and a correction."""

import torch
from torch import Tensor, nn

from models.preprocessing.rate_scale import RateScale


class ResidualFilter(nn.Module):
    """x + a few dilated convolutions with rate-adaptive channel scales, whose last layer begins at zero.

    Args:
        width: of the convolutions.
        depth: how many there are between the first and the last; their dilations are 1, 2, 4, ...
        hidden: width of the MLPs that make the scales.
    """

    def __init__(self, width: int = 32, depth: int = 4, *, hidden: int = 16):
        super().__init__()
        if min(width, depth, hidden) < 1:
            raise ValueError(f"width={width}, depth={depth}, hidden={hidden} must be at least 1")
        self.first = nn.Conv2d(3, width, 3, padding=1)
        self.middle = nn.ModuleList(
            nn.Conv2d(width, width, 3, padding=2**i, dilation=2**i) for i in range(depth)
        )
        self.scales = nn.ModuleList(RateScale(width, hidden) for _ in range(depth))
        self.last = nn.Conv2d(width, 3, 3, padding=1)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, x: Tensor, level: float) -> Tensor:
        """(B, 3, H, W) in [0, 1], of any size, to float32 of the same shape, not clamped; ``level`` in [0, 1]."""
        h = self.first(x).relu()
        for conv, scale in zip(self.middle, self.scales, strict=True):
            h = h + scale(conv(h), level).relu()
        correction = self.last(h).float()
        with torch.autocast(x.device.type, enabled=False):
            return x.float() + correction
