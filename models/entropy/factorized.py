"""Fully factorised prior: one learned density a channel."""

import torch
from compressai.entropy_models import EntropyBottleneck
from torch import Tensor

from models.entropy.coder import TableCache
from models.entropy.latent_codec import LatentCodec, LatentOutput
from models.entropy.noise import uniform_noise
from models.entropy.rounding import round_ste
from models.entropy.stream import Stream


class Factorized(LatentCodec):
    """z -> Q -> z_hat, with p(z_hat) = prod_c p_c(z_hat_c).

    Args:
        channels: of the latent.
        name: key of its likelihoods, and what tells its noise apart from its siblings'.

    Reference: Ballé et al., Variational image compression with a scale hyperprior, ICLR 2018,
    https://arxiv.org/abs/1802.01436, appendix 6.1.
    """

    def __init__(self, channels: int, *, name: str = "z"):
        super().__init__()
        self.name = name
        self.entropy_bottleneck = EntropyBottleneck(channels)
        self._tables = TableCache()

    @property
    def medians(self) -> Tensor:
        """Centre of each channel's integer grid, (1, C, 1, 1)."""
        return self.entropy_bottleneck.quantiles[:, 0, 1].detach()[None, :, None, None]

    def forward(self, y: Tensor, keys: Tensor | None) -> LatentOutput:
        y_hat = round_ste(y - self.medians) + self.medians
        y_tilde = y_hat if keys is None else y + uniform_noise(keys, y.shape, salt=sum(self.name.encode()))
        return LatentOutput(y_hat, y_tilde, {self.name: self._likelihood(y_tilde)})

    def _likelihood(self, y: Tensor) -> Tensor:
        model, channels = self.entropy_bottleneck, y.shape[1]
        likelihood, _, _ = model._likelihood(y.transpose(0, 1).reshape(channels, 1, -1))
        likelihood = model.likelihood_lower_bound(likelihood)
        return likelihood.reshape(channels, len(y), *y.shape[2:]).transpose(0, 1)

    def code(self, stream: Stream, y: Tensor | None, shape: tuple[int, int]) -> Tensor:
        model = self.entropy_bottleneck
        rows = channel_rows(stream.count, model.channels, shape)
        return stream.code(y, self.medians, rows, self._tables(model))


def channel_rows(count: int, channels: int, shape: tuple[int, int]) -> Tensor:
    """The table row of every symbol where each channel has its own: int16 (count, channels, h, w)."""
    return torch.arange(channels, dtype=torch.int16)[None, :, None, None].expand(count, channels, *shape)
