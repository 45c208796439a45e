"""Refinement at the encoder: each picture is changed by a few gradient steps before it is coded."""

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from models.codecs.around import Around
from models.codecs.base import Codec
from models.outputs import CodecOutput
from models.preprocessing.blocks import grid_of, scaled

Teacher = Callable[[Tensor], Callable[[Tensor], Tensor]]
"""Originals (B, 3, H, W) -> (decoded pictures -> how much worse they are, (B,)), as a task's ``compared_with``."""


def refined(codec: Codec, steps: int, teacher: Teacher, **options: Any) -> Codec:
    """A codec with a costlier encoder: so many gradient steps on each picture. Its files are read as ever.

    Args:
        codec: in evaluation mode.
        steps: how many, at least 1.
        teacher: what the pictures shall be good for.
        options: of the codec's own ``refinement``, which is called with all of these.

    Returns:
        In evaluation mode; its ``seconds`` grow by what each picture took.

    Raises:
        ValueError: this codec knows no refinement.
    """
    if codec.refinement is None:
        raise ValueError(
            f"{type(codec).__name__} knows no refinement at the encoder: filters in front of standard codecs do"
        )
    return codec.refinement(codec, steps, teacher, **options).eval()


class Refined(Around):
    """A filter and a standard codec, with gains on each picture's blocks that are found at the encoder.

    ::

        x ─► filter ─► · gains ─► codec          gains: ``steps`` of Adam on  ln bits + ln(d + floor) / slope
                          ▲          proxy ─► bits, x_hat ─► teacher ─► d        image by image, without labels

    Files, and whoever reads them, are the codec's. A step costs a pass through proxy and teacher, and back; pictures of
    a batch are refined at once, and as each would be alone.

    Args:
        codec: a ``models.codecs.preprocessed.Preprocessed`` in evaluation mode.
        steps: how many.
        teacher: what the pictures shall be good for. The encoder then knows what the teacher says of the original: a
            fair judge of the files is another one.
        lr: of Adam, in units of the gains.
        most: the largest gain. Above 1, contrast is added that the teacher alone may like.
        slope: by how much ln d falls where ln bits rises along the codec's own ladder.
        floor: of d, in its unit.
        on_step: called after every step, from whatever thread.

    Raises:
        ValueError: a number is out of range.

    Attributes:
        seconds: that each image took, as far as they have been coded.
    """

    entropy = ()

    def __init__(
        self,
        codec: Codec,
        steps: int,
        teacher: Teacher,
        *,
        lr: float = 0.2,
        most: float = 1.0,
        slope: float = 1.0,
        floor: float = 0.05,
        on_step: Callable[[], None] = lambda: None,
    ):
        super().__init__(codec)
        if steps < 1:
            raise ValueError(f"steps={steps} of refinement must be at least 1")
        for name, value in (("lr", lr), ("most", most), ("slope", slope), ("floor", floor)):
            if value <= 0:
                raise ValueError(f"{name}={value} of refinement must be above 0")
        self.steps, self.lr, self.most = steps, lr, most
        self.slope, self.floor = slope, floor
        self.teacher, self.on_step = teacher, on_step
        self.seconds: list[float] = []

    def changed(self, x: Tensor, rate: float) -> Tensor:
        """What the standard codec is given of pictures (B, 3, H, W) at a rate, in [0, 1]."""
        start = time.perf_counter()
        # Files are coded in inference mode, whose tensors know no gradients.
        with torch.inference_mode(False), torch.enable_grad():
            x = x.detach().clone()
            filtered, compare = self.codec.filtered(x, rate).detach(), self.teacher(x)
            # A learned proxy's bits have gradients under noise alone: the same for every image.
            keys = torch.zeros(len(x), dtype=torch.int64, device=x.device)
            gains = torch.ones(len(x), 1, *grid_of(tuple(x.shape[-2:])), device=x.device, requires_grad=True)
            adam = torch.optim.Adam([gains], lr=self.lr)
            for _ in range(self.steps):
                answer = self.codec.proxy.imitate(scaled(filtered, gains).clamp(0, 1), rate, keys)
                worse = (compare(answer.x_hat) + self.floor).log()
                loss = sum(answer.bits.values()).log() + worse / self.slope
                (gains.grad,) = torch.autograd.grad(loss.sum(), [gains])
                adam.step()
                gains.data.clamp_(0, self.most)
                self.on_step()
            found = scaled(filtered, gains.detach()).clamp(0, 1)
        self.seconds.append((time.perf_counter() - start) / len(x))
        return found

    def _forward(self, x: Tensor, rate: float | None, keys: Tensor | None) -> CodecOutput:
        found = self.changed(x, rate)
        output = self.codec.codec._forward(found, rate, None)
        output.extras["filtered"] = found
        return output

    def _encode(self, x: Tensor, rate: float | None) -> list[dict[str, bytes]]:
        return self.codec.codec._encode(self.changed(x, rate), rate)

    def about(self) -> dict[str, Any]:
        """The codec's, with the refinement."""
        about = self.codec.about()
        return {**about, "command": f"{about['command']}, refined by {self.steps} steps"}
