"""Stage: what trains now, on what, for how long, from where."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from lightning.pytorch import LightningDataModule
from torch import nn

from lightning_modules.updates import Update


@dataclass
class Stage:
    """One fit with one subject, one trainable set and objective an update, one data set.

    Args:
        num_batches: how many batches it draws.
        updates: {name: Update}: one normally, several when networks train against each other. Of each batch they take
            their steps in this order, each with an answer of its own from the subject, in which only its weights have
            gradients.
        trains: path of its subject, whose answers objectives and tasks read: the codec, a codec inside it, a network.
            Whatever is a ``models.subject.Subject`` will do.
        settings: {attribute of the codec: value} while the stage runs, e.g. ``{"quantise": "noise"}``; also of
            something inside it, ``{"proxy.quantise": "noise"}``.
        num_validations: how often the validation split is read, evenly spaced, the last time at the end; fewer where
            this does not divide ``num_batches``.
        data: the data it draws from; ``None`` for the experiment's.
        init_from: {module path: "checkpoint[:prefix]"}, loaded before the stage begins; a run folder stands for the
            last checkpoint of its last finished stage, an exported model will do too. The prefix is where the module
            lies, by default its own path. ``":prefix"``, without a checkpoint, is another part of the system, as it is
            when the stage begins.
        begin: {module path: called as ``f(module, batches)`` with that module and an iterator of training batches,
            after ``init_from`` and before the stage's first batch}: beginnings in closed form. Batches that are read
            for it are drawn again for training.
        accumulate: batches whose gradients are averaged for one step.
        checkpoint_every: batches between two states that a killed run can go on from; validations leave one too.
        monitor: the validation value (``val/`` left out) whose best state is kept as ``best.ckpt``. Default: the loss,
            or nothing where several updates pull it to and fro: the best is then the last.
        monitor_mode: whether less of it is better, or more.

    Raises:
        ValueError: a number is out of range, or the updates do not go together.
    """

    num_batches: int
    updates: Mapping[str, Update]
    trains: str = "codec"
    settings: Mapping[str, Any] | None = None
    num_validations: int = 4
    data: LightningDataModule | None = None
    init_from: Mapping[str, str] | None = None
    begin: Mapping[str, Callable[[nn.Module, Iterator[dict[str, Any]]], None]] | None = None
    accumulate: int = 1
    checkpoint_every: int = 1000
    monitor: str | None = None
    monitor_mode: Literal["min", "max"] = "min"

    def __post_init__(self) -> None:
        self.settings, self.init_from, self.begin = (
            self.settings or {},
            self.init_from or {},
            self.begin or {},
        )
        for name in ("num_batches", "num_validations", "accumulate", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        if not self.updates:
            raise ValueError("the stage has no updates: it would train nothing")
        if len(self.updates) == 1:
            ((name, only),) = self.updates.items()
            if only.every > 1:
                raise ValueError(
                    f"update {name!r} is alone: every={only.every} would draw batches for nothing"
                )
            self.monitor = self.monitor or "loss"
        elif all(update.every > 1 for update in self.updates.values()):
            raise ValueError("every update has `every` above 1: batches would be drawn for nothing")
        elif self.accumulate > 1 and any(update.shares for update in self.updates.values()):
            raise ValueError(
                f"accumulate={self.accumulate}: updates that share weights would mix their gradients"
            )

    @property
    def validate_every(self) -> int:
        """Batches between validations: divides ``num_batches``, so that the last one sees the final weights."""
        return self.num_batches // max(
            n for n in range(1, self.num_validations + 1) if self.num_batches % n == 0
        )

    @property
    def trainable(self) -> list[str]:
        """All parts that any update trains."""
        return list(dict.fromkeys(part for update in self.updates.values() for part in update.trainable))

    def steps_after(self, batch: int) -> bool:
        """Whether the gradients so far are used up after this batch (0, 1, ...): then the stage may be left."""
        return (batch + 1) % self.accumulate == 0 or batch + 1 == self.num_batches
