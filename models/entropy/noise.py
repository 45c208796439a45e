"""Random numbers keyed by (seed, sample), not by rank, worker or device.

Noise that depends on nothing but the sample and its place in the run makes two processes with half a batch each equal
one process with the whole batch, and a resumed run equal an uninterrupted one. A counter-based hash gives that
without state, without a host sync, and with the same values on every device.
"""

import math

import torch
from torch import Tensor

_MASK = 0xFFFFFFFF
_GOLDEN = 0x9E3779B9  # 2**32 / golden ratio: spreads consecutive integers


def _mix(x: Tensor) -> Tensor:
    """Two multiply-xorshift rounds on 32 bits in int64; products wrap, the mask keeps the low half."""
    x = ((x ^ (x >> 16)) * 0x7FEB352D) & _MASK
    x = ((x ^ (x >> 15)) * 0x846CA68B) & _MASK
    return x ^ (x >> 16)


def sample_keys(seed: int, draw: Tensor) -> Tensor:
    """One 32-bit key for each sample.

    Args:
        seed: of the run and stage.
        draw: number of the sample's draw in the stage, int64 (B,).

    Returns:
        int64 (B,), values in [0, 2**32).
    """
    low, high = draw & _MASK, draw >> 32
    return _mix(_mix((low * _GOLDEN + seed) & _MASK) ^ ((high + (seed >> 32)) & _MASK))


def salt_of(name: str) -> int:
    """The salt of a tensor that goes by a name: equal for equal names alone, up to a chance of 2**-31."""
    return int.from_bytes(name.encode(), "little") % ((1 << 31) - 1)


def uniform_noise(keys: Tensor, shape: torch.Size, *, salt: int) -> Tensor:
    """Uniform noise in [-0.5, 0.5), different for every key, element and salt.

    Args:
        keys: int64 (B,) from ``sample_keys``.
        shape: (B, ...) of the result.
        salt: tells apart the several draws of one forward pass (z, y, ...).

    Returns:
        float32 of ``shape`` on the device of ``keys``, in steps of 2**-24.
    """
    count = math.prod(shape[1:])
    counter = torch.arange(count, device=keys.device) * _GOLDEN + (salt + 1) * 0x85EBCA6B
    bits = _mix(_mix(counter & _MASK)[None, :] ^ keys[:, None])
    return ((bits >> 8).float() * 2.0**-24 - 0.5).reshape(shape)


def normal_noise(keys: Tensor, shape: torch.Size, *, salt: int) -> Tensor:
    """Standard normal noise, different for every key, element and salt: |x| below 5.4. Arguments as of the uniform one.

    Equal on all devices but for the last digits of erfinv.
    """
    # In the middle of the uniform noise's steps: neither end is infinite.
    return math.sqrt(2) * torch.erfinv(2 * uniform_noise(keys, shape, salt=salt) + 2.0**-24)
