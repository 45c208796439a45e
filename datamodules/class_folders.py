"""ClassFolders: ImageNet-like folders, one for each class."""

from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from datamodules.base import ImageDataModule, Split
from datamodules.files import checked_root, place_in_split
from datamodules.image_folder import ImageFiles
from datamodules.samples import Label
from pictures.finding import below, said
from pictures.names import shown


@dataclass(kw_only=True, eq=False)
class ClassFolders(ImageDataModule):
    """Images sorted into ``root/<split>/<class>/``; publishes ``class``, classes in alphabetical order::

        train/<class>/*    val/<class>/*    test/<class>/*

    Where only one of val and test exists (ImageNet), that one is the test split, and a part of train, chosen
    by file name, is held out as val: nothing is ever tuned on what is reported.

    Args:
        root: folder of the data set.
        val_fraction: share of train that is held out as val where there is only one other folder.
        batch_size: this and the following are those of ``ImageDataModule``.

    Raises:
        ValueError: ``root`` lacks the folders, a class appears outside train only, or an argument is out of
            its range.
    """

    root: str | Path = field(kw_only=False)
    val_fraction: float = 0.05

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.val_fraction < 1:
            raise ValueError(f"val_fraction is {self.val_fraction}, must be within 0..1, both excluded")
        self.root = checked_root(self.root)
        there = [name for name in ("train", "val", "test") if (self.root / name).is_dir()]
        if "train" not in there or len(there) < 2:
            raise ValueError(
                f"root {str(self.root)!r} has the split folders {there}, must have train and at least one of "
                f"val and test, each holding a folder for every class"
            )
        self.held_out = len(there) == 2
        self.test_folder = there[-1]
        self.classes = _folders(self.root / "train")
        if not self.classes:
            raise ValueError(
                f"folder {str(self.root / 'train')!r} holds no class folders: expected train/<class>/*"
            )

    @property
    def labels(self) -> dict[str, Label]:
        """``class``: the names of the folders in train."""
        return {"class": Label(kind="class", names=tuple(map(shown, self.classes)))}

    def source(self, split: Split) -> "ClassifiedFiles":
        """Lists the images of a split.

        Raises:
            ValueError: no images, or a class that train does not have.
        """
        folder = {"train": "train", "val": "train" if self.held_out else "val", "test": self.test_folder}[
            split
        ]
        unknown = sorted(set(_folders(self.root / folder)) - set(self.classes))
        if unknown:
            raise ValueError(
                f"folder {str(self.root / folder)!r} holds the class {unknown[0]!r}, which train does not "
                f"have: the folders must have the same names"
            )
        # One search for all classes: a file that links put into several would have several labels.
        found = below(self.root / folder)
        numbers = {name: number for number, name in enumerate(self.classes)}
        files: dict[str, int] = {}
        for name in sorted(found.names, key=lambda name: (name.split("/")[0], name)):
            path, (first, *rest) = f"{folder}/{name}", name.split("/")
            if not rest:
                found.left_out["outside the class folders"] += 1
                continue
            is_val = self.held_out and place_in_split(path) < self.val_fraction
            if folder != "train" or is_val == (split == "val"):
                files[path] = numbers[first]
        left_out = said(self.root / folder, found.left_out)
        if not files:
            raise ValueError(
                f"folder {str(self.root / folder)!r} holds no images for split {split!r}"
                + (f". {left_out}" if left_out else "")
            )
        return ClassifiedFiles(self.root, list(files), list(files.values()), self.labels, left_out)


class ClassifiedFiles(ImageFiles):
    """A list of image files and their classes as a Source.

    Args:
        root: folder the names are relative to.
        names: paths of the files; also what samples are called.
        classes: class index of each.
        labels: what is published.
        left_out: a line about what was passed over.
    """

    def __init__(
        self,
        root: Path,
        names: list[str],
        classes: list[int],
        labels: dict[str, Label],
        left_out: str = "",
    ):
        super().__init__(root, names, left_out)
        self.labels, self.classes = labels, classes

    def read(self, index: int) -> dict[str, Tensor]:
        """The picture, upright, and its class."""
        return super().read(index) | {"class": torch.tensor(self.classes[index])}


def _folders(folder: Path) -> list[str]:
    return sorted(
        entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith(".")
    )
