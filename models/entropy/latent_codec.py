"""LatentCodec: a latent becomes bits and comes back. Latent codecs nest, so an entropy model is a tree of them."""

from dataclasses import dataclass

from torch import Tensor, nn


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

    num_strings: int
    """Strings that one image takes."""

    def forward(self, y: Tensor, keys: Tensor | None) -> LatentOutput:
        """Quantise and estimate.

        Args:
            y: latent (B, M, h, w), float32.
            keys: one key for each sample, int64 (B,), seed the training noise (models/entropy/noise.py); ``None`` in
                evaluation. Not ``self.training``: a frozen prior still serves an encoder that trains.
        """
        raise NotImplementedError

    def compress(self, y: Tensor) -> list[list[bytes]]:
        """The strings of each image, in the order ``decompress`` takes them."""
        raise NotImplementedError

    def decompress(self, strings: list[list[bytes]], shape: tuple[int, int]) -> Tensor:
        """y_hat (B, M, h, w) from each image's strings; ``shape`` is (h, w)."""
        raise NotImplementedError
