"""The sets of the record ``layered_generative``: what is read in them, how that is judged, and who resembles whom."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import Tensor

from datamodules.tables import read_table
from tasks.landmarks import errors_of


@dataclass(frozen=True)
class Metric:
    """A number an image.

    Args:
        task: whose decisions it judges.
        of: (decisions, labels) -> (B,).
        higher_is_better: which way is up.
    """

    task: str
    of: Callable[[Tensor, Tensor], Tensor]
    higher_is_better: bool


def nme(decided: Tensor, target: Tensor) -> Tensor:
    """Mean distance of an image's points in percent of the diagonal of the box around them, (B,)."""
    return 100 * errors_of(decided, target, None)


def steps_off(decided: Tensor, target: Tensor) -> Tensor:
    """Absolute error of a number in steps of its scale, (B,)."""
    return (decided - target).abs()


def right(decided: Tensor, target: Tensor) -> Tensor:
    """Share of an image's attributes that are told right, (B,)."""
    return ((decided > 0.5) == (target > 0)).float().mean(1)


@dataclass(frozen=True)
class Opponent:
    """A standard codec at one quality, of pictures at full size or shrunk before.

    Args:
        codec: of configs/codec.
        scale: side of the picture that it codes over side of the original.
        rate: its QP.
        tuned_on: pictures of the training split on whose decodes heads are tuned; 0: heads of originals alone.
    """

    codec: str
    scale: float
    rate: int
    tuned_on: int = 0

    def __str__(self) -> str:
        return f"{self.codec}-{self.scale:g}-{self.rate}"


@dataclass(frozen=True)
class FaceSet:
    """A set of faces of 128 pixels.

    Args:
        experiment: of the codec; its bound is ``<experiment>_rgb``, one stream ``<experiment>_single``.
        metrics: {name: Metric}.
        opponents: that have as many bits as the codec at one of its rates, in files and in payload, or more.
        rates: {what figures call it: wanted bits a pixel in training, where noise costs more than rounding will}; all
            that joint training is compared with is trained for the first.
        people: column that says who it is; ``None``: everybody is another.
        after: set whose codec for pictures is where that of this one begins.
    """

    experiment: str
    metrics: Mapping[str, Metric]
    opponents: Sequence[Opponent]
    rates: Mapping[str, float]
    people: str | None = None
    after: str | None = None

    @property
    def tasks(self) -> list[str]:
        """That its metrics judge."""
        return list(dict.fromkeys(metric.task for metric in self.metrics.values()))


SETS = {
    "ytfaces": FaceSet(
        "layered_ytfaces",
        {"nme": Metric("landmarks", nme, higher_is_better=False)},
        (Opponent("hevc", 0.5, 51, 1536), Opponent("vvc", 0.5, 52, 256)),
        {"003": 0.035},
        people="identity",
    ),
    "utkface": FaceSet(
        "layered_utkface",
        {
            "age_mae": Metric("age", steps_off, higher_is_better=False),
            "gender": Metric("gender", right, higher_is_better=True),
        },
        (Opponent("hevc", 0.5, 48, 1597), Opponent("hevc", 0.5, 51, 1597)),
        {"003": 0.035},
        after="ytfaces",
    ),
}


@dataclass
class Pictures:
    """Pictures of one split, as evaluation sees them, in the order of the table.

    Attributes:
        images: (N, 3, H, W) in [0, 1].
        labels: {key: (N, ...)}.
        cells: the table's rows.
    """

    images: Tensor
    labels: dict[str, Tensor]
    cells: list[Mapping[str, str]]

    def __len__(self) -> int:
        return len(self.images)

    def some(self, count: int | None) -> "Pictures":
        """So many of them, evenly spaced; ``None``: all."""
        if count is None or count >= len(self):
            return self
        chosen = [round(i * (len(self) - 1) / max(count - 1, 1)) for i in range(count)]
        return Pictures(
            self.images[chosen],
            {key: v[chosen] for key, v in self.labels.items()},
            [self.cells[i] for i in chosen],
        )


def pictures(run: Path, split: str, *, root: Path | None = None) -> Pictures:
    """A split of the data that a run is trained on, or of data of the same form elsewhere."""
    node = OmegaConf.load(run / "config.yaml").data
    node.root = str(root or node.root)
    table = read_table(Path(node.root) / node.index, delimiter=node.delimiter, header=node.header)
    others = {row.cells[node.split_column] for row in table.rows} - {split}
    node.splits, node.unused_splits, node.num_workers = {"test": [split]}, sorted(others), 0
    datamodule = instantiate(node)
    batches: list[dict[str, Any]] = list(datamodule.test_dataloader())
    cells = [row.cells for row in table.rows if row.cells[node.split_column] == split]
    labels = {key: torch.cat([batch[key] for batch in batches]) for key in datamodule.labels}
    return Pictures(torch.cat([batch["image"] for batch in batches]).float() / 255, labels, cells)
