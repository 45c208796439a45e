"""Detection: boxes of any number, each of one class."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torchmetrics import MetricCollection

from tasks.base import Task
from tasks.mean_average_precision import MeanAveragePrecision
from tasks.palette import palette

SHOWN = 0.3
"""Score from which a box is drawn."""

Found = Mapping[str, Tensor]


class Detection(Task):
    """Boxes of objects; the target is a list with ``boxes`` (N, 4) in pixels and ``classes`` (N,) for each image.

    Raw predictions may be anything: the head says what they mean. Beside ``head(*tensors, size=(H, W))`` it has

    - ``detect(raw, size)``: a list with ``boxes`` (D, 4) in pixels, ``scores`` (D,) in [0, 1] and ``classes`` (D,) for
      each image;
    - ``loss(raw, boxes, classes, known)``: (sum, count) of the loss over labelled images, scalars, connected to the
      graph; ``boxes`` (B, N, 4), ``classes`` (B, N), -1 where there is no box, ``known`` (B,), whether an image is
      labelled. A head without ``loss`` can be judged, not trained with: a frozen detector.

    Args:
        readable: see Task.
        labels: see Task.
        reads: see Task.
        target: see Task; a label of kind ``"boxes"``.
        head: see Task; ``models.heads.fcos``, ``models.heads.torchvision_detectors``.
    """

    kind = "boxes"
    monitor = "map"

    @property
    def class_names(self) -> tuple[str, ...]:
        """What the classes are called, in order."""
        return self.label.names

    def target_of(self, batch: Mapping[str, Any]) -> list[Found]:
        """Boxes and classes of each image; one without label has a row of NaN."""
        pairs = zip(batch[self.target], batch["box_class"], strict=True)
        return [{"boxes": boxes, "classes": classes} for boxes, classes in pairs]

    def criterion(self, preds: Any, target: Sequence[Found]) -> tuple[Tensor, Tensor]:
        """What the head's ``loss`` gives; of one without, zero of nothing."""
        boxes = pad_sequence([one["boxes"] for one in target], batch_first=True)
        classes = pad_sequence([one["classes"] for one in target], batch_first=True, padding_value=-1)
        if not boxes.shape[1]:  # no image has any: one place for none, so that nothing is empty
            boxes, classes = boxes.new_zeros(len(target), 1, 4), classes.new_full((len(target), 1), -1)
        known = ~boxes.isnan().flatten(1).any(1)
        classes = classes.masked_fill(~known[:, None], -1)
        loss = getattr(self.head, "loss", None)
        if loss is not None:
            return loss(preds, boxes.nan_to_num(0.0), classes, known)
        if torch.is_grad_enabled():
            raise ValueError(
                f"{type(self.head).__name__} has no loss: it can be judged, but nothing learns from it"
            )
        return boxes.new_zeros(()), boxes.new_zeros(())

    def decide(self, preds: Any, size: tuple[int, int]) -> list[Found]:
        """What the head's ``detect`` gives, best first."""
        return self.head.detect(preds, size)

    def metrics(self) -> MetricCollection:
        """``map``, COCO's mean over overlaps of 0.5 to 0.95, and ``map_50``, at 0.5; over the classes that occur."""
        num = len(self.class_names)
        metrics = {"map": MeanAveragePrecision(num), "map_50": MeanAveragePrecision(num, (0.5,))}
        return MetricCollection(metrics, compute_groups=False)

    def describe(self, decided: Found) -> dict[str, Any]:
        """``{"boxes": [{"class": name, "score": ..., "box": [x0, y0, x1, y1]}, ...]}``, best first, in pixels."""
        rows = zip(*(decided[key].tolist() for key in ("classes", "scores", "boxes")), strict=True)
        return {
            "boxes": [
                {
                    "class": self.class_names[index],
                    "score": round(score, 6),
                    "box": [round(side, 2) for side in box],
                }
                for index, score, box in rows
            ]
        }

    def illustrate(self, image: np.ndarray, decided: Found, target: Found) -> tuple[np.ndarray, str]:
        """Boxes of a score above 0.3 in the colours of their classes; ``AP50 0.71`` of this picture, if labelled."""
        picture = Image.fromarray(image)
        pen, colours = ImageDraw.Draw(picture), palette(len(self.class_names))
        width = max(1, min(image.shape[:2]) // 200)
        shown = decided["scores"] >= SHOWN
        for index, box in zip(
            decided["classes"][shown].tolist(), decided["boxes"][shown].tolist(), strict=True
        ):
            pen.rectangle(box, outline=tuple(colours[index].tolist()), width=width)
        if bool(target["boxes"].isnan().any()):
            return np.asarray(picture), "no label"
        of_image = self.metrics()["map_50"]
        of_image.update([decided], [target])
        value = of_image.compute().item()
        boxes = f"{int(shown.sum())} boxes, {len(target['boxes'])} true"
        return np.asarray(picture), boxes if np.isnan(value) else f"{boxes}, AP50 {value:.2f}"
