"""A filter that knows what a picture's places tell a network, and blurs those that tell little."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.block_dct import SIDE
from models.padding import crop
from models.preprocessing.gaussian import blurred, check_sigma
from models.preprocessing.sensitivity import Sensitivity


class InformedBlur(nn.Module):
    r"""Blurs what tells the network little, the more the less it tells: for any codec.

    ::

        x ─┬─► network and back ─► sensitivity of blocks ─► w = max(0, 1 - (s / enough)^power)
           └─► Gaussian blur ─────────────────────────────────► x + w (blurred - x)

    All numbers are straight in the level by their logarithms, and may learn.

    Args:
        sensitivity: what is asked, and how; the mean of a picture is 1.
        enough: sensitivity from which a place stays as it is, at the lowest and the highest rate.
        sigma: of the Gaussian, in pixels, likewise.
        power: likewise; the smaller, the less what stays keeps apart from what goes.

    Raises:
        ValueError: a number is out of range.
    """

    def __init__(
        self,
        sensitivity: Sensitivity,
        *,
        enough: tuple[float, float] = (0.5, 0.5),
        sigma: tuple[float, float] = (1.5, 1.5),
        power: tuple[float, float] = (0.5, 0.5),
    ):
        super().__init__()
        if min(*enough, *power) <= 0:
            raise ValueError(f"enough={list(enough)} and power={list(power)} must be above 0")
        for one in sigma:
            check_sigma(one)
        self.sensitivity = sensitivity
        ends = torch.tensor([enough, sigma, power], dtype=torch.float32).log()
        self.numbers = nn.ParameterDict(dict(zip(("enough", "sigma", "power"), ends, strict=True)))

    def forward(self, x: Tensor, level: float) -> Tensor:
        """(B, 3, H, W) in [0, 1], of any size, to float32 of the same shape, not clamped; ``level`` in [0, 1]."""
        known = self.sensitivity(x)[:, None]
        with torch.autocast(x.device.type, enabled=False):
            x = x.float()
            at = {name: torch.lerp(*ends, level).exp() for name, ends in self.numbers.items()}
            weight = (1 - (known / at["enough"]) ** at["power"]).clamp_min(0)
            weight = F.interpolate(weight, scale_factor=SIDE, mode="bilinear")
            return x + crop(weight, tuple(x.shape[-2:])) * (blurred(x, at["sigma"]) - x)
