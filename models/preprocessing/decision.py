"""Decision: the part that learns of filters that scale the bands of blocks."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.preprocessing.blocks import NUM_BANDS
from models.preprocessing.rate_scale import RateScale


class Decision(nn.Module):
    """What is known of blocks, and a network's maps of them, to gains on their bands, in (0, 2): 1 at first.

    Args:
        known: channels of what is known of each block.
        channels: of the network's maps; none where it has no say.
        width: of the convolutions.
        depth: how many 3x3 there are; their dilations are 1, 2, 4, ...
        hidden: width of the MLPs that make the scales.

    Raises:
        ValueError: a number is out of range.
    """

    def __init__(self, known: int, channels: Sequence[int], width: int, depth: int, hidden: int):
        super().__init__()
        if min(*channels, known, width, depth, hidden) < 1:
            raise ValueError(
                f"channels={list(channels)}, width={width}, depth={depth}, hidden={hidden} must be at least 1"
            )
        self.of_maps = nn.ModuleList(nn.Conv2d(c, width, 1) for c in channels)
        self.of_blocks = nn.Conv2d(known, width, 1)
        self.middle = nn.ModuleList(
            nn.Conv2d(width, width, 3, padding=2**i, dilation=2**i) for i in range(depth)
        )
        self.scales = nn.ModuleList(RateScale(width, hidden) for _ in range(depth))
        self.last = nn.Conv2d(width, NUM_BANDS, 1)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, blocks: Tensor, maps: Sequence[Tensor], level: float) -> Tensor:
        """(B, known, rows, columns) and maps (B, C, ...) of any sizes to gains (B, NUM_BANDS, rows, columns)."""
        h = self.of_blocks(blocks)
        for conv, features in zip(self.of_maps, maps, strict=True):
            seen = conv(features)
            h = h + F.interpolate(seen, size=blocks.shape[-2:], mode="bilinear", align_corners=False)
        h = F.gelu(h)
        for conv, scale in zip(self.middle, self.scales, strict=True):
            h = h + scale(F.gelu(conv(h)), level)
        return 2 * torch.sigmoid(self.last(h))
