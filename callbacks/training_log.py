"""Training values to the loggers, averaged over an interval."""

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor


class TrainingLog(Callback):
    """Writes the means of the last ``every`` batches as ``train/<name>``, over all ranks, on the run's step axis.

    Sums stay on the device; one reduction and one host sync an interval (a ``self.log`` call costs 0.3 ms each).

    Args:
        every: batches between two rows.
    """

    def __init__(self, *, every: int = 50):
        if every < 1:
            raise ValueError(f"every={every} must be at least 1")
        self.every = every
        self._sums: dict[str, Tensor] = {}
        self._count = 0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        for name, value in pl_module.latest.items():
            self._sums[name] = self._sums.get(name, 0) + value.detach()
        self._count += 1
        if self._count == self.every or batch_idx + 1 == trainer.num_training_batches:
            means = torch.stack([value.float() for value in self._sums.values()]) / self._count
            means = trainer.strategy.reduce(means, reduce_op="mean").tolist()
            values = {f"train/{name}": value for name, value in zip(self._sums, means, strict=True)}
            values |= _learning_rates(trainer, pl_module)
            pl_module.record(values)
            self._sums, self._count = {}, 0

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """What the interval has gathered so far: a row that a restart falls into is as if there had been none."""
        if self._sums and trainer.state.fn == "fit":
            sums = torch.stack([value.double() for value in self._sums.values()])
            means = trainer.strategy.reduce(sums, reduce_op="mean")
            pairs = zip(self._sums.items(), means, strict=True)
            checkpoint["training_log"] = {
                "sums": {name: mean.to(value.dtype) for (name, value), mean in pairs},
                "count": self._count,
            }

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Undo ``on_save_checkpoint``; every rank goes on from the mean over all of them."""
        if trainer.state.fn == "fit" and "training_log" in checkpoint:
            log = checkpoint["training_log"]
            self._sums = {name: value.to(pl_module.device) for name, value in log["sums"].items()}
            self._count = log["count"]


def _learning_rates(trainer: Trainer, pl_module: LightningModule) -> dict[str, float]:
    """``train/lr`` of one optimiser, ``train/<update>/lr`` of several."""
    rates = [optimiser.param_groups[0]["lr"] for optimiser in trainer.optimizers]
    if len(rates) == 1:
        return {"train/lr": rates[0]}
    return {f"train/{name}/lr": rate for name, rate in zip(pl_module.updates, rates, strict=True)}
