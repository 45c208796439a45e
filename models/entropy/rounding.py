"""Rounding with a straight-through gradient."""

from torch import Tensor


def round_ste(x: Tensor) -> Tensor:
    """round(x) forward, identity backward.

    Reference: Theis et al., Lossy Image Compression with Compressive Autoencoders, ICLR 2017,
    https://arxiv.org/abs/1703.00395, sec. 2.1.
    """
    return x + (x.round() - x).detach()
