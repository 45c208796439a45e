"""Adaptive instance normalisation: a vector says what mean and contrast each channel of a map has."""

from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from models.transforms.residual import SLOPE, at_least, doublings, halved


class AdaIN(nn.Module):
    """(1 + scale) * (h - mean) / sqrt(var + eps) + shift, with scale and shift linear in a vector.

    Mean and variance are of each channel of each image, so maps need two positions at least: of one, nothing is left.

    Args:
        channels: of the map.
        vector_channels: of the vector.

    Reference: Huang and Belongie, Arbitrary Style Transfer in Real-time with Adaptive Instance Normalization, ICCV
    2017, https://arxiv.org/abs/1703.06868, equation 8. Differs from the paper: learned, as in StyleGAN.
    """

    def __init__(self, channels: int, vector_channels: int):
        super().__init__()
        self.affine = nn.Linear(vector_channels, 2 * channels)

    def forward(self, h: Tensor, vector: Tensor) -> Tensor:
        """(B, channels, h, w) and (B, vector_channels) to the map's shape.

        Raises:
            ValueError: a map of one position.
        """
        if h.shape[-2] * h.shape[-1] == 1:
            raise ValueError("AdaIN needs a map of two positions or more: give it larger pictures")
        scale, shift = self.affine(vector)[:, :, None, None].chunk(2, 1)
        return (1 + scale) * F.instance_norm(h, eps=1e-5) + shift


class AdaINBlock(nn.Module):
    """A residual block whose two convolutions each see the map in the vector's style.

    Args:
        width: channels of the map.
        vector_channels: of the vector.
    """

    def __init__(self, width: int, vector_channels: int):
        super().__init__()
        self.norms = nn.ModuleList(AdaIN(width, vector_channels) for _ in range(2))
        self.convolutions = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(2))

    def forward(self, x: Tensor, vector: Tensor) -> Tensor:
        """(B, width, h, w) and (B, vector_channels) to the map's shape."""
        h = x
        for norm, convolution in zip(self.norms, self.convolutions, strict=True):
            h = convolution(F.leaky_relu(norm(h, vector), SLOPE))
        return x + h


class AdaINSynthesis(nn.Module):
    r"""Pictures from a map and a vector.

    ::

        content ──► conv ──► blocks ──► (nearest x2, conv, AdaIN) ... ──► conv 7x7 ──► x_hat
        style ──► MLP ─────────┴────────────────────┘

    Args:
        content_channels: of the map.
        style_channels: of the vector.
        stride: pixels per position of the map: a power of two.
        width: channels of the blocks; halved with every doubling of the size.
        min_width: where halving ends.
        blocks: AdaIN blocks at the map's own size, where they are cheap and see far.
        mapping_width: of the MLP that the style passes first.

    Raises:
        ValueError: ``stride`` is no power of two, or a number is too small.
    """

    def __init__(
        self,
        content_channels: int,
        style_channels: int,
        *,
        stride: int,
        width: int = 256,
        min_width: int = 32,
        blocks: int = 6,
        mapping_width: int = 128,
    ):
        super().__init__()
        at_least("width", width, 1)
        at_least("blocks", blocks, 0)
        self.mapping = nn.Sequential(
            nn.Linear(style_channels, mapping_width),
            nn.LeakyReLU(SLOPE),
            nn.Linear(mapping_width, mapping_width),
            nn.LeakyReLU(SLOPE),
        )
        self.enter = nn.Conv2d(content_channels, width, 3, padding=1)
        self.blocks = nn.ModuleList(AdaINBlock(width, mapping_width) for _ in range(blocks))
        pairs = list(pairwise(halved(width, min_width, doublings(stride))))
        self.up = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in pairs)
        self.norms = nn.ModuleList(AdaIN(b, mapping_width) for _, b in pairs)
        self.leave = nn.Conv2d(pairs[-1][1], 3, 7, padding=3)

    def forward(self, content: Tensor, style: Tensor) -> Tensor:
        """(B, content_channels, h, w) and (B, style_channels) to pictures (B, 3, stride h, stride w) around [0, 1]."""
        vector = self.mapping(style)
        h = self.enter(content)
        for block in self.blocks:
            h = block(h, vector)
        for convolution, norm in zip(self.up, self.norms, strict=True):
            h = convolution(F.interpolate(h, scale_factor=2, mode="nearest"))
            h = F.leaky_relu(norm(h, vector), SLOPE)
        return self.leave(h) + 0.5
