"""Encoders of residual blocks: one for a map of what is where, one for a vector of what it all looks like."""

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


def at_least(name: str, value: int, least: int) -> None:
    """Refuse a number that is too small.

    Raises:
        ValueError: it is.
    """
    if value < least:
        raise ValueError(f"{name}={value} must be at least {least}")
