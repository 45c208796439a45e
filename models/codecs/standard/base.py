"""Standard codecs as Codecs: subclasses say how one 8-bit picture becomes a file and comes back."""

from collections.abc import Collection, Sequence

import numpy as np
import torch
from torch import Tensor

from models.codecs.base import Codec
from models.outputs import Bitstream, CodecOutput


class StandardCodec(Codec):
    """A codec that is somebody else's program. No gradients; ``forward`` really codes, so its bits are exact.

    A subclass sets ``rates`` and ``file_suffix`` and implements ``encode`` and ``decode``.
    """

    def encode(self, image: np.ndarray, rate: float) -> bytes:
        """uint8 (H, W, 3) RGB -> a whole file, at the codec's native quality ``rate``."""
        raise NotImplementedError

    def decode(self, data: bytes) -> np.ndarray:
        """A whole file -> uint8 (H, W, 3) RGB."""
        raise NotImplementedError

    def _forward(self, x: Tensor, rate: float | None, keys: Tensor | None) -> CodecOutput:
        strings = self._encode(x.detach(), rate)
        output = self._decode(strings, tuple(x.shape[-2:]), rate, ("pixels",))
        output.x_hat = output.x_hat.to(x)
        output.bits = {"base": x.new_tensor([8.0 * len(s["base"]) for s in strings])}
        return output

    def _encode(self, x: Tensor, rate: float | None) -> list[dict[str, bytes]]:
        pixels = (x.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
        return [{"base": self.encode(np.ascontiguousarray(image), rate)} for image in pixels]

    def _decode(
        self,
        strings: Sequence[dict[str, bytes]],
        size: tuple[int, int],
        rate: float | None,
        want: Collection[str],
    ) -> CodecOutput:
        pixels = np.stack([self.decode(s["base"]) for s in strings])
        return CodecOutput(size, x_hat=torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255)

    def serialise(self, bitstream: Bitstream) -> bytes:
        """The codec's own file, as any other program reads it."""
        return bitstream.strings["base"]

    def parse(self, data: bytes) -> Bitstream:
        """A file of the codec's own kind; its native rate is not stored in it, so it is the codec's default."""
        return Bitstream({"base": data}, self.decode(data).shape[:2], self._check_rate(None))
