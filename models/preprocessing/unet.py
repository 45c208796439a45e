"""The published filter: a pixel branch and a U-Net, with rate-adaptive channel scales."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from models.heads.norms import group_norm
from models.padding import crop, pad_to_stride
from models.preprocessing.rate_scale import RateScale

SMALL_BIAS = 1e-3
"""Of the U-Net's last layer, in [0, 1] pixels: a quarter of a grey level, which rounding removes. With a bias of 0 its
last ReLU would never pass a gradient."""


class Affine(nn.Module):
    """A learned scale and shift of each channel: a batch norm whose statistics stay 0 and 1."""

    def __init__(self, channels: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1, channels, 1, 1))
        self.bias = nn.Parameter(torch.zeros(1, channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) to the same shape."""
        return torch.addcmul(self.bias, x, self.weight)


NORMS = {"affine": Affine, "batch": nn.BatchNorm2d, "group": group_norm}


class UNetFilter(nn.Module):
    r"""Two branches that are added, both of which end in a ReLU; the picture before and after it is in [0, 1].

    ::

        x ─┬─► 1x1 · s ─► ReLU ─► 1x1 · s ─► ReLU ──────────────► + ─► filtered (not clamped)
           └─► U-Net: down 1..n (· s) ─► up 1..n (· s) ─► head ───┘

    (· s: channel scales that depend on the rate.) At first the pixel branch is the identity and the U-Net's last layer
    all but zero: the filter begins as no filter at all.

    Args:
        widths: channels of the U-Net's levels, fine to coarse; pictures are padded to 2 ** len(widths), and cropped.
        norm: behind each convolution. ``"affine"``: what the published code amounts to, for there batch norms never
            leave evaluation mode. ``"batch"``, ``"group"``: real ones.
        hidden: width of the MLPs behind the U-Net's finest levels; twice it for the others, half of it for the pixel
            branch.

    Reference: Lu et al., Preprocessing Enhanced Image Compression for Machine Vision, https://arxiv.org/abs/2206.05650;
    the widths by default are the published code's.

    Differs from it: how it begins (there, dead ReLUs leave much of the picture black), and what the scales are made of.
    """

    def __init__(
        self,
        widths: Sequence[int] = (32, 64, 128, 256),
        *,
        norm: Literal["affine", "batch", "group"] = "affine",
        hidden: int = 32,
    ):
        super().__init__()
        if norm not in NORMS:
            raise ValueError(f"norm={norm!r} must be one of {sorted(NORMS)}")
        if len(widths) < 2 or min(widths) < 1:
            raise ValueError(f"widths={list(widths)} must be two positive numbers or more")
        self.stride = 2 ** len(widths)
        self.pixel = nn.ModuleList(nn.Conv2d(3, 3, 1) for _ in range(2))
        self.pixel_scales = nn.ModuleList(RateScale(3, max(1, hidden // 2)) for _ in range(2))
        self.convs, self.downs = nn.ModuleList(), nn.ModuleList()
        for before, width in zip([3, *widths], widths, strict=False):
            self.convs.append(_double(before, width, norm))
            self.downs.append(_layer(nn.Conv2d(width, width, 3, stride=2, padding=1), width, norm))
        # Not behind the coarsest level, as published.
        self.down_scales = nn.ModuleList(
            RateScale(width, hidden * (2 if i > 1 else 1)) for i, width in enumerate(widths[:-1])
        )
        self.ups, self.up_scales = nn.ModuleList(), nn.ModuleList()
        below = widths[-1]
        for level, width in reversed(list(enumerate(widths))):
            up = nn.ConvTranspose2d(2 * width, width, 3, stride=2, padding=1, output_padding=1)
            self.ups.append(nn.Sequential(_double(below, 2 * width, norm), _layer(up, width, norm)))
            below = 2 * width
            if level < len(widths) - 1:
                self.up_scales.append(RateScale(below, hidden * (2 if level else 1)))
        narrow = widths[0]
        self.head = nn.Sequential(
            _layer(nn.Conv2d(below, narrow, 3, padding=1), narrow, norm),
            _layer(nn.Conv2d(narrow, narrow, 3, padding=1), narrow, norm),
        )
        self.last = nn.Conv2d(narrow, 3, 1)
        self._begin_as_identity()

    def _begin_as_identity(self) -> None:
        for conv in self.pixel:
            nn.init.dirac_(conv.weight)
            nn.init.zeros_(conv.bias)
        nn.init.zeros_(self.last.weight)
        nn.init.constant_(self.last.bias, SMALL_BIAS)

    def forward(self, x: Tensor, level: float) -> Tensor:
        """Filter pictures.

        Args:
            x: (B, 3, H, W) in [0, 1], of any size.
            level: of the rate, in [0, 1] from the fewest bits to the most.

        Returns:
            (B, 3, H, W), float32, at least 0 and not clamped above.
        """
        padded = pad_to_stride(x, self.stride)
        branch = self._unet(padded, level).float()
        # The picture itself: in bfloat16 it would lose its last bits.
        with torch.autocast(x.device.type, enabled=False):
            pixel = padded.float()
            for conv, scale in zip(self.pixel, self.pixel_scales, strict=True):
                pixel = scale(conv(pixel), level).relu()
            return crop(pixel + branch, tuple(x.shape[-2:]))

    def _unet(self, x: Tensor, level: float) -> Tensor:
        skips = []
        for i, (conv, down) in enumerate(zip(self.convs, self.downs, strict=True)):
            skips.append(conv(x))
            x = down(skips[-1])
            if i < len(self.down_scales):
                x = self.down_scales[i](x, level)
        for i, up in enumerate(self.ups):
            x = torch.cat([up(x), skips.pop()], 1)
            if i:
                x = self.up_scales[i - 1](x, level)
        return self.last(self.head(x)).relu()


def _layer(conv: nn.Module, width: int, norm: str) -> nn.Sequential:
    return nn.Sequential(conv, NORMS[norm](width), nn.ReLU())


def _double(before: int, width: int, norm: str) -> nn.Sequential:
    layers = (_layer(nn.Conv2d(b, width, 3, padding=1), width, norm) for b in (before, width))
    return nn.Sequential(*layers)
