"""One codec's bits and picture, with latents that another codec makes of that picture."""

from collections.abc import Collection, Sequence

from torch import Tensor

from models.codecs.around import Around
from models.codecs.base import Codec
from models.outputs import CodecOutput, LatentSpec


class ReadThrough(Around):
    """Lets tasks that read the latents of ``reader`` run on files of ``codec``: decode, then analyse with ``reader``.

    ::

        file of codec ──► x_hat ──► reader ──► latents

    So a standard codec stands beside a learned one with the very same tasks. Facts about the files are ``codec``'s.

    Args:
        codec: gives the bits, the files and the picture.
        reader: gives the latents; its own bits do not count, for they are never sent.
    """

    def __init__(self, codec: Codec, reader: Codec):
        super().__init__(codec)
        self.reader = reader
        # Latents of an untrained reader are of no use either.
        self.learned, self.trained = codec.learned or reader.learned, codec.trained and reader.trained
        last = self.layers[-1].name
        self.latents = {
            name: LatentSpec(spec.kind, spec.channels, last, stride=spec.stride, length=spec.length)
            for name, spec in reader.latents.items()
        }

    def layers_of(self, reads: Collection[str]) -> tuple[str, ...]:
        """Who reads latents pays for the picture."""
        return self.codec.layers_of(["pixels" if name in self.latents else name for name in reads])

    def _forward(self, x: Tensor, rate: float | None, keys: Tensor | None) -> CodecOutput:
        return self._read(self.codec._forward(x, rate, keys))

    def _decode(
        self,
        strings: Sequence[dict[str, bytes]],
        size: tuple[int, int],
        rate: float | None,
        want: Collection[str],
    ) -> CodecOutput:
        return self._read(self.codec._decode(strings, size, rate, ("pixels",)))

    def _read(self, output: CodecOutput) -> CodecOutput:
        parameter = next(self.reader.parameters(), output.x_hat)
        output.latents = self.reader(output.x_hat.to(parameter.device)).latents
        return output

    def check_available(self) -> None:
        self.codec.check_available()
        self.reader.check_available()
