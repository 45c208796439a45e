"""Turns: several updates of one stage, each with its optimiser, step by step on every batch."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import nn

from lightning_modules.parts import let_move
from models.entropy.tables import is_table


def take_turns(system: LightningModule, batch: Mapping[str, Any], batch_idx: int) -> dict[str, Any]:
    """Every update whose turn it is: its own answer from the subject, its gradients, and its step when one is due.

    In the order of the yaml, so a later update sees what an earlier one has just learned. What others train has no
    gradient meanwhile, and costs none where it comes first (a critic looks at pictures without their graph). All that
    the stage trains is in training mode all along: a critic's batch norm sees the pictures of the codec's turn too.

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
            optimiser.step()
            optimiser.zero_grad()
    let_move(system, set().union(*system.moving.values()))
    system.batches_done = batch_idx + 1
    share_buffers(trainer, system)
    for schedule in system.lr_schedulers() if due else ():
        schedule.step()
    return {"loss": total, "parts": parts}


def average_gradients(trainer: Trainer, parameters: Sequence[nn.Parameter]) -> None:
    """Over all ranks, in one exchange. A weight that only some ranks used has a gradient on all of them afterwards."""
    if trainer.world_size == 1:
        return
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    used = torch.tensor([float(p.grad is not None) for p in parameters], device=gradients[0].device)
    mean = trainer.strategy.reduce(torch.cat([*(g.flatten() for g in gradients), used]), reduce_op="mean")
    *means, shares = mean.split([*(g.numel() for g in gradients), len(used)])
    # Only where something is missing here does it matter, and cost a wait, whether others have it.
    lacking = any(p.grad is None for p in parameters)
    needed = shares.tolist() if lacking else [1.0] * len(parameters)
    for parameter, part, share in zip(parameters, means, needed, strict=True):
        if share:
            parameter.grad = part.view_as(parameter).clone()


def share_buffers(trainer: Trainer, system: LightningModule) -> None:
    """Rank 0's running statistics to all others, as DDP does before a step that it averages itself."""
    if trainer.world_size == 1:
        return
    buffers = [
        buffer
        for module in system.modules()
        if module.training
        for name, buffer in module.named_buffers(recurse=False)
        if buffer.is_floating_point() and buffer.numel() and not is_table(name)
    ]
    if not buffers:
        return
    flat = torch.cat([buffer.flatten().double() for buffer in buffers])
    torch.distributed.broadcast(flat, src=0)
    for buffer, part in zip(buffers, flat.split([b.numel() for b in buffers]), strict=True):
        buffer.copy_(part.view_as(buffer))
