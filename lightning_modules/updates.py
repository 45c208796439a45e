"""Update: which weights follow which objective, and how the steps are taken."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from lightning_modules.parts import parameters_of
from losses.objective import Objective
from losses.schedules import Scalar, value_at


@dataclass
class Update:
    """One optimiser and what it follows. A stage has one, or several whose networks train against each other.

    Args:
        trainable: parts that move. A part is a module's path in the system, such as ``codec``, ``codec.g_a``,
            ``tasks``, ``tasks.parsing``, ``networks.critic``, or one of the codec's roles ``codec.encoder``,
            ``codec.decoder``. Everything else is frozen.
        objective: what is minimised.
        optimiser: called with parameter groups, e.g. a partial of ``torch.optim.Adam``.
        lr_scales: {part: multiplier of its learning rate}, 1 where not named.
        lr_schedule: multiplier of all learning rates over the stage.
        clip: largest norm of the gradient, quantiles apart; ``None`` for no clipping.
        aux_lr: learning rate of the factorised priors' quantiles.
        every: it takes a step in one of so many of the stage's steps, the first of them included.
        shares: it may train what another update of its stage trains too.
        free: it may train what the bits depend on although no update of its stage pays for them (warm-ups for
            distortion alone).

    Raises:
        ValueError: ``every`` below 1.
    """

    trainable: Sequence[str]
    objective: Objective
    optimiser: Callable[[list[dict[str, Any]]], Optimizer]
    lr_scales: Mapping[str, float] | None = None
    lr_schedule: Scalar = 1.0
    clip: float | None = 1.0
    aux_lr: float = 1e-3
    every: int = 1
    shares: bool = False
    free: bool = False

    def __post_init__(self) -> None:
        self.lr_scales = self.lr_scales or {}
        if self.every < 1:
            raise ValueError(f"every={self.every} must be at least 1")

    def build(self, system: nn.Module, progress: Callable[[], float]) -> tuple[Optimizer, LambdaLR]:
        """The optimiser of this update's weights and the schedule of its learning rates.

        One group for each learning rate and, last, one for the quantiles (CompressAI's auxiliary optimiser).

        Args:
            system: whose parts ``trainable`` names.
            progress: how far the stage has come, in [0, 1]; asked at every step of the schedule.
        """
        own = parameters_of(system, self.trainable)
        named = {name: p for name, p in system.named_parameters() if p in own}
        quantiles = [p for name, p in named.items() if name.endswith(".quantiles")]
        scales = {p: 1.0 for p in named.values() if not any(p is q for q in quantiles)}
        for part, scale in self.lr_scales.items():
            scales |= {p: scale for p in parameters_of(system, [part]) & scales.keys()}
        lr = self.optimiser.keywords.get("lr", 1e-3)
        groups: list[dict[str, Any]] = [
            {"params": [p for p, own in scales.items() if own == scale], "lr": lr * scale, "clipped": True}
            for scale in sorted(set(scales.values()))
        ]
        schedules = [lambda step: value_at(self.lr_schedule, progress())] * len(groups)
        if quantiles:
            groups.append(
                {"params": quantiles, "lr": self.aux_lr, "weight_decay": 0.0, "clipped": False},
            )
            schedules.append(lambda step: 1.0)
        optimiser = self.optimiser(groups)
        optimiser.register_step_pre_hook(in_one_order)
        return optimiser, LambdaLR(optimiser, schedules)

    def clip_gradients(self, optimiser: Optimizer) -> None:
        """Clip the main groups: the quantiles' gradient has another scale and would drown theirs."""
        if self.clip is not None:
            clipped = [p for group in optimiser.param_groups if group["clipped"] for p in group["params"]]
            nn.utils.clip_grad_norm_(clipped, self.clip)


def in_one_order(optimiser: Optimizer, *_: Any) -> None:
    """Before a step: gradients and states have the order in memory that their weights have.

    torch's fused optimisers take it for granted and check nothing: steps would silently be wrong with a network in
    channels_last order and a gradient, or a checkpoint, in another.
    """
    for parameter in (p for group in optimiser.param_groups for p in group["params"]):
        if parameter.grad is not None and parameter.grad.stride() != parameter.stride():
            parameter.grad = _like(parameter, parameter.grad)
        state = optimiser.state.get(parameter, {})
        for key, value in state.items():
            same = isinstance(value, Tensor) and value.shape == parameter.shape
            if same and value.stride() != parameter.stride():
                state[key] = _like(parameter, value)


def _like(parameter: Tensor, value: Tensor) -> Tensor:
    return torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def log_names(updates: Mapping[str, Update]) -> dict[str, dict[str, str]]:
    """{update: {part of its objective: its name in logs}}; several updates' names begin with the update's."""
    return {
        name: {
            part: f"{name}/{shown}" if len(updates) > 1 else shown
            for part, shown in update.objective.log_names().items()
        }
        for name, update in updates.items()
    }
