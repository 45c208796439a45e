"""Convolutional analysis and synthesis transforms, image and hyper alike (N: width, M: latent channels)."""

from torch import nn

from models.transforms.gdn import GDN


def _down(in_channels: int, out_channels: int) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, kernel_size=5, stride=2, padding=2)


def _up(in_channels: int, out_channels: int) -> nn.ConvTranspose2d:
    return nn.ConvTranspose2d(in_channels, out_channels, kernel_size=5, stride=2, padding=2, output_padding=1)


def analysis(width: int, latent_channels: int, num_stages: int = 4) -> nn.Sequential:
    """g_a: ``num_stages`` times (5x5 convolution of stride 2, GDN), the last without GDN.

    (B, 3, H, W) -> (B, M, H/s, W/s), s = 2 ** num_stages.

    Reference: Ballé et al., End-to-end Optimized Image Compression, ICLR 2017, https://arxiv.org/abs/1611.01704.
    """
    layers: list[nn.Module] = []
    for stage in range(num_stages - 1):
        layers += [_down(width if stage else 3, width), GDN(width)]
    return nn.Sequential(*layers, _down(width if layers else 3, latent_channels))


def synthesis(width: int, latent_channels: int, num_stages: int = 4) -> nn.Sequential:
    """g_s: the mirror of ``analysis``, with inverse GDN. (B, M, H/s, W/s) -> (B, 3, H, W)."""
    layers: list[nn.Module] = []
    for stage in range(num_stages - 1):
        layers += [_up(width if stage else latent_channels, width), GDN(width, inverse=True)]
    return nn.Sequential(*layers, _up(width if layers else latent_channels, 3))


def hyper_analysis(width: int, latent_channels: int) -> nn.Sequential:
    """h_a: (B, M, h, w) -> (B, N, h/4, w/4).

    Reference: Minnen et al., NeurIPS 2018, https://arxiv.org/abs/1809.02736, table 1.
    """
    return nn.Sequential(
        nn.Conv2d(latent_channels, width, kernel_size=3, padding=1),
        nn.LeakyReLU(),
        _down(width, width),
        nn.LeakyReLU(),
        _down(width, width),
    )


def hyper_synthesis(width: int, latent_channels: int) -> nn.Sequential:
    """h_s: (B, N, h/4, w/4) -> (B, 2 M, h, w)."""
    middle = latent_channels * 3 // 2
    return nn.Sequential(
        _up(width, latent_channels),
        nn.LeakyReLU(),
        _up(latent_channels, middle),
        nn.LeakyReLU(),
        nn.Conv2d(middle, 2 * latent_channels, kernel_size=3, padding=1),
    )
