"""What is evaluated: a codec at one rate, and the heads that read its decode."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from models.codecs.base import Codec
from models.frozen import Frozen
from models.outputs import CodecOutput
from tasks.base import Task

OWN = "own"
"""The ``source`` of heads that were trained with the codec they are judged on."""

FROZEN = "frozen"
"""The ``source`` of heads that are networks trained elsewhere, and came without a run."""


@dataclass(eq=False)
class Head:
    """A trained task on codecs: the one it was trained with, or any other.

    Args:
        name: of the task.
        source: ``"own"``, or what the run is called that it comes from.
        task: in evaluation mode.
        settings: plain containers that define the task besides its weights, where no run does.
        reader: the codec it was trained with, where that is another one than it is judged on: a task on latents then
            reads those that ``reader`` makes of the decoded picture, and pays for the picture.
    """

    name: str
    source: str
    task: Task
    reader: Codec | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def key(self) -> str:
        """Identity of its weights and of all it reads through."""
        parts = (weights(self.task), weights(self.reader), *([dict(self.settings)] if self.settings else []))
        return identity(self.name, self.task.reads, *parts)

    @property
    def reads_pixels(self) -> bool:
        """Whether pixels are all the task needs."""
        return self.task.want == {"pixels"}

    @property
    def want(self) -> frozenset[str]:
        """What must be decoded for it: with a ``reader``, pixels alone, for latents are made of them."""
        return self.task.want if self.reader is None else frozenset({"pixels"})

    def predict(self, output: CodecOutput) -> Any:
        """Raw predictions from a decode."""
        if self.reader is not None and not self.reads_pixels:
            output = CodecOutput(output.size, x_hat=output.x_hat, latents=self.reader(output.x_hat).latents)
        return self.task.predict(output)

    def paid_layers(self, codec: Codec) -> tuple[str, ...]:
        """The layers of ``codec`` whose bits it costs to run."""
        if self.reader is None:
            return codec.needed(self.task.layers)
        return codec.needed([codec.layers[-1].name])


@dataclass(eq=False)
class Point:
    """One codec at one rate.

    Args:
        name: what the codec is called: one curve, for all its points.
        codec: in evaluation mode.
        rate: what the codec is given; ``None`` for codecs of one rate.
        shown_rate: what the row says: the native value, or lmbda of the training.
        scale: of the picture before coding, 1 or below.
        seed: of the training; 0 for standard codecs.
        heads: that judge it.
        settings: plain containers that define the codec besides its weights.
        about: how a standard codec is called, and versions of what does the work.
    """

    name: str
    codec: Codec
    rate: float | None = None
    shown_rate: float | None = None
    scale: float = 1.0
    seed: int = 0
    heads: Sequence[Head] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    about: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # Tables are part of the weights, so they are there before anything is hashed.
        self.codec.model_id()
        parts = (dict(self.settings), dict(self.about), self.rate, self.scale, weights(self.codec))
        self.key = identity(*parts)

    @property
    def title(self) -> str:
        """For progress bars and messages."""
        rate = "" if self.shown_rate is None else f" {self.shown_rate:g}"
        return f"{self.name}{rate}" + ("" if self.scale == 1 else f" at {self.scale:g}")


def by_codec(points: Sequence[Point]) -> dict[str, list[int]]:
    """{codec: positions of its points}, without those that code a smaller picture: they are another ladder."""
    groups: dict[str, list[int]] = {}
    for position, point in enumerate(points):
        if point.scale == 1:
            groups.setdefault(point.name, []).append(position)
    return groups


def directions(points: Sequence[Point]) -> dict[str, bool]:
    """{"<task>/<metric>": whether more is better}, as the metrics say themselves."""
    heads = {head for point in points for head in point.heads}
    return {
        f"{head.name}/{key}": metric.higher_is_better is not False
        for head in heads
        for key, metric in head.task.metrics().items()
    }


def own_heads(points: Sequence[Point]) -> dict[str, str]:
    """{codec: what its own heads are called where other codecs are judged by them}."""
    foreign = {weights(h.task): h.source for p in points for h in p.heads if h.source != OWN}
    return {
        point.name: foreign[weights(head.task)]
        for point in points
        for head in point.heads
        if head.source == OWN and weights(head.task) in foreign
    }


def identity(*parts: Any) -> str:
    """A hash of plain values."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def weights(module: nn.Module | None) -> str:
    """A hash of all parameters and buffers, those of frozen networks too: targets may come from them."""
    if module is None:
        return hashlib.blake2b(digest_size=16).hexdigest()
    state = module.state_dict()
    for path, part in module.named_modules():
        if isinstance(part, Frozen):
            state |= {f"{path}.{name}": value for name, value in part.network.state_dict().items()}
    digest = hashlib.blake2b(digest_size=16)
    for name, value in sorted(state.items()):
        if isinstance(value, Tensor):
            # Copied, for one element of any stride passes as contiguous.
            array = value.detach().cpu().clone(memory_format=torch.contiguous_format)
            digest.update(f"{name} {array.dtype} {tuple(array.shape)}".encode())
            digest.update(array.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
