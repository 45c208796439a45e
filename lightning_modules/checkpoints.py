"""Checkpoints of a stage: a state to go on from after any kill, and the best one."""

import math
import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.utilities.exceptions import SIGTERMException

from lightning_modules.config_changes import changes
from lightning_modules.stages import Stage
from models.pretrained.checkpoint import safely_loaded
from models.pretrained.run_folder import BEST, LAST, StageFolder

DECIDES_NOTHING = (
    "data",
    "init_from",
    "begin",
    "checkpoint_every",
    "num_validations",
    "monitor",
    "monitor_mode",
)
"""Keys of a stage that may change while it is under way."""


class StageCheckpoints(Checkpoint):
    """Keeps ``last.ckpt``, to go on from, and ``best.ckpt``, by what the stage says is best.

    The last state is written every ``checkpoint_every`` batches and after every validation (where gradients are
    accumulated, at the first step behind them), and when the system asks the run to stop (SIGTERM). It is written whole
    or not at all, so that a kill meanwhile leaves the one before. Lightning calls this callback after all others: what
    they logged for a batch is part of what the checkpoint stands for.

    Args:
        folder: of the files.
        stage: that is trained.

    Attributes:
        last: the file that a run goes on from.
        compute: what the fit runs with; of a stage that several machines took turns on, the last one's.
    """

    def __init__(self, folder: Path, stage: Stage):
        self.folder, self.stage = folder, stage
        self.last = folder / LAST
        self.compute: dict[str, Any] = {}
        self._best: float | None = None
        self._due = False
        self._start, self._seconds_before = time.perf_counter(), 0.0

    @property
    def seconds(self) -> float:
        """That the stage has trained for, over all restarts."""
        return self._seconds_before + time.perf_counter() - self._start

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._start = time.perf_counter()

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint["stage"] = {
            "best": self._best,
            "seconds": self.seconds,
            "metrics": metrics_of(trainer),
            "compute": self.compute,
        }

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if trainer.state.fn == "fit":
            self._best, self._seconds_before = checkpoint["stage"]["best"], checkpoint["stage"]["seconds"]

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Between validations; one that comes after this batch leaves a state itself, with its figures."""
        done = batch_idx + 1
        self._due |= done % self.stage.checkpoint_every == 0
        if self._due and done % self.stage.validate_every:
            self._save(trainer, pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The last state, and the best if it is better."""
        if trainer.state.fn != "fit":
            return
        self._due = True
        try:
            better = self._is_better(trainer)
        except ValueError:
            self._save(trainer, pl_module)
            raise
        best = self.folder / BEST if better else None
        if not self._save(trainer, pl_module, best) and best is not None:
            save_whole(trainer, best)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Asked to stop between two batches, nothing that was learned need be lost.

        Several processes need not stop between the same two: they go on from the last regular state.
        """
        alone = trainer.world_size == 1 and trainer.training
        if isinstance(exception, SIGTERMException) and alone and pl_module.batches_done:
            self._save(trainer, pl_module)

    def _is_better(self, trainer: Trainer) -> bool:
        if self.stage.monitor is None:
            return True
        key = f"val/{self.stage.monitor}"
        if key not in trainer.callback_metrics:
            known = sorted(k[4:] for k in trainer.callback_metrics if k.startswith("val/"))
            raise ValueError(
                f"monitor={self.stage.monitor!r} is not measured in this stage's validation; there are {known}"
            )
        value = float(trainer.callback_metrics[key])
        less = self.stage.monitor_mode == "min"
        if not math.isfinite(value):
            return False
        if self._best is not None and not (value < self._best if less else value > self._best):
            return False
        self._best = value
        return True

    def _save(self, trainer: Trainer, pl_module: LightningModule, best: Path | None = None) -> bool:
        # In the middle of an accumulation there are gradients that no checkpoint holds: the next step leaves one.
        whole = self.stage.steps_after(pl_module.batches_done - 1)
        self._due = not whole
        if whole:
            save_whole(trainer, self.last, best)
        return whole


def metrics_of(trainer: Trainer) -> dict[str, float]:
    """What the last validation and the training measured."""
    return {key: float(value) for key, value in trainer.callback_metrics.items()}


def save_whole(trainer: Trainer, path: Path, also: Path | None = None) -> None:
    """A checkpoint of all that a fit is, written aside and moved: nobody ever finds half a file.

    Args:
        trainer: in a fit.
        path: of the file.
        also: another name for it, which it gets first: whoever goes on from ``path`` has had that done.
    """
    temporary = path.with_suffix(".tmp")
    trainer.save_checkpoint(temporary)
    if trainer.is_global_zero:
        if also is not None:
            link = also.with_suffix(".link")
            link.unlink(missing_ok=True)
            try:
                os.link(temporary, link)
            except OSError:  # a file system without links
                shutil.copyfile(temporary, link)
            link.replace(also)
        temporary.replace(path)
    trainer.strategy.barrier()


class UnusableState(ValueError):
    """A run folder's checkpoint cannot be gone on from; the message says what to do."""


def state_to_go_on_from(
    folder: StageFolder, name: str, config: Mapping[str, Any] | None
) -> dict[str, Any] | None:
    """What a stage's ``last.ckpt`` holds, or ``None`` where the stage has not come so far.

    Args:
        folder: of the stage.
        name: of the stage.
        config: of the run, plain: what made the state must still be what it says.

    Raises:
        UnusableState: it is damaged, of another version or another config, or gone although the stage is finished.
    """
    path = folder.last
    if not path.is_file() and not folder.finished:
        return None
    again = f"to take the stage again, remove {folder.path}"
    try:
        state = safely_loaded(path)
    except ValueError as error:
        raise UnusableState(f"{error}; {again}") from error
    if not isinstance(state, dict) or not {"batches_done", "stage", "state_dict"} <= state.keys():
        raise UnusableState(f"{path} was written by an earlier version or by another program; {again}")
    for key, (before, now) in changes(*(_decisive(c, name) for c in (state["config"], config))).items():
        raise UnusableState(
            f"{path} was made with another config: {key} was {before!r} and is {now!r}. Give the old value back, or, "
            f"{again}"
        )
    return state


def _decisive(config: Mapping[str, Any] | None, name: str) -> dict[str, Any]:
    """What a stage's weights, optimisers and schedules depend on: not where its data lies, nor who watches."""
    config = config or {}
    stage = {
        k: v for k, v in (config.get("schedule") or {}).get(name, {}).items() if k not in DECIDES_NOTHING
    }
    return {
        **{key: config.get(key) for key in ("seed", "codec", "tasks", "networks")},
        f"schedule.{name}": stage,
    }
