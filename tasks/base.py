"""Task: what a machine reads out of a codec's output, and how well it reads."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torchmetrics import MetricCollection

from models.outputs import CodecOutput, LatentSpec
from tasks.plain import in_short, plain


class LabelLike(Protocol):
    """What tasks know of a data set's label (datamodules/samples.py), so that tasks need no data module."""

    @property
    def kind(self) -> str:
        """``"class"``, ``"mask"``, ``"attributes"``, ``"landmarks"`` or ``"boxes"``."""

    @property
    def names(self) -> tuple[str, ...]:
        """What the indices mean, in order."""

    @property
    def missing(self) -> float:
        """The value that stands for "no label here"."""


@dataclass
class TaskOutput:
    """What a task returns for one batch.

    Attributes:
        loss_sum: criterion summed over everything that counts (images, pixels), scalar, connected to the
            graph even where nothing counts, so that partly labelled batches never leave a parameter unused
            under DDP.
        count: how many terms ``loss_sum`` holds, scalar float. The system reduces it over ranks and divides,
            so that several processes give the gradient of one.
        preds: what the head gave (logits, points...): raw predictions, of any type.
    """

    loss_sum: Tensor
    count: Tensor
    preds: Any


class Task(nn.Module):
    """A head, its criterion and its metrics, on what the codec's decoder gives.

    A subclass says which label ``kind`` it needs and implements ``criterion`` and ``metrics``; the rest has defaults.
    The criterion takes the head's raw output; metrics, pictures and programs take the decisions that ``decide`` makes
    of it.

    Args:
        readable: everything this codec lets a task read, {name: spec} (``Codec.readable``).
        labels: the data set's labels, {name: Label} (``datamodule.labels``).
        reads: which of them: ``"pixels"``, ``"pixels@<layer>"`` or latent names.
        target: the label, a key of ``labels``; ``None`` for a task that learns from none.
        head: builds the network: called as ``head(specs, num_outputs)`` with the specs of ``reads``, in
            order; the module it returns takes the tensors of ``reads``, in order, and the image size:
            ``head(*tensors, size=(H, W))``.

    Attributes:
        label: the label learned from, or ``None``.
        layers: the bitstream layers that carry what is read: what the task pays for, with their needs.
        left_out: arguments that are ``None`` because exported models hold no frozen networks (models/frozen.py).

    Raises:
        ValueError: the codec does not have what ``reads`` names, the data set lacks ``target``, or its kind
            differs.
    """

    kind: str | None = None
    """The ``Label.kind`` this task learns from; ``None``: from no label, ``target_of`` computes what it learns."""

    monitor: str
    """The metric that stands for the task in the progress bar and in tables; a key of ``metrics()``."""

    left_out: tuple[str, ...] = ()

    def __init__(
        self,
        readable: Mapping[str, LatentSpec],
        labels: Mapping[str, LabelLike],
        *,
        reads: str | Sequence[str],
        target: str | None = None,
        head: Callable[[Sequence[LatentSpec], int], nn.Module],
    ):
        super().__init__()
        self.reads = (reads,) if isinstance(reads, str) else tuple(reads)
        if not self.reads or len(set(self.reads)) < len(self.reads):
            raise ValueError(f"`reads` must name at least one thing, and each once, not {list(self.reads)}")
        for name in self.reads:
            if name not in readable:
                raise ValueError(
                    f"task reads {name!r}, which this codec does not have; it has {sorted(readable)}"
                )
        if (target is None) != (self.kind is None):
            needed = "no label" if self.kind is None else f"a label of kind {self.kind!r}"
            raise ValueError(f"{type(self).__name__} needs {needed}, but `target` is {target!r}")
        if target is not None and target not in labels:
            raise ValueError(
                f"task target {target!r} is not a label of this data set; it has {sorted(labels)}"
            )
        self.label = None if target is None else labels[target]
        if self.label is not None and self.label.kind != self.kind:
            raise ValueError(
                f"{type(self).__name__} needs a label of kind {self.kind!r}, but {target!r} is "
                f"{self.label.kind!r}"
            )
        self.target = target
        self.layers = tuple(dict.fromkeys(readable[name].layer for name in self.reads))
        self.head = head([readable[name] for name in self.reads], self.num_outputs)

    @property
    def num_outputs(self) -> int:
        """What the head is built with, by default one output for each name; asked for while ``Task`` is initialised."""
        if self.label is None:
            raise ValueError(f"{type(self).__name__} has no label: it must say its own `num_outputs`")
        return len(self.label.names)

    @property
    def want(self) -> frozenset[str]:
        """What must be decoded for it (``Codec.decompress``): ``"pixels"``, ``"latents"`` or both."""
        return frozenset("pixels" if name.partition("@")[0] == "pixels" else "latents" for name in self.reads)

    def misfit(self, labels: Mapping[str, LabelLike]) -> str | None:
        """Why it cannot be judged on a data set with these labels; ``None`` where it can."""
        if self.label is None:
            gone = ", ".join(self.left_out)
            return f"an exported model has no {gone}: judge the run it comes from" if gone else None
        if self.target not in labels:
            return f"it needs the label {self.target!r}, the data set has {sorted(labels) or 'none'}"
        (kind, names), label = (self.label.kind, list(self.label.names)), labels[self.target]
        if (kind, names) != (label.kind, list(label.names)):
            return f"it learned {kind} of {names}, the data set has {list(label.names)}"
        return None

    def predict(self, output: CodecOutput) -> Any:
        """Raw predictions of a batch, as the head gives them; needs no labels."""
        return self.head(*(output.read(name) for name in self.reads), size=output.size)

    def difference(self, preds: Any, reference: Any) -> Tensor:
        """How far raw predictions are from others of the same images, at least 0, (B,): a loss without labels.

        Raises:
            ValueError: the task does not say.
        """
        raise ValueError(
            f"{type(self).__name__} does not say how far two predictions are apart: it cannot teach"
        )

    def compared_with(self, x: Tensor) -> Callable[[Tensor], Tensor]:
        """What decodes of pictures are judged by where the task is the teacher, and there are no labels.

        Args:
            x: the originals (B, 3, H, W) in [0, 1].

        Returns:
            Decoded pictures -> ``difference`` of what is read in them and in the originals, (B,).

        Raises:
            ValueError: the task reads more than pixels.
        """
        if self.reads != ("pixels",):
            raise ValueError(f"it reads {list(self.reads)}: only a task that reads pixels alone can teach")
        with torch.no_grad():
            reference = self.head(x, size=tuple(x.shape[-2:]))
        return lambda x_hat: self.difference(self.head(x_hat, size=tuple(x_hat.shape[-2:])), reference)

    def decide(self, preds: Any, size: tuple[int, int]) -> Any:
        """What raw predictions say, indexable by image: by default the same tensor in float32.

        Args:
            preds: what ``predict`` gave; where that is no tensor, a subclass must say what it means.
            size: (H, W) of the images.
        """
        return preds.float()

    def forward(self, output: CodecOutput, batch: Mapping[str, Any]) -> TaskOutput:
        """Predictions and criterion for one batch (datamodules/samples.py says what a batch holds)."""
        preds = self.predict(output)
        loss_sum, count = self.criterion(preds, self.target_of(batch))
        return TaskOutput(loss_sum, count, preds)

    def has_target(self, batch: Mapping[str, Any]) -> bool:
        """Whether ``target_of`` can answer: by default, the batch has the label, or the task needs none."""
        return not self.left_out if self.label is None else self.target in batch

    def target_of(self, batch: Mapping[str, Any]) -> Any:
        """What criterion, metrics and ``illustrate`` compare with, indexable by image: by default the label itself."""
        return batch[self.target]

    def criterion(self, preds: Any, target: Any) -> tuple[Tensor, Tensor]:
        """(sum, count) of the loss over the labelled part of the batch; ``preds`` are raw."""
        raise NotImplementedError

    def metrics(self) -> MetricCollection:
        """Fresh metrics; ``update(decided, target)`` takes what ``decide`` and ``target_of`` give."""
        raise NotImplementedError

    def illustrate(self, image: np.ndarray, decided: Any, target: Any) -> tuple[np.ndarray, str]:
        """Draw one image's prediction for people: a picture and a short caption such as ``cat (is dog)``.

        Args:
            image: the decoded picture, uint8 (H, W, 3).
            decided: this image's part of ``decide``.
            target: this image's part of ``target_of``.

        Returns:
            uint8 (H, W, 3) picture, caption; by default the picture as it is, and what ``describe`` says in words.
        """
        return image, in_short(self.describe(decided))

    def describe(self, decided: Any) -> dict[str, Any]:
        """One image's prediction for programs, as plain JSON: by default its numbers, as ``prediction`` or by name.

        Args:
            decided: this image's part of ``decide``.

        Returns:
            Names instead of indices; probabilities and shares in [0, 1]; places in pixels of the image.
        """
        described = plain(decided)
        return described if isinstance(described, dict) else {"prediction": described}

    def label_map(self, decided: Any) -> tuple[np.ndarray, np.ndarray] | None:
        """One image's prediction as a map of classes, for tasks that have one.

        Args:
            decided: this image's part of ``decide``.

        Returns:
            Class of every pixel, uint8 (H, W), and the colours to show them in, uint8 (classes, 3); or ``None``.
        """
        return None
