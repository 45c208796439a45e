"""FrozenHead: a network that was trained elsewhere reads the decode itself, as it is: nothing of it trains here."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.ops import batched_nms

from models.frozen import Frozen
from models.heads.features import is_pixels
from models.outputs import LatentSpec


class FrozenHead(nn.Module):
    """A whole frozen network as a head on pixels: it judges codecs, and codecs learn through it.

    A task with such a head has no weights of its own: it needs no run (``frozen`` of ``evaluate.py``), and exported
    models leave it out.

    Args:
        specs: what is read: pixels alone.
        num_outputs: what the task expects; compared with what the network says of itself (``num_outputs``).
        network: (B, 3, H, W) in [0, 1] -> predictions, in ``models.frozen.Frozen``.

    Raises:
        ValueError: ``specs`` is not pixels, ``network`` is not frozen, or gives another number of outputs.
    """

    def __init__(self, specs: Sequence[LatentSpec], num_outputs: int, *, network: Frozen):
        super().__init__()
        if len(specs) != 1 or not is_pixels(specs[0]):
            raise ValueError(f"{type(self).__name__} reads pixels, not {list(specs)}")
        if not isinstance(network, Frozen):
            raise ValueError(
                f"`network` is {type(network).__name__}, must be models.frozen.Frozen around what stays as it is"
            )
        own = getattr(network.network, "num_outputs", num_outputs)
        if own != num_outputs:
            raise ValueError(f"the frozen network gives {own} outputs, and the task needs {num_outputs}")
        self.network = network

    def forward(self, x: Tensor, *, size: tuple[int, int]) -> Any:
        """What the network says of pictures (B, 3, H, W) in [0, 1]; ``size`` is not needed."""
        return self.network(x)


class FrozenDetector(FrozenHead):
    """A frozen detector whose decode gives candidates, and what it finds by them.

    Candidates are ``{"boxes": (B, N, 4) corners in pixels, "objectness": (B, N), "classes": (B, N, K), "scores":
    (B, N)}``, all but the first in [0, 1]: models/heads/fastestdet.py gives such.

    Args:
        specs: see FrozenHead.
        num_outputs: see FrozenHead; number of classes.
        network: see FrozenHead; pictures -> candidates.
        threshold: of the score, above which a candidate counts.
        nms: overlap (IoU) from which of two boxes of one class the weaker is dropped.
        max_boxes: most boxes an image that are kept, best first.

    Raises:
        ValueError: see FrozenHead; or ``threshold`` or ``nms`` is outside 0..1.
    """

    def __init__(
        self,
        specs: Sequence[LatentSpec],
        num_outputs: int,
        *,
        network: Frozen,
        threshold: float = 0.05,
        nms: float = 0.45,
        max_boxes: int = 100,
    ):
        super().__init__(specs, num_outputs, network=network)
        for name, value in (("threshold", threshold), ("nms", nms)):
            if not 0 <= value <= 1:
                raise ValueError(f"{name}={value} must be within 0..1")
        self.threshold, self.nms, self.max_boxes = threshold, nms, max_boxes

    def detect(self, raw: dict[str, Tensor], size: tuple[int, int]) -> list[dict[str, Tensor]]:
        """``boxes`` (D, 4) in pixels, within ``size`` (H, W), ``scores`` (D,) and ``classes`` (D,), best first."""
        height, width = size
        most = torch.tensor([width, height, width, height], device=raw["boxes"].device)
        found = []
        for boxes, scores, classes in zip(raw["boxes"], raw["scores"], raw["classes"], strict=True):
            likely = scores > self.threshold
            boxes, scores, best = boxes[likely].float(), scores[likely].float(), classes[likely].argmax(1)
            boxes = torch.minimum(boxes.clamp(min=0), most)
            kept = batched_nms(boxes, scores, best, self.nms)[: self.max_boxes]
            found.append({"boxes": boxes[kept], "scores": scores[kept], "classes": best[kept]})
        return found
