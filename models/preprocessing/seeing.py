"""A filter that knows what it looks at: gains on blocks and bands, from what a network sees in the picture."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.padding import pad_to_stride
from models.preprocessing.blocks import NUM_BANDS, SIDE, band_contrasts
from models.preprocessing.decision import Decision
from models.preprocessing.gain_filter import GainFilter


class SeeingFilter(GainFilter):
    r"""Gains follow a network's maps of the picture.

    Beside its channels, each map tells at every position how much it is like the whole: their cosine, by which a place
    that has nothing to do with the picture's subject is known.

    Args:
        network: pictures (B, 3, H, W) in [0, 1] -> maps (B, C, h, w): a ``models.feature_maps.FeatureMaps``.
        channels: of its maps.
        width: see Decision.
        depth: see Decision.
        hidden: see Decision.

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
        super().__init__(network, Decision(NUM_BANDS, [c + 1 for c in channels], width, depth, hidden))
        self.channels = list(channels)

    def gains(self, x: Tensor, level: float) -> Tensor:
        """See GainFilter."""
        with torch.no_grad():
            maps = self.network(pad_to_stride(x, SIDE))
            contrasts = band_contrasts(x)
        if (found := [features.shape[1] for features in maps]) != self.channels:
            raise ValueError(
                f"channels={self.channels}, and the network's maps have {found}: give the network's own"
            )
        return self.decision(contrasts, [_told(features) for features in maps], level)


def _told(features: Tensor) -> Tensor:
    """A map (B, C, h, w), normalised at each position, and its likeness to the whole: (B, C + 1, h, w)."""
    like = F.cosine_similarity(features, features.mean((2, 3), keepdim=True), dim=1)[:, None]
    normal = F.layer_norm(features.movedim(1, -1), features.shape[1:2]).movedim(-1, 1)
    return torch.cat([normal, like], 1)
