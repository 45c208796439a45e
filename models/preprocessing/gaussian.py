"""A Gaussian blur: the filter that knows nothing, which others are measured against."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

REACH = 8
"""Pixels to each side that a blur looks at."""


class Gaussian(nn.Module):
    """The same blur everywhere and at every rate. It is of use as it is, and its sigma may learn.

    Args:
        sigma: in pixels, at first.

    Raises:
        ValueError: ``sigma`` is not above 0, or looks too far.
    """

    ready = True

    def __init__(self, sigma: float):
        super().__init__()
        check_sigma(sigma)
        self.sigma = nn.Parameter(torch.tensor(float(sigma)))

    def forward(self, x: Tensor, level: float) -> Tensor:
        """(B, 3, H, W) in [0, 1], of any size, to float32 of the same shape; ``level`` is not needed."""
        return blurred(x, self.sigma)


def check_sigma(sigma: float) -> None:
    """ValueError where a blur cannot have this ``sigma``."""
    if not 0 < sigma <= REACH / 2:
        raise ValueError(f"sigma={sigma} must be above 0 and at most {REACH // 2}")


def blurred(x: Tensor, sigma: Tensor) -> Tensor:
    """Pictures (B, 3, H, W) under a Gaussian, float32; beyond the edge a picture goes on as it ends there."""
    with torch.autocast(x.device.type, enabled=False):
        place = torch.arange(-REACH, REACH + 1, device=x.device)
        kernel = torch.exp(-0.5 * (place / sigma.to(x.device)).square())
        kernel = (kernel / kernel.sum()).repeat(3, 1, 1, 1)
        padded = F.pad(x.float(), (REACH,) * 4, mode="replicate")
        return F.conv2d(F.conv2d(padded, kernel, groups=3), kernel.mT, groups=3)
