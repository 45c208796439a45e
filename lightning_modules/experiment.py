"""Experiment: everything a run consists of, built, and checked before anything trains."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningDataModule, Trainer
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import nn

from lightning_modules.stages import Stage, freeze_all_but, parameters_of, read_weights
from models.codecs.base import Codec
from models.codecs.read_through import ReadThrough
from tasks.base import Task


@dataclass
class Experiment:
    """Everything a run consists of, built and ready.

    Args:
        name: of the experiment.
        codec: what is trained.
        tasks: {name: Task}.
        stages: {name: Stage}, in the order they run.
        data: for stages that bring none of their own; also the split that final figures are of.
        make_trainer: called with what a stage decides (callbacks, logger, max_epochs...).
        make_callbacks: fresh callbacks for one stage.
        loggers: shared by all stages.
        baselines: {name: {"codec": Codec, "rates": [...]}}, standard codecs to stand beside the stages.
        seed: of the run.
        config: plain containers, stored in checkpoints.
    """

    name: str
    codec: Codec
    tasks: Mapping[str, Task]
    stages: Mapping[str, Stage]
    data: LightningDataModule
    make_trainer: Callable[..., Trainer]
    make_callbacks: Callable[[], Sequence[Callback]] = list
    loggers: Sequence[Logger] = ()
    baselines: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    seed: int = 0
    config: Mapping[str, Any] | None = None

    def check(self) -> None:
        """Find what would go wrong later.

        Raises:
            ValueError: a stage that trains nothing or the wrong thing, an unknown task, part or setting, or bad data.
        """
        system = nn.Module()
        system.codec, system.tasks = self.codec, nn.ModuleDict(self.tasks)
        if not self.stages:
            raise ValueError("the schedule has no stages")
        for number, (name, stage) in enumerate(self.stages.items()):
            try:
                self._check_stage(system, stage)
                self._check_readiness(number, stage)
            except ValueError as error:
                raise ValueError(f"stage {name!r}: {error}") from error
        self._check_baselines()
        # A mistake in one of these shows now, not when the first stage, or the last, begins.
        self.make_callbacks()
        try:
            world_size = self.trainer(Path(), logger=False).world_size
        except (ValueError, MisconfigurationException) as error:
            raise ValueError(f"trainer: {error}") from error
        for data in {
            id(d): d for d in (self.data, *(s.data for s in self.stages.values() if s.data))
        }.values():
            if data.batch_size % world_size:
                raise ValueError(
                    f"data.batch_size={data.batch_size} must be a multiple of the {world_size} processes, "
                    "which share it out evenly"
                )
            data.check()
            for split in ("val", "test"):
                if (count := len(data.split(split))) < world_size:
                    raise ValueError(
                        f"split {split!r} has {count} images for {world_size} processes: each needs one at least"
                    )

    def _check_readiness(self, number: int, stage: Stage) -> None:
        """Nothing is learned from, or through, what is still random."""
        ready = self.ready_tasks(number)
        for update in stage.updates.values():
            if early := sorted(set(update.objective.tasks) - ready):
                raise ValueError(f"its objective names the tasks {early}, which train only in a later stage")
        so_far = list(self.stages.values())[: number + 1]
        touched = {part.partition(".")[0] for s in so_far for part in (*s.trainable, *s.init_from)}
        if "codec" not in touched and any(True for _ in self.codec.parameters()):
            raise ValueError(
                "the codec is frozen, and nothing trained it before: its weights are random. Put a stage before this "
                "one that trains it, or give init_from={codec: CHECKPOINT}"
            )
        for update in stage.updates.values():
            try:
                update.optimiser([{"params": [nn.Parameter(torch.zeros(1))]}])
            except (ValueError, TypeError) as error:
                raise ValueError(f"optimiser: {error}") from error

    def _check_baselines(self) -> None:
        """They are coded after everything has trained: too late to hear of a wrong rate."""
        for name, baseline in self.baselines.items():
            try:
                if baseline.keys() != {"codec", "rates"} or not isinstance(baseline["rates"], Sequence):
                    raise ValueError(f"has {sorted(baseline)}, must have `codec` and `rates`, a list")
                codec = ReadThrough(baseline["codec"], self.codec.eval())
                codec.eval()
                for rate in baseline["rates"]:
                    codec.compress(torch.full((1, 3, 32, 32), 0.5), rate)
            except (ValueError, TypeError) as error:
                raise ValueError(f"baselines.{name}: {error}") from error
        self.codec.train()

    def _check_stage(self, system: nn.Module, stage: Stage) -> None:
        if len(stage.updates) != 1:
            raise ValueError(f"this system makes one update a batch, the stage has {sorted(stage.updates)}")
        for update in stage.updates.values():
            moving = freeze_all_but(system, update.trainable)
            parameters_of(system, update.lr_scales)
            if unknown := set(update.objective.tasks) - set(self.tasks):
                raise ValueError(
                    f"its objective names the tasks {sorted(unknown)}; there are {sorted(self.tasks)}"
                )
            for name, task in self.tasks.items():
                if name not in update.objective.tasks and any(p in moving for p in task.parameters()):
                    raise ValueError(f"it trains task {name!r}, which has no weight in its objective")
            codec_moves = any(p in moving for p in self.codec.parameters())
            if codec_moves and update.objective.rate is None:
                raise ValueError("it trains the codec, but its objective has no rate: bits would be free")
        for key in stage.settings:
            if not hasattr(self.codec, key):
                raise ValueError(f"settings: this codec has no {key!r}")
        for part, source in stage.init_from.items():
            read_weights(system, part, source)

    def ready_tasks(self, number: int) -> set[str]:
        """Tasks that can be judged after stage ``number`` (0, 1, ...): trained by then, or never trained at all."""
        stages = list(self.stages.values())
        later = {name for stage in stages[number + 1 :] for name in self._trains(stage)}
        so_far = {name for stage in stages[: number + 1] for name in self._trains(stage)}
        return so_far | (set(self.tasks) - later)

    def _trains(self, stage: Stage) -> set[str]:
        parts = {*stage.trainable, *stage.init_from}
        named = {part.split(".")[1] for part in parts if part.startswith("tasks.")}
        return set(self.tasks) if "tasks" in parts else named

    def trainer(self, folder: Path, **arguments: Any) -> Trainer:
        """A Trainer for one stage or test, writing to ``folder``."""
        fixed = {
            "default_root_dir": folder,
            "logger": list(self.loggers),
            "num_sanity_val_steps": 0,
            # Our own samplers shard, without padding evaluation with duplicates.
            "use_distributed_sampler": False,
            "enable_model_summary": False,
            # Tables built in inference mode could not be overwritten by a later stage.
            "inference_mode": False,
            "log_every_n_steps": 1,
        }
        arguments = fixed | arguments
        decided = {*arguments, "max_epochs", "max_steps", "val_check_interval", "callbacks"}
        if taken := decided & set(getattr(self.make_trainer, "keywords", {})):
            raise ValueError(
                f"{sorted(taken)} are decided by stages (num_batches, num_validations): leave them out"
            )
        return self.make_trainer(**arguments)
