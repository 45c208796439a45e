"""Experiment: everything a run consists of, built, and checked before anything trains."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningDataModule, Trainer
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import nn

from lightning_modules.compute import Compute
from lightning_modules.dry_run import DryRun
from lightning_modules.parts import Parts, reached
from lightning_modules.stage_check import check_stage
from lightning_modules.stages import Stage
from models.codecs.base import Codec
from models.codecs.read_through import ReadThrough
from models.counted import counted
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
        compute: how steps are computed.
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
    compute: Compute = field(default_factory=Compute)
    config: Mapping[str, Any] | None = None

    def check(self) -> None:
        """Find what would go wrong later.

        Raises:
            ValueError: a stage that trains nothing or the wrong thing, an unknown task, part or setting, or bad data.
        """
        updates = {name for stage in self.stages.values() for name in stage.updates}
        for kind, names in (("tasks", self.tasks), ("networks", self.networks), ("updates", updates)):
            if wrong := sorted(
                name for name in names if not name.isidentifier() or hasattr(nn.ModuleDict, name)
            ):
                raise ValueError(f"{kind}: {wrong} cannot be names: give them others")
        system = Parts(self.codec, self.tasks, self.networks)
        if not self.stages:
            raise ValueError("the schedule has no stages")
        touched: set[nn.Parameter] = set()
        for number, (name, stage) in enumerate(self.stages.items()):
            try:
                touched |= reached(system, (*stage.trainable, *stage.init_from))
                check_stage(system, stage, self.ready_tasks(number), touched)
            except ValueError as error:
                raise ValueError(f"stage {name!r}: {error}") from error
        for name, task in self.tasks.items():
            used = any(
                name in u.objective.tasks for stage in self.stages.values() for u in stage.updates.values()
            )
            weights = set(task.parameters())
            if used and weights and not touched & weights:
                rank_zero_warn(
                    f"task {name!r} is frozen, and no stage trains or loads it: unless its head came trained "
                    f"(pretrained, weights), others will learn from noise. Give init_from={{tasks.{name}: CHECKPOINT}}"
                )
        self._check_baselines()
        # A mistake in one of these shows now, not when the first stage, or the last, begins.
        self.make_callbacks()
        try:
            trainer = self.trainer(Path(), training=True, logger=False)
        except (ValueError, MisconfigurationException) as error:
            raise ValueError(f"trainer: {error}") from error
        world_size = trainer.world_size
        for name, stage in self.stages.items():
            scaled = getattr(trainer.precision_plugin, "scaler", None) is not None
            if scaled and stage.accumulate > 1 and len(stage.updates) > 1:
                raise ValueError(
                    f"stage {name!r}: accumulate={stage.accumulate} with several updates and trainer.precision="
                    f"{trainer.precision}: gradients of different scales would be added; use bf16-mixed"
                )
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
                        f"split {split!r} has {counted(count, 'image')} for {world_size} processes: each needs one; "
                        "take fewer processes, or give the split more (data.split_fractions of a shared folder)"
                    )
        dry_run = DryRun(system)
        for number, (name, stage) in enumerate(self.stages.items()):
            try:
                dry_run.check(stage, self.ready_tasks(number), stage.data or self.data, self.data)
            except ValueError as error:
                raise ValueError(f"stage {name!r}: {error}") from error

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

    def trainer(self, folder: Path, *, training: bool = False, **arguments: Any) -> Trainer:
        """A Trainer for one stage or test, writing to ``folder``.

        Where the config leaves the precision open, training has the hardware's fastest, and tests have float32, in
        which files are made.
        """
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
        given = getattr(self.make_trainer, "keywords", {})
        arguments = fixed | arguments
        decided = {*arguments, "max_epochs", "max_steps", "val_check_interval", "callbacks"}
        decided |= {"accumulate_grad_batches", "gradient_clip_val", "gradient_clip_algorithm"}
        if taken := decided & set(given):
            raise ValueError(
                f"{sorted(taken)} are decided by stages (num_batches, num_validations, accumulate) and their updates "
                "(clip): leave them out"
            )
        wanted = given.get("precision") if training else given.get("precision") or "32-true"
        on_cpu = given.get("accelerator") == "cpu" or not torch.cuda.is_available()
        arguments["precision"] = self.compute.precision(wanted, "cpu" if on_cpu else "cuda")
        return self.make_trainer(**arguments)
