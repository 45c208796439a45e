"""Fully factorised prior: one learned density a channel."""

import torch
from compressai.entropy_models import EntropyBottleneck
from torch import Tensor

from models.entropy import coder
from models.entropy.latent_codec import LatentCodec, LatentOutput
from models.entropy.noise import uniform_noise
from models.entropy.rounding import round_ste


class Factorized(LatentCodec):
    """z -> Q -> z_hat, with p(z_hat) = prod_c p_c(z_hat_c).

    Args:
        channels: of the latent.
        name: key of its likelihoods, and what tells its noise apart from its siblings'.

    Reference: Ballé et al., Variational image compression with a scale hyperprior, ICLR 2018,
    https://arxiv.org/abs/1802.01436, appendix 6.1.
    """

    num_strings = 1

    def __init__(self, channels: int, *, name: str = "z"):
        super().__init__()
        self.name = name
        self.entropy_bottleneck = EntropyBottleneck(channels)

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

    def symbols(self, y: Tensor) -> Tensor:
        """The integers that are coded, int32, same shape as ``y``."""
        return (y - self.medians).round().int()

    def compress(self, y: Tensor) -> list[list[bytes]]:
        return [[coder.encode(self.entropy_bottleneck, s, self._rows(s.shape))] for s in self.symbols(y)]

    def decompress(self, strings: list[list[bytes]], shape: tuple[int, int]) -> Tensor:
        rows = self._rows((self.entropy_bottleneck.channels, *shape))
        symbols = [coder.decode(self.entropy_bottleneck, string, rows) for (string,) in strings]
        return torch.stack(symbols).to(self.medians) + self.medians

    def _rows(self, shape: tuple[int, ...]) -> Tensor:
        channel = torch.arange(shape[0], dtype=torch.int32, device=self.medians.device)
        return channel[:, None, None].expand(shape)
