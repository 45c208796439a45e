"""One progress bar a stage: what trains, how far, how well, how long it still takes."""

import sys
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from tqdm import tqdm


class StageProgress(ProgressBar):
    """A tqdm bar with the stage, the step, loss, bpp, PSNR, each task's latest validation metric and the time left.

    Args:
        refresh_every: batches between two looks at the values: every look waits for the device.
    """

    def __init__(self, *, refresh_every: int = 10):
        super().__init__()
        self.refresh_every = refresh_every
        self._bar: tqdm | None = None
        self._enabled = True

    def disable(self) -> None:
        self._enabled = False

    def enable(self) -> None:
        self._enabled = True

    def _open(self, title: str, total: int, done: int = 0) -> None:
        self._close()
        if self._enabled:
            # A file or a pipe gets a line now and then instead of a bar that overwrites itself.
            quiet = not sys.stderr.isatty()
            self._bar = tqdm(
                total=total,
                initial=done,
                desc=title,
                dynamic_ncols=not quiet,
                mininterval=30 if quiet else 0.2,
                leave=True,
            )

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        self._enabled = self._enabled and trainer.is_global_zero

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._open(f"[{pl_module.stage_title}]", int(trainer.num_training_batches), pl_module.batches_done)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._bar is None:
            return
        last = batch_idx + 1 == trainer.num_training_batches
        if (batch_idx + 1) % self.refresh_every == 0 or last:
            self._bar.set_postfix_str(self._text(trainer, pl_module), refresh=False)
            self._bar.update(batch_idx + 1 - self._bar.n)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._close()

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._open(f"[{pl_module.stage_title}] testing in real bytes", int(sum(trainer.num_test_batches)))

    def on_test_batch_end(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        if self._bar is not None:
            self._bar.update()

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._close()

    def _text(self, trainer: Trainer, pl_module: LightningModule) -> str:
        values = {name: float(value) for name, value in pl_module.latest.items() if "/" not in name}
        digits = {"loss": 3, "bpp": 3, "psnr": 1}
        parts = [f"{name} {value:.{digits.get(name, 3)}f}" for name, value in values.items()]
        for name, task in pl_module.tasks.items():
            value = trainer.callback_metrics.get(f"val/{name}/{task.monitor}")
            if value is not None and name in pl_module.judged:
                parts.append(f"{name} {task.monitor} {float(value):.3f}")
        return ", ".join(parts)
