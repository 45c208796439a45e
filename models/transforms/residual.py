"""Residual blocks: encoders to a map of what is where and to a vector of what it looks like, and back from the map."""

from collections.abc import Iterator
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

SLOPE = 0.2
"""Of the leaky ReLUs."""


class ResidualBlock(nn.Module):
    """x + conv(act(conv(act(x)))), 3x3 each.

    Args:
        width: channels.
        instance_norm: in front of both activations.
    """

    def __init__(self, width: int, *, instance_norm: bool = False):
        super().__init__()
        norm = nn.InstanceNorm2d if instance_norm else nn.Identity
        self.body = nn.Sequential(
            norm(width),
            nn.LeakyReLU(SLOPE),
            nn.Conv2d(width, width, 3, padding=1),
            norm(width),
            nn.LeakyReLU(SLOPE),
            nn.Conv2d(width, width, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, width, h, w) to the same."""
        return x + self.body(x)


class MapEncoder(nn.Module):
    """Pictures to a map: a 7x7 convolution, then halvings with residual blocks behind each, widths doubling.

    Args:
        channels: of the map.
        num_stages: halvings; the map has stride 2 ** num_stages.
        width: channels at full size.
        max_width: where doubling ends.
        blocks: residual blocks behind each halving.
        instance_norm: in the blocks. It takes contrast out of the map, so that the style has to carry it (MUNIT). The
            default leaves it there: at a few hundredths of a bit a pixel, the map is the cheapest place for it.

    Raises:
        ValueError: a number below 1 (``blocks``: below 0).

    Reference: Huang et al., Multimodal Unsupervised Image-to-Image Translation, ECCV 2018,
    https://arxiv.org/abs/1804.04732, section 5.1, content encoder. Differs from the paper: blocks at every resolution.
    """

    def __init__(
        self,
        channels: int,
        *,
        num_stages: int = 4,
        width: int = 32,
        max_width: int = 256,
        blocks: int = 2,
        instance_norm: bool = False,
    ):
        super().__init__()
        at_least("channels", channels, 1)
        at_least("num_stages", num_stages, 1)
        at_least("width", width, 1)
        at_least("blocks", blocks, 0)
        self.stride = 2**num_stages
        layers: list[nn.Module] = [nn.Conv2d(3, width, 7, padding=3)]
        for _ in range(num_stages):
            wider = max(width, min(2 * width, max_width))
            layers += [nn.LeakyReLU(SLOPE), nn.Conv2d(width, wider, 3, stride=2, padding=1)]
            layers += [ResidualBlock(wider, instance_norm=instance_norm) for _ in range(blocks)]
            width = wider
        self.layers = nn.Sequential(*layers, nn.LeakyReLU(SLOPE), nn.Conv2d(width, channels, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1], sides multiples of the stride, to (B, channels, H/stride, W/stride)."""
        return self.layers(2 * x - 1)


class VectorEncoder(nn.Module):
    """Pictures to a vector: halvings without any norm, which would remove what style is, then an average.

    Args:
        channels: of the vector.
        num_stages: 3x3 convolutions of stride 2, which take pictures of any size.
        width: channels behind the first of them.
        max_width: where doubling ends.

    Raises:
        ValueError: a number below 1.

    Reference: Huang et al., ECCV 2018, https://arxiv.org/abs/1804.04732, section 5.1, style encoder.
    """

    def __init__(self, channels: int, *, num_stages: int = 5, width: int = 32, max_width: int = 256):
        super().__init__()
        at_least("channels", channels, 1)
        at_least("num_stages", num_stages, 1)
        at_least("width", width, 1)
        layers: list[nn.Module] = []
        inputs = 3
        for _ in range(num_stages):
            layers += [nn.Conv2d(inputs, width, 3, stride=2, padding=1), nn.LeakyReLU(SLOPE)]
            inputs, width = width, max(width, min(2 * width, max_width))
        self.layers = nn.Sequential(*layers)
        self.linear = nn.Linear(inputs, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] to (B, channels)."""
        return self.linear(self.layers(2 * x - 1).mean((-2, -1)))


class MapSynthesis(nn.Module):
    """Pictures from a map: a 3x3 convolution, residual blocks, then doublings that halve the width, and 7x7.

    ``AdaINSynthesis`` without the style and without the norm that it tells.

    Args:
        channels: of the map.
        stride: pixels per position of the map: a power of two.
        width: channels of the blocks; halved with every doubling of the size.
        min_width: where halving ends.
        blocks: residual blocks at the map's own size.

    Raises:
        ValueError: ``stride`` is no power of two, or a number is too small.
    """

    def __init__(self, channels: int, *, stride: int, width: int = 256, min_width: int = 32, blocks: int = 6):
        super().__init__()
        at_least("channels", channels, 1)
        at_least("width", width, 1)
        at_least("blocks", blocks, 0)
        pairs = list(pairwise(halved(width, min_width, doublings(stride))))
        self.enter = nn.Conv2d(channels, width, 3, padding=1)
        self.blocks = nn.Sequential(*(ResidualBlock(width) for _ in range(blocks)))
        self.up = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in pairs)
        self.leave = nn.Conv2d(pairs[-1][1], 3, 7, padding=3)

    def forward(self, content: Tensor) -> Tensor:
        """(B, channels, h, w) to pictures (B, 3, stride h, stride w) around [0, 1]."""
        h = self.blocks(self.enter(content))
        for convolution in self.up:
            h = F.leaky_relu(convolution(F.interpolate(h, scale_factor=2, mode="nearest")), SLOPE)
        return self.leave(h) + 0.5


def doublings(stride: int) -> int:
    """How often a map of this stride is doubled until it has the picture's size.

    Raises:
        ValueError: it is no power of two, or 1.
    """
    if stride < 2 or stride & (stride - 1):
        raise ValueError(f"stride={stride} must be a power of two, 2 or more")
    return stride.bit_length() - 1


def halved(width: int, least: int, count: int) -> Iterator[int]:
    """A width and what it is behind each of so many halvings, which end at ``least``."""
    yield width
    for _ in range(count):
        width = min(width, max(width // 2, least))
        yield width


def at_least(name: str, value: int, least: int) -> None:
    """Refuse a number that is too small.

    Raises:
        ValueError: it is.
    """
    if value < least:
        raise ValueError(f"{name}={value} must be at least {least}")
