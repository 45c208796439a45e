"""Pictures as 8-bit levels, and as PNG."""

import io

import numpy as np
from PIL import Image
from torch import Tensor


def to_uint8(x: Tensor) -> np.ndarray:
    """One image (3, H, W) in [0, 1] as a picture, uint8 (H, W, 3), rounded; values outside are clamped."""
    levels = (x.detach().float().clamp(0, 1) * 255).round().byte()
    return np.ascontiguousarray(levels.permute(1, 2, 0).cpu().numpy())


def to_png(picture: np.ndarray) -> bytes:
    """A PNG of uint8 (H, W, 3), RGB."""
    return _png(Image.fromarray(picture))


def to_palette_png(classes: np.ndarray, colours: np.ndarray) -> bytes:
    """A PNG whose pixel values are class indices, shown in colours.

    Args:
        classes: uint8 (H, W).
        colours: uint8 (classes, 3).
    """
    image = Image.fromarray(classes, "L")
    image.putpalette(colours.tobytes())
    return _png(image)


def _png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()
