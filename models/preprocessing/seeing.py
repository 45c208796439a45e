"""A filter that knows what it looks at: gains on blocks and bands, from what a network sees in the picture."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.padding import pad_to_stride
from models.preprocessing.blocks import NUM_BANDS, SIDE, band_contrasts, scaled
from models.preprocessing.rate_scale import RateScale


class SeeingFilter(nn.Module):
    r"""What matters to a machine lies in objects, not in the energy of pixels: so the filter has a network look first.

    ::

        x ─┬─► network, held still ─► maps ─────────────┐
           └─► contrast of each block's bands ──────────┴► decision(level) ─► gains ─► · ─► filtered
                                                                         x ────────────┘

    Gains are in (0, 2), one for each block of 8x8 pixels and each of its bands; all are 1 at first, which is no filter
    at all. Train ``decision`` alone: the network stays in evaluation mode and gets no gradients.

    Args:
        network: pictures (B, 3, H, W) in [0, 1] -> maps (B, C, h, w): a ``models.feature_maps.FeatureMaps``. Models
            hold its weights: who encodes needs them, who decodes does not.
        channels: of its maps.
        width: of the decision's convolutions.
        depth: how many 3x3 there are; their dilations are 1, 2, 4, ...
        hidden: width of the MLPs that make the scales.

    Raises:
        ValueError: a number is out of range, or, when pictures come, the network's maps have other channels.
    """

    def __init__(
        self,
        network: nn.Module,
        channels: Sequence[int],
        *,
        width: int = 64,
        depth: int = 3,
        hidden: int = 16,
    ):
        super().__init__()
        if not channels or min(*channels, width, depth, hidden) < 1:
            raise ValueError(
                f"channels={list(channels)}, width={width}, depth={depth}, hidden={hidden} must be at least 1"
            )
        self.network = network.eval().requires_grad_(False)
        self.channels = list(channels)
        self.decision = Decision(channels, width, depth, hidden)

    def train(self, mode: bool = True) -> "SeeingFilter":
        """As ever, but for the network, which is in evaluation mode always."""
        super().train(mode)
        self.network.eval()
        return self

    def forward(self, x: Tensor, level: float) -> Tensor:
        """(B, 3, H, W) in [0, 1], of any size, to float32 of the same shape, not clamped; ``level`` in [0, 1]."""
        gains = self.gains(x, level).float()
        with torch.autocast(x.device.type, enabled=False):
            return scaled(x.float(), gains)

    def gains(self, x: Tensor, level: float) -> Tensor:
        """What each block's bands are multiplied by, (B, NUM_BANDS, *grid_of((H, W))), in (0, 2)."""
        with torch.no_grad():
            maps = self.network(pad_to_stride(x, SIDE))
            contrasts = band_contrasts(x)
        if (found := [features.shape[1] for features in maps]) != self.channels:
            raise ValueError(
                f"channels={self.channels}, and the network's maps have {found}: give the network's own"
            )
        return 2 * torch.sigmoid(self.decision(maps, contrasts, level))


class Decision(nn.Module):
    """Maps of a network and contrasts of blocks to one number for each block and band, zeros at first.

    Beside its channels, each map tells at every position how much it is like the whole: their cosine, by which a place
    that has nothing to do with the picture's subject is known.

    All arguments: see SeeingFilter.
    """

    def __init__(self, channels: Sequence[int], width: int, depth: int, hidden: int):
        super().__init__()
        self.of_maps = nn.ModuleList(nn.Conv2d(c + 1, width, 1) for c in channels)
        self.of_contrasts = nn.Conv2d(NUM_BANDS, width, 1)
        self.middle = nn.ModuleList(
            nn.Conv2d(width, width, 3, padding=2**i, dilation=2**i) for i in range(depth)
        )
        self.scales = nn.ModuleList(RateScale(width, hidden) for _ in range(depth))
        self.last = nn.Conv2d(width, NUM_BANDS, 1)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, maps: Sequence[Tensor], contrasts: Tensor, level: float) -> Tensor:
        """Maps (B, C, ...) of any sizes and contrasts (B, NUM_BANDS, rows, columns) to the latter's shape."""
        h = self.of_contrasts(contrasts)
        for conv, features in zip(self.of_maps, maps, strict=True):
            seen = conv(_told(features))
            h = h + F.interpolate(seen, size=contrasts.shape[-2:], mode="bilinear", align_corners=False)
        h = F.gelu(h)
        for conv, scale in zip(self.middle, self.scales, strict=True):
            h = h + scale(F.gelu(conv(h)), level)
        return self.last(h)


def _told(features: Tensor) -> Tensor:
    """A map (B, C, h, w), normalised at each position, and its likeness to the whole: (B, C + 1, h, w)."""
    like = F.cosine_similarity(features, features.mean((2, 3), keepdim=True), dim=1)[:, None]
    normal = F.layer_norm(features.movedim(1, -1), features.shape[1:2]).movedim(-1, 1)
    return torch.cat([normal, like], 1)
