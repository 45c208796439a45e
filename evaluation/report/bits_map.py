"""Where in the picture the bits go."""

import math

import numpy as np
import torch
from torch import Tensor

from models.outputs import CodecOutput


def bits_per_pixel(output: CodecOutput, stride: int) -> np.ndarray | None:
    """Where the bits of the first image go.

    Args:
        output: of a codec's ``forward``; likelihoods that are maps (B, C, h, w) count, others have no place.
        stride: of the codec: the maps cover the image padded to a multiple of it.

    Returns:
        Bits per pixel (H, W) of the original image: each symbol's -log2 p, spread evenly over the pixels of
        its position. ``None`` without any map.
    """
    height, width = output.size
    padded = math.ceil(height / stride) * stride, math.ceil(width / stride) * stride
    total: Tensor | None = None
    for likelihoods in (output.likelihoods or {}).values():
        if likelihoods.ndim != 4:
            continue
        bits = -likelihoods[:1].double().log2().sum(1, keepdim=True)
        share = bits * (bits.shape[-2] * bits.shape[-1]) / (padded[0] * padded[1])
        spread = torch.nn.functional.interpolate(share, size=padded, mode="nearest")
        total = spread if total is None else total + spread
    return None if total is None else total[0, 0, :height, :width].cpu().numpy()
