"""What data sets on disk share: their folder, pictures and lists in it, splitting files by name."""

import codecs
import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from torch import Tensor

from datamodules.source import UnreadableSample
from pictures import reading
from pictures.names import shown


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


def read_image(path: Path, *, upright: bool = True) -> Tensor:
    """A picture file as all commands read it, rounded to 8 bits: uint8 (3, H, W), RGB.

    Args:
        path: the file.
        upright: turn the picture as its EXIF orientation says. False where labels are for the stored pixels.

    Raises:
        UnreadableSample: missing, damaged, or no picture.
    """
    return _read(path, partial(reading.read_levels, upright=upright))


def read_indices(path: Path) -> Tensor:
    """A single-channel 8-bit file of class indices, grey or a palette's: uint8 (H, W).

    Raises:
        UnreadableSample: missing, damaged, or an image with colour channels.
    """
    return _read(path, reading.read_indices)


def place_in_split(name: str) -> float:
    """A number in [0, 1) that depends on the name alone: files keep their split when others come and go."""
    return int.from_bytes(hashlib.blake2b(os.fsencode(name), digest_size=7).digest(), "big") / 2**56


def checked_fractions(fractions: Sequence[float]) -> tuple[float, float, float]:
    """Shares of train, val and test.

    Raises:
        ValueError: not three shares with sum 1.
    """
    shares = tuple(fractions)
    if len(shares) != 3 or min(shares) < 0 or abs(sum(shares) - 1) > 1e-6:
        raise ValueError(f"split_fractions is {shares}, must be shares of train, val, test with sum 1")
    return shares


def share_of(name: str, fractions: Sequence[float]) -> str:
    """The split of a file among those who share a folder, by its name alone."""
    place = place_in_split(name)
    # In floating point 0.7 + 0.2 + 0.1 is less than 1: what lies behind val is test.
    return "train" if place < fractions[0] else "val" if place < sum(fractions[:2]) else "test"


def lines_of(listing: Path) -> Iterator[tuple[int, str]]:
    """Number, from 1 on, and text of the lines of a file that hold any; file names in them need not be UTF-8."""
    data = listing.read_bytes()
    # Editors and shells on Windows begin a text with such a mark.
    utf16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    encoding = "utf-16" if utf16 else "utf-8-sig"
    # This is how Python takes file names that are no UTF-8, too.
    for number, line in enumerate(data.decode(encoding, "surrogateescape").split("\n"), start=1):
        if line.strip():
            yield number, line.strip()


def _read(path: Path, reader: Callable[[Path], Tensor]) -> Tensor:
    try:
        return reader(path)
    except (reading.PictureError, OSError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise UnreadableSample(f"{shown(path)}: {reason}") from error
