"""A codec around another one, whose files it writes and reads as they are."""

from collections.abc import Collection, Sequence
from typing import Any

from torch import Tensor

from models.bitstream import MAX_PIXELS
from models.codecs.base import Codec
from models.outputs import Bitstream, CodecOutput

FACTS = (
    "layers", "pixel_layers", "latents", "stride", "gives", "rates", "rate_step", "continuous", "trained",
    "file_suffix", "exact", "uncompressed", "learned",
)  # fmt: skip


class Around(Codec):
    """Base of what changes one side of a codec: facts and all that is not written anew are that codec's.

    Args:
        codec: the one inside.
    """

    def __init__(self, codec: Codec):
        super().__init__()
        self.codec = codec
        for fact in FACTS:
            setattr(self, fact, getattr(codec, fact))

    def _forward(self, x: Tensor, rate: float | None, keys: Tensor | None) -> CodecOutput:
        return self.codec._forward(x, rate, keys)

    def _encode(self, x: Tensor, rate: float | None) -> list[dict[str, bytes]]:
        return self.codec._encode(x, rate)

    def _decode(
        self,
        strings: Sequence[dict[str, bytes]],
        size: tuple[int, int],
        rate: float | None,
        want: Collection[str],
    ) -> CodecOutput:
        return self.codec._decode(strings, size, rate, want)

    def serialise(self, bitstream: Bitstream) -> bytes:
        return self.codec.serialise(bitstream)

    def parse(self, data: bytes, *, max_pixels: int = MAX_PIXELS) -> Bitstream:
        return self.codec.parse(data, max_pixels=max_pixels)

    def check_available(self) -> None:
        self.codec.check_available()

    def about(self) -> dict[str, Any]:
        return self.codec.about()
