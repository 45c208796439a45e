"""Image files below a folder: finding them, decoding them, and splitting them by name."""

import hashlib
import os
import struct
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from datamodules.source import UnreadableSample

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".avif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm"})

# What Pillow raises on damaged files besides OSError.
DECODING_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    struct.error,
    Image.DecompressionBombError,
)


def checked_root(root: str | Path) -> Path:
    """The folder of a data set.

    Raises:
        ValueError: not there, or not a folder.
    """
    folder = Path(root).expanduser()
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise ValueError(
            f"root is {str(root)!r}, which {what}: give the folder of the data set (data.root=DIR)"
        )
    return folder


def image_files(folder: Path) -> list[str]:
    """Paths of the image files below ``folder``, at any depth, relative to it, sorted; no hidden ones."""
    found = []
    for place, folders, files in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        prefix = Path(place).relative_to(folder).as_posix()
        for name in files:
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in SUFFIXES:
                found.append(name if prefix == "." else f"{prefix}/{name}")
    return sorted(found)


def read_image(path: Path, *, upright: bool = True) -> Tensor:
    """Decodes any 8-bit image file: grey and palettes become RGB, alpha is dropped.

    Args:
        path: the file.
        upright: turn the picture as its EXIF orientation says. False where labels are for the stored pixels.

    Returns:
        uint8 (3, H, W), RGB.

    Raises:
        UnreadableSample: damaged, no image, or more than 8 bits a channel (clipping it would go unseen).
    """
    try:
        with Image.open(path) as image:
            if image.mode.startswith(("I", "F")):
                raise UnreadableSample(
                    f"{path}: pixels are of mode {image.mode}, must be 8-bit: convert the file"
                )
            image = ImageOps.exif_transpose(image) if upright else image
            pixels = np.array(image.convert("RGB"))
    except UnreadableSample:
        raise
    except DECODING_ERRORS as error:
        raise UnreadableSample(f"{path}: {error}") from error
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def read_indices(path: Path) -> Tensor:
    """Decodes a single-channel 8-bit file of class indices (grey, or the indices of a palette).

    Returns:
        uint8 (H, W).

    Raises:
        UnreadableSample: damaged, or an image with colour channels.
    """
    try:
        with Image.open(path) as image:
            if image.mode not in ("L", "P"):
                raise UnreadableSample(
                    f"{path}: mask is of mode {image.mode}, must be 8-bit grey or palette: class indices"
                )
            return torch.from_numpy(np.array(image))
    except UnreadableSample:
        raise
    except DECODING_ERRORS as error:
        raise UnreadableSample(f"{path}: {error}") from error


def place_in_split(name: str) -> float:
    """A number in [0, 1) that depends on the name alone: files keep their split when others come and go."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=7).digest(), "big") / 2**56
