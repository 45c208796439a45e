"""Refinement of a scalable face codec at the encoder: tokens follow a teacher for some gradient steps."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from models.codecs.around import Around
from models.codecs.base import Codec
from models.codecs.refined import Teacher
from models.outputs import CodecOutput


class RefinedFace(Around):
    """A scalable face codec whose tokens are found by ``steps`` of Adam on  bits + weight * d, from its encoder's on.

    The first half of the steps draws tokens that are not rounded: rounded from the beginning, they stay where they are.
    The second half rounds. Both pay for bits: what wandered off for d alone does not find back. What comes out is kept
    for the images that it is better for by that measure. A step costs a pass through generator and teacher, and back.
    Files are the codec's.

    Args:
        codec: a ``models.codecs.scalable_face.ScalableFace`` in evaluation mode.
        steps: how many.
        teacher: what the pictures shall be good for: a task's ``compared_with``, or any distance d of pictures,
            features or identities. A fair judge of the files is another one.
        lr: of Adam, in steps of the quantiser.
        weight: bits that a unit of d is worth.
        side: longer side that pictures are compared at, in pixels, where theirs is larger; ``None``: their own. A
            generator's time grows with it.
        on_step: called after every step, from whatever thread.

    Raises:
        ValueError: a number is out of range.

    Attributes:
        seconds: that each image took, as far as they have been coded.
    """

    def __init__(
        self,
        codec: Codec,
        steps: int,
        teacher: Teacher,
        *,
        lr: float = 0.2,
        weight: float = 1000.0,
        side: int | None = None,
        on_step: Callable[[], None] = lambda: None,
    ):
        super().__init__(codec)
        if steps < 1:
            raise ValueError(f"steps={steps} of refinement must be at least 1")
        for name, value in (("lr", lr), ("weight", weight), ("side", side)):
            if value is not None and value <= 0:
                raise ValueError(f"{name}={value} of refinement must be above 0")
        self.steps, self.teacher = steps, teacher
        self.lr, self.weight, self.side, self.on_step = lr, weight, side, on_step
        self.seconds: list[float] = []

    def found(self, x: Tensor) -> list[Tensor]:
        """Tokens of every layer, (B, tokens, channels), for pictures (B, 3, H, W) in [0, 1]."""
        start = time.perf_counter()
        # Files are coded in inference mode, whose tensors know no gradients.
        with torch.inference_mode(False), torch.enable_grad():
            x = x.detach().clone()
            first = [y.detach().clone() for y in self.codec.tokens(self.codec.offsets(x))]
            if self.side is not None and max(x.shape[-2:]) > self.side:
                size = [max(1, round(length * self.side / max(x.shape[-2:]))) for length in x.shape[-2:]]
                x = F.interpolate(x, size, mode="bilinear", align_corners=False, antialias=True)
            compare, size = self.teacher(x), tuple(x.shape[-2:])
            tokens = [y.clone().requires_grad_() for y in first]
            # The same for every image: each is refined as it would be alone.
            keys = torch.zeros(len(x), dtype=torch.int64, device=x.device)
            adam = torch.optim.Adam(tokens, lr=self.lr)
            for step in range(self.steps):
                loss = self._cost(tokens, size, keys, compare, rounded=step >= self.steps // 2).sum()
                for token, gradient in zip(tokens, torch.autograd.grad(loss, tokens), strict=True):
                    token.grad = gradient
                adam.step()
                self.on_step()
            with torch.no_grad():
                before, after = (self._cost(each, size, None, compare) for each in (first, tokens))
                better = (after < before)[:, None, None]
                kept = [torch.where(better, b, a) for a, b in zip(first, tokens, strict=True)]
        self.seconds.append((time.perf_counter() - start) / len(x))
        return kept

    def _cost(
        self,
        tokens: Sequence[Tensor],
        size: tuple[int, int],
        keys: Tensor | None,
        compare: Callable[[Tensor], Tensor],
        *,
        rounded: bool = True,
    ) -> Tensor:
        """What each image's tokens cost, (B,): under noise with keys, as they will be coded without."""
        output = self.codec.estimate(tokens, size, keys)
        offsets = output.extras["offsets_hat"] if rounded else self.codec.decoded_offsets(tokens)
        (picture,) = self.codec.drawn([offsets], size)
        return sum(output.bits.values()) + self.weight * compare(picture.clamp(0, 1))

    def _forward(self, x: Tensor, rate: float | None, keys: Tensor | None) -> CodecOutput:
        output = self.codec.estimate(self.found(x), tuple(x.shape[-2:]), None)
        output.extras["offsets"] = self.codec.offsets(x)
        self.codec.show(output, None)
        return output

    def _encode(self, x: Tensor, rate: float | None) -> list[dict[str, bytes]]:
        return self.codec.write(self.found(x))

    def model_id(self) -> bytes:
        """The codec's."""
        return self.codec.model_id()

    def about(self) -> dict[str, Any]:
        """With the refinement."""
        return {**self.codec.about(), "refined": f"{self.steps} steps"}
