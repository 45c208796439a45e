"""Fully factorised prior of tokens: one learned density for each channel of each token."""

from collections.abc import Sequence

from torch import Tensor

from models.entropy.factorized import Factorized
from models.entropy.latent_codec import LatentOutput, Shape
from models.entropy.stream import Stream


class FactorizedTokens(Factorized):
    """As ``Factorized``, for tokens (B, length, channels) that are no neighbours: no two of them share a density.

    Args:
        length: number of tokens.
        channels: of each.
        name: key of its likelihoods, and what tells its noise apart from its siblings'.
    """

    def __init__(self, length: int, channels: int, *, name: str = "z"):
        super().__init__(length * channels, name=name)
        self.shape = length, channels

    def forward(self, y: Tensor, keys: Tensor | None, given: Sequence[Tensor] = ()) -> LatentOutput:
        latent = super().forward(y.flatten(1), keys)
        likelihoods = {name: p.unflatten(1, self.shape) for name, p in latent.likelihoods.items()}
        return LatentOutput(
            latent.y_hat.unflatten(1, self.shape), latent.y_tilde.unflatten(1, self.shape), likelihoods
        )

    def code(self, stream: Stream, y: Tensor | None, shape: Shape, given: Sequence[Tensor] = ()) -> Tensor:
        return super().code(stream, None if y is None else y.flatten(1), ()).unflatten(1, self.shape)

    def expect(
        self, count: int, shape: Shape, given: Sequence[Tensor] = (), keys: Tensor | None = None
    ) -> Tensor:
        return self.medians(2).unflatten(0, self.shape).expand(count, -1, -1)  # without tables, too
