"""ImageFolder: photos without labels, for training codecs and for rate-distortion tests."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from datamodules.base import ImageDataModule, Split
from datamodules.files import checked_fractions, checked_root, read_image, share_of
from datamodules.samples import Label
from pictures.finding import below, said
from pictures.names import shown

SPLITS: tuple[Split, ...] = ("train", "val", "test")


@dataclass(kw_only=True, eq=False)
class ImageFolder(ImageDataModule):
    """Image files below a folder, at any depth. Publishes no labels.

    The splits are, by what is found in ``root``::

        images/train, images/val, images/test      (any of the three)
        train, val, test                           (any of the three)
        the image files themselves                 shared out by ``split_fractions``

    Args:
        root: folder of the data set.
        split_fractions: shares of (train, val, test) of a folder without split folders; their sum must be 1.
            A file's split depends on its name alone. A test set such as Kodak is ``(0, 0, 1)``.
        folders: names the split folders if they are called otherwise, relative to ``root``:
            ``{"train": "DIV2K_train_HR", "val": "DIV2K_valid_HR"}``.
        batch_size: this and the following are those of ``ImageDataModule``.

    Raises:
        ValueError: ``root`` is no folder, or an argument out of its range. A split that is not there, or that
            holds no images, raises when it is asked for.
    """

    root: str | Path = field(kw_only=False)
    split_fractions: Sequence[float] = (0.9, 0.05, 0.05)
    folders: Mapping[str, str] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.root = checked_root(self.root)
        self.split_fractions = checked_fractions(self.split_fractions)
        if self.folders is not None and not set(self.folders) <= set(SPLITS):
            raise ValueError(f"folders names {sorted(self.folders)}, must name some of {', '.join(SPLITS)}")
        if self.folders is None:
            self.folders = self._split_folders()
        else:
            self.folders = {split: self.root / folder for split, folder in self.folders.items()}
        for split, folder in self.folders.items():
            if not folder.is_dir() or not folder.is_relative_to(self.root):
                raise ValueError(
                    f"folders[{split!r}] is {str(folder)!r}, must be a folder in the root: correct `folders`"
                )

    def _split_folders(self) -> dict[str, Path]:
        for parent in (self.root / "images", self.root):
            found = {split: parent / split for split in SPLITS if (parent / split).is_dir()}
            if found:
                return found
        return {}

    @property
    def labels(self) -> dict[str, Label]:
        """None: photos alone."""
        return {}

    def source(self, split: Split) -> "ImageFiles":
        """Lists the images of a split.

        Raises:
            ValueError: no such split, or no images in it.
        """
        if not self.folders:
            found = below(self.root)
            left_out = said(self.root, found.left_out)
            chosen = [name for name in found.names if share_of(name, self.split_fractions) == split]
            if not chosen:
                raise ValueError(
                    f"root {str(self.root)!r} gives split {split!r} none of its images "
                    f"(found: {len(found.names)}): put images there, or raise its share in "
                    f"split_fractions (={self.split_fractions})" + (f". {left_out}" if left_out else "")
                )
            return ImageFiles(self.root, chosen, left_out)
        if split not in self.folders:
            raise ValueError(
                f"root {str(self.root)!r} has no split {split!r}, only {sorted(self.folders)}: add the "
                f"folder, or say which one it is in `folders`"
            )
        folder = self.folders[split]
        prefix = folder.relative_to(self.root).as_posix()
        found = below(folder)
        left_out = said(folder, found.left_out)
        if not found.names:
            raise ValueError(
                f"folder {str(folder)!r} of split {split!r} holds no image files: put images there"
                + (f". {left_out}" if left_out else "")
            )
        names = [name if prefix == "." else f"{prefix}/{name}" for name in found.names]
        return ImageFiles(self.root, names, left_out)


class ImageFiles:
    """A list of image files as a Source.

    Args:
        root: folder the names are relative to.
        names: paths of the files; also what samples are called.
        left_out: a line about what was passed over.
    """

    def __init__(self, root: Path, names: list[str], left_out: str = ""):
        self.labels: dict[str, Label] = {}
        self.root = root
        self.names = names
        self.left_out = left_out

    def __len__(self) -> int:
        """Number of files."""
        return len(self.names)

    def name(self, index: int) -> str:
        """Path relative to the root."""
        return shown(self.names[index])

    def read(self, index: int) -> dict[str, Tensor]:
        """The picture, upright."""
        return {"image": read_image(self.root / self.names[index])}
