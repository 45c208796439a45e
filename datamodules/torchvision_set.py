"""TorchvisionSet: the classified sets that torchvision knows how to download."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from torchvision.transforms.v2.functional import pil_to_tensor

from datamodules.base import ImageDataModule, Split
from datamodules.files import place_in_split
from datamodules.samples import Label
from datamodules.source import DataError, UnreadableSample


class Pairs(Protocol):
    """What torchvision's sets are: pictures (PIL) and their classes."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> tuple[Any, int]: ...


@dataclass(kw_only=True, eq=False)
class TorchvisionSet(ImageDataModule):
    """A set of ``torchvision.datasets`` whose targets are classes; publishes ``class``.

    Args:
        root: folder that the set is in, or that it is downloaded to.
        dataset: makes one part of it: called as ``dataset(root, download=..., **splits[split])``.
        splits: what tells it the part. Where ``val`` is not named, a share of train is held out.
        download: fetch what is not there. Several processes of one run must find it there: fetch it in one first.
        names: of the classes; ``None``: those that the set itself knows (``classes``).
        val_fraction: share of train, by number, that is held out as val.
        batch_size: this and the following are those of ``ImageDataModule``.

    Raises:
        ValueError: no part ``train`` or ``test`` is named, or an argument is out of its range. When a split is asked
            for: the set is not there and may not be downloaded, or has no names.
    """

    root: str | Path = field(kw_only=False)
    dataset: Callable[..., Pairs]
    splits: Mapping[str, Mapping[str, Any]]
    download: bool = False
    names: Sequence[str] | None = None
    val_fraction: float = 0.05

    def __post_init__(self) -> None:
        super().__post_init__()
        if not {"train", "test"} <= set(self.splits) <= {"train", "val", "test"}:
            raise ValueError(
                f"splits names {sorted(self.splits)}, must name train and test, and may name val"
            )
        if not 0 < self.val_fraction < 1:
            raise ValueError(f"val_fraction is {self.val_fraction}, must be within 0..1, both excluded")
        self.root = Path(self.root).expanduser()
        self._parts: dict[str, Pairs] = {}

    def source(self, split: Split) -> "PairSource":
        """Opens the part of a split.

        Raises:
            ValueError: see the class.
        """
        part = split if split in self.splits else "train"
        pairs = self._part(part)
        held_out = "val" not in self.splits and part == "train"
        numbers = [
            number
            for number in range(len(pairs))
            if not held_out or (place_in_split(f"{number}") < self.val_fraction) == (split == "val")
        ]
        names = self.names if self.names is not None else getattr(pairs, "classes", None)
        if names is None:
            raise ValueError(f"{type(pairs).__name__} does not name its classes: give data.names")
        return PairSource(pairs, part, numbers, Label("class", tuple(map(str, names))))

    def _part(self, part: str) -> Pairs:
        if part not in self._parts:
            try:
                self._parts[part] = self.dataset(str(self.root), download=self.download, **self.splits[part])
            except (RuntimeError, OSError) as error:
                remedy = (
                    "is the network there?"
                    if self.download
                    else "give data.download=true once, with a network"
                )
                raise DataError(f"root {str(self.root)!r} lacks the data set ({error}): {remedy}") from error
        return self._parts[part]


class PairSource:
    """Some of a set's pictures as a Source.

    Args:
        pairs: the set.
        part: what it is called in names.
        numbers: which of its pictures.
        label: what is published as ``class``.
    """

    def __init__(self, pairs: Pairs, part: str, numbers: Sequence[int], label: Label):
        self.pairs, self.part, self.numbers, self.labels = pairs, part, numbers, {"class": label}

    def __len__(self) -> int:
        """Number of pictures."""
        return len(self.numbers)

    def name(self, index: int) -> str:
        """Part and number, e.g. ``train/00042``."""
        return f"{self.part}/{self.numbers[index]:05d}"

    def read(self, index: int) -> dict[str, Tensor]:
        """The picture and its class.

        Raises:
            UnreadableSample: its file is damaged.
        """
        try:
            picture, target = self.pairs[self.numbers[index]]
            image = pil_to_tensor(picture.convert("RGB"))
        except OSError as error:
            raise UnreadableSample(f"{self.name(index)}: {error}") from error
        return {"image": image, "class": torch.tensor(int(target))}
