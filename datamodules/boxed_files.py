"""BoxedFiles: a list of picture files with boxes as a Source, and what readers of box formats share."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from datamodules.files import read_image
from datamodules.samples import Label
from datamodules.source import InvalidLabel
from pictures.names import shown

FIRST = 3
"""Problems that an error quotes; of the others it says how many there are."""


@dataclass(frozen=True)
class Boxed:
    """A picture file and what is on it.

    Attributes:
        file: path, relative to the root.
        boxes: (N, 4) x0, y0, x1, y1 in pixels, edges.
        classes: int64 (N,).
        size: (H, W) that the boxes are for; ``None``: not stated.
    """

    file: str
    boxes: Tensor
    classes: Tensor
    size: tuple[int, int] | None = None


class BoxedFiles:
    """A list of picture files and their boxes as a Source.

    Args:
        root: folder of the data set.
        files: the pictures.
        label: what is published as ``boxes``.
        left_out: a line about what was passed over.
    """

    def __init__(self, root: Path, files: Sequence[Boxed], label: Label, left_out: str = ""):
        self.root, self.files, self.left_out = root, list(files), left_out
        self.labels = {"boxes": label}

    def __len__(self) -> int:
        """Number of pictures."""
        return len(self.files)

    def name(self, index: int) -> str:
        """Path of the picture relative to the root."""
        return shown(self.files[index].file)

    def read(self, index: int) -> dict[str, Tensor]:
        """The picture as stored, for boxes are for the stored pixels, and its boxes, cut at the border.

        Raises:
            UnreadableSample: a damaged file.
            InvalidLabel: the boxes are for a picture of another size, or one lies outside.
        """
        boxed = self.files[index]
        image = read_image(self.root / boxed.file, upright=False)
        height, width = image.shape[1:]
        if boxed.size is not None and boxed.size != (height, width):
            raise InvalidLabel(
                f"{self.name(index)} is {width}x{height}, but its boxes are for {boxed.size[1]}x{boxed.size[0]} pixels"
            )
        cut = boxed.boxes.clamp(min=0).minimum(torch.tensor([width, height, width, height]))
        outside = (cut[:, 2:] <= cut[:, :2]).any(1)
        if outside.any():
            box = [round(side, 2) for side in boxed.boxes[outside][0].tolist()]
            raise InvalidLabel(
                f"{self.name(index)} is {width}x{height}, but the box {box} lies outside of it"
            )
        return {"image": image, "boxes": cut, "box_class": boxed.classes}


def refuse(problems: Sequence[str], remedy: str) -> None:
    """One error for all that is wrong.

    Raises:
        ValueError: there are problems: the first few of them, how many more, and what to do.
    """
    if problems:
        more = f"; and {len(problems) - FIRST} more" if len(problems) > FIRST else ""
        raise ValueError(f"{'; '.join(problems[:FIRST])}{more}: {remedy}")
