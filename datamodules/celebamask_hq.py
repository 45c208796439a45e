"""CelebAMaskHQ: the layout in which CelebAMask-HQ is published, a file a part of a face."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from datamodules.base import ImageDataModule, Split
from datamodules.columns import AttributeColumns
from datamodules.files import checked_root, read_image
from datamodules.samples import Label
from datamodules.source import DataError, InvalidLabel
from datamodules.tables import Mistakes, Table, read_table
from datamodules.transforms import View
from pictures.names import shown

PARTS = (
    "skin", "nose", "eye_g", "l_eye", "r_eye", "l_brow", "r_brow", "l_ear", "r_ear", "mouth", "u_lip", "l_lip", "hair",
    "hat", "ear_r", "neck_l", "neck", "cloth",
)  # fmt: skip
"""Parts as the files name them, in the order in which the authors' tools paint them: later ones cover earlier ones."""
MIRROR = ((4, 5), (6, 7), (8, 9))
IMAGES, MASKS, MASKS_A_FOLDER = "CelebA-HQ-img", "CelebAMask-HQ-mask-anno", 2000
MAPPING, ATTRIBUTES = "CelebA-HQ-to-CelebA-mapping.txt", "CelebAMask-HQ-attribute-anno.txt"
FIRST_VAL, FIRST_TEST = 162771, 182638
"""Numbers of CelebA's files, counted from 1, from which on they are validation and test."""


@dataclass(kw_only=True, eq=False)
class CelebAMaskHQ(ImageDataModule):
    """CelebAMask-HQ as its authors publish it; publishes ``mask`` (background and 18 parts) and ``attributes`` (40)::

        CelebA-HQ-img/N.jpg                                       1024 px, N = 0, 1, ...
        CelebAMask-HQ-mask-anno/<N // 2000>/NNNNN_<part>.png      512 px, white where the part is; none if it is not
        CelebA-HQ-to-CelebA-mapping.txt                           idx orig_idx orig_file
        CelebAMask-HQ-attribute-anno.txt                          number; names; N.jpg and 1 or -1 for each

    The splits are CelebA's own, by ``orig_file``. Pictures are read at the size of the masks.

    Args:
        root: folder of the data set.
        names: the 19 classes, in the order of the masks' indices.
        batch_size: this and the following are those of ``ImageDataModule``.

    Raises:
        ValueError: ``root`` is no folder, or one of the two lists cannot be read: file and line.

    Reference: Lee et al., MaskGAN, CVPR 2020, https://github.com/switchablenorms/CelebAMask-HQ.
    """

    root: str | Path = field(kw_only=False)
    names: Sequence[str] = ("background", *PARTS)

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.names) != len(PARTS) + 1:
            raise ValueError(f"names lists {len(self.names)} classes, must be {len(PARTS) + 1}")
        self.root = checked_root(self.root)
        mapping = read_table(self.root / MAPPING, delimiter=None)
        mapping.need(["idx", "orig_file"], "take the file that belongs to the data set")
        facts = self._attributes()
        columns = AttributeColumns(facts.columns[1:], yes="1", no="-1")
        label, read = columns.bind(facts.rows, self.root)
        self._labels = {"mask": Label("mask", tuple(self.names), MIRROR), "attributes": label}
        self._numbers: dict[str, list[int]] = {"train": [], "val": [], "test": []}
        mistakes = Mistakes(mapping.path)
        for row in mapping.rows:
            try:
                number, original = int(row.cells["idx"]), int(Path(row.cells["orig_file"]).stem)
            except ValueError as error:
                mistakes.add(row.line, error)
                continue
            split = "train" if original < FIRST_VAL else "val" if original < FIRST_TEST else "test"
            self._numbers[split].append(number)
        mistakes.tell()
        self._facts: dict[int, Tensor] = {}
        mistakes = Mistakes(facts.path)
        for row in facts.rows:
            try:
                self._facts[int(Path(row.cells["file"]).stem)] = read(row.cells)
            except ValueError as error:
                mistakes.add(row.line, error)
        mistakes.tell()
        if absent := sorted({n for part in self._numbers.values() for n in part} - self._facts.keys()):
            raise DataError(
                f"{shown(facts.path)}: no line for {absent[0]}.jpg and {len(absent) - 1} more that {MAPPING} names"
            )

    def _attributes(self) -> Table:
        """The list of attributes: its first line is a number, its second has names, but none for the files."""
        whole = self.root / ATTRIBUTES
        try:
            names = whole.read_text("utf-8").splitlines()[1].split()
        except (OSError, UnicodeDecodeError, IndexError) as error:
            raise DataError(
                f"{shown(whole)} cannot be read, or has no second line with names: {error}"
            ) from error
        return read_table(whole, delimiter=None, header=["file", *names], skip=2)

    @property
    def labels(self) -> dict[str, Label]:
        """``mask`` and ``attributes``."""
        return dict(self._labels)

    def source(self, split: Split) -> "PartFiles":
        """The pictures of a split.

        Raises:
            ValueError: a picture is not there.
        """
        numbers = self._numbers[split]
        for number in numbers:
            if not (picture := self.root / IMAGES / f"{number}.jpg").is_file():
                raise DataError(f"{MAPPING} names {number}, but {shown(picture)} does not exist")
        facts = torch.stack([self._facts[n] for n in numbers]) if numbers else torch.empty(0)
        return PartFiles(self.root, numbers, facts, self._labels)


class PartFiles:
    """Numbered pictures, a mask file a part, as a Source.

    Args:
        root: folder of the data set.
        numbers: of the pictures.
        attributes: of each, (N, 40).
        labels: what is published.
    """

    def __init__(self, root: Path, numbers: Sequence[int], attributes: Tensor, labels: dict[str, Label]):
        self.root, self.numbers, self.attributes, self.labels = root, numbers, attributes, labels

    def __len__(self) -> int:
        """Number of pictures."""
        return len(self.numbers)

    def name(self, index: int) -> str:
        """Path of the picture relative to the root."""
        return f"{IMAGES}/{self.numbers[index]}.jpg"

    def read(self, index: int) -> dict[str, Tensor]:
        """The picture at the size of its masks, one mask of all parts, and the attributes.

        Raises:
            UnreadableSample: a damaged file.
            InvalidLabel: no mask, or masks of several sizes.
        """
        number = self.numbers[index]
        folder = self.root / MASKS / str(number // MASKS_A_FOLDER)
        mask: Tensor | None = None
        for place, part in enumerate(PARTS, 1):
            path = folder / f"{number:05d}_{part}.png"
            if not path.is_file():
                continue
            there = read_image(path, upright=False)[0] > 127
            mask = torch.zeros(there.shape, dtype=torch.int64) if mask is None else mask
            if there.shape != mask.shape:
                raise InvalidLabel(f"{shown(path)}: {tuple(there.shape)}, other masks {tuple(mask.shape)}")
            mask[there] = place
        if mask is None:
            raise InvalidLabel(f"{self.name(index)}: {shown(folder)} holds no mask {number:05d}_<part>.png")
        image = read_image(self.root / self.name(index), upright=False)
        image = View(0, 0, *image.shape[1:], tuple(mask.shape)).image(image)
        return {"image": image, "mask": mask, "attributes": self.attributes[index]}
