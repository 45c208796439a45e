"""SegmentationFolders: images and masks in parallel folders, as SegNet lays out CamVid."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from datamodules.base import ImageDataModule, Split
from datamodules.files import checked_root, image_files, read_image, read_indices
from datamodules.samples import IGNORE, Label
from datamodules.source import InvalidLabel


@dataclass(kw_only=True, eq=False)
class SegmentationFolders(ImageDataModule):
    """Images with a class for every pixel; publishes ``mask``::

        <split>/NAME.<any image suffix>      the image
        <split>annot/NAME.png                its mask: one 8-bit channel (grey or palette) of class indices
        <split>.txt                          optional: one NAME (or path of an image) a line; default is all
        images

    Args:
        root: folder of the data set.
        names: the classes, in the order of their indices.
        ignore_index: value in the files of pixels without a class; they become IGNORE.
        mirror: pairs of indices into ``names`` that a flip exchanges, such as left and right arm.
        batch_size: this and the following are those of ``ImageDataModule``.

    Raises:
        ValueError: ``root`` is no folder, or an argument is out of its range. A split that is not there, or
            that lacks masks, raises when it is asked for.
    """

    root: str | Path = field(kw_only=False)
    names: Sequence[str]
    ignore_index: int = IGNORE
    mirror: Sequence[Sequence[int]] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.ignore_index <= 255:
            raise ValueError(
                f"ignore_index is {self.ignore_index}, a value of an 8-bit mask: must be within 0..255"
            )
        if not 1 <= len(self.names) <= IGNORE:
            raise ValueError(f"names lists {len(self.names)} classes, an 8-bit mask holds 1..{IGNORE}")
        for pair in self.mirror:
            if len(pair) != 2 or not all(0 <= index < len(self.names) for index in pair):
                raise ValueError(
                    f"mirror holds {tuple(pair)}, must be pairs of indices within 0..{len(self.names) - 1}"
                )
        self.root = checked_root(self.root)
        self.label = Label("mask", tuple(self.names), tuple((int(a), int(b)) for a, b in self.mirror))

    @property
    def labels(self) -> dict[str, Label]:
        """``mask``: the classes given."""
        return {"mask": self.label}

    def source(self, split: Split) -> "MaskedFiles":
        """Lists the images of a split and pairs them with their masks.

        Raises:
            ValueError: a folder is not there or empty, or an image lacks its mask.
        """
        folder, masks = self.root / split, self.root / f"{split}annot"
        for needed in (folder, masks):
            if not needed.is_dir():
                raise ValueError(
                    f"split {split!r} needs the folder {str(needed)!r}: images in {split}/, masks next to it"
                )
        files = {Path(file).with_suffix("").as_posix(): file for file in image_files(folder)}
        listing = self.root / f"{split}.txt"
        wanted = _listed(listing) if listing.is_file() else list(files)
        if not wanted:
            raise ValueError(
                f"split {split!r} is empty: neither {str(folder)!r} nor its listing names an image"
            )
        for name in wanted:
            if name not in files:
                raise ValueError(f"{str(listing)!r} names {name!r}, but {str(folder)!r} holds no such image")
            if not (masks / f"{name}.png").is_file():
                raise ValueError(
                    f"image {split}/{files[name]} has no mask {split}annot/{name}.png: add it, or list "
                    f"the labelled images in {split}.txt"
                )
        return MaskedFiles(self.root, split, [files[name] for name in wanted], self.label, self.ignore_index)


class MaskedFiles:
    """A list of image files and their masks as a Source.

    Args:
        root: folder of the data set.
        split: name of the split's folder.
        files: image files, relative to it.
        label: what is published as ``mask``.
        ignore_index: value in the files that becomes IGNORE.
    """

    def __init__(self, root: Path, split: str, files: list[str], label: Label, ignore_index: int):
        self.labels = {"mask": label}
        self.root = root
        self.split = split
        self.files = files
        self.ignore_index = ignore_index

    def __len__(self) -> int:
        """Number of images."""
        return len(self.files)

    def name(self, index: int) -> str:
        """Path of the image relative to the root."""
        return f"{self.split}/{self.files[index]}"

    def read(self, index: int) -> dict[str, Tensor]:
        """The picture as stored, for the mask fits the stored pixels, and its mask.

        Raises:
            UnreadableSample: a damaged file.
            InvalidLabel: a value that is neither a class nor ``ignore_index``.
        """
        file = Path(self.files[index])
        path = self.root / f"{self.split}annot" / file.with_suffix(".png")
        values = read_indices(path)
        num_classes = len(self.labels["mask"].names)
        ignored = values == self.ignore_index
        foreign = values[(values >= num_classes) & ~ignored]
        if foreign.numel():
            raise InvalidLabel(
                f"{path}: mask holds {int(foreign.max())}, must be within 0..{num_classes - 1} (the "
                f"{num_classes} names) or ignore_index (={self.ignore_index})"
            )
        mask = torch.where(ignored, IGNORE, values.long())
        return {"image": read_image(self.root / self.split / file, upright=False), "mask": mask}


def _listed(listing: Path) -> list[str]:
    """Names in a listing; a line of SegNet's own is ``/SegNet/CamVid/train/NAME.png /SegNet/...``."""
    names = []
    for line in listing.read_text().splitlines():
        if line.strip():
            first = Path(line.split()[0])
            names.append(
                first.stem if first.suffix.lower() in {".png", ".jpg", ".jpeg", ".webp"} else first.name
            )
    return names
