"""Portraits: the embedded default data set, drawn by the project itself, with every kind of label."""

import multiprocessing
import os
import signal
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from datamodules.base import ImageDataModule, Split
from datamodules.drawing import draw, labels
from datamodules.drawing.parameters import EXPRESSIONS, Dice
from datamodules.samples import MISSING, Label

_BLOCKS_APART = 1_000_000  # between the first images of two splits, in blocks of all classes and identities
_MISSING = 100  # random stream of the labels that are withheld; the drawing uses the first few numbers
_WORTH_A_POOL = 500 * 64 * 64  # pixels, about a second of drawing: starting processes costs a tenth of that


@dataclass(kw_only=True, eq=False)
class Portraits(ImageDataModule):
    """Drawn portraits of a few people before busy backgrounds: no download, any size, any number.

    Publishes ``class`` (eight expressions, told apart by small details), ``identity``, ``attributes``,
    ``mask``, ``landmarks`` and ``boxes``; ``datamodules.drawing`` lists their names. Left and right are those
    of the picture. The splits are disjoint ranges of images, but all of them show the same people, so that
    ``identity`` is a closed set. The images of a split depend on ``seed`` and ``num_identities`` alone: the
    test images stay the same when there are more training images, and larger drawings show the same scenes.

    A split is drawn when it is first opened, on all cores (4000 images of 64 pixels: about 15 seconds of one
    core), and stays in memory: size * size * 4 bytes an image.

    Args:
        size: height and width of the drawings, in pixels.
        num_train: images in the train split.
        num_val: images in the val split.
        num_test: images in the test split.
        num_identities: how many people there are.
        seed: another seed gives other people and other pictures of them.
        missing: {key of a label: share of the train images that lack it}, which images is fixed by ``seed``.
            A data set rarely has all labels for all images; val and test keep theirs.
        batch_size: this and the following are those of ``ImageDataModule``.
        eval_size: side to which evaluated images are resized. Default: ``size``, as they are.

    Raises:
        ValueError: an argument out of its range, or ``missing`` names a label that portraits do not have.
    """

    size: int = 64
    num_train: int = 4000
    num_val: int = 200
    num_test: int = 400
    num_identities: int = 40
    seed: int = 0
    missing: Mapping[str, float] | None = None

    def __post_init__(self) -> None:
        # All drawings are of one size; saying so lets evaluation use batches.
        self.eval_size = self.size if self.eval_size is None else self.eval_size
        super().__post_init__()
        self.num_images = {"train": self.num_train, "val": self.num_val, "test": self.num_test}
        most = _BLOCKS_APART * len(EXPRESSIONS)
        for name, value, low, high in (
            ("size", self.size, 16, 4096),
            ("num_train", self.num_train, 1, most),
            ("num_val", self.num_val, 1, most),
            ("num_test", self.num_test, 1, most),
            ("num_identities", self.num_identities, 1, 1000),
            ("seed", self.seed, 0, 2**63),
        ):
            if not low <= value <= high:
                raise ValueError(f"{name} is {value}, must be within {low}..{high}")
        self.missing = dict(self.missing or {})
        for key, share in self.missing.items():
            if key not in self.labels:
                raise ValueError(f"missing names {key!r}, portraits have the labels {', '.join(self.labels)}")
            if not 0 <= share <= 1:
                raise ValueError(f"missing[{key!r}] is {share}, must be within 0..1")

    @property
    def labels(self) -> dict[str, Label]:
        """Every kind of label; nothing is drawn to answer this."""
        return labels(self.num_identities)

    def source(self, split: Split) -> "PortraitSource":
        """Draws one split; this takes a few seconds."""
        start = ("train", "val", "test").index(split) * _BLOCKS_APART * self.num_identities * len(EXPRESSIONS)
        return PortraitSource(
            range(start, start + self.num_images[split]),
            split=split,
            size=self.size,
            seed=self.seed,
            num_identities=self.num_identities,
            missing=self.missing if split == "train" else {},
        )


class PortraitSource:
    """A range of portraits, drawn at once and kept in memory, as a Source.

    The drawings lie in a few large arrays, which loading processes share with the process that forked them.

    Args:
        indices: which portraits.
        split: what their names begin with.
        size: height and width, in pixels.
        seed: of the whole data set.
        num_identities: how many people there are.
        missing: share of the portraits to withhold a label from, by its key.
    """

    def __init__(
        self,
        indices: range,
        *,
        split: str,
        size: int,
        seed: int,
        num_identities: int,
        missing: Mapping[str, float],
    ):
        self.labels = labels(num_identities)
        self.indices = indices
        self.split = split
        drawings = _draw_all(indices, size=size, seed=seed, num_identities=num_identities, title=split)
        self._images = np.empty((len(indices), 3, size, size), np.uint8)
        self._masks = np.empty((len(indices), size, size), np.uint8)
        self._others: list[dict[str, np.ndarray]] = []
        for place, drawing in enumerate(drawings):
            self._images[place] = drawing.pop("image")
            self._masks[place] = drawing.pop("mask")
            self._others.append(drawing)
        self._lacks = {
            key: Dice(seed, _MISSING, list(self.labels).index(key)).values(len(indices)) < share
            for key, share in missing.items()
        }

    def __len__(self) -> int:
        """Number of portraits."""
        return len(self.indices)

    def name(self, index: int) -> str:
        """Split and number, e.g. ``train/00042``."""
        return f"{self.split}/{index:05d}"

    def read(self, index: int) -> dict[str, Tensor]:
        """The drawing and its labels; withheld ones hold their missing value."""
        # Copies: whoever changes a sample must not change what the next epoch reads.
        sample = {key: torch.from_numpy(np.array(value)) for key, value in self._others[index].items()}
        sample["image"] = torch.from_numpy(self._images[index].copy())
        sample["mask"] = torch.from_numpy(self._masks[index].astype(np.int64))
        for key, lacking in self._lacks.items():
            if lacking[index]:
                if key == "boxes":
                    sample["boxes"] = torch.full((1, 4), self.labels[key].missing)
                    sample["box_class"] = torch.full((1,), MISSING)
                else:
                    sample[key] = torch.full_like(sample[key], self.labels[key].missing)
        return sample


def _draw_all(
    indices: range, *, size: int, seed: int, num_identities: int, title: str
) -> Iterable[dict[str, np.ndarray]]:
    """Draws portraits in order, on all cores if there are many; a progress bar appears after two seconds."""
    one = partial(draw, size=size, seed=seed, num_identities=num_identities)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    bar = partial(tqdm, total=len(indices), desc=f"drawing {title}", unit="portrait", delay=2, leave=False)
    # Forked children have everything imported; other ways of starting them take longer than the drawing. A
    # daemon, which a loading process is, may have no children of its own.
    can_fork = "fork" in multiprocessing.get_all_start_methods()
    can_fork = can_fork and not multiprocessing.current_process().daemon
    if len(indices) * size * size < _WORTH_A_POOL or cores == 1 or not can_fork:
        yield from bar(map(one, indices))
        return
    # The pool ends its children by SIGTERM, and a training process has taught itself, and them, to survive that.
    mortal = {"initializer": signal.signal, "initargs": (signal.SIGTERM, signal.SIG_DFL)}
    with multiprocessing.get_context("fork").Pool(min(cores, 16), **mortal) as pool:
        yield from bar(pool.imap(one, indices, chunksize=32))
