"""Predict and transmit: results of tasks are worked out at the encoder and sent instead of the picture."""

import itertools
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.layered_points import Row, as_pixels, decisions, reading
from benchmarks.layered_sets import FaceSet, Pictures, pictures
from models.pretrained import load
from tasks.base import Task

STEPS = (0.25, 0.5, 1.0, 2.0)
"""Of the quantiser, in standard deviations of the smallest component that is kept (numbers: of their own)."""
COMPONENTS = (4, 8, 16, 32)
LOSS = 0.01
"""Share of the error that sending may add, on the validation split."""


class Sent:
    """Vectors in principal axes, a uniform quantiser, and a Laplacian for each component, all fitted on training data.

    Args:
        fitted_on: (N, D) predictions for training pictures.
        components: how many are sent.
        step: of the quantiser, in standard deviations of the last of them.
    """

    def __init__(self, fitted_on: np.ndarray, *, components: int, step: float):
        self.mean = fitted_on.mean(0)
        _, _, axes = np.linalg.svd(fitted_on - self.mean, full_matrices=False)
        self.axes = axes[: min(components, fitted_on.shape[1])]
        found = (fitted_on - self.mean) @ self.axes.T
        self.step = step * found[:, -1].std()
        # The Laplacian of largest likelihood, or one that is not much narrower than a step.
        self.scale = np.maximum(np.abs(found).mean(0), 0.1 * self.step)

    def __call__(self, vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Vectors (N, D) as they arrive, and the ideal bits of each, (N,)."""
        symbols = np.round((vectors - self.mean) @ self.axes.T / self.step)
        low, high = ((symbols + side) * self.step / self.scale for side in (-0.5, 0.5))
        bits = -np.log2(np.maximum(_cumulative(high) - _cumulative(low), 1e-12)).sum(1)
        return self.mean + symbols * self.step @ self.axes, bits


class SentClasses:
    """One of a few answers, at the length of its frequency among predictions for training pictures.

    Args:
        fitted_on: (N,) indices.
        count: of answers.
    """

    def __init__(self, fitted_on: np.ndarray, count: int):
        counted = np.bincount(fitted_on, minlength=count) + 1.0
        self.lengths = -np.log2(counted / counted.sum())

    def __call__(self, indices: np.ndarray) -> np.ndarray:
        """Ideal bits of each, (N,)."""
        return self.lengths[indices]


def transmitted(of: FaceSet, rgb: Path, seen: Pictures) -> list[Row]:
    """The row of results that the analysis on originals gives at the encoder, quantised and sent.

    Of the settings of each task the one with the fewest bits is taken whose error on the validation split is at most
    ``LOSS`` above that of the results as they are.

    Args:
        of: the set.
        rgb: the run of the analysis on originals.
        seen: test pictures.
    """
    tasks, val = load(rgb).tasks, pictures(rgb, "val")
    fitted_on, validated, told = (
        decisions(as_pixels(split.images), tasks) for split in (pictures(rgb, "train"), val, seen)
    )
    bits, arrived, settings = np.zeros(len(seen)), {}, {}
    for name, task in tasks.items():
        if task.label.kind == "attributes":
            arrived[name], own = (told[name] > 0.5).float(), _answers(fitted_on[name], told[name])
        else:
            settings[name] = _setting(of, tasks, name, fitted_on[name], validated, val)
            arrived[name], own = _sent(Sent(_flat(fitted_on[name]), **settings[name]), told[name])
        bits = bits + own
    return [
        {
            "file_bits": (8 * np.ceil(bits / 8)).tolist(), "payload_bits": bits.round(2).tolist(),
            "settings": settings, "readings": {"own": reading(of, tasks, arrived, seen)},
        }
    ]  # fmt: skip


def _setting(
    of: FaceSet,
    tasks: Mapping[str, Task],
    name: str,
    fitted_on: Tensor,
    validated: dict[str, Tensor],
    val: Pictures,
) -> Row:
    """Arguments of ``Sent`` for one task."""
    (metric,) = (key for key, metric in of.metrics.items() if metric.task == name)

    def error(decided: Tensor) -> float:
        return float(np.mean(reading(of, tasks, {**validated, name: decided}, val)[metric]))

    most, tried = (1 + LOSS) * error(validated[name]), []
    for components, step in itertools.product(COMPONENTS, STEPS):
        arrived, bits = _sent(Sent(_flat(fitted_on), components=components, step=step), validated[name])
        tried.append((error(arrived) > most, bits.mean(), {"components": components, "step": step}))
    return min(tried, key=lambda one: one[:2])[2]


def _sent(sent: Sent, decided: Tensor) -> tuple[Tensor, np.ndarray]:
    arrived, bits = sent(_flat(decided))
    return torch.from_numpy(arrived).float().reshape(decided.shape), bits


def _answers(fitted_on: Tensor, told: Tensor) -> np.ndarray:
    """Ideal bits of attributes' answers, (N,)."""
    answers = (fitted_on > 0.5).int().numpy(), (told > 0.5).int().numpy()
    return sum(SentClasses(a, 2)(b) for a, b in zip(answers[0].T, answers[1].T, strict=True))


def _flat(decided: Tensor) -> np.ndarray:
    return decided.flatten(1).double().numpy() if decided.dim() > 1 else decided.double().numpy()[:, None]


def _cumulative(x: np.ndarray) -> np.ndarray:
    tail = 0.5 * np.exp(-np.abs(x))
    return np.where(x < 0, tail, 1 - tail)
