"""SegmentationFolders: images and masks in parallel folders, as SegNet lays out CamVid, and what masks show."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import torch
from torch import Tensor

from datamodules.base import ImageDataModule, Split
from datamodules.columns import checked_pairs
from datamodules.files import checked_root, lines_of, read_image, read_indices
from datamodules.samples import IGNORE, Label
from datamodules.source import InvalidLabel
from pictures.finding import SUFFIXES, below, said
from pictures.names import shown


@dataclass(kw_only=True, eq=False)
class SegmentationFolders(ImageDataModule):
    """Images with a class for every pixel; publishes ``mask``::

        <split>/NAME.<any image suffix>      the image                                   (``images``)
        <split>annot/NAME.png                its mask: one 8-bit channel (grey or palette) of class indices (``masks``)
        <split>.txt                          optional: one NAME (or path of an image) a line, what follows it on
                                             the line does not count; default is all images

    NAME may have folders and spaces in it: ``<split>/a b/c.tif`` has the mask ``<split>annot/a b/c.png``.

    Args:
        root: folder of the data set.
        names: the classes, in the order of their indices.
        ignore_index: value in the files of pixels without a class; they become IGNORE.
        mirror: pairs of indices into ``names`` that a flip exchanges, such as left and right arm.
        images: folder of a split's images, below the root; ``{split}`` stands for its name.
        masks: likewise of its masks.
        presence: those of ``names`` whose presence is published as ``attributes``: seen in the stored mask, so that
            views that lose small things keep their label.
        presence_pixels: of a class that is there, in the stored mask.
        batch_size: this and the following are those of ``ImageDataModule``.

    Raises:
        ValueError: ``root`` is no folder, or an argument is out of its range. A split that is not there, or
            that lacks masks, raises when it is asked for.
    """

    root: str | Path = field(kw_only=False)
    names: Sequence[str]
    ignore_index: int = IGNORE
    mirror: Sequence[Sequence[int]] = ()
    images: str = "{split}"
    masks: str = "{split}annot"
    presence: Sequence[str] = ()
    presence_pixels: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.ignore_index <= 255:
            raise ValueError(
                f"ignore_index is {self.ignore_index}, a value of an 8-bit mask: must be within 0..255"
            )
        if not 1 <= len(self.names) <= IGNORE:
            raise ValueError(f"names lists {len(self.names)} classes, an 8-bit mask holds 1..{IGNORE}")
        pairs = checked_pairs(self.mirror, len(self.names))
        for name, pattern in (("images", self.images), ("masks", self.masks)):
            if "{split}" not in pattern:
                raise ValueError(f"{name} is {pattern!r}, must have {{split}} in it")
        if self.presence_pixels < 1:
            raise ValueError(f"presence_pixels is {self.presence_pixels}, must be at least 1")
        if unknown := [name for name in self.presence if name not in self.names]:
            raise ValueError(f"presence names {unknown}, must be some of the classes {list(self.names)}")
        self.root = checked_root(self.root)
        self.label = Label("mask", tuple(self.names), pairs)

    @property
    def labels(self) -> dict[str, Label]:
        """``mask``: the classes given; ``attributes``: those whose presence is asked for."""
        if not self.presence:
            return {"mask": self.label}
        pairs = (tuple(self.names[index] for index in pair) for pair in self.label.mirror)
        chosen = list(self.presence)
        both = tuple((chosen.index(a), chosen.index(b)) for a, b in pairs if a in chosen and b in chosen)
        return {"mask": self.label, "attributes": Label("attributes", tuple(chosen), both)}

    def source(self, split: Split) -> "MaskedFiles":
        """Lists the images of a split and pairs them with their masks.

        Raises:
            ValueError: a folder is not there or empty, an image lacks its mask, or two images would share one.
        """
        names = self.images.format(split=split), self.masks.format(split=split)
        folder, masks = (self.root / name for name in names)
        for needed in (folder, masks):
            if not needed.is_dir():
                raise ValueError(
                    f"split {split!r} needs the folder {str(needed)!r}: images in {names[0]}/, masks in {names[1]}/"
                )
        found = below(folder)
        files: dict[str, list[str]] = {}
        for file in found.names:
            files.setdefault(_stem(file), []).append(file)
        listing = self.root / f"{split}.txt"
        wanted = _listed(listing, folder, files) if listing.is_file() else found.names
        left_out = said(folder, found.left_out)
        if not wanted:
            raise ValueError(
                f"split {split!r} is empty: neither {str(folder)!r} nor its listing names an image"
                + (f". {left_out}" if left_out else "")
            )
        owners: dict[str, str] = {}
        for file in wanted:
            name = _stem(file)
            if (other := owners.setdefault(name, file)) != file:
                raise ValueError(_ambiguous(folder, [other, file]))
            if not (masks / f"{name}.png").is_file():
                raise ValueError(
                    f"image {names[0]}/{shown(file)} has no mask {names[1]}/{shown(name)}.png: add it, or list "
                    f"the labelled images in {split}.txt"
                )
        return MaskedFiles(self, names, wanted, left_out)


class MaskedFiles:
    """A list of image files and their masks as a Source.

    Args:
        module: whose files they are.
        folders: of images and of masks, below its root.
        files: image files, relative to theirs.
        left_out: a line about what was passed over.
    """

    def __init__(
        self, module: SegmentationFolders, folders: tuple[str, str], files: list[str], left_out: str = ""
    ):
        self.labels = module.labels
        self.root = module.root
        self.images, self.masks = folders
        self.files = files
        self.ignore_index = module.ignore_index
        self.presence = torch.tensor(
            [list(module.names).index(name) for name in module.presence], dtype=torch.int64
        )
        self.presence_pixels = module.presence_pixels
        self.left_out = left_out

    def __len__(self) -> int:
        """Number of images."""
        return len(self.files)

    def name(self, index: int) -> str:
        """Path of the image relative to the root."""
        return shown(f"{self.images}/{self.files[index]}")

    def read(self, index: int) -> dict[str, Tensor]:
        """The picture as stored, for the mask fits the stored pixels, and its mask.

        Raises:
            UnreadableSample: a damaged file.
            InvalidLabel: a value that is neither a class nor ``ignore_index``.
        """
        file = Path(self.files[index])
        path = self.root / self.masks / file.with_suffix(".png")
        values = read_indices(path)
        num_classes = len(self.labels["mask"].names)
        ignored = values == self.ignore_index
        foreign = values[(values >= num_classes) & ~ignored]
        if foreign.numel():
            raise InvalidLabel(
                f"{shown(path)}: mask holds {int(foreign.max())}, must be within 0..{num_classes - 1} (the "
                f"{num_classes} names) or ignore_index (={self.ignore_index})"
            )
        mask = torch.where(ignored, IGNORE, values.long())
        sample = {"image": read_image(self.root / self.images / file, upright=False), "mask": mask}
        if "attributes" in self.labels:
            pixels = values[~ignored].long().bincount(minlength=num_classes)
            sample["attributes"] = (pixels[self.presence] >= self.presence_pixels).long()
        return sample


def _stem(file: str) -> str:
    return PurePosixPath(file).with_suffix("").as_posix()


def _ambiguous(folder: Path, files: Sequence[str]) -> str:
    names = " and ".join(map(shown, files))
    return f"{str(folder)!r} holds {names}, which would share one mask: keep one of them, or rename it and its mask"


def _listed(listing: Path, folder: Path, files: Mapping[str, Sequence[str]]) -> list[str]:
    """The images that a listing names, in its order.

    Args:
        listing: a line of SegNet's own is ``/SegNet/CamVid/train/NAME.png /SegNet/...``.
        folder: of the images.
        files: {name without suffix: the image files of that name}.

    Raises:
        ValueError: a line names no image, or a name without its suffix fits several.
    """
    chosen = []
    for _, line in lines_of(listing):
        for name in _readings(line):
            stem = _stem(name) if PurePosixPath(name).suffix.lower() in SUFFIXES else name
            if name in files.get(stem, ()):
                chosen.append(name)
            elif len(fitting := files.get(stem, ())) == 1:
                chosen.append(fitting[0])  # listings keep the names of what an image was converted from
            elif fitting:
                raise ValueError(_ambiguous(folder, fitting))
            else:
                continue
            break
        else:
            raise ValueError(
                f"{str(listing)!r} names {line!r}, but {str(folder)!r} holds no such image: correct the line, "
                "or add the image"
            )
    return chosen


def _readings(line: str) -> Iterator[str]:
    """What a line may name, likeliest first: as much of it as can be, and of a path as many of its folders."""
    ends = [len(line), *(gap.start() for gap in reversed(list(re.finditer(r"\s+", line))))]
    for end in ends:
        parts = PurePosixPath(line[:end]).parts
        for start in range(len(parts)):
            yield "/".join(parts[start:])
