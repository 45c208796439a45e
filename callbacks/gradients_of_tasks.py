"""Which way each part of the objective pulls the codec: norms of their gradients and the angles between them."""

import itertools
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor


class GradientsOfTasks(Callback):
    """Records ``gradients/<part>/norm`` and ``gradients/<a>~<b>/cosine``, of all weights of the subject that train.

    A part is one term of the sum that is minimised, with its weight: ``rate``, ``distortion/mse``, ``task/scene``. A
    cosine below 0 says that two parts pull against each other, a small norm that a task's weight hardly counts. Of
    several updates, the names begin with the update's. What nothing pulls at has no cosine.

    The batch is answered once more, with the noise that training is about to see, and nothing of it stays: training is
    the same to the last bit with this callback and without.

    Args:
        every: batches between two measurements; each takes about as long as one step for every part.

    Raises:
        ValueError: ``every`` below 1.
    """

    def __init__(self, *, every: int = 500):
        if every < 1:
            raise ValueError(f"every={every} must be at least 1")
        self.every = every

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Measure, average over all ranks, and record."""
        weights = [p for p in pl_module.subject.parameters() if p.requires_grad]
        if batch_idx % self.every or not weights or "image" not in batch:
            return
        values: dict[str, float] = {}
        buffers = {buffer: buffer.clone() for buffer in pl_module.buffers() if buffer.numel()}
        for name in pl_module.updates:
            with isolate_rng(), trainer.precision_plugin.forward_context():
                found = gradients(pl_module, name, batch, batch_idx, weights)
            prefix = f"gradients/{name}/" if len(pl_module.updates) > 1 else "gradients/"
            # The mean over ranks of their gradients is the gradient that a step takes.
            found = {part: trainer.strategy.reduce(g, reduce_op="mean") for part, g in found.items()}
            values |= {f"{prefix}{key}": value for key, value in compared(found).items()}
        with torch.no_grad():
            for buffer, value in buffers.items():
                buffer.copy_(value)
        pl_module.record(values)


def gradients(
    system: LightningModule, update: str, batch: Any, batch_idx: int, weights: list[torch.nn.Parameter]
) -> dict[str, Tensor]:
    """{part: gradient of its weighted value, float32 (all weights,)} of one update's objective.

    Args:
        system: ``CompressionSystem``.
        update: its name.
        batch: on the device.
        batch_idx: of it.
        weights: that gradients are taken of; those that a part does not reach have zeros.
    """
    output, parts = system.answered(update, batch, batch_idx)
    objective = system.updates[update].objective
    factors = objective.weights(batch_idx / system.stage.num_batches, output.rate, output.bpp)
    found = {}
    del factors["lmbda"]
    for part, factor in factors.items():
        value = factor * parts[part]
        reached = (
            torch.autograd.grad(value, weights, retain_graph=True, allow_unused=True)
            if value.requires_grad
            else [None] * len(weights)
        )
        pairs = zip(weights, reached, strict=True)
        found[part] = torch.cat(
            [(torch.zeros_like(w) if g is None else g).float().flatten() for w, g in pairs]
        )
    return found


def compared(found: dict[str, Tensor]) -> dict[str, float]:
    """``<part>/norm`` of every gradient and ``<a>~<b>/cosine`` of every pair, where neither is zero."""
    norms = torch.stack([gradient.norm() for gradient in found.values()]).tolist()
    lengths = dict(zip(found, norms, strict=True))
    values = {f"{part}/norm": length for part, length in lengths.items()}
    for a, b in itertools.combinations(found, 2):
        if lengths[a] and lengths[b]:
            values[f"{a}~{b}/cosine"] = (found[a] @ found[b]).item() / (lengths[a] * lengths[b])
    return values
