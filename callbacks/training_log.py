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
        self._counts: dict[str, int] = {}
        self._batches = 0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        for name, value in pl_module.latest.items():
            self._sums[name] = self._sums.get(name, 0) + value.detach()
            self._counts[name] = self._counts.get(name, 0) + 1
        self._batches += 1
        if self._batches == self.every or batch_idx + 1 == trainer.num_training_batches:
            # An update that takes every second step has half as many values.
            means = torch.stack([value.float() / self._counts[name] for name, value in self._sums.items()])
            means = trainer.strategy.reduce(means, reduce_op="mean").tolist()
            values = {f"train/{name}": value for name, value in zip(self._sums, means, strict=True)}
            values |= _learning_rates(trainer, pl_module)
            pl_module.record(values)
            self._sums, self._counts, self._batches = {}, {}, 0

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """What the interval has gathered so far: a row that a restart falls into is as if there had been none."""
        if self._sums and trainer.state.fn == "fit":
            sums = torch.stack([value.double() for value in self._sums.values()])
            checkpoint["training_log"] = {
                "sums": pl_module.all_gather(sums).reshape(trainer.world_size, -1),
                "like": {name: value.new_zeros(()) for name, value in self._sums.items()},
                "counts": dict(self._counts),
                "batches": self._batches,
            }

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Undo ``on_save_checkpoint``: every process has its own sums again, or the mean if there are now others."""
        if trainer.state.fn != "fit" or "training_log" not in checkpoint:
            return
        log = checkpoint["training_log"]
        same = len(log["sums"]) == trainer.world_size
        sums = log["sums"][trainer.global_rank] if same else log["sums"].mean(0)
        pairs = zip(log["like"].items(), sums, strict=True)
        self._sums = {name: value.to(like).to(pl_module.device) for (name, like), value in pairs}
        self._counts, self._batches = dict(log["counts"]), log["batches"]


def _learning_rates(trainer: Trainer, pl_module: LightningModule) -> dict[str, float]:
    """``train/lr`` of one optimiser, ``train/<update>/lr`` of several."""
    rates = [optimiser.param_groups[0]["lr"] for optimiser in trainer.optimizers]
    if len(rates) == 1:
        return {"train/lr": rates[0]}
    return {f"train/{name}/lr": rate for name, rate in zip(pl_module.updates, rates, strict=True)}
