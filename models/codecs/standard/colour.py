"""RGB to YCbCr and back in integers: the same bytes on every machine."""

import numpy as np

# ITU-R BT.601 luma weights, full range (as in JFIF), in 65536ths.
_WEIGHTS = np.array([0.299, 0.587, 0.114])
_FORWARD = np.stack(
    [
        _WEIGHTS,
        (np.array([0, 0, 1]) - _WEIGHTS) / (2 * (1 - _WEIGHTS[2])),
        (np.array([1, 0, 0]) - _WEIGHTS) / (2 * (1 - _WEIGHTS[0])),
    ]
)
_HALF = 1 << 15

DESCRIPTION = "full-range BT.601 YCbCr 4:4:4, 16-bit fixed-point coefficients, rounded to nearest"


def to_ycbcr(image: np.ndarray, depth: int = 8) -> np.ndarray:
    """RGB uint8 (H, W, 3) -> full-range Y, Cb, Cr planes of ``depth`` bits (8..16), uint8 or uint16 (3, H, W)."""
    top = (1 << depth) - 1
    coefficients = np.rint(_FORWARD * 65536 * top / 255).astype(np.int64)
    r, g, b = (image[..., channel].astype(np.int64) for channel in range(3))
    planes = [(k[0] * r + k[1] * g + k[2] * b + _HALF >> 16) for k in coefficients]
    planes[1] += 1 << depth - 1
    planes[2] += 1 << depth - 1
    return np.clip(np.stack(planes), 0, top).astype(np.uint8 if depth == 8 else np.uint16)


def to_rgb(planes: np.ndarray, depth: int = 8) -> np.ndarray:
    """Undo ``to_ycbcr``: (3, H, W) -> RGB uint8 (H, W, 3); 8 bits miss the original by up to 1, 10 and more do not."""
    coefficients = np.rint(np.linalg.inv(_FORWARD) * 65536 * 255 / ((1 << depth) - 1)).astype(np.int64)
    y, cb, cr = (plane.astype(np.int64) for plane in planes)
    cb, cr = cb - (1 << depth - 1), cr - (1 << depth - 1)
    channels = [(k[0] * y + k[1] * cb + k[2] * cr + _HALF >> 16) for k in coefficients]
    return np.clip(np.stack(channels, axis=-1), 0, 255).astype(np.uint8)
