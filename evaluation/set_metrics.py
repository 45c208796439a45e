"""Set metrics image by image: what each image adds to a metric, so that any selection of images can be recomputed.

A metric such as mIoU is no mean over images. But torchmetrics' metrics hold sums (a confusion matrix) or lists, to
which every image adds its own part; from these parts the metric of any resample follows without the pictures.

Two things of a metric are torchmetrics' own affair and have no public name: how a state is combined (``_reductions``),
and that it has been updated (``_update_count``). tests/test_evaluator.py says so when they change.
"""

import base64
import copy
import zlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric, MetricCollection
from torchmetrics.utilities import dim_zero_cat, dim_zero_max, dim_zero_min, dim_zero_sum

State = Tensor | list[Tensor]
States = dict[str, dict[str, State]]
"""{metric: {state: value}} of one image."""


def states_of(metrics: MetricCollection, decided: Any, target: Any) -> States:
    """What one image adds.

    Args:
        metrics: of a task; not changed.
        decided: of one image, as the metrics' ``update`` takes them: what the task's ``decide`` gives.
        target: likewise, what its ``target_of`` gives.

    Raises:
        ValueError: a metric keeps something else than tensors.
    """
    states: States = {}
    for name, metric in _apart(metrics).items():
        metric.update(decided, target)
        states[name] = {}
        for key, value in metric.metric_state.items():
            parts = value if isinstance(value, list) else [value]
            if other := [type(part).__name__ for part in parts if not isinstance(part, Tensor)]:
                raise ValueError(f"metric {name!r} keeps {other[0]} in its state {key!r}, not tensors alone")
            parts = [part.detach().cpu() for part in parts]
            states[name][key] = parts if isinstance(value, list) else parts[0]
    return states


def single_numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """What metrics computed, without tensors of several numbers (one a class...): those are no figure of a table."""
    return {
        key: float(value)
        for key, value in values.items()
        if not isinstance(value, Tensor) or value.numel() == 1
    }


class Resampled:
    """The metrics of any selection of images.

    Args:
        metrics: of a task.
        images: ``states_of`` each image.

    Raises:
        ValueError: a metric combines its state in a way that cannot be repeated for a selection.
    """

    def __init__(self, metrics: MetricCollection, images: Sequence[States]):
        self.metrics = _apart(metrics)
        # Names the figures as the whole set's are named, also those of metrics that compute several.
        self.together = MetricCollection(dict(self.metrics), compute_groups=False)
        self.images = images
        self.sums: dict[tuple[str, str], np.ndarray] = {}
        self.joined: dict[tuple[str, str], _Joined] = {}
        for name, metric in self.metrics.items():
            for key, reduction in metric._reductions.items():
                if reduction is dim_zero_sum:
                    self.sums[name, key] = np.stack([s[name][key].double().numpy() for s in images])
                elif reduction is dim_zero_cat and isinstance(metric.metric_state[key], list):
                    self.joined[name, key] = _Joined([s[name][key] for s in images])
                elif reduction not in (None, dim_zero_cat, dim_zero_max, dim_zero_min):
                    raise ValueError(
                        f"metric {name!r} combines its state {key!r} by {reduction}: use sum, cat, max or min"
                    )

    def compute(self, counts: np.ndarray | None = None) -> dict[str, float]:
        """{metric: value} of a selection; which values there are may depend on what is in it.

        Args:
            counts: how often each image is in it, int (num_images,); default: each once.
        """
        counts = np.ones(len(self.images), dtype=np.int64) if counts is None else np.asarray(counts)
        return self._computed(partial(self._state, counts))

    def of_image(self, index: int) -> dict[str, float]:
        """{metric: value} of one image alone."""

        def state(name: str, key: str, default: State, reduction: Any) -> State:
            return _combined([self.images[index][name][key]], default, reduction)

        return self._computed(state)

    def _computed(self, state: Callable[[str, str, State, Any], State]) -> dict[str, float]:
        for name, metric in self.metrics.items():
            metric.reset()
            for key, default in metric.metric_state.items():
                setattr(metric, key, state(name, key, default, metric._reductions[key]))
            metric._update_count = 1
        return single_numbers(self.together.compute())

    def _state(self, counts: np.ndarray, name: str, key: str, default: State, reduction: Any) -> State:
        if (name, key) in self.sums:
            sums = self.sums[name, key]
            total = (counts.reshape(-1, *[1] * (sums.ndim - 1)) * sums).sum(0)
            return torch.as_tensor(total).to(default.dtype)
        if (name, key) in self.joined:
            return self.joined[name, key].drawn(counts)
        drawn = np.repeat(np.arange(len(counts)), counts)
        return _combined([self.images[i][name][key] for i in drawn], default, reduction)


def _combined(drawn: Sequence[State], default: State, reduction: Any) -> State:
    """A metric's state of images, from what each gave."""
    if isinstance(default, list):
        return [value for state in drawn for value in state]
    return reduction(torch.stack(list(drawn))) if reduction else torch.stack(list(drawn))


class _Joined:
    """What images gave to a list, in one piece: a selection of them is one look-up."""

    def __init__(self, images: Sequence[Sequence[Tensor]]):
        parts = [dim_zero_cat(list(image)) if image else None for image in images]
        self.lengths = np.array([0 if part is None else len(part) for part in parts])
        self.starts = np.cumsum(self.lengths) - self.lengths
        there = [part for part in parts if part is not None]
        self.values = torch.cat(there) if there else None

    def drawn(self, counts: np.ndarray) -> list[Tensor]:
        """As a metric holds it that saw each image so often."""
        if self.values is None:
            return []
        images = np.repeat(np.arange(len(counts)), counts)
        lengths = self.lengths[images]
        # Of each image its rows, one after the other.
        rows = np.arange(lengths.sum()) + np.repeat(
            self.starts[images] - np.cumsum(lengths) + lengths, lengths
        )
        return [self.values[torch.from_numpy(rows)]] if len(rows) else []


def _apart(metrics: MetricCollection) -> dict[str, Metric]:
    """The metrics on their own: groups that share a state would hide it."""
    return {name: copy.deepcopy(metric) for name, metric in metrics.items(copy_state=False)}


def to_json(states: States) -> dict[str, Any]:
    """States as JSON holds them; ``from_json`` undoes it."""
    return {
        name: {
            key: [_packed(v) for v in value] if isinstance(value, list) else _packed(value)
            for key, value in state.items()
        }
        for name, state in states.items()
    }


def from_json(content: Mapping[str, Any]) -> States:
    """States from JSON."""
    return {
        name: {
            key: [_unpacked(v) for v in value] if isinstance(value, list) else _unpacked(value)
            for key, value in state.items()
        }
        for name, state in content.items()
    }


def _packed(x: Tensor) -> dict[str, Any]:
    array = x.numpy()
    # A confusion matrix of one image is nearly all zeros.
    data = base64.b64encode(zlib.compress(array.tobytes(), 1)).decode()
    return {"dtype": array.dtype.str, "shape": list(array.shape), "data": data}


def _unpacked(content: Mapping[str, Any]) -> Tensor:
    data = zlib.decompress(base64.b64decode(content["data"]))
    array = np.frombuffer(data, np.dtype(content["dtype"])).reshape(content["shape"])
    return torch.from_numpy(array.copy())
