"""Inversion: from a picture to the styles that a generator would draw it from."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.outputs import LatentSpec

PIXELS = LatentSpec("map", 3, "base", stride=1)


class Inversion(nn.Module):
    r"""A feature pyramid whose coarse levels give the coarse styles, as offsets from the generator's mean style.

    ::

        x ─► backbone ─┬─► finest ──────► 1x1 ─► + ─► head ─► fine styles
                       ├─► middle ──► 1x1 ─► + ─┘ └─► head ─► middle styles
                       └─► coarsest ─► 1x1 ─┘     └─► head ─► coarse styles

    Args:
        num_styles: of the generator.
        style_dim: numbers in each.
        features: builds the backbone, called as ``features(spec)`` with the spec of pixels; returns maps, fine to
            coarse, and publishes their ``channels`` (TimmFeatures). The last of them are used.
        size: side that pictures are resized to, in pixels.
        enlarged: side that they are then enlarged to for the backbone, ``None``: not at all. So an encoder that learned
            on a generator's small pictures sees no finer detail elsewhere, and its maps are still fine.
        split: how many styles each level gives, coarse to fine; of one ``None``: all that are left.
        width: channels of the pyramid.
        grid: cells a side that features are averaged in: where something is, is lost in one average.
        hidden: numbers between the two linear layers of a head.

    Raises:
        ValueError: a split that does not add up, or more levels than the backbone has.

    Reference: Richardson et al., Encoding in Style (pSp), CVPR 2021, https://arxiv.org/abs/2008.00951, section 3.1.
    Differs from the paper: styles of a level share their head up to its last layer.
    """

    def __init__(
        self,
        num_styles: int,
        style_dim: int,
        *,
        features: Callable[[LatentSpec], nn.Module],
        size: int = 256,
        enlarged: int | None = None,
        split: Sequence[int | None] = (3, 4, None),
        width: int = 64,
        grid: int = 4,
        hidden: int = 256,
    ):
        super().__init__()
        self.num_styles, self.style_dim, self.size = num_styles, style_dim, size
        self.enlarged = enlarged or size
        self.split = shared_out(num_styles, split)
        self.features = features(PIXELS)
        channels = list(self.features.channels)[::-1][: len(self.split)]
        if len(channels) < len(self.split):
            raise ValueError(
                f"split={list(split)} needs {len(self.split)} levels of features, and the backbone has {len(channels)}"
            )
        self.lateral = nn.ModuleList(nn.Conv2d(count, width, 1) for count in channels)
        self.heads = nn.ModuleList(
            nn.Sequential(
                nn.AdaptiveAvgPool2d(grid),
                nn.Flatten(),
                nn.Linear(grid**2 * width, hidden),
                nn.LeakyReLU(0.2),
                nn.Linear(hidden, count * style_dim),
            )
            for count in self.split
        )
        for head in self.heads:
            # From near the mean face on.
            nn.init.normal_(head[-1].weight, std=0.1 / hidden**0.5)
            nn.init.zeros_(head[-1].bias)

    def forward(self, x: Tensor) -> Tensor:
        """Offsets (B, num_styles, style_dim) of square pictures (B, 3, S, S) in [0, 1], of any S."""
        for side in (self.size, self.enlarged):
            if tuple(x.shape[-2:]) != (side, side):
                # In float32: torch resizes no bfloat16 like this.
                x = F.interpolate(
                    x.float(), (side, side), mode="bilinear", align_corners=False, antialias=True
                )
        maps, merged, found = self.features(x)[::-1], None, []
        for level, lateral, head in zip(maps, self.lateral, self.heads, strict=False):
            own = lateral(level)
            merged = own if merged is None else own + F.interpolate(merged, own.shape[-2:], mode="nearest")
            found.append(head(merged).float())
        return torch.cat(found, 1).unflatten(1, (self.num_styles, self.style_dim))


def shared_out(total: int, split: Sequence[int | None]) -> tuple[int, ...]:
    """Counts that add up to ``total``, with what is left in place of one ``None``.

    Raises:
        ValueError: they do not, or leave nothing.
    """
    known = sum(count for count in split if count is not None)
    rest = total - known
    if list(split).count(None) > 1 or (None not in split and rest) or (None in split and rest < 1):
        raise ValueError(
            f"groups of {list(split)} styles do not share out the generator's {total}: give counts that add up, or one "
            "null for what is left"
        )
    return tuple(rest if count is None else count for count in split)
