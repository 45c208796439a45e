"""Variable rate by a gain: y is coded on a grid of step 1 / gain, and what comes back moves a little towards zero."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from models.entropy.exact import Exact
from models.entropy.stream import Stream

Gaussian = Callable[[Stream, Tensor | None, Tensor, Tensor], Tensor]
"""(stream, y or None, scales, means) -> y_hat: codes under Gaussians of step 1."""


def code_with_gain(
    stream: Stream,
    y: Tensor | None,
    scale: Tensor,
    mean: Tensor,
    *,
    gain: float,
    gaussian: Gaussian,
    offsets: nn.Module | None,
    least: float,
    exact: Exact,
) -> Tensor:
    """Write y to a stream, or read it: q = round(gain (y - mean)), and y_hat = sign(q) (|q| - offset) / gain + mean.

    What is decoded may be what later symbols depend on, so all of it is float64, one IEEE operation at a time.

    Args:
        stream: of the batch.
        y: float32, when writing; ``None`` when reading.
        scale: of y, float64, the shape of y.
        mean: likewise.
        gain: 1 / step of quantisation.
        gaussian: codes gain y.
        offsets: (..., 2) -> (..., 1): the offset of what is not zero, from gain scale and gain; ``None`` for none.
        least: bound below for the first of these.
        exact: runs it.

    Returns:
        y_hat, float32.

    Reference: Kamisli et al., Variable-Rate Learned Image Compression with Multi-Objective Optimization and
    Quantization-Reconstruction Offsets, DCC 2024, https://arxiv.org/abs/2402.18930.
    """
    centre = mean * gain
    coded = gaussian(stream, None if y is None else y * gain, scale * gain, centre)
    q = (coded - centre.float()).round().double()
    size = q.abs()
    if offsets is not None:
        told = (scale * gain).clamp(min=least)
        offset = exact(offsets, torch.stack([told, torch.full_like(told, gain)], -1)).squeeze(-1)
        size = torch.where(size > 0, size - offset, size)
    return (q.sign() * size / gain + mean).float()
