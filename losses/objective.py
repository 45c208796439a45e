"""Objective: the one place where terms are weighed and added."""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from losses.schedules import Scalar, value_at
from losses.term import Term
from models.outputs import CodecOutput


class Objective(nn.Module):
    """L = R + lmbda * D + sum_t weight_t * L_t + sum_k weight_k * T_k, with D = sum_j weight_j * D_j.

    Args:
        rate: the term R in bits per pixel, or ``None`` where rate is of no concern (heads on a frozen codec).
        distortion: {name: term}: what lmbda multiplies; may be empty.
        lmbda: multiplies D, always.
        tasks: {task name: weight}; tasks not named here are not trained.
        distortion_weights: {name of a distortion term: weight}; 1 where not named.
        terms: {name: term}: anything else, T_k: adversarial, perceptual, feature matching, strength of a filter...
        term_weights: {name of one of ``terms``: weight}; 1 where not named.

    ``lmbda`` and every weight may be a schedule of progress and rate (losses/schedules.py), or follow the bits that the
    batch takes (losses/rate_control.py); a lmbda that moves is shown in logs.

    Raises:
        ValueError: nothing to minimise, a weight below 0 or for a term that is not there, or a term with weights of its
            own that would train.
    """

    def __init__(
        self,
        *,
        rate: Term | None = None,
        distortion: Mapping[str, Term] | None = None,
        lmbda: Scalar = 1.0,
        tasks: Mapping[str, Scalar] | None = None,
        distortion_weights: Mapping[str, Scalar] | None = None,
        terms: Mapping[str, Term] | None = None,
        term_weights: Mapping[str, Scalar] | None = None,
    ):
        super().__init__()
        self.rate = rate
        self.distortion, self.terms = nn.ModuleDict(distortion or {}), nn.ModuleDict(terms or {})
        self.lmbda = lmbda
        self.tasks = dict(tasks or {})
        self.distortion_weights, self.term_weights = dict(distortion_weights or {}), dict(term_weights or {})
        for key, weights, there in (
            ("distortion_weights", self.distortion_weights, self.distortion),
            ("term_weights", self.term_weights, self.terms),
        ):
            if unknown := set(weights) - set(there):
                raise ValueError(f"{key} names {sorted(unknown)}; the terms are {sorted(there)}")
        for name, value in self.scalars.items():
            if not callable(value) and value < 0:
                raise ValueError(f"{name}={value} is negative: it would reward what should be small")
        if not any((rate, self.distortion, self.tasks, self.terms)):
            raise ValueError("the objective is empty: give it a rate, a distortion, tasks or terms")
        for name, term in self.named_terms():
            if any(True for _ in term.parameters()):
                raise ValueError(
                    f"{name} holds weights: make what trains one of `networks` and name it in the term's `uses`, "
                    "and wrap what is fixed in models.frozen.Frozen"
                )

    @property
    def scalars(self) -> dict[str, Scalar]:
        """{name: lmbda, or the weight of what is called so}."""
        return {"lmbda": self.lmbda, **self.tasks, **self.distortion_weights, **self.term_weights}

    def named_terms(self) -> Iterator[tuple[str, Term]]:
        """(name of its part, term) of rate, distortion and all others, but for tasks."""
        if self.rate is not None:
            yield "rate", self.rate
        yield from ((f"distortion/{name}", term) for name, term in self.distortion.items())
        yield from ((f"term/{name}", term) for name, term in self.terms.items())

    def log_names(self) -> dict[str, str]:
        """{part: its name in logs}, of those that are shown: the sum, further terms and task losses."""
        terms = {f"term/{name}": name for name in self.terms}
        lmbda = {"lmbda": "lmbda"} if callable(self.lmbda) else {}
        return {"loss": "loss", **lmbda, **terms, **{f"task/{name}": f"{name}/loss" for name in self.tasks}}

    def forward(
        self,
        output: CodecOutput,
        batch: dict,
        task_losses: Mapping[str, Tensor],
        progress: float,
        modules: Mapping[str, nn.Module] | None = None,
    ) -> dict[str, Tensor]:
        """Weigh and add.

        Args:
            output: of the stage's subject.
            batch: as the data loader gave it.
            task_losses: {task name: mean loss}, for all of ``tasks``.
            progress: how far the stage has come, in [0, 1].
            modules: {path: module}, for all that the terms' ``uses`` name.

        Returns:
            ``{"loss": weighted sum}`` and every unweighted part under its own name: ``rate`` (bits per pixel),
            ``distortion/<name>``, ``task/<name>``, ``term/<name>``; and ``lmbda``, where it moves.
        """
        parts = {name: value_of(term, output, batch, modules or {}) for name, term in self.named_terms()}
        parts |= {f"task/{name}": task_losses[name] for name in self.tasks}
        weights = self.weights(progress, output.rate, output.bpp)
        lmbda = weights.pop("lmbda")
        loss = torch.stack([weight * parts[name] for name, weight in weights.items()]).sum()
        if callable(self.lmbda):
            parts["lmbda"] = torch.as_tensor(lmbda, device=loss.device, dtype=loss.dtype)
        return {"loss": loss, **parts}

    def weights(
        self, progress: float, rate: float | None, bpp: Tensor | None = None
    ) -> dict[str, float | Tensor]:
        """What each part of ``forward`` is multiplied by, for a batch's progress, rate and bits; and ``lmbda``."""

        def weight(scalar: Scalar) -> float | Tensor:
            return value_at(scalar, progress, rate, bpp)

        found = {} if self.rate is None else {"rate": 1.0}
        lmbda = weight(self.lmbda) if self.distortion else 0.0
        for name in self.distortion:
            found[f"distortion/{name}"] = lmbda * weight(self.distortion_weights.get(name, 1.0))
        found |= {f"task/{name}": weight(scalar) for name, scalar in self.tasks.items()}
        found |= {f"term/{name}": weight(self.term_weights.get(name, 1.0)) for name in self.terms}
        return found | {"lmbda": lmbda}


def value_of(term: Term, output: CodecOutput, batch: dict, modules: Mapping[str, nn.Module]) -> Tensor:
    """A term's value for a subject's answer.

    Args:
        term: of an objective.
        output: the answer.
        batch: what was asked.
        modules: {path: module}, for all that the term's ``uses`` name.

    Raises:
        ValueError: it is no scalar.
    """
    value = term(output, batch, *(modules[path] for path in term.uses))
    if value.dim():
        raise ValueError(
            f"terms must be scalars, means over the batch: {type(term).__name__} gave one of shape "
            f"{tuple(value.shape)}"
        )
    return value
