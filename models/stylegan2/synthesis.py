"""What every generator of pictures from styles has: its sizes, its number of styles, their mean."""

from typing import Literal

import torch
from torch import Tensor, nn

from models.entropy.noise import normal_noise
from models.stylegan2.layers import ModulatedConv, activate, doubled

Noise = Literal["fixed", "none", "keyed"]
"""Which maps are added inside: those that belong to the weights, none, or new ones from each image's key."""


class Synthesis(nn.Module):
    """Base of the synthesis networks: styles in, picture out.

    Attributes:
        num_styles: how many of them a picture takes, coarse to fine (StyleGAN2's W+).
        style_dim: numbers in each.
        sizes: sides of the pictures it can make, in pixels, small to large.
        w_mean: mean style, (style_dim,).
    """

    num_styles: int
    style_dim: int
    sizes: tuple[int, ...]
    w_mean: Tensor

    def forward(
        self, styles: Tensor, *, size: int | None = None, noise: Noise = "fixed", keys: Tensor | None = None
    ) -> Tensor:
        """Pictures (B, 3, size, size) of styles (B, num_styles, style_dim).

        Args:
            styles: W+, coarse to fine.
            size: one of ``sizes``; default: the largest.
            noise: see ``Noise``.
            keys: one an image, int64 (B,), for keyed noise (models/entropy/noise.py).

        Returns:
            RGB, about [0, 1], not clamped.

        Raises:
            ValueError: styles or a size that it does not take.
        """
        if styles.dim() != 3 or tuple(styles.shape[1:]) != (self.num_styles, self.style_dim):
            raise ValueError(
                f"styles of shape {tuple(styles.shape)}: this generator takes (B, {self.num_styles}, {self.style_dim})"
            )
        if (noise == "keyed") != (keys is not None):
            raise ValueError(f"noise={noise!r}: keys go with 'keyed', and only with that")
        size = self.sizes[-1] if size is None else size
        if size not in self.sizes:
            raise ValueError(f"size={size} is none of this generator's sizes, {list(self.sizes)}")
        return self.picture(styles, size, noise, keys) / 2 + 0.5

    def picture(self, styles: Tensor, size: int, noise: Noise, keys: Tensor | None) -> Tensor:
        """What a subclass implements: ``forward`` of checked arguments, in the network's own range, about [-1, 1]."""
        raise NotImplementedError

    def size_for(self, side: int) -> int:
        """The smallest of ``sizes`` that holds a picture of this side; the largest where none does."""
        return next((size for size in self.sizes if size >= side), self.sizes[-1])

    def truncated(self, styles: Tensor, psi: float | Tensor) -> Tensor:
        """Styles (B, num_styles, style_dim) drawn to their mean: 0 is the mean face, 1 leaves them as they are.

        Reference: Karras et al., CVPR 2019, https://arxiv.org/abs/1812.04948, appendix B.
        """
        return self.w_mean + psi * (styles - self.w_mean)


class StyledConv(nn.Module):
    """Modulated convolution, noise, bias, leaky ReLU.

    Args:
        inputs: channels.
        outputs: channels.
        style_dim: numbers in a style.
        size: side of the result.
        up: double the sides.
    """

    def __init__(self, inputs: int, outputs: int, style_dim: int, size: int, *, up: bool = False):
        super().__init__()
        self.conv = ModulatedConv(inputs, outputs, 3, style_dim, up=up)
        self.noise_strength = nn.Parameter(torch.zeros(()))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.register_buffer("noise", torch.randn(size, size))

    def forward(self, x: Tensor, style: Tensor, noise: Noise, keys: Tensor | None, salt: int) -> Tensor:
        """(B, inputs, h, w) to (B, outputs, size, size); ``salt`` tells this layer's keyed noise apart."""
        x = self.conv(x, style)
        if noise == "fixed":
            x = x + self.noise_strength * self.noise
        elif noise == "keyed":
            drawn = normal_noise(keys, (len(x), 1, *x.shape[2:]), salt=salt)
            x = x + self.noise_strength * drawn.to(x.dtype)
        return activate(x + self.bias[:, None, None])


