"""Mean-scale hyperprior: a Gaussian for every symbol, its mean and scale told by a second, smaller latent."""

from collections.abc import Sequence

from torch import Tensor, nn

from models.entropy.conditional import GaussianCodec, fine_gaussian
from models.entropy.latent_codec import LatentCodec, LatentOutput, Shape
from models.entropy.noise import salt_of
from models.entropy.stream import Stream


class Hyperprior(GaussianCodec):
    r"""Codes y given z.

    ::

        y ──┬──► h_a ──► z ──► hyper (Q, factorised) ──► z_hat ──► h_s ──► mean, scale
            └──► Q: round(y - mean) + mean ──► y_hat                          │
                              ▲───────────────────────────────────────────────┘

    Args:
        h_a: hyper-analysis, (B, M, h, w) -> (B, N, h/stride, w/stride).
        h_s: hyper-synthesis, z_hat and whatever the latent codec is given -> (B, 2 M, h, w): scales, then means.
        hyper: latent codec of z.
        stride: latent positions of y for each of z, along each side.
        name: key of y's likelihoods, and what tells its noise apart from its siblings'; two in one codec need two, and
            so do their ``hyper``.

    Reference: Minnen et al., Joint Autoregressive and Hierarchical Priors for Learned Image Compression, NeurIPS 2018,
    https://arxiv.org/abs/1809.02736, without the autoregressive part.

    Differs from the paper: outside training, scales are rounded to the nearest of the coder's table (in log scale), so
    that estimates are of what is really coded.
    """

    def __init__(
        self, h_a: nn.Module, h_s: nn.Module, hyper: LatentCodec, *, stride: int = 4, name: str = "y"
    ):
        super().__init__()
        # The noise of the only one stays what it was before there could be several.
        self.name, self.salt = name, 0 if name == "y" else salt_of(name)
        self.h_a, self.h_s, self.hyper, self.stride = h_a, h_s, hyper, stride
        self.gaussian_conditional = fine_gaussian()

    @property
    def network(self) -> nn.Module:
        return self.h_s

    def forward(self, y: Tensor, keys: Tensor | None, given: Sequence[Tensor] = ()) -> LatentOutput:
        z = self.hyper(self.h_a(y), keys)
        output = self.estimate(y, keys, (z.y_hat, *given))
        output.likelihoods |= z.likelihoods
        return output

    def code(self, stream: Stream, y: Tensor | None, shape: Shape, given: Sequence[Tensor] = ()) -> Tensor:
        z = None if y is None else self.h_a(y)
        z_hat = self.hyper.code(stream, z, tuple(side // self.stride for side in shape))
        return self.code_with(stream, y, shape, (z_hat, *given))
