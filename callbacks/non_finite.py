"""Stop at the first loss that is no number, before a checkpoint is spoilt."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from models.counted import counted

SUMS = ("loss", "total loss")
"""The objective's sum, and that with the quantiles' auxiliary loss."""

SAMPLES_NAMED = 16
"""Samples of the bad batch that the message lists."""


class StopOnNonFinite(Callback):
    """Ends the run when the loss, or a part of it, is NaN or infinite, and says where that began.

    What every batch gave stays on the device; one look every ``every`` batches waits for it. Before a
    validation and before a checkpoint there is always a look, at the checkpoint's weights too, so nothing is
    ever written after the bad batch: the last good checkpoint stays. All processes of a run stop together.

    Args:
        every: batches between two looks; default: 1 on the CPU, where looking is free, else 50.

    Raises:
        ValueError: ``every`` below 1.
    """

    def __init__(self, *, every: int | None = None):
        if every is not None and every < 1:
            raise ValueError(f"every={every} must be at least 1")
        self.every = every
        self._unseen: list[tuple[int, dict[str, Tensor], Mapping[str, Any]]] = []
        self._failing = False
        self._error: FloatingPointError | None = None

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Keep this batch's values, and look when it is time."""
        if isinstance(outputs, Mapping) and "loss" in outputs:
            values = {**outputs.get("parts", {}), "total loss": outputs["loss"]}
            values = {name: value.detach() for name, value in values.items()}
            about = {key: batch[key] for key in ("draw", "id") if isinstance(batch, Mapping) and key in batch}
            self._unseen.append((batch_idx, values, about))
        every = self.every or (1 if pl_module.device.type == "cpu" else 50)
        if (batch_idx + 1) % every == 0:
            self._look(trainer, pl_module)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Before figures are measured."""
        self._look(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The last batches of a stage."""
        self._look(trainer, pl_module)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """From here on the processes no longer walk together."""
        self._failing = True

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Refuse to write what comes after a bad batch, whoever asks for it, a handler of exceptions too."""
        self._look(trainer, pl_module)
        names = {name for name, _ in pl_module.named_parameters()}
        weights = {k: v for k, v in checkpoint["state_dict"].items() if k in names and v.is_floating_point()}
        if not weights:
            return
        finite = torch.stack([v.isfinite().all() for v in weights.values()]).tolist()
        if bad := [name for name, fine in zip(weights, finite, strict=True) if not fine]:
            raise FloatingPointError(
                f"{counted(len(bad), 'weight')} not finite after step {pl_module.run_step}, the first is "
                f"{bad[0]!r}, although every loss so far was finite: a gradient was not. {_kept(trainer)}"
            )

    def _look(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._error is not None:
            raise self._error
        unseen, self._unseen = self._unseen, []
        if not unseen:
            return
        finite = torch.stack([_finite(values) for _, values, _ in unseen])
        own = next((batch for batch, fine in zip(unseen, finite.tolist(), strict=True) if not fine), None)
        first = math.inf if own is None else own[0]
        if trainer.world_size > 1 and not self._failing:
            # A process that stopped alone would leave the others waiting. And one's bad gradient is
            # everybody's bad loss a batch later: who was first tells the cause.
            mine = torch.tensor(float(first), device=trainer.strategy.root_device)
            first = float(trainer.strategy.reduce(mine, reduce_op="min"))
        if first == math.inf:
            return
        if own is not None and own[0] == first:
            self._error = FloatingPointError(_message(trainer, pl_module, *own))
        else:
            text = f"the loss of another process is not finite at batch {first:.0f}: its message says more"
            self._error = FloatingPointError(text)
        raise self._error


def _finite(values: Mapping[str, Tensor]) -> Tensor:
    return torch.stack([value.float() for value in values.values()]).isfinite().all()


def _message(
    trainer: Trainer,
    pl_module: LightningModule,
    batch_idx: int,
    values: Mapping[str, Tensor],
    about: Mapping[str, Any],
) -> str:
    wrong = {name: float(value) for name, value in values.items() if not bool(value.isfinite())}
    # The sums are wrong because a term is.
    causes = {name: value for name, value in wrong.items() if name not in SUMS} or wrong
    terms = ", ".join(f"{name!r} is {value}" for name, value in causes.items())
    draws = about["draw"].tolist() if "draw" in about else []
    names = [str(name) for name in about.get("id", [])]
    more = f" and {len(names) - SAMPLES_NAMED} more" if len(names) > SAMPLES_NAMED else ""
    step = pl_module.first_step + batch_idx + 1
    return (
        f"{terms} at batch {batch_idx} of stage {pl_module.stage_title!r} (step {step} of the run). "
        f"Its samples: draws {draws}, {', '.join(names[:SAMPLES_NAMED])}{more}. {_kept(trainer)} "
        "Look at these samples, or lower the learning rate."
    )


def _kept(trainer: Trainer) -> str:
    kept = [c.last for c in trainer.callbacks if getattr(c, "last", None) is not None and c.last.is_file()]
    return f"The last good checkpoint is kept: {kept[0]}." if kept else "No checkpoint was written before."
