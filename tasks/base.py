"""Task: what a machine reads out of a codec's output, and how well it reads."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from torch import Tensor, nn
from torchmetrics import MetricCollection

from models.outputs import CodecOutput, LatentSpec


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
        preds: raw predictions (logits, points...), first dimension B.
    """

    loss_sum: Tensor
    count: Tensor
    preds: Tensor


class Task(nn.Module):
    """A head, its criterion and its metrics, on what the codec's decoder gives.

    A subclass says which label ``kind`` it needs; implements ``criterion``, ``metrics``, ``illustrate``, ``describe``.

    Args:
        readable: everything this codec lets a task read, {name: spec} (``Codec.readable``).
        labels: the data set's labels, {name: Label} (``datamodule.labels``).
        reads: which of them: ``"pixels"``, ``"pixels@<layer>"`` or latent names.
        target: the label, a key of ``labels``.
        head: builds the network: called as ``head(specs, num_outputs)`` with the specs of ``reads``, in
            order; the module it returns takes the tensors of ``reads``, in order, and the image size:
            ``head(*tensors, size=(H, W))``.

    Attributes:
        label: the label learned from.
        layers: the bitstream layers that carry what is read: what the task pays for, with their needs.

    Raises:
        ValueError: the codec does not have what ``reads`` names, the data set lacks ``target``, or its kind
            differs.
    """

    kind: str
    """The ``Label.kind`` this task learns from."""

    monitor: str
    """The metric that stands for the task in the progress bar and in tables; a key of ``metrics()``."""

    def __init__(
        self,
        readable: Mapping[str, LatentSpec],
        labels: Mapping[str, LabelLike],
        *,
        reads: str | Sequence[str],
        target: str,
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
        if target not in labels:
            raise ValueError(
                f"task target {target!r} is not a label of this data set; it has {sorted(labels)}"
            )
        self.label = labels[target]
        if self.label.kind != self.kind:
            raise ValueError(
                f"{type(self).__name__} needs a label of kind {self.kind!r}, but {target!r} is "
                f"{self.label.kind!r}"
            )
        self.target = target
        self.layers = tuple(dict.fromkeys(readable[name].layer for name in self.reads))
        self.head = head([readable[name] for name in self.reads], len(self.label.names))

    def predict(self, output: CodecOutput) -> Tensor:
        """Raw predictions, first dimension B; needs no labels."""
        return self.head(*(output.read(name) for name in self.reads), size=output.size)

    def forward(self, output: CodecOutput, batch: Mapping[str, Tensor]) -> TaskOutput:
        """Predictions and criterion for one batch (datamodules/samples.py says what a batch holds)."""
        preds = self.predict(output)
        loss_sum, count = self.criterion(preds, self.target_of(batch))
        return TaskOutput(loss_sum, count, preds)

    def target_of(self, batch: Mapping[str, Tensor]) -> Tensor:
        """What criterion, metrics and ``illustrate`` compare with, first dimension B: by default the label itself."""
        return batch[self.target]

    def criterion(self, preds: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """(sum, count) of the loss over the labelled part of the batch."""
        raise NotImplementedError

    def metrics(self) -> MetricCollection:
        """Fresh metrics; ``update(preds, target)`` takes what ``predict`` and ``target_of`` give."""
        raise NotImplementedError

    def illustrate(self, image: np.ndarray, preds: Tensor, target: Tensor) -> tuple[np.ndarray, str]:
        """Draw one image's prediction for people: a picture and a short caption such as ``cat (is dog)``.

        Args:
            image: the decoded picture, uint8 (H, W, 3).
            preds: this image's predictions, without the batch dimension.
            target: this image's part of ``target_of``, without the batch dimension.

        Returns:
            uint8 (H, W, 3) picture, caption.
        """
        raise NotImplementedError

    def describe(self, preds: Tensor) -> dict[str, Any]:
        """One image's prediction for programs, as plain JSON.

        Args:
            preds: this image's predictions, without the batch dimension.

        Returns:
            Names instead of indices; probabilities and shares in [0, 1]; places in pixels of the image.
        """
        raise NotImplementedError

    def label_map(self, preds: Tensor) -> tuple[np.ndarray, np.ndarray] | None:
        """One image's prediction as a map of classes, for tasks that have one.

        Args:
            preds: this image's predictions, without the batch dimension.

        Returns:
            Class of every pixel, uint8 (H, W), and the colours to show them in, uint8 (classes, 3); or ``None``.
        """
        return None
