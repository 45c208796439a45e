"""Turns: several updates of one stage, each with its optimiser, step by step on every batch."""

from collections.abc import Collection, Mapping
from contextlib import nullcontext
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import nn

from lightning_modules.parts import let_move


def take_turns(system: LightningModule, batch: Mapping[str, Any], batch_idx: int) -> dict[str, Any]:
    """Every update whose turn it is: its own answer from the subject, its gradients, and its step when one is due.

    In the order of the yaml, so a later update sees what an earlier one has just learned. What others train has no
    gradient meanwhile, and costs none where it comes first (a critic looks at pictures without their graph).

    Args:
        system: ``CompressionSystem``, whose ``losses`` give an update's.
        batch: as ``training_step`` has it.
        batch_idx: likewise.

    Returns:
        ``{"loss": their sum, "parts": {"<update>/<part>": value}}``, detached.
    """
    stage, trainer = system.stage, system.trainer
    due = stage.steps_after(batch_idx)
    # DDP's own averaging wants every weight in every backward pass: it is held back, and done below.
    held_back = getattr(trainer.strategy, "block_backward_sync", nullcontext)
    total, parts = torch.zeros((), device=system.device), {}
    for (name, update), optimiser in zip(system.updates.items(), system.optimizers(), strict=True):
        if batch_idx // stage.accumulate % update.every:
            continue
        let_move(system, system.moving[name])
        found = system.losses(name, batch, batch_idx)
        with held_back():
            system.manual_backward(found["loss"] / stage.accumulate)
        total = total + found["loss"].detach()
        parts |= {f"{name}/{part}": value for part, value in found["parts"].items()}
        if due:
            average_gradients(trainer, [p for p in system.parameters() if p.requires_grad])
            if (scaler := getattr(trainer.precision_plugin, "scaler", None)) is not None:
                scaler.unscale_(optimiser.optimizer)
            update.clip_gradients(optimiser.optimizer)
            optimiser.step()
            optimiser.zero_grad()
    let_move(system, set().union(*system.moving.values()))
    system.batches_done = batch_idx + 1
    for schedule in system.lr_schedulers():
        schedule.step()
    return {"loss": total, "parts": parts}


def average_gradients(trainer: Trainer, parameters: Collection[nn.Parameter]) -> None:
    """Over all ranks, in one exchange. As in DDP, all ranks must have gradients for the same weights."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    if trainer.world_size == 1 or not gradients:
        return
    mean = trainer.strategy.reduce(torch.cat([g.flatten() for g in gradients]), reduce_op="mean")
    for gradient, part in zip(gradients, mean.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))
