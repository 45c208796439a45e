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

from lightning_modules.init_from import read_weights
from lightning_modules.parts import Parts, modules_of, parameters_of
from lightning_modules.stages import Stage
from lightning_modules.updates import Update
from losses.schedules import value_at
from models.codecs.base import Codec
from models.codecs.read_through import ReadThrough
from models.subject import Subject
from tasks.base import Task


@dataclass
class Experiment:
    """Everything a run consists of, built and ready.

    Args:
        name: of the experiment.
        codec: what is trained.
        tasks: {name: Task}.
        networks: {name: any other network that trains: critics, generators...}; see lightning_modules/parts.py.
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
    networks: Mapping[str, nn.Module] = field(default_factory=dict)
    baselines: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    seed: int = 0
    config: Mapping[str, Any] | None = None

    def check(self) -> None:
        """Find what would go wrong later.

        Raises:
            ValueError: a stage that trains nothing or the wrong thing, an unknown task, part or setting, or bad data.
        """
        system = Parts(self.codec, self.tasks, self.networks)
        if not self.stages:
            raise ValueError("the schedule has no stages")
        touched: set[nn.Parameter] = set()
        for number, (name, stage) in enumerate(self.stages.items()):
            try:
                touched |= _reached(system, (*stage.trainable, *stage.init_from))
                self._check_stage(system, stage, self.ready_tasks(number), touched)
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

    def _check_stage(self, system: Parts, stage: Stage, ready: set[str], touched: set[nn.Parameter]) -> None:
        """``touched``: what was trained or loaded by then; nothing is learned from, or through, what is random."""
        subject = _subject(system, stage.trains)
        if any(True for _ in subject.parameters()) and not touched & set(subject.parameters()):
            raise ValueError(
                f"the {stage.trains} is frozen, and nothing trained it before: its weights are random. Put a stage "
                f"before this one that trains it, or give init_from={{{stage.trains}: CHECKPOINT}}"
            )
        taken: dict[str, set[nn.Parameter]] = {}
        for name, update in stage.updates.items():
            moving = parameters_of(system, update.trainable)
            if not moving:
                raise ValueError("the stage trains nothing: name at least one part in `trainable`")
            self._check_update(system, stage, update, subject, moving)
            if early := sorted(set(update.objective.tasks) - ready):
                raise ValueError(f"its objective names the tasks {early}, which train only in a later stage")
            for term_name, term in update.objective.named_terms():
                for path in term.uses:
                    own = {p for module in modules_of(system, path) for p in module.parameters()}
                    if own and not own & touched:
                        raise ValueError(
                            f"{term_name} uses {path}, which nothing trained before: its weights are random"
                        )
            for other, parameters in taken.items():
                if parameters & moving and not (update.shares or stage.updates[other].shares):
                    raise ValueError(
                        f"the updates {other!r} and {name!r} train the same weights: take them out of one's "
                        "`trainable`, or say that it is meant by shares=true"
                    )
            taken[name] = moving
        for path in stage.settings:
            setting(self.codec, path)
        for part, source in stage.init_from.items():
            read_weights(system, part, source)

    def _check_update(
        self, system: Parts, stage: Stage, update: Update, subject: Subject, moving: set[nn.Parameter]
    ) -> None:
        objective = update.objective
        parameters_of(system, update.lr_scales)
        try:
            update.optimiser([{"params": [nn.Parameter(torch.zeros(1))]}])
        except (ValueError, TypeError) as error:
            raise ValueError(f"optimiser: {error}") from error
        if unknown := set(objective.tasks) - set(self.tasks):
            raise ValueError(
                f"its objective names the tasks {sorted(unknown)}; there are {sorted(self.tasks)}"
            )
        for name, scalar in objective.scalars.items():
            try:
                value_at(scalar, 0.0, subject.rates[0] if subject.rates else None)
            except ValueError as error:
                raise ValueError(f"its objective's {name}: {error}") from error
        given = {*subject.gives, *subject.readable}
        for name, term in objective.named_terms():
            if lacking := sorted(set(term.reads) - given):
                raise ValueError(
                    f"its objective's {name} reads {lacking}, which {stage.trains} does not give; it gives "
                    f"{sorted(given)}"
                )
        for name in objective.tasks:
            if not subject.serves(self.tasks[name].reads, self.codec):
                raise ValueError(
                    f"its objective names the task {name!r}, which reads {list(self.tasks[name].reads)}: "
                    f"{stage.trains} does not give that; it gives {sorted(given)}"
                )
        for name, task in self.tasks.items():
            if name not in objective.tasks and any(p in moving for p in task.parameters()):
                raise ValueError(f"it trains task {name!r}, which has no weight in its objective")
        used = [path for _, term in objective.named_terms() for path in term.uses]
        reached = _reached(system, used) | set(subject.parameters())
        if any(p not in reached for p in moving - {p for t in self.tasks.values() for p in t.parameters()}):
            raise ValueError(
                f"it trains {list(update.trainable)}, but neither {stage.trains} nor its objective's terms and tasks "
                "hold all of that: some of it would get no gradient"
            )
        free = {p for name in subject.decoder for p in subject.get_submodule(name).parameters()}
        if "bits" in subject.gives and objective.rate is None and moving & set(subject.parameters()) - free:
            raise ValueError(
                f"it trains the {stage.trains}, but its objective has no rate: bits would be free"
            )

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
        decided |= {"accumulate_grad_batches", "gradient_clip_val", "gradient_clip_algorithm"}
        if taken := decided & set(getattr(self.make_trainer, "keywords", {})):
            raise ValueError(
                f"{sorted(taken)} are decided by stages (num_batches, num_validations, accumulate) and their updates "
                "(clip): leave them out"
            )
        return self.make_trainer(**arguments)


def setting(codec: Codec, path: str) -> Any:
    """The value of a codec's attribute, or of one inside it, that a stage's ``settings`` name.

    Raises:
        ValueError: there is none.
    """
    owner, _, key = path.rpartition(".")
    inside = dict(codec.named_modules()).get(owner)
    if not hasattr(inside, key):
        raise ValueError(f"settings: this codec has no {path!r}")
    return getattr(inside, key)


def _subject(system: Parts, path: str) -> Subject:
    (module, *others) = modules_of(system, path)
    if others or not isinstance(module, Subject):
        known = sorted(name for name, inside in system.named_modules() if isinstance(inside, Subject))
        raise ValueError(
            f"trains={path} cannot be trained by itself: it answers no batch (models/subject.py); there are {known}"
        )
    return module


def _reached(system: Parts, parts: Sequence[str]) -> set[nn.Parameter]:
    return {p for part in parts for module in modules_of(system, part) for p in module.parameters()}
