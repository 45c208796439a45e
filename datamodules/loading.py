"""From (draw, index) to a sample, and from samples to a batch: runs in the worker processes."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from datamodules.kept import Kept
from datamodules.samples import Label
from datamodules.sampling import Key, seed_of_draw
from datamodules.source import DataError, Source, UnreadableSample

MAX_UNREADABLE_IN_A_ROW = 100
"""A training draw that steps over this many files gives up: not single files, the whole disk is broken."""

View = Callable[[dict[str, Tensor], dict[str, Label]], dict[str, Tensor]]
"""A transform: (sample, labels) -> sample. May draw from the global torch generator."""


class TrainingSamples(Dataset):
    """Samples for training: transformed at random, keyed by (seed, draw); unreadable ones are stepped over.

    The sample that takes the place of an unreadable one is the next readable index, so it is the same on
    every machine; the reasons are in the sample's ``skipped``.

    Args:
        source: the split.
        view: random transform.
        seed: of the stage.
        keep_mb: of decoded samples that each process keeps in memory at most.
    """

    def __init__(self, source: Source, view: View, *, seed: int, keep_mb: float = 0.0):
        self.source = source
        self.kept = Kept(source, keep_mb)
        self.view = view
        self.seed = seed

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.source)

    def __getitem__(self, key: Key) -> dict[str, Any]:
        """The sample of one draw.

        Raises:
            UnreadableSample: nothing readable within MAX_UNREADABLE_IN_A_ROW files from ``index`` on.
        """
        draw, index = key
        skipped: list[str] = []
        for step in range(min(MAX_UNREADABLE_IN_A_ROW, len(self.source))):
            place = (index + step) % len(self.source)
            try:
                sample = self.kept.read(place)
            except UnreadableSample as error:
                skipped.append(str(error))
                continue
            # The global generator is seeded and put back, so that any torch transform is keyed by the draw.
            # Only the CPU generator: torch.manual_seed would reseed the GPU as well when there are no
            # workers.
            with torch.random.fork_rng(devices=[]):
                torch.default_generator.manual_seed(seed_of_draw(self.seed, draw))
                sample = self.view(sample, self.source.labels)
            return sample | {"id": self.source.name(place), "draw": draw, "skipped": skipped}
        files = "1 file" if len(skipped) == 1 else f"{len(skipped)} files in a row"
        raise UnreadableSample(f"{files} cannot be read, the last: {skipped[-1]}. Repair the data set.")


class EvaluationSamples(Dataset):
    """Samples for evaluation, in order; of an unreadable one only ``id``, ``draw`` and the reason remain.

    Args:
        source: the split.
        view: deterministic transform.
        keep_mb: as in ``TrainingSamples``.
    """

    def __init__(self, source: Source, view: View, *, keep_mb: float = 0.0):
        self.source = source
        self.kept = Kept(source, keep_mb)
        self.view = view

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.source)

    def __getitem__(self, key: Key) -> dict[str, Any]:
        """The sample ``index``, with ``skipped`` alone if it cannot be read."""
        draw, index = key
        about = {"id": self.source.name(index), "draw": draw}
        try:
            sample = self.view(self.kept.read(index), self.source.labels)
        except UnreadableSample as error:
            return about | {"skipped": [str(error)]}
        return sample | about | {"skipped": []}


def collate(samples: list[dict[str, Any]]) -> dict[str, Any]:
    """Joins samples into a batch, as the table in ``datamodules.samples`` says; unreadable ones are dropped.

    Returns:
        The batch, its ``image`` still uint8 (B, 3, H, W). If no sample of it was readable: ``skipped`` alone.

    Raises:
        DataError: images of different size.
    """
    skipped = [reason for sample in samples for reason in sample["skipped"]]
    samples = [sample for sample in samples if "image" in sample]
    if not samples:
        return {"skipped": skipped}
    sizes = {tuple(sample["image"].shape[1:]): sample["id"] for sample in samples}
    if len(sizes) > 1:
        found = ", ".join(f"{name} {width}x{height}" for (height, width), name in sizes.items())
        raise DataError(
            f"images of one batch differ in size ({found}): give `crop` for training; for evaluation "
            f"eval_batch_size=1, or `eval_size` to cut all to one size"
        )
    batch: dict[str, Any] = {}
    for key in samples[0]:
        values = [sample[key] for sample in samples]
        if key == "draw":
            batch[key] = torch.tensor(values)
        elif key in ("id", "boxes", "box_class"):
            batch[key] = values
        elif key != "skipped":
            batch[key] = torch.stack(values)
    return batch | {"skipped": skipped}
