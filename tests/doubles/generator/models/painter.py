"""A generator: pictures from noise."""

from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from models.entropy.noise import uniform_noise
from models.outputs import CodecOutput
from models.subject import Subject


class Painter(Subject):
    """Draws pictures that nobody sent: there are no bits, and no original to compare with.

    Args:
        noise_channels: numbers that a picture is drawn from.
        width: channels.
    """

    reconstructs = False

    def __init__(self, noise_channels: int = 6, width: int = 8):
        super().__init__()
        self.noise_channels, self.width = noise_channels, width
        self.begin = nn.Linear(noise_channels, 16 * width)
        self.paint = nn.Sequential(nn.LeakyReLU(0.2), nn.Conv2d(width, 3, 3, padding=1))

    def answer(self, batch: Mapping[str, Any], rate: float | None, keys: Tensor) -> CodecOutput:
        """As many pictures, of the same size, as the batch holds."""
        size = tuple(batch["image"].shape[-2:])
        noise = uniform_noise(keys, (len(keys), self.noise_channels), salt=1)
        coarse = self.begin(noise).unflatten(1, (self.width, 4, 4))
        return CodecOutput(size, x_hat=self.paint(F.interpolate(coarse, size, mode="bilinear")) + 0.5)
