"""The identity codec: the picture itself at 24 bits per pixel."""

from collections.abc import Collection, Sequence

import numpy as np
import torch
from torch import Tensor

from models.codecs.base import Codec
from models.outputs import CodecOutput


class Identity(Codec):
    """x_hat = x: the upper bound of every task, and how tasks are trained on originals."""

    learned, exact, uncompressed = False, True, True

    def _forward(self, x: Tensor, rate: float | None, keys: Tensor | None) -> CodecOutput:
        size = tuple(x.shape[-2:])
        return CodecOutput(size, x_hat=x, bits={"base": x.new_full((len(x),), 24.0 * size[0] * size[1])})

    def _encode(self, x: Tensor, rate: float | None) -> list[dict[str, bytes]]:
        pixels = (x.clamp(0, 1) * 255).round().byte().cpu().numpy()
        return [{"base": image.tobytes()} for image in pixels]

    def _decode(
        self,
        strings: Sequence[dict[str, bytes]],
        size: tuple[int, int],
        rate: float | None,
        want: Collection[str],
    ) -> CodecOutput:
        pixels = np.stack([np.frombuffer(s["base"], np.uint8).reshape(3, *size) for s in strings])
        return CodecOutput(size, x_hat=torch.from_numpy(pixels / np.float32(255)))
