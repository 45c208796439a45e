"""Standard codecs as Codecs: subclasses say how one 8-bit picture becomes a file and comes back."""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models.bitstream import MAX_PIXELS, MAX_SIDE, BitstreamError, check_pixels
from models.codecs.base import Codec
from models.outputs import Bitstream, CodecOutput


class MissingEncoder(ImportError):
    """The program or library behind a standard codec is not installed; the message says how to install it."""


class StandardCodec(Codec):
    """A codec that is somebody else's program. No gradients; ``forward`` really codes, so its bits are exact.

    A subclass sets ``rates`` and ``file_suffix`` and implements ``encode`` and ``decode``; ``read_size`` spares
    ``parse`` a second decode, ``about`` is what result rows store, ``check_available`` raises ``MissingEncoder``.
    Constructing one needs no library. Every call makes an encoder or decoder of its own, limited to one thread where
    the library can be told: threads of the caller, one an image, are how to use many cores.

    Attributes:
        rates: the default ladder, ordered from fewest to most bits; its ends are the range that is allowed.
        rate_step: as in ``Codec``; rates between two steps are rounded.
        max_side: the longest side, in pixels, that both encoder and decoder take.
    """

    learned, exact = False, True
    rate_step = 1.0
    max_side = MAX_SIDE

    def encode(self, image: np.ndarray, rate: float) -> bytes:
        """uint8 (H, W, 3) RGB -> a whole file, at the codec's native quality ``rate``.

        Raises:
            MissingEncoder: what codes is not installed.
        """
        raise NotImplementedError

    def decode(self, data: bytes) -> np.ndarray:
        """A whole file -> uint8 (H, W, 3) RGB.

        Raises:
            BitstreamError: the decoder cannot read the bytes. Most of these formats hold no checksum: a flipped bit
                that still makes a legal file gives another picture.
            MissingEncoder: what decodes is not installed.
        """
        raise NotImplementedError

    def read_size(self, data: bytes) -> tuple[int, int]:
        """(H, W) of the picture in a file, from its header where the subclass can. Raises as ``decode`` does."""
        return self.decode(data).shape[:2]

    def check_size(self, size: tuple[int, int]) -> None:
        """Do nothing where a picture of (H, W) can be coded.

        Raises:
            ValueError: a side is too long for the format or for the program behind it.
        """
        if max(size) > self.max_side:
            raise ValueError(
                f"image size {size[1]}x{size[0]} (width x height): {type(self).__name__} takes sides of at most "
                f"{self.max_side} pixels: cut the image or make it smaller, or take another codec"
            )

    def about(self) -> dict[str, Any]:
        """What made the files, as plain JSON, to be stored with every result.

        Returns:
            ``"command"``: the exact call, ``{rate}`` standing for the rate; ``"settings"``: in words, its ``"preset"``
            (effort), its ``"tuning"`` (what the encoder weighs errors by) and its ``"chroma"`` (subsampling, depth);
            ``"colour"``: the conversion; ``"versions"``: {library: version} of what is installed.
        """
        call = f"{type(self).__module__}.{type(self).__qualname__}.encode(image, {{rate}})"
        own = "the codec's own"
        settings = {"preset": own, "tuning": own, "chroma": own}
        return {"command": call, "settings": settings, "colour": own, "versions": {}}

    def _forward(self, x: Tensor, rate: float | None, keys: Tensor | None) -> CodecOutput:
        strings = self._encode(x.detach(), rate)
        output = self._decode(strings, tuple(x.shape[-2:]), rate, ("pixels",))
        output.x_hat = output.x_hat.to(x)
        output.bits = {"base": x.new_tensor([8.0 * len(s["base"]) for s in strings])}
        return output

    def _encode(self, x: Tensor, rate: float | None) -> list[dict[str, bytes]]:
        self.check_size(tuple(x.shape[-2:]))
        return [{"base": self.encode(np.ascontiguousarray(image), rate)} for image in levels_of(x)]

    def _decode(
        self,
        strings: Sequence[dict[str, bytes]],
        size: tuple[int, int],
        rate: float | None,
        want: Collection[str],
    ) -> CodecOutput:
        pictures = [self.decode(s["base"]) for s in strings]
        for picture in pictures:
            if picture.shape[:2] != tuple(size):
                height, width = picture.shape[:2]
                raise BitstreamError(f"the file decodes to {height}x{width} instead of {size[0]}x{size[1]}")
        pixels = torch.from_numpy(np.stack(pictures))
        return CodecOutput(size, x_hat=pixels.permute(0, 3, 1, 2).float().div_(255))

    def serialise(self, bitstream: Bitstream) -> bytes:
        """The codec's own file, as any other program reads it."""
        return bitstream.strings["base"]

    def parse(self, data: bytes, *, max_pixels: int = MAX_PIXELS) -> Bitstream:
        """A file of the codec's own kind; its native rate is not stored in it, so it is the codec's default."""
        size = self.read_size(data)
        check_pixels(size, max_pixels)
        return Bitstream({"base": data}, size, self._check_rate(None))


def levels_of(x: Tensor) -> np.ndarray:
    """The 8-bit pictures (B, H, W, 3) that an encoder is given of (B, 3, H, W) in [0, 1], clipped."""
    # Truncated by byte(), so rounded half up; two passes over the picture, which count beside a JPEG's time.
    levels = torch.add(x.new_tensor(0.5), x, alpha=255).clamp_(0, 255.5)
    return levels.byte().permute(0, 2, 3, 1).cpu().numpy()


@contextmanager
def reading(kind: str) -> Iterator[None]:
    """Turn whatever a foreign decoder raises on bytes of unknown origin into a ``BitstreamError`` of one line.

    Args:
        kind: of file that was expected, for the message.
    """
    try:
        yield
    except (BitstreamError, MissingEncoder):
        raise
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise BitstreamError(f"not a whole, unharmed {kind} file: {reason}") from error
