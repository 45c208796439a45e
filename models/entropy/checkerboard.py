"""A checkerboard's two halves: those coded first, and those that see the first around them."""

import torch
from torch import Tensor, nn

from models.entropy.grid import round_inputs


def take(x: Tensor, parity: int) -> Tensor:
    """The positions (i, j) of a checkerboard with (i + j) % 2 = parity: (B, C, h, w) -> (B, C, h, w / 2)."""
    half = x.new_empty(*x.shape[:-1], x.shape[-1] // 2)
    half[..., 0::2, :], half[..., 1::2, :] = x[..., 0::2, parity::2], x[..., 1::2, 1 - parity :: 2]
    return half


def put(x: Tensor, half: Tensor, parity: int) -> None:
    """Undo ``take``, in place."""
    x[..., 0::2, parity::2], x[..., 1::2, 1 - parity :: 2] = half[..., 0::2, :], half[..., 1::2, :]


def context_at(layer: nn.Conv2d, y_hat: Tensor, parity: int) -> Tensor:
    """A checkerboard convolution at the positions of one parity, by its unmasked taps: a quarter of the work.

    Args:
        layer: exact copy of the masked convolution.
        y_hat: anchors decoded so far, (B, C, h, w).
        parity: of the positions that are asked for.

    Returns:
        float64 (B, C', h, w / 2).
    """
    reach = layer.kernel_size[0] // 2
    height, width = y_hat.shape[-2:]
    padded = nn.functional.pad(round_inputs(y_hat.double()), (reach,) * 4)
    taps = layer.mask[0, 0].nonzero().tolist()
    around = [take(padded[..., i : i + height, j : j + width], parity) for i, j in taps]
    weight = torch.stack([layer.weight[:, :, i, j] for i, j in taps], 1).flatten(1)
    context = weight @ torch.stack(around, 1).flatten(1, 2).flatten(2) + layer.bias[:, None]
    return context.unflatten(2, (height, width // 2))
