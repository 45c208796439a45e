"""LatentCodec: a latent becomes bits and comes back. Latent codecs nest, so an entropy model is a tree of them."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from models.entropy.stream import Reader, Stream, Writer


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
    """Base of the tree's nodes. It computes in fp32 (training) or float64 (coding), whatever autocast says."""

    def forward(self, y: Tensor, keys: Tensor | None) -> LatentOutput:
        """Quantise and estimate.

        Args:
            y: latent (B, M, h, w), float32.
            keys: one key for each sample, int64 (B,), seed the training noise (models/entropy/noise.py); ``None`` in
                evaluation. Not ``self.training``: a frozen prior still serves an encoder that trains.
        """
        raise NotImplementedError

    def code(self, stream: Stream, y: Tensor | None, shape: tuple[int, int]) -> Tensor:
        """Write y to a stream, or read it: the latents in the order a decoder needs them.

        Args:
            stream: the strings of the batch; a layer's latent codecs share one, and one coder state an image.
            y: latent (B, M, h, w), float32, when writing; ``None`` when reading.
            shape: (h, w).

        Returns:
            y_hat (B, M, h, w), what a decoder has.
        """
        raise NotImplementedError

    def compress(self, y: Tensor) -> list[bytes]:
        """The string of each image."""
        stream = Writer(len(y))
        self.code(stream, y, tuple(y.shape[-2:]))
        return stream.finish()

    def decompress(self, strings: Sequence[bytes], shape: tuple[int, int]) -> Tensor:
        """y_hat (B, M, h, w) from each image's string; ``shape`` is (h, w).

        Raises:
            BitstreamError: a string that ``compress`` did not write with these weights and this shape.
        """
        stream = Reader(strings)
        y_hat = self.code(stream, None, shape)
        stream.finish()
        return y_hat
