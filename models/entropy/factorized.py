"""Fully factorised prior: one learned density a channel."""

from collections.abc import Sequence

import torch
from torch import Tensor

from models.entropy.coder import TableCache
from models.entropy.density import FactorizedDensity
from models.entropy.latent_codec import LatentCodec, LatentOutput, Shape, channel_axis
from models.entropy.noise import salt_of, uniform_noise
from models.entropy.rounding import round_ste
from models.entropy.stream import Stream


class Factorized(LatentCodec):
    """z -> Q -> z_hat, with p(z_hat) = prod_c p_c(z_hat_c).

    Args:
        channels: of the latent.
        name: key of its likelihoods, and what tells its noise apart from its siblings'.

    What it is given does not matter to it.

    Reference: Ballé et al., Variational image compression with a scale hyperprior, ICLR 2018,
    https://arxiv.org/abs/1802.01436, appendix 6.1.
    """

    def __init__(self, channels: int, *, name: str = "z"):
        super().__init__()
        self.name = name
        self.entropy_bottleneck = FactorizedDensity(channels)
        self._tables = TableCache()

    def medians(self, dims: int) -> Tensor:
        """Centre of each channel's integer grid, as it broadcasts to a latent of so many dimensions."""
        centres = self.entropy_bottleneck.quantiles[:, 0, 1].detach()
        return centres[None, :, None, None] if dims == 4 else centres

    def forward(self, y: Tensor, keys: Tensor | None, given: Sequence[Tensor] = ()) -> LatentOutput:
        medians = self.medians(y.dim())
        y_hat = round_ste(y - medians) + medians
        y_tilde = y_hat if keys is None else y + uniform_noise(keys, y.shape, salt=salt_of(self.name))
        return LatentOutput(y_hat, y_tilde, {self.name: self._likelihood(y_tilde)})

    def _likelihood(self, y: Tensor) -> Tensor:
        model, axis = self.entropy_bottleneck, channel_axis(y.dim())
        by_channel = y.movedim(axis, 0)
        likelihood, _, _ = model._likelihood(by_channel.reshape(len(by_channel), 1, -1))
        likelihood = model.likelihood_lower_bound(likelihood)
        return likelihood.reshape(by_channel.shape).movedim(0, axis)

    def code(self, stream: Stream, y: Tensor | None, shape: Shape, given: Sequence[Tensor] = ()) -> Tensor:
        model = self.entropy_bottleneck
        rows = channel_rows(stream.count, model.channels, shape)
        return stream.code(y, self.medians(rows.dim()), rows, self._tables(model))


def channel_rows(count: int, channels: int, shape: Shape) -> Tensor:
    """The table row of every symbol where each channel has its own, int16.

    Args:
        count: of images.
        channels: of the latent.
        shape: its own: (h, w), (L,) or ().

    Returns:
        (count, channels, h, w), (count, L, channels) or (count, channels).
    """
    rows = torch.arange(channels, dtype=torch.int16)
    if len(shape) == 2:
        return rows[None, :, None, None].expand(count, channels, *shape)
    return rows.expand(count, *shape, channels)
