"""LatentCodec: a latent becomes bits and comes back. Latent codecs nest, so an entropy model is a tree of them.

Legend: B images, C channels; a latent is a map (B, C, h, w), tokens (B, L, C) or a vector (B, C).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from models.entropy.stream import Expected, Reader, Stream, Writer

Shape = tuple[int, ...]
"""A latent's own shape, without images and channels: (h, w), (L,) or ()."""


@dataclass
class LatentOutput:
    """What a latent codec returns from ``forward``.

    Attributes:
        y_hat: the value a decoder has, same shape as y; straight-through gradient in training.
        y_tilde: y plus the uniform noise the rate was estimated with (training), else ``y_hat``.
        likelihoods: {name: probabilities in (0, 1]} of every coded tensor, float32.
    """

    y_hat: Tensor
    y_tilde: Tensor
    likelihoods: dict[str, Tensor]


class LatentCodec(nn.Module):
    """Base of the tree's nodes. It computes in fp32 (training) or float64 (coding), whatever autocast says.

    What it may be given beside its latent is what a decoder has before it reads this one's string: other latents'
    ``y_hat``, other streams, (B, ...) each, in an order that its parameter network knows. Each string holds one latent
    codec's symbols, so a decoder needs no more than the strings that come before it.

    Attributes:
        stride: maps that it codes have sides that are multiples of it.
    """

    stride: int = 1

    def forward(self, y: Tensor, keys: Tensor | None, given: Sequence[Tensor] = ()) -> LatentOutput:
        """Quantise and estimate.

        Args:
            y: latent, float32.
            keys: one key for each sample, int64 (B,), seed the training noise (models/entropy/noise.py); ``None`` in
                evaluation. Not ``self.training``: a frozen prior still serves an encoder that trains.
            given: what a decoder already has.
        """
        raise NotImplementedError

    def code(self, stream: Stream, y: Tensor | None, shape: Shape, given: Sequence[Tensor] = ()) -> Tensor:
        """Write y to a stream, or read it: the latents in the order a decoder needs them.

        Args:
            stream: the strings of the batch; a layer's latent codecs share one, and one coder state an image.
            y: latent, float32, when writing; ``None`` when reading.
            shape: the latent's own.
            given: as to ``forward``; the values must be the encoder's, bit by bit.

        Returns:
            y_hat, what a decoder has, float32.
        """
        raise NotImplementedError

    def compress(self, y: Tensor, given: Sequence[Tensor] = ()) -> list[bytes]:
        """The string of each image."""
        stream = Writer(len(y))
        self.code(stream, y, own_shape(y), given)
        return stream.finish()

    def decompress(self, strings: Sequence[bytes], shape: Shape, given: Sequence[Tensor] = ()) -> Tensor:
        """y_hat from each image's string.

        Raises:
            BitstreamError: a string that ``compress`` did not write with these weights, this shape and these ``given``.
        """
        stream = Reader(strings)
        y_hat = self.code(stream, None, shape, given)
        stream.finish()
        return y_hat

    def expect(
        self, count: int, shape: Shape, given: Sequence[Tensor] = (), keys: Tensor | None = None
    ) -> Tensor:
        """The y_hat that stands for strings that are not there: every symbol at its distribution's centre.

        Args:
            count: of images.
            shape: the latent's own.
            given: as to ``forward``: what a decoder has, or expects.
            keys: as to ``forward``; with keys, gradients reach the network that tells the centres, where one does.
        """
        return self.code(Expected(count), None, shape, given)


def channel_axis(dims: int) -> int:
    """Where a latent of so many dimensions has its channels: 1 in maps, the last in tokens and vectors."""
    return 1 if dims == 4 else dims - 1


def own_shape(y: Tensor) -> Shape:
    """A latent's shape without images and channels: (h, w), (L,) or ()."""
    return tuple(y.shape[2:] if y.dim() == 4 else y.shape[1:-1])