class ToRGB(nn.Module):
    """Features to the picture of their size: a modulated 1x1 convolution without demodulation."""

    def __init__(self, inputs: int, style_dim: int):
        super().__init__()
        self.conv = ModulatedConv(inputs, 3, 1, style_dim, demodulate=False)
        self.bias = nn.Parameter(torch.zeros(3))

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        """(B, inputs, h, w) to (B, 3, h, w)."""
        return self.conv(x, style) + self.bias[:, None, None]


class Block(nn.Module):
    """One size: a convolution that doubles it, one that does not, and its part of the picture.

    Args:
        inputs: channels; ``None`` for the first block, which has one convolution.
        outputs: channels.
        style_dim: numbers in a style.
        size: side of the result.
    """

    def __init__(self, inputs: int | None, outputs: int, style_dim: int, size: int):
        super().__init__()
        self.conv0 = None if inputs is None else StyledConv(inputs, outputs, style_dim, size, up=True)
        self.conv1 = StyledConv(outputs, outputs, style_dim, size)
        self.to_rgb = ToRGB(outputs, style_dim)
        self.size = size

    def forward(
        self, x: Tensor, picture: Tensor | None, styles: Tensor, noise: Noise, keys: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Features, and the picture so far, of the styles (B, 2 or 3, style_dim) of this block."""
        first, *_ = styles = styles.unbind(1)
        if self.conv0 is not None:
            x = self.conv0(x, first, noise, keys, 2 * self.size)
            styles = styles[1:]
        x = self.conv1(x, styles[0], noise, keys, 2 * self.size + 1)
        shown = self.to_rgb(x, styles[1])
        return x, shown if picture is None else doubled(picture) + shown


class StyleGAN2Synthesis(Synthesis):
    """StyleGAN2's synthesis network with skip connections ("config F").

    ::

        style   0      1     1     2     3     3     4     5          (the last of a block is the next one's first)
                ▼      ▼     ▼     ▼     ▼     ▼     ▼     ▼
        const ─► 4x4 ─► up ──► 8x8 ─────► up ──► 16x16 ─ ...
                  └► RGB ──────► + RGB ───────────► + RGB ...

    Args:
        size: of the pictures, a power of two from 8 to 1024.
        style_dim: numbers in a style.
        channel_base: a map of side r has ``min(channel_base / r, max_channels)`` channels: 32768 is channel multiplier
            2 (FFHQ at 1024 px), 16384 is multiplier 1 (paper256).
        max_channels: likewise.

    Reference: Karras et al., Analyzing and Improving the Image Quality of StyleGAN, CVPR 2020,
    https://arxiv.org/abs/1912.04958, figures 2d and 7b.
    """

    def __init__(
        self, size: int, *, style_dim: int = 512, channel_base: int = 32768, max_channels: int = 512
    ):
        super().__init__()
        levels = side_levels(size)
        self.size, self.sizes, self.style_dim = size, (size,), style_dim
        self.num_styles = 2 * levels - 2
        widths = [channels_at(2**level, channel_base, max_channels) for level in range(2, levels + 1)]
        self.const = nn.Parameter(torch.randn(widths[0], 4, 4))
        self.blocks = nn.ModuleList(
            Block(None if i == 0 else widths[i - 1], width, style_dim, 4 * 2**i)
            for i, width in enumerate(widths)
        )
        self.register_buffer("w_mean", torch.zeros(style_dim))

    def picture(self, styles: Tensor, size: int, noise: Noise, keys: Tensor | None) -> Tensor:
        x, picture = self.const.expand(len(styles), -1, -1, -1), None
        for i, block in enumerate(self.blocks):
            own = styles[:, :2] if i == 0 else styles[:, 2 * i - 1 : 2 * i + 2]
            x, picture = block(x, picture, own, noise, keys)
        return picture


def side_levels(size: int) -> int:
    """log2 of a picture's side.

    Raises:
        ValueError: not a power of two from 8 to 1024.
    """
    if size not in (8, 16, 32, 64, 128, 256, 512, 1024):
        raise ValueError(f"size={size} must be a power of two from 8 to 1024: StyleGAN2 doubles 4x4 maps")
    return size.bit_length() - 1


def channels_at(side: int, channel_base: int, max_channels: int) -> int:
    """Channels of a map of a side.

    Raises:
        ValueError: none are left at that side.
    """
    channels = min(channel_base // side, max_channels)
    if channels < 1:
        raise ValueError(f"channel_base={channel_base} leaves no channel at {side} px: take {side} at least")
    return channels
