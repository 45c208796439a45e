"""EMA: validate, test and deploy a moving average of the weights."""

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn

RAW_WEIGHTS = "current_model_state"
"""Lightning's key for the weights that train; the checkpoint's ``state_dict`` holds the average."""


class EMA(Callback):
    """Exponential moving average of the trainable weights.

        average <- d * average + (1 - d) * weights,   d = min(decay, (1 + n) / (10 + n)) after n updates

    The warm-up lets short stages forget where they began. Validation uses the average, and so does everything
    that other callbacks do at its end; the average is left after the fit and in every checkpoint's
    ``state_dict``.

    Lightning's ``EMAWeightAveraging`` does not suit codecs. It copies buffers between the models, but CDF
    tables are int buffers that change their size. It swaps back before ``on_validation_end``, so pictures and
    real coding there would show other weights than the figures. And it copies the whole system, with the data
    it holds. Here only trainable parameters are kept twice; buffers (batch norm statistics) stay live.

    Args:
        decay: d in the long run, in (0, 1): the average looks back over about 1 / (1 - decay) steps.

    Attributes:
        averages_weights: tells whoever loads a checkpoint that the average in it will be understood.

    Raises:
        ValueError: ``decay`` out of range.
    """

    averages_weights = True

    def __init__(self, *, decay: float = 0.999):
        if not 0 < decay < 1:
            raise ValueError(f"decay={decay} must lie between 0 and 1")
        self.decay = decay
        self.num_updates = 0
        self._latest_step = 0
        self._average: dict[str, Tensor] = {}
        self._swapped = False

    @property
    def state_key(self) -> str:
        """Where checkpoints keep the state below: the same for every decay."""
        return "EMA"

    def state_dict(self) -> dict[str, Any]:
        """The number of updates; the average itself lies in the checkpoint's ``state_dict``."""
        return {"num_updates": self.num_updates, "latest_step": self._latest_step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Undo ``state_dict``."""
        self.num_updates, self._latest_step = state_dict["num_updates"], state_dict["latest_step"]

    # -- averaging -------------------------------------------------------------------------------------------

    @torch.no_grad()
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin the average, or go on with a checkpoint's, now that the weights are on their device."""
        weights = _trainable(pl_module)
        self._average = {
            name: self._average[name].to(weight) if name in self._average else weight.detach().clone()
            for name, weight in weights.items()
        }

    @torch.no_grad()
    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """After a validation: back to the weights that train."""
        self._put(pl_module, averaged=False)

    @torch.no_grad()
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Follow every optimiser step; batches that only accumulate gradients move nothing."""
        if trainer.global_step <= self._latest_step:
            return
        self._latest_step = trainer.global_step
        decay = min(self.decay, (1 + self.num_updates) / (10 + self.num_updates))
        self.num_updates += 1
        weights = _trainable(pl_module)
        torch._foreach_lerp_(list(self._average.values()), [w.detach() for w in weights.values()], 1 - decay)

    # -- using the average -----------------------------------------------------------------------------------

    @torch.no_grad()
    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Validate the average; the next training batch takes it out again."""
        if self._average and trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._put(pl_module, averaged=True)

    @torch.no_grad()
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The average is what the stage leaves behind."""
        self._put(pl_module, averaged=True)
        self._average, self._swapped = {}, False

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leave the weights that train, whenever it happened."""
        with torch.no_grad():
            self._put(pl_module, averaged=False)

    def _put(self, pl_module: LightningModule, *, averaged: bool) -> None:
        if self._swapped == averaged or not self._average:
            return
        self._swapped = averaged
        for name, weight in _trainable(pl_module).items():
            other = self._average[name].clone()
            self._average[name].copy_(weight)
            weight.copy_(other)
        _forget_derived(pl_module)

    # -- checkpoints -----------------------------------------------------------------------------------------

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """``state_dict`` gets the average, ``current_model_state`` the weights that train."""
        if not self._average:
            return
        live = checkpoint["state_dict"]
        other = dict(live) | {name: weight.detach().clone() for name, weight in self._average.items()}
        checkpoint["state_dict"], checkpoint[RAW_WEIGHTS] = (live, other) if self._swapped else (other, live)

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Take both sets of weights back when a killed stage goes on."""
        if trainer.state.fn != "fit":
            return
        if RAW_WEIGHTS not in checkpoint:
            rank_zero_warn("the checkpoint was made without EMA: the average begins at its weights")
            return
        self._average = {name: checkpoint["state_dict"][name].clone() for name in _trainable(pl_module)}
        pl_module.load_state_dict(checkpoint[RAW_WEIGHTS])


def _trainable(module: nn.Module) -> dict[str, nn.Parameter]:
    return {name: p for name, p in module.named_parameters() if p.requires_grad}


def _forget_derived(module: nn.Module) -> None:
    """Tables and exact copies belong to the other weights: ``train()`` drops them; modes stay."""
    modes = [(child, child.training) for child in module.modules()]
    module.train()
    for child, training in modes:
        child.training = training
