"""Pictures as filters leave them, at random: a filter would game a proxy that is right on natural pictures alone."""

import torch.nn.functional as F
from torch import Tensor

from models.entropy.noise import uniform_noise
from models.preprocessing.blocks import grid_of, scaled

NATURAL = 1 / 3
"""Share of pictures that stay as they are."""

_CHOICES, _GAINS, _NOISE = range(20, 23)  # salts


def altered(x: Tensor, keys: Tensor) -> Tensor:
    """Blur or sharpen, scale blocks, add noise, each by a random amount.

    Args:
        x: pictures (B, 3, H, W) in [0, 1].
        keys: int64 (B,): what is drawn for an image follows from its key alone.

    Returns:
        (B, 3, H, W) in [0, 1].
    """
    draws = uniform_noise(keys, (len(x), 4), salt=_CHOICES) + 0.5
    natural, blur, flatten, noise = draws.to(x)[:, :, None, None, None].unbind(1)
    changed = x + (1.5 * blur - 0.5) * (_blurred(x) - x)  # from sharpened to blurred
    gains = 1 + flatten[:, :, 0, 0][..., None, None] * (
        1.5 * uniform_noise(keys, (len(x), 1, *grid_of(tuple(x.shape[-2:]))), salt=_GAINS).to(x) - 0.35
    )
    changed = scaled(changed, gains)
    changed = changed + 0.05 * noise**2 * uniform_noise(keys, x.shape, salt=_NOISE).to(x)
    return x.where(natural < NATURAL, changed).clamp(0, 1)


def _blurred(x: Tensor) -> Tensor:
    kernel = x.new_tensor([1, 4, 6, 4, 1]) / 16
    weight = (kernel[:, None] * kernel).expand(3, 1, 5, 5)
    return F.conv2d(F.pad(x, (2, 2, 2, 2), mode="replicate"), weight, groups=3)
