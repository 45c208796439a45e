"""Mean-scale hyperprior: a Gaussian for every symbol, its mean and scale told by a second, smaller latent."""

import math

import torch
from compressai.entropy_models import GaussianConditional
from torch import Tensor, nn

from models.entropy import coder
from models.entropy.exact import Exact
from models.entropy.latent_codec import LatentCodec, LatentOutput
from models.entropy.noise import uniform_noise
from models.entropy.rounding import round_ste

SCALE_MIN, SCALE_MAX, SCALE_LEVELS = 0.11, 256.0, 160
"""Range of the scale table, and its size: 160 levels in log scale cost 0.02 % over exact scales (64 cost 0.2-0.4 %)."""


class Hyperprior(LatentCodec):
    r"""Codes y given z.

    ::

        y ──┬──► h_a ──► z ──► hyper (Q, factorised) ──► z_hat ──► h_s ──► mean, scale
            └──► Q: round(y - mean) + mean ──► y_hat                          │
                              ▲───────────────────────────────────────────────┘

    Args:
        h_a: hyper-analysis, (B, M, h, w) -> (B, N, h/stride, w/stride).
        h_s: hyper-synthesis, z_hat -> (B, 2 M, h, w): scales, then means.
        hyper: latent codec of z.
        stride: latent positions of y for each of z, along each side.

    Reference: Minnen et al., Joint Autoregressive and Hierarchical Priors for Learned Image Compression, NeurIPS 2018,
    https://arxiv.org/abs/1809.02736, without the autoregressive part.

    Differs from the paper: outside training, scales are rounded to the nearest of the coder's table (in log scale), so
    that estimates are of what is really coded.
    """

    def __init__(self, h_a: nn.Module, h_s: nn.Module, hyper: LatentCodec, *, stride: int = 4):
        super().__init__()
        self.h_a, self.h_s, self.hyper, self.stride = h_a, h_s, hyper, stride
        self.num_strings = hyper.num_strings + 1
        steps = torch.linspace(math.log(SCALE_MIN), math.log(SCALE_MAX), SCALE_LEVELS, dtype=torch.float64)
        self.gaussian_conditional = GaussianConditional(steps.exp().tolist(), scale_bound=SCALE_MIN)
        self._exact_h_s = Exact()

    def train(self, mode: bool = True) -> "Hyperprior":
        self._exact_h_s.forget()
        return super().train(mode)

    def _apply(self, fn, recurse=True):
        self._exact_h_s.forget()
        return super()._apply(fn, recurse)

    def _load_from_state_dict(self, *args):
        self._exact_h_s.forget()
        super()._load_from_state_dict(*args)

    def forward(self, y: Tensor, keys: Tensor | None) -> LatentOutput:
        z = self.hyper(self.h_a(y), keys)
        if keys is None:
            mean, index = self.entropy_parameters(z.y_hat)
            mean, scale = mean.to(y.dtype), self.gaussian_conditional.scale_table[index]
        else:
            scale, mean = self.h_s(z.y_hat).chunk(2, dim=1)
        y_hat = round_ste(y - mean) + mean
        y_tilde = y_hat if keys is None else y + uniform_noise(keys, y.shape, salt=0)
        gaussian = self.gaussian_conditional
        likelihood = gaussian.likelihood_lower_bound(gaussian._likelihood(y_tilde, scale, mean))
        return LatentOutput(y_hat, y_tilde, {"y": likelihood, **z.likelihoods})

    def entropy_parameters(self, z_hat: Tensor) -> tuple[Tensor, Tensor]:
        """(mean, scale index) of every symbol: the same for evaluation and for coding.

        Args:
            z_hat: decoded hyper-latent (B, N, h/stride, w/stride).

        Returns:
            Means, float64 (B, M, h, w), and int64 indexes into the scale table, same shape.
        """
        scale, mean = self._exact_h_s(self.h_s, z_hat).chunk(2, dim=1)
        step = math.log(SCALE_MAX / SCALE_MIN) / (SCALE_LEVELS - 1)
        index = ((scale.clamp(SCALE_MIN, SCALE_MAX) / SCALE_MIN).log() / step).round().long()
        return mean, index

    def compress(self, y: Tensor) -> list[list[bytes]]:
        z = self.h_a(y)
        z_strings = self.hyper.compress(z)
        mean, index = self.entropy_parameters(self.hyper(z, keys=None).y_hat)
        symbols = (y - mean.to(y.dtype)).round().int()
        y_strings = [
            coder.encode(self.gaussian_conditional, s, i) for s, i in zip(symbols, index, strict=True)
        ]
        return [[*z_string, y_string] for z_string, y_string in zip(z_strings, y_strings, strict=True)]

    def decompress(self, strings: list[list[bytes]], shape: tuple[int, int]) -> Tensor:
        z_hat = self.hyper.decompress(
            [s[:-1] for s in strings], (shape[0] // self.stride, shape[1] // self.stride)
        )
        mean, index = self.entropy_parameters(z_hat)
        symbols = [
            coder.decode(self.gaussian_conditional, s[-1], i) for s, i in zip(strings, index, strict=True)
        ]
        mean = mean.to(z_hat.dtype)
        return torch.stack(symbols).to(mean) + mean
