"""A filter in front of another codec, learned through a proxy of that codec."""

from collections.abc import Collection, Sequence

from torch import Tensor, nn

from models.bitstream import MAX_PIXELS
from models.codecs.base import Codec
from models.outputs import Bitstream, CodecOutput


class Filtered(Codec):
    """x -> filter -> codec: files of the codec. Values are the codec's own, gradients the proxy's.

    Args:
        codec: what really codes; it has no gradients.
        proxy: a codec that has.
        width: of the filter.
        rates: of the codec, those that are used.
    """

    exact = True
    entropy = ()
    encoder = ("filter",)
    gives = ("bits", "pixels", "extras.filtered")

    def __init__(self, codec: Codec, proxy: Codec, *, width: int = 8, rates: Sequence[float] = (10, 60)):
        super().__init__()
        self.codec, self.proxy = codec, proxy
        self.filter = nn.Sequential(
            nn.Conv2d(3, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, 3, 3, padding=1)
        )
        self.layers, self.rates, self.rate_step = codec.layers, tuple(map(float, rates)), codec.rate_step
        self.file_suffix = codec.file_suffix

    def _filtered(self, x: Tensor) -> Tensor:
        return (x + 0.1 * self.filter(x)).clamp(0, 1)

    def _forward(self, x: Tensor, rate: float | None, keys: Tensor | None) -> CodecOutput:
        filtered = self._filtered(x)
        real = self.codec._forward(filtered.detach(), rate, None)
        real.extras = {"filtered": filtered}
        if keys is not None:
            imitation = self.proxy(filtered, keys=keys)
            real.x_hat = imitation.x_hat + (real.x_hat - imitation.x_hat).detach()
            bits = sum(imitation.bits.values())
            real.bits = {"base": bits + (real.bits["base"] - bits).detach()}
        return real

    def _encode(self, x: Tensor, rate: float | None) -> list[dict[str, bytes]]:
        return self.codec._encode(self._filtered(x), rate)

    def _decode(
        self,
        strings: Sequence[dict[str, bytes]],
        size: tuple[int, int],
        rate: float | None,
        want: Collection[str],
    ) -> CodecOutput:
        return self.codec._decode(strings, size, rate, want)

    def serialise(self, bitstream: Bitstream) -> bytes:
        """A file of the codec behind."""
        return self.codec.serialise(bitstream)

    def parse(self, data: bytes, *, max_pixels: int = MAX_PIXELS) -> Bitstream:
        """A file of the codec behind."""
        bitstream = self.codec.parse(data, max_pixels=max_pixels)
        return Bitstream(bitstream.strings, bitstream.size, self._check_rate(None))
