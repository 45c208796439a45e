"""Ideal code length of likelihoods."""

from torch import Tensor


def code_length(likelihoods: Tensor) -> Tensor:
    """Bits that a perfect entropy coder would spend on each image: the sum of -log2 p over all its symbols.

    Args:
        likelihoods: probability of every quantised symbol, in (0, 1], shape (B, ...).

    Returns:
        Bits per image, float32 (B,). Divide by H*W of the *unpadded* image to obtain bpp.

    Example:
        >>> import torch
        >>> code_length(torch.full((1, 4, 2, 2), 0.5))
        tensor([16.])
    """
    return -likelihoods.float().log2().flatten(1).sum(1)
