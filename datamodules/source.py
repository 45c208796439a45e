"""Source: one split of a data set, read sample by sample, and the checks that all samples pass."""

from typing import Any, Protocol

import torch
from torch import Tensor

from datamodules.samples import IGNORE, MISSING, Label


class DataError(ValueError):
    """The data set cannot be used as it is; the message names files and what to do. Ends a run."""


class UnreadableSample(DataError):
    """One sample cannot be used: the message names the file and the reason.

    Training steps over it and evaluation drops it; both count it (``skipped`` of the batch).
    """


class InvalidLabel(UnreadableSample):
    """The picture decodes, but its label breaks the rules: most often the wrong option, not a damaged file.

    ``ImageDataModule.check`` therefore stops at the first one, while it tolerates some damaged files.
    """


class Source(Protocol):
    """One split of a data set: how many samples, what they are called, and how one is read.

    Whoever implements it keeps no open files and no random state: worker processes hold copies of it, and the
    same index always reads the same sample.

    One that searches folders may have ``left_out``, a line about what it passed over there (``pictures.finding.said``);
    the data module tells it.

    Attributes:
        labels: what the samples are labelled with, {key: Label}. Empty for plain pictures.
    """

    labels: dict[str, Label]

    def __len__(self) -> int:
        """Number of samples."""
        ...

    def name(self, index: int) -> str:
        """Name of sample ``index``: unique in the data set, the same in every run.

        It is printed and stored: of a file, ``pictures.names.shown(path)``.
        """
        ...

    def read(self, index: int) -> dict[str, Tensor]:
        """The sample as it is on disk: ``image`` and every key of ``labels``.

        Returns:
            ``image`` uint8 (3, H, W) RGB; labels with the types and shapes of ``datamodules.samples``, and
            ``box_class`` next to ``boxes``. Sizes and ranges need no check here: ``read_checked`` does it.

        Raises:
            UnreadableSample: the file is damaged, or its label cannot be understood.
        """
        ...


def read_checked(source: Source, index: int) -> dict[str, Tensor]:
    """Reads a sample and checks it against the labels that its source publishes.

    Raises:
        UnreadableSample: the file is damaged.
        InvalidLabel: a label has the wrong shape, does not fit the image, or lies outside its range.
    """
    sample = source.read(index)
    image = sample["image"]
    if image.dtype != torch.uint8 or image.ndim != 3 or image.shape[0] != 3:
        raise UnreadableSample(
            f"{source.name(index)}: image is {image.dtype} {tuple(image.shape)}, must be uint8 (3, H, W)"
        )
    for key, label in source.labels.items():
        problem = _problem(sample, key, label)
        if problem:
            raise InvalidLabel(f"{source.name(index)}: {problem}")
    return sample


def _problem(sample: dict[str, Tensor], key: str, label: Label) -> str | None:
    """What is wrong with one label of a sample, or None."""
    if key not in sample:
        return f"{key} is missing: give its missing value (datamodules/samples.py) instead of leaving it out"
    value, num = sample[key], len(label.names)
    shapes: dict[str, tuple[Any, ...]] = {
        "class": (),
        "mask": tuple(sample["image"].shape[1:]),
        "attributes": (num,),
        "landmarks": (num, 2),
        "boxes": (len(value) if value.ndim else 0, 4),
    }
    if tuple(value.shape) != shapes[label.kind]:
        if label.kind == "mask":
            return f"{key} is {_size(value)} but the image is {_size(sample['image'])}: they must be equal"
        return f"{key} has shape {tuple(value.shape)}, must be {shapes[label.kind]} for its {num} names"
    if label.kind == "mask":
        return _out_of_range(key, value[value != IGNORE], 0, num - 1)
    if label.kind == "class":
        return _out_of_range(key, value, MISSING, num - 1)
    if label.kind == "attributes":
        return _out_of_range(key, value, MISSING, 1)
    if label.kind == "boxes":
        classes = sample.get("box_class")
        if classes is None or classes.shape != value.shape[:1]:
            return f"box_class must give a class for each of the {len(value)} {key}"
        if bool(((value[:, 2:] <= value[:, :2]).any(1)).any()):  # NaN, a missing row, compares false
            return f"{key} has a box without width or height: drop such boxes when reading"
        return _out_of_range("box_class", classes, MISSING, num - 1)
    return None


def _out_of_range(key: str, values: Tensor, low: int, high: int) -> str | None:
    if values.is_floating_point():
        return f"{key} is {values.dtype}, must be int64"
    if values.numel() == 0:
        return None
    worst = int(values.max()) if int(values.max()) > high else int(values.min())
    if low <= worst <= high:
        return None
    return f"{key} holds {worst}, must be within {low}..{high}"


def _size(x: Tensor) -> str:
    return f"{x.shape[-1]}x{x.shape[-2]}" if x.ndim >= 2 else f"of shape {tuple(x.shape)}"
