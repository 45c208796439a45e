"""A neural filter in front of a standard codec: its files are that codec's own."""

import warnings
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from models.bitstream import MAX_PIXELS
from models.codecs.base import Codec
from models.codecs.proxies.bridge import MODES, bridge
from models.codecs.proxies.proxy import Proxy
from models.codecs.proxies.real import Coding
from models.codecs.refined import Refined
from models.codecs.standard.base import StandardCodec
from models.outputs import Bitstream, CodecOutput


class Preprocessed(Codec):
    r"""x -> filter -> standard codec -> x_hat; the filter learns through a proxy of the codec.

    ::

        x ─► filter(level) ─► clamp ─┬─► codec, in threads ─► x_hat, bits     the value
                                     └─► proxy ─────────────► x_hat, bits     the gradient

    Whoever decodes needs neither filter nor proxy. Bits are counted over the picture's own height and width: what a
    filter or a proxy pads, it crops.

    Args:
        filter: (pictures (B, 3, H, W) in [0, 1], level in [0, 1] from the lowest rate to the highest) -> filtered
            pictures, not clamped. One that is of use before it is trained says so (``ready``).
        proxy: imitates the codec, holds it, and says which rates there are.
        mode: in training, where values and gradients come from (models/codecs/proxies/bridge.py); an attribute that a
            stage's ``settings`` may change.

    Raises:
        ValueError: an unknown mode.

    Reference: Lu et al., Preprocessing Enhanced Image Compression for Machine Vision, https://arxiv.org/abs/2206.05650.

    Differs from it: value and gradient are taken image by image, for bits too (there, of the batch's mean).
    """

    exact = True
    encoder = ("filter",)
    entropy = ()
    gives = ("bits", "pixels", "extras.filtered")
    refinement = Refined

    def __init__(self, filter: nn.Module, proxy: Proxy, *, mode: str = "real_forward"):
        super().__init__()
        self.filter, self.proxy = filter, proxy
        self.mode = mode
        self.layers, self.rates, self.rate_step = self.codec.layers, proxy.rates, self.codec.rate_step
        self.file_suffix = self.codec.file_suffix
        self.trained = getattr(filter, "ready", False)

    @property
    def codec(self) -> StandardCodec:
        """What writes the files."""
        return self.proxy.codec

    @property
    def mode(self) -> str:
        """One of ``MODES``."""
        return self._mode

    @mode.setter
    def mode(self, mode: str) -> None:
        if mode not in MODES:
            raise ValueError(f"mode={mode!r} must be one of {list(MODES)}")
        self._mode = mode

    def filtered(self, x: Tensor, rate: float) -> Tensor:
        """What the codec is given of pictures (B, 3, H, W) at a rate, in [0, 1]."""
        return self.filter(x, self.proxy.level(rate)).clamp(0, 1)

    def unfiltered(self, x: Tensor, rate: float) -> CodecOutput:
        """What the codec makes of pictures (B, 3, H, W) without a filter; no gradients.

        Where it fails on one: the picture itself, at the bits that the others had.
        """
        real = Coding(self.codec, x, rate).result()
        return CodecOutput(
            tuple(x.shape[-2:]),
            x_hat=torch.where(real.coded[:, None, None, None], real.x_hat, x.detach()),
            bits={"base": torch.where(real.coded, real.bits, real.bits.sum() / real.coded.sum())},
            rate=rate,
        )

    def _forward(self, x: Tensor, rate: float | None, keys: Tensor | None) -> CodecOutput:
        filtered = self.filtered(x, rate)
        if keys is None:
            output = self.codec._forward(filtered.detach(), rate, None)
        else:
            output, failed = bridge(
                filtered,
                self.mode,
                lambda y: Coding(self.codec, y, rate),
                lambda y: self.proxy.imitate(y, rate, keys),
            )
            output.extras["failed"] = failed
        output.extras["filtered"] = filtered
        return output

    def answer(self, batch: Mapping[str, Any], rate: float | None, keys: Tensor) -> CodecOutput:
        """As any codec; warns of the images that the real codec failed on, by name."""
        output = super().answer(batch, rate, keys)
        for position, reason in output.extras.pop("failed", {}).items():
            warnings.warn(
                f"{type(self.codec).__name__} at rate {output.rate:g} fails on {batch['id'][position]} ({reason}): "
                "its proxy stands in",
                stacklevel=2,
            )
        return output

    def _encode(self, x: Tensor, rate: float | None) -> list[dict[str, bytes]]:
        return self.codec._encode(self.filtered(x, rate), rate)

    def _decode(
        self,
        strings: Sequence[dict[str, bytes]],
        size: tuple[int, int],
        rate: float | None,
        want: Collection[str],
    ) -> CodecOutput:
        return self.codec._decode(strings, size, rate, want)

    def serialise(self, bitstream: Bitstream) -> bytes:
        """A plain file of the codec."""
        return self.codec.serialise(bitstream)

    def parse(self, data: bytes, *, max_pixels: int = MAX_PIXELS) -> Bitstream:
        """A plain file of the codec, with this filter or without."""
        bitstream = self.codec.parse(data, max_pixels=max_pixels)
        return Bitstream(bitstream.strings, bitstream.size, self._check_rate(None))

    def check_available(self) -> None:
        """As the codec."""
        self.codec.check_available()

    def about(self) -> dict[str, Any]:
        """The codec's, behind a filter."""
        about = self.codec.about()
        return {**about, "command": f"neural filter, {about['command']}"}
