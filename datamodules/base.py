"""ImageDataModule: loaders of keyed training batches and of unpadded evaluation batches over any Source."""

import copy
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from lightning import LightningDataModule
from lightning.pytorch.utilities import rank_zero_only
from torch.utils.data import DataLoader
from tqdm import tqdm

from datamodules.loading import EvaluationSamples, TrainingSamples, collate
from datamodules.resized import Resized
from datamodules.samples import Label
from datamodules.sampling import KeyedBatches, ShardedBatches
from datamodules.source import InvalidLabel, Source, UnreadableSample, read_checked
from datamodules.transforms import CentreView, RandomView

__all__ = ["ImageDataModule", "Source", "Split", "UnreadableSample"]

Split = Literal["train", "val", "test"]

SAMPLES_CHECKED = 64
"""Samples of each split that ``check`` really reads: enough to meet a wrong option, a few seconds at most."""


@dataclass(kw_only=True, eq=False)
class ImageDataModule(LightningDataModule):
    """Loaders for a data set of images with any labels.

    A subclass says where the samples are (``source``). Training draws ``num_batches`` batches keyed by (seed,
    draw) (``for_stage``); evaluation sees every sample exactly once. Batches hold what
    ``datamodules.samples`` lists.

    Args:
        batch_size: images in a training batch, over all processes; each of them takes an equal share.
        eval_batch_size: images in an evaluation batch of one process. Default: the share of ``batch_size`` if
            ``eval_size`` makes all images one size, else 1.
        num_workers: loading processes for each loader; 0 loads in the training process. ``None``: as many as this
            process has cores beside its own, at most 8; on a CPU none, for training takes all cores there.
        keep_mb: of decoded samples that each loading process keeps in memory at most, of the training and of the
            validation split: small sets are read once.
        resize: shorter side that every picture is resized to as it is read, before any window is cut; ``None``: as it
            is stored.
        crop: side of the random square window images are trained on, in pixels. Smaller images are enlarged
            until the shorter side fits. ``None``: whole images, which must then be of one size.
        eval_size: ``None`` evaluates whole images; otherwise the side of the square that the largest centred
            square of each image is resized to.
        eval_crop: side of the centred square to take instead of the largest, in pixels, or, up to 1, as a share of the
            largest; without ``eval_size`` it stays as large as it is cut.
        flip: probability of a horizontal flip in training.
        scale: range of the window's share of the image area, e.g. ``(0.3, 1)``; its aspect ratio then varies
            within 3/4..4/3 and it is resized to ``crop``. ``None``: the window has ``crop`` pixels a side, so
            pixels keep their scale, which suits compression.
        colour_jitter: brightness, contrast and saturation change by a factor within 1 - this .. 1 + this.
        min_size: shorter side that an image must have at least, in pixels (``check``).

    Raises:
        ValueError: an argument out of its range.
    """

    batch_size: int
    eval_batch_size: int | None = None
    num_workers: int | None = None
    keep_mb: float = 256
    resize: int | None = None
    crop: int | None = None
    eval_size: int | None = None
    eval_crop: float | None = None
    flip: float = 0.5
    scale: Sequence[float] | None = None
    colour_jitter: float = 0.0
    min_size: int = 16

    def __post_init__(self) -> None:
        super().__init__()
        for name, value, least in (
            ("batch_size", self.batch_size, 1),
            ("eval_batch_size", self.eval_batch_size, 1),
            ("num_workers", self.num_workers, 0),
            ("keep_mb", self.keep_mb, 0),
            ("resize", self.resize, 1),
            ("min_size", self.min_size, 1),
        ):
            if value is not None and value < least:
                raise ValueError(f"{name} is {value}, must be at least {least}")
        self.train_view = RandomView(
            crop=self.crop, flip=self.flip, scale=self.scale, colour_jitter=self.colour_jitter
        )
        self.eval_view = CentreView(size=self.eval_size, crop=self.eval_crop)
        self._sources: dict[str, Source] = {}
        self._told: set[str] = set()
        self._stage: dict[str, int] | None = None

    def source(self, split: Split) -> Source:
        """Opens one split: a subclass lists its samples here (called once for each split).

        Raises:
            ValueError: the split is not there: which path was looked at, and what should be there.
        """
        raise NotImplementedError

    @property
    def labels(self) -> dict[str, Label]:
        """What samples are labelled with, {key: Label}."""
        return self.split("train").labels

    def split(self, name: Split) -> Source:
        """One split, opened at the first call.

        Raises:
            ValueError: unknown name, or an empty split.
        """
        if name not in ("train", "val", "test"):
            raise ValueError(f"split is {name!r}, must be one of train, val, test")
        if name not in self._sources:
            source = self.source(name)
            if len(source) == 0:
                raise ValueError(f"split {name!r} of {type(self).__name__} holds no samples")
            line = getattr(source, "left_out", "")
            if line and line not in self._told:  # once where all splits are shares of one folder
                self._told.add(line)
                _tell(line)
            self._sources[name] = source if self.resize is None else Resized(source, self.resize)
        return self._sources[name]

    def check(self, splits: Sequence[Split] = ("train", "val", "test")) -> dict[str, list[str]]:
        """Reads up to 64 evenly spaced samples of each split, so that errors show before training does.

        Returns:
            The damaged files among them, {split: [file and reason, ...]}. Training steps over these.

        Raises:
            ValueError: a split is not there or empty, an image is too small, a label does not fit its image
                or its range, none of the samples can be read, or images differ in size although batches need
                one size.
        """
        damaged: dict[str, list[str]] = {}
        for name in splits:
            source = self.split(name)
            damaged[name] = []
            sizes: dict[tuple[int, int], str] = {}
            places = _places_checked(source)
            for place in places:
                try:
                    height, width = read_checked(source, place)["image"].shape[1:]
                except InvalidLabel as error:
                    raise ValueError(
                        f"split {name!r}: {error}. Correct the labels or the options."
                    ) from error
                except UnreadableSample as error:
                    damaged[name].append(str(error))
                    continue
                if min(height, width) < self.min_size:
                    raise ValueError(
                        f"split {name!r}: {source.name(place)} is {width}x{height}, shorter than min_size "
                        f"(={self.min_size}): remove the file or lower min_size"
                    )
                sizes[height, width] = source.name(place)
            if len(damaged[name]) == len(places):
                raise ValueError(
                    f"split {name!r}: no sample of {len(places)} can be read, first: {damaged[name][0]}"
                )
            self._check_one_size(name, sizes)
        return damaged

    def example(self, split: Split, count: int = 1) -> dict[str, Any] | None:
        """A batch of one sample, as training or evaluation sees it: the first that can be read of those that ``check``
        reads. Draws nothing from global random states.

        Args:
            split: ``"train"`` has the training view.
            count: times the sample is repeated.

        Returns:
            The batch, its ``image`` float; ``None`` where nothing can be read.
        """
        source = self.split(split)
        samples = (
            TrainingSamples(source, self.train_view, seed=0)
            if split == "train"
            else EvaluationSamples(source, self.eval_view)
        )
        for place in _places_checked(source):
            try:
                sample = samples[place, place]
            except UnreadableSample:  # a row of them
                continue
            if "image" in sample:
                return self.on_after_batch_transfer(collate([sample] * count), 0)
        return None

    def _check_one_size(self, split: str, sizes: dict[tuple[int, int], str]) -> None:
        if split == "train":
            whole, batch, remedy = self.train_view.crop is None, self.batch_size, "give `crop`"
        else:
            whole, batch = self.eval_view.size is None, self.eval_batch_size or 1
            remedy = "give `eval_size`, or eval_batch_size=1"
        if whole and batch > 1 and len(sizes) > 1:
            (size, first), (other, second) = list(sizes.items())[:2]
            raise ValueError(
                f"split {split!r}: {first} is {size[1]}x{size[0]} and {second} is {other[1]}x{other[0]}, "
                f"but batches hold {batch} whole images: {remedy}"
            )

    def for_stage(self, *, num_batches: int, seed: int, start: int = 0) -> "ImageDataModule":
        """A copy whose training loader draws the batches of one stage; the copy shares what is already
        opened.

        Args:
            num_batches: global batches in the whole stage.
            seed: of the stage: all its randomness is keyed by (seed, draw).
            start: first batch to draw, when a killed stage goes on.
        """
        stage = copy.copy(self)
        stage.trainer = None
        stage._stage = {"num_batches": num_batches, "seed": seed, "start": start}
        return stage

    def train_dataloader(self) -> DataLoader:
        """Loader of this process's share of the stage's batches.

        Raises:
            ValueError: not a copy made by ``for_stage``, or ``batch_size`` does not divide by the processes.
        """
        if self._stage is None:
            raise ValueError("how many batches, and of which seed? Use the copy that for_stage(...) returns")
        source = self.split("train")
        rank, world_size = self._rank()
        batches = KeyedBatches(
            num_samples=len(source),
            batch_size=self.batch_size,
            rank=rank,
            world_size=world_size,
            **self._stage,
        )
        samples = TrainingSamples(source, self.train_view, seed=self._stage["seed"], keep_mb=self.keep_mb)
        return self._loader(samples, batches)

    def val_dataloader(self) -> DataLoader:
        """Loader of this process's share of the validation split."""
        return self._eval_loader("val")

    def test_dataloader(self) -> DataLoader:
        """Loader of this process's share of the test split."""
        return self._eval_loader("test")

    def _eval_loader(self, split: Split) -> DataLoader:
        source = self.split(split)
        rank, world_size = self._rank()
        one_size = self.eval_view.size is not None
        batch_size = self.eval_batch_size or (max(1, self.batch_size // world_size) if one_size else 1)
        batches = ShardedBatches(
            num_samples=len(source), batch_size=batch_size, rank=rank, world_size=world_size
        )
        # A test sees every sample once.
        keep_mb = self.keep_mb if split == "val" else 0
        return self._loader(EvaluationSamples(source, self.eval_view, keep_mb=keep_mb), batches)

    def _loader(
        self, samples: TrainingSamples | EvaluationSamples, batches: KeyedBatches | ShardedBatches
    ) -> DataLoader:
        num_workers = self._num_workers() if self.num_workers is None else self.num_workers
        return DataLoader(
            samples,
            batch_sampler=batches,
            collate_fn=collate,
            num_workers=num_workers,
            persistent_workers=num_workers > 0,
            pin_memory=torch.cuda.is_available(),
            # Its own generator: every pass over a loader draws a seed for its workers, and taking that from
            # the global one would make the model's randomness depend on how often loaders were started.
            generator=torch.Generator(),
        )

    def _num_workers(self) -> int:
        """For this machine: see ``num_workers``."""
        if not torch.cuda.is_available():
            return 0
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        processes = 1 if self.trainer is None else self.trainer.num_devices
        return min(8, cores // processes - 1) if cores > processes else 0

    def _rank(self) -> tuple[int, int]:
        """(rank, number of processes)."""
        if self.trainer is None:
            return 0, 1
        if self.trainer.world_size > 1 and self.trainer._accelerator_connector.use_distributed_sampler:
            # Lightning would swap our batches for a DistributedSampler's: padded, and keyed by rank.
            raise ValueError(
                "several processes need Trainer(use_distributed_sampler=False): batches are shared here"
            )
        return self.trainer.global_rank, self.trainer.world_size

    def on_after_batch_transfer(self, batch: dict[str, Any], dataloader_idx: int) -> dict[str, Any]:
        """Turns ``image`` into float [0, 1]: on the device, for a quarter of the bytes is quicker to move."""
        if "image" not in batch:
            return batch
        return batch | {"image": batch["image"].float().div_(255)}


@rank_zero_only
def _tell(line: str) -> None:
    tqdm.write(line, file=sys.stderr)


def _places_checked(source: Source) -> list[int]:
    """Indices of the evenly spaced samples that stand for a split."""
    count = min(SAMPLES_CHECKED, len(source))
    return np.linspace(0, len(source) - 1, count).round().astype(int).tolist()
