"""A Gaussian for every symbol, whose mean and scale a network tells from what a decoder already has."""

from collections.abc import Sequence

from torch import Tensor, nn

from models.entropy.coder import TableCache
from models.entropy.density import GaussianDensity
from models.entropy.exact import Exact
from models.entropy.grid import RANGE_BITS, to_grid
from models.entropy.latent_codec import LatentCodec, LatentOutput, Shape, channel_axis
from models.entropy.noise import salt_of, uniform_noise
from models.entropy.rounding import round_ste
from models.entropy.scale_index import ScaleIndex
from models.entropy.scale_table import fine_table
from models.entropy.stream import Stream


class GaussianCodec(LatentCodec):
    """Base of the latent codecs that code y under Gaussians: y_hat = round(y - mean) + mean.

    A subclass registers its networks, then ``gaussian_conditional = fine_gaussian()``.

    Attributes:
        network: gives the parameters: scales, then means, split along the channels of a map (B, 2 M, h, w), tokens
            (B, L, 2 M) or a vector (B, 2 M).
        name: key of the likelihoods.
        salt: tells its noise apart from its siblings'.
        mean_bits: outside training, means are rounded to multiples of 2**-mean_bits; ``None`` for float32's own grid.
            Scales need no grid but the table's.
    """

    network: nn.Module
    gaussian_conditional: GaussianDensity
    name: str = "y"
    salt: int = 0
    mean_bits: int | None = None

    def __init__(self) -> None:
        super().__init__()
        self._exact, self._scale_index, self._tables = Exact(), ScaleIndex(), TableCache()

    def train(self, mode: bool = True) -> "GaussianCodec":
        self._exact.forget()
        return super().train(mode)

    def _apply(self, fn, recurse=True):
        self._exact.forget()
        return super()._apply(fn, recurse)

    def _load_from_state_dict(self, *args):
        self._exact.forget()
        super()._load_from_state_dict(*args)

    def estimate(self, y: Tensor, keys: Tensor | None, inputs: Sequence[Tensor]) -> LatentOutput:
        """``forward`` once the network's inputs are known."""
        if keys is None:
            mean, index = self.entropy_parameters(*inputs)
            mean, scale = mean.to(y.dtype), self.gaussian_conditional.scale_table[index.long()]
        else:
            parameters = self.network(*inputs)
            scale, mean = parameters.chunk(2, dim=channel_axis(parameters.dim()))
        if mean.shape != y.shape:
            raise ValueError(_other_shape(mean, tuple(y.shape)))
        y_hat = round_ste(y - mean) + mean
        y_tilde = y_hat if keys is None else y + uniform_noise(keys, y.shape, salt=self.salt)
        gaussian = self.gaussian_conditional
        likelihood = gaussian.likelihood_lower_bound(gaussian._likelihood(y_tilde, scale, mean))
        return LatentOutput(y_hat, y_tilde, {self.name: likelihood})

    def entropy_parameters(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        """(mean, scale index) of every symbol: the same for evaluation and for coding.

        Args:
            inputs: of the network.

        Returns:
            Means, float64, in the shape of y, and int16 indexes into the scale table, same shape.
        """
        parameters = self._exact(self.network, *inputs)
        scale, mean = parameters.chunk(2, dim=channel_axis(parameters.dim()))
        if self.mean_bits is not None:
            mean = to_grid(mean, self.mean_bits, RANGE_BITS)
        return mean, self._scale_index(scale, self.gaussian_conditional.scale_table)

    def code_with(self, stream: Stream, y: Tensor | None, shape: Shape, inputs: Sequence[Tensor]) -> Tensor:
        """``code`` once the network's inputs are known."""
        mean, index = self.entropy_parameters(*inputs)
        channels = mean.shape[channel_axis(mean.dim())]
        expected = (stream.count, channels, *shape) if mean.dim() == 4 else (stream.count, *shape, channels)
        if mean.shape != expected:
            raise ValueError(_other_shape(mean, expected))
        return stream.code(y, mean.to(inputs[0].dtype), index, self._tables(self.gaussian_conditional))


class Conditional(GaussianCodec):
    r"""Codes y given what was decoded before.

    ::

        given ──► network ──► mean, scale
                                 ▼
             y ──► Q: round(y - mean) + mean ──► y_hat

    Args:
        network: ``network(*given)`` gives the scales, then the means of every symbol. Outside training it runs in an
            ``Exact`` copy: build it of ``nn.Linear``, convolutions, ReLU and models/transforms/attention.py.
        name: key of its likelihoods, and what tells its noise apart from its siblings'.

    Reference: Minnen et al., Joint Autoregressive and Hierarchical Priors for Learned Image Compression, NeurIPS 2018,
    https://arxiv.org/abs/1809.02736: equation 2, for any parameter network.

    Differs from the paper: outside training, scales are rounded to the nearest of the coder's table (in log scale) and
    means to multiples of 1/256, so that estimates are of what is really coded. Of the smallest variance that grid is a
    hundredth of a percent. y_hat then lies on it, too: later layers are given numbers that an exact layer does not
    round, and what little an upstream difference could move a mean seldom reaches the next multiple.
    """

    mean_bits = 8

    def __init__(self, network: nn.Module, *, name: str = "y"):
        super().__init__()
        self.network, self.name, self.salt = network, name, salt_of(name)
        self.gaussian_conditional = fine_gaussian()

    def forward(self, y: Tensor, keys: Tensor | None, given: Sequence[Tensor] = ()) -> LatentOutput:
        return self.estimate(y, keys, _needed(given))

    def code(self, stream: Stream, y: Tensor | None, shape: Shape, given: Sequence[Tensor] = ()) -> Tensor:
        return self.code_with(stream, y, shape, _needed(given))

    def expect(
        self, count: int, shape: Shape, given: Sequence[Tensor] = (), keys: Tensor | None = None
    ) -> Tensor:
        if keys is None:  # what ``code`` would give, without tables
            return self.entropy_parameters(*_needed(given))[0].to(given[0].dtype)
        parameters = self.network(*_needed(given))
        return parameters.chunk(2, dim=channel_axis(parameters.dim()))[1]


def fine_gaussian() -> GaussianDensity:
    """Gaussians with the table of 160 scales."""
    return GaussianDensity(fine_table())


def _needed(given: Sequence[Tensor]) -> Sequence[Tensor]:
    if not given:
        raise ValueError(
            "a conditional latent codec needs `given`: what a decoder has before it reads this latent"
        )
    return given


def _other_shape(mean: Tensor, expected: tuple[int, ...]) -> str:
    return f"the parameter network gives means of shape {tuple(mean.shape)}, but the latent is {expected}"
