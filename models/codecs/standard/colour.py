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
_TO_YCBCR = np.rint(_FORWARD * 65536).astype(np.int32)
_TO_RGB = np.rint(np.linalg.inv(_FORWARD) * 65536).astype(np.int32)
_HALF = 1 << 15

DESCRIPTION = "full-range BT.601 YCbCr 4:4:4, 8 bit, 16-bit fixed-point coefficients, rounded to nearest"


def to_ycbcr(image: np.ndarray) -> np.ndarray:
    """RGB uint8 (H, W, 3) -> Y, Cb, Cr planes, uint8 (3, H, W), full range."""
    r, g, b = (image[..., channel].astype(np.int32) for channel in range(3))
    planes = [(k[0] * r + k[1] * g + k[2] * b + _HALF >> 16) for k in _TO_YCBCR]
    planes[1] += 128
    planes[2] += 128
    return np.clip(np.stack(planes), 0, 255).astype(np.uint8)


def to_rgb(planes: np.ndarray) -> np.ndarray:
    """Undo ``to_ycbcr``: uint8 (3, H, W) -> RGB uint8 (H, W, 3), within 1 of the original."""
    y, cb, cr = (plane.astype(np.int32) for plane in planes)
    cb, cr = cb - 128, cr - 128
    channels = [(k[0] * y + k[1] * cb + k[2] * cr + _HALF >> 16) for k in _TO_RGB]
    return np.clip(np.stack(channels, axis=-1), 0, 255).astype(np.uint8)
