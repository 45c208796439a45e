"""GMSD: how unevenly a decode's gradients differ from the original's. No network, nothing learned."""

import torch
import torch.nn.functional as F
from torch import Tensor

from models.block_dct import TO_YCBCR

C = 170.0
"""Keeps flat places from dividing by zero, on the scale of squared 8-bit gradients."""
MIN_SIDE = 4


def gmsd(decoded: Tensor, x: Tensor) -> Tensor:
    """Gradient magnitude similarity deviation of each image's luma, (B,), 0 for equal pictures and at most 0.5.

    Args:
        decoded: pictures (B, 3, H, W) in 0..255.
        x: originals, same shape; sides of ``MIN_SIDE`` and more.

    Reference: Xue et al., Gradient Magnitude Similarity Deviation: A Highly Efficient Perceptual Image Quality Index,
    IEEE TIP 2014, https://arxiv.org/abs/1308.3052, equations 1 to 5; borders and luma as in the authors' Matlab.
    """
    a, b = _gradients(decoded), _gradients(x)
    similarity = (2 * a * b + C) / (a.square() + b.square() + C)
    return similarity.flatten(1).std(1)


def _gradients(x: Tensor) -> Tensor:
    luma = (x.float() * TO_YCBCR[0].to(x.device)[:, None, None]).sum(1, keepdim=True)
    # Halved by 2x2 means; what an odd side lacks is black, as beyond all borders.
    luma = F.avg_pool2d(F.pad(luma, (0, luma.shape[-1] % 2, 0, luma.shape[-2] % 2)), 2)
    prewitt = luma.new_tensor([[1.0, 0.0, -1.0]] * 3)[None] / 3
    both = F.conv2d(luma, torch.stack([prewitt, prewitt.mT]), padding=1)
    return both.square().sum(1).sqrt()
