"""Pad an image to a codec's stride, and crop back."""

import torch.nn.functional as F
from torch import Tensor


def pad_to_stride(x: Tensor, stride: int) -> Tensor:
    """Replicate the right and bottom border until both sides are multiples of ``stride``.

    The top-left corner stays where it is, so points, boxes and latent positions need no shift.

    Args:
        x: images (B, C, H, W).
        stride: in pixels.

    Returns:
        (B, C, ceil(H/stride)*stride, ceil(W/stride)*stride); ``x`` itself where nothing is missing.
    """
    bottom, right = -x.shape[-2] % stride, -x.shape[-1] % stride
    return F.pad(x, (0, right, 0, bottom), mode="replicate") if bottom or right else x


def padded_size(size: tuple[int, int], stride: int) -> tuple[int, int]:
    """(H, W) of an image of ``size`` after ``pad_to_stride``."""
    return size[0] + -size[0] % stride, size[1] + -size[1] % stride


def crop(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Undo ``pad_to_stride``: the top-left (H, W) of ``x``."""
    return x[..., : size[0], : size[1]]
