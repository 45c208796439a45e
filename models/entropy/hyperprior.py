"""Mean-scale hyperprior: a Gaussian for every symbol, its mean and scale told by a second, smaller latent."""

from compressai.entropy_models import GaussianConditional
from torch import Tensor, nn

from models.entropy.coder import TableCache
from models.entropy.exact import Exact
from models.entropy.latent_codec import LatentCodec, LatentOutput
from models.entropy.noise import uniform_noise
from models.entropy.rounding import round_ste
from models.entropy.scale_index import SCALE_MIN, ScaleIndex, fine_table
from models.entropy.stream import Stream


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
        self.gaussian_conditional = GaussianConditional(fine_table(), scale_bound=SCALE_MIN)
        self._exact_h_s, self._scale_index, self._tables = Exact(), ScaleIndex(), TableCache()

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
            mean, scale = mean.to(y.dtype), self.gaussian_conditional.scale_table[index.long()]
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
            Means, float64 (B, M, h, w), and int16 indexes into the scale table, same shape.
        """
        scale, mean = self._exact_h_s(self.h_s, z_hat).chunk(2, dim=1)
        return mean, self._scale_index(scale, self.gaussian_conditional.scale_table)

    def code(self, stream: Stream, y: Tensor | None, shape: tuple[int, int]) -> Tensor:
        z = None if y is None else self.h_a(y)
        z_hat = self.hyper.code(stream, z, (shape[0] // self.stride, shape[1] // self.stride))
        mean, index = self.entropy_parameters(z_hat)
        return stream.code(y, mean.to(z_hat.dtype), index, self._tables(self.gaussian_conditional))
