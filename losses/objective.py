"""Objective: the one place where terms are weighed and added."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from losses.schedules import Scalar, value_at
from models.outputs import CodecOutput


class Objective(nn.Module):
    """L = R + lmbda * D + sum_t weight_t * L_t, with D = sum_k distortion_weight_k * D_k.

    Args:
        rate: the term R in bits per pixel, or ``None`` where rate is of no concern (heads on a frozen codec).
        distortion: {name: term}, modules called as ``term(output, batch)``; may be empty.
        lmbda: multiplies D, always. A number or a schedule.
        tasks: {task name: weight}; tasks not named here are not trained. Numbers or schedules.
        distortion_weights: {name of a distortion term: weight}; 1 where not named.

    Raises:
        ValueError: nothing to minimise, a weight below 0, or one for a distortion term that is not there.
    """

    def __init__(
        self,
        *,
        rate: nn.Module | None = None,
        distortion: Mapping[str, nn.Module] | None = None,
        lmbda: Scalar = 1.0,
        tasks: Mapping[str, Scalar] | None = None,
        distortion_weights: Mapping[str, Scalar] | None = None,
    ):
        super().__init__()
        self.rate = rate
        self.distortion = nn.ModuleDict(distortion or {})
        self.lmbda = lmbda
        self.tasks = dict(tasks or {})
        self.distortion_weights = dict(distortion_weights or {})
        if unknown := set(self.distortion_weights) - set(self.distortion):
            raise ValueError(
                f"distortion_weights names {sorted(unknown)}; the terms are {sorted(self.distortion)}"
            )
        for name, value in {"lmbda": lmbda, **self.tasks, **self.distortion_weights}.items():
            if not callable(value) and value < 0:
                raise ValueError(f"{name}={value} is negative: it would reward what should be small")
        if rate is None and not self.distortion and not self.tasks:
            raise ValueError("the objective is empty: give it a rate, a distortion or tasks")

    def forward(
        self, output: CodecOutput, batch: dict, task_losses: Mapping[str, Tensor], progress: float
    ) -> dict[str, Tensor]:
        """Weigh and add.

        Args:
            output: of the codec.
            batch: as the data loader gave it.
            task_losses: {task name: mean loss}, for all of ``tasks``.
            progress: how far the stage has come, in [0, 1].

        Returns:
            ``{"loss": weighted sum}`` and every unweighted part under its own name: ``rate`` (bits per pixel),
            ``distortion/<name>``, ``task/<name>``.
        """
        parts: dict[str, Tensor] = {}
        weighted: list[Tensor] = []
        if self.rate is not None:
            parts["rate"] = self.rate(output, batch)
            weighted.append(parts["rate"])
        lmbda = value_at(self.lmbda, progress)
        for name, term in self.distortion.items():
            value = parts[f"distortion/{name}"] = term(output, batch)
            weighted.append(lmbda * value_at(self.distortion_weights.get(name, 1.0), progress) * value)
        for name, weight in self.tasks.items():
            parts[f"task/{name}"] = task_losses[name]
            weighted.append(value_at(weight, progress) * task_losses[name])
        return {"loss": torch.stack(weighted).sum(), **parts}
