"""Schedule: the stages of an experiment in order, one fit each, resumable at every border."""

import json
import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningDataModule, Trainer
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import nn

from evaluation.results import Row, drop_rows_after, git_commit, make_row, table
from lightning_modules.compression import CompressionSystem
from lightning_modules.stages import (
    Stage,
    fingerprint,
    freeze_all_but,
    frozen_state,
    load_into,
    parameters_of,
    read_weights,
)
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
        for name, stage in self.stages.items():
            try:
                self._check_stage(system, stage)
            except ValueError as error:
                raise ValueError(f"stage {name!r}: {error}") from error
        self._check_baselines()
        # A mistake in one of these shows now, not when the first stage, or the last, begins.
        self.make_callbacks()
        try:
            world_size = self._trainer(Path(), logger=False).world_size
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
        loaded = {part.removeprefix("tasks.") for part in stage.init_from if part.startswith("tasks.")}
        whole = "tasks" in stage.trainable or "tasks" in stage.init_from
        parts = {part.split(".")[1] for part in stage.trainable if part.startswith("tasks.")}
        return set(self.tasks) if whole else parts | loaded

    def run(self, run_dir: Path) -> dict[str, Any]:
        """Run all stages, skipping those that ``run_dir`` holds finished; test after each; write ``summary.json``.

        Returns:
            The summary.
        """
        records: list[dict[str, Any]] = []
        first_step = 0
        for number, (name, stage) in enumerate(self.stages.items()):
            folder = run_dir / "stages" / f"{number + 1:02d}-{name}"
            system = CompressionSystem(
                self.codec,
                self.tasks,
                stage,
                ready=self.ready_tasks(number),
                seed=_stage_seed(self.seed, number),
                first_step=first_step,
                config=self.config,
            )
            if (folder / "stage.json").is_file():
                state = torch.load(
                    folder / "checkpoints" / "last.ckpt", map_location="cpu", weights_only=True
                )
                system.load_state_dict(state["state_dict"])
                records.append(json.loads((folder / "stage.json").read_text()))
                rank_zero_only(print)(f"stage {number + 1} {name!r} is finished already: loaded {folder}")
            else:
                # Of a stage that was killed, which is taken again.
                rank_zero_only(drop_rows_after)(run_dir / "metrics.csv", first_step)
                records.append(self._run_stage(number, name, stage, system, folder))
            first_step += stage.num_batches
        rows = [record.pop("test") for record in records] + self._test_baselines(run_dir, first_step)
        summary = {
            "experiment": self.name,
            "seed": self.seed,
            "git_commit": git_commit(),
            "stages": records,
            "test": {"rows": rows},
            "peak_memory_mb": _peak_memory_mb(),
        }
        _write_json(run_dir / "summary.json", summary)
        monitors = {name: task.monitor for name, task in self.tasks.items()}
        rank_zero_only(print)(
            f"\nTest split, real bytes:\n{table(rows, monitors)}\n\n{run_dir / 'summary.json'}"
        )
        return summary

    def _run_stage(
        self, number: int, name: str, stage: Stage, system: CompressionSystem, folder: Path
    ) -> dict[str, Any]:
        for part, source in stage.init_from.items():
            load_into(system, part, source)
        usual = {key: getattr(self.codec, key) for key in stage.settings}
        _set(self.codec, stage.settings)
        # Dropout and the like draw the same whether the stages before ran just now or were loaded.
        torch.manual_seed(_stage_seed(self.seed, number))
        data = (stage.data or self.data).for_stage(
            num_batches=stage.num_batches, seed=_stage_seed(self.seed, number)
        )
        system.stage_title = f"{number + 1}/{len(self.stages)} {name}"
        system.train()
        before = fingerprint(frozen_state(system))
        start = time.perf_counter()
        trainer = self._trainer(
            folder,
            callbacks=[*self.make_callbacks(), _checkpoints(folder)],
            max_epochs=1,
            val_check_interval=stage.validate_every,
        )
        trainer.fit(system, datamodule=data)
        if trainer.interrupted:
            raise KeyboardInterrupt
        seconds = time.perf_counter() - start
        metrics = {key: float(value) for key, value in trainer.callback_metrics.items()}
        after = fingerprint(frozen_state(system))
        if moved := [key for key in before if before[key] != after.get(key)]:
            raise RuntimeError(f"stage {name!r} moved frozen weights: {moved[:5]}")
        trainer.save_checkpoint(folder / "checkpoints" / "last.ckpt")
        _set(self.codec, usual)
        record = {
            "name": name,
            "num_batches": stage.num_batches,
            "seconds": seconds,
            "images_per_second": stage.num_batches * data.batch_size / seconds,
            "metrics": metrics,
            "test": self._test(trainer, system, name),
        }
        _write_json(folder / "stage.json", record)
        trainer.strategy.barrier()
        return record

    def _test(self, trainer: Trainer, system: CompressionSystem, name: str, rate: float | None = None) -> Row:
        trainer.test(system, datamodule=self.data, verbose=False)
        logged = trainer.callback_metrics.items()
        values = {key.removeprefix("test/"): float(value) for key, value in logged if key.startswith("test/")}
        return make_row(name, values, seed=self.seed, rate=rate, command=" ".join(sys.argv))

    def _test_baselines(self, run_dir: Path, first_step: int) -> list[Row]:
        rows = []
        for name, baseline in self.baselines.items():
            codec = ReadThrough(baseline["codec"], self.codec.eval())
            for rate in baseline["rates"]:
                system = CompressionSystem(
                    codec, self.tasks, ready=self.tasks, seed=self.seed, first_step=first_step, rate=rate
                )
                system.stage_title = f"{name} {rate:g}"
                trainer = self._trainer(run_dir, callbacks=self.make_callbacks(), logger=False)
                rows.append(self._test(trainer, system, name, rate))
        return rows

    def _trainer(self, folder: Path, **arguments: Any) -> Trainer:
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
        return self.make_trainer(**(fixed | arguments))


def _checkpoints(folder: Path) -> Callback:
    from lightning.pytorch.callbacks import ModelCheckpoint

    return ModelCheckpoint(
        dirpath=folder / "checkpoints",
        filename="best",
        monitor="val/loss",
        save_last=True,
        save_top_k=1,
        enable_version_counter=False,
        auto_insert_metric_name=False,
    )


def _stage_seed(seed: int, number: int) -> int:
    return seed * 1000 + number


def _set(codec: Codec, settings: Mapping[str, Any]) -> None:
    for key, value in settings.items():
        setattr(codec, key, value)


@rank_zero_only
def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # Written whole or not at all: a killed run leaves no half file that a resume would trust.
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(content, indent=2) + "\n")
    temporary.replace(path)


def _peak_memory_mb() -> float:
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    # Kilobytes on Linux, bytes on macOS.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
