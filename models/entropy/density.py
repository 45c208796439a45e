"""Densities of latents, and the buffers for the CDF tables that are made from them.

Their state, the names of their attributes and their arithmetic are those of CompressAI's entropy models, which
models/codecs/compressai.py uses: checkpoints go both ways, and tables.py and coder.py take either. CompressAI itself is
no import of the project's own codecs: it brings libraries that take longer to load than torch.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.entropy.scale_table import SCALE_MIN
from models.lower_bound import LowerBound

LEAST = 1e-9
"""Likelihoods are bounded to this."""
TAIL_MASS = 1e-9
"""Mass of a learned density beyond where its CDF table ends."""


class Density(nn.Module):
    """Base: where the CDF tables are (models/entropy/tables.py makes them)."""

    _offset: Tensor
    _quantized_cdf: Tensor
    _cdf_length: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.likelihood_lower_bound = LowerBound(LEAST)
        for name in ("_offset", "_quantized_cdf", "_cdf_length"):
            self.register_buffer(name, torch.empty(0, dtype=torch.int32))

    @property
    def offset(self) -> Tensor:
        """Value of each row's first symbol, int32 (rows,)."""
        return self._offset

    @property
    def quantized_cdf(self) -> Tensor:
        """Rows from 0 to 65536, int32 (rows, longest + 1)."""
        return self._quantized_cdf

    @property
    def cdf_length(self) -> Tensor:
        """Entries of each row, int32 (rows,)."""
        return self._cdf_length


class FactorizedDensity(Density):
    """One learned density a channel, by a monotone network that gives the logit of its cumulative.

    Args:
        channels: of the latent.
        init_scale: half the width of what is likely before training.

    Reference: Ballé et al., Variational image compression with a scale hyperprior, ICLR 2018,
    https://arxiv.org/abs/1802.01436, appendix 6.1.
    """

    widths = (1, 3, 3, 3, 3, 1)
    quantiles: Tensor
    target: Tensor

    def __init__(self, channels: int, *, init_scale: float = 10):
        super().__init__()
        self.channels = channels
        scale = init_scale ** (1 / (len(self.widths) - 1))
        self.matrices, self.biases, self.factors = nn.ParameterList(), nn.ParameterList(), nn.ParameterList()
        for inputs, outputs in zip(self.widths, self.widths[1:], strict=False):
            weight = math.log(math.expm1(1 / scale / outputs))
            self.matrices.append(nn.Parameter(torch.full((channels, outputs, inputs), weight)))
            self.biases.append(nn.Parameter(torch.empty(channels, outputs, 1).uniform_(-0.5, 0.5)))
            if len(self.matrices) < len(self.widths) - 1:
                self.factors.append(nn.Parameter(torch.zeros(channels, outputs, 1)))
        start = torch.tensor([-init_scale, 0.0, init_scale])
        self.quantiles = nn.Parameter(start.repeat(channels, 1, 1))
        tail = math.log(2 / TAIL_MASS - 1)
        self.register_buffer("target", torch.tensor([-tail, 0.0, tail]))

    def loss(self) -> Tensor:
        """How far the quantiles are from where the density ends on either side, and from its median."""
        return (self._logits_cumulative(self.quantiles, stop_gradient=True) - self.target).abs().sum()

    def _logits_cumulative(self, x: Tensor, stop_gradient: bool) -> Tensor:
        """Of x (C, 1, n), same shape; the network's own parameters get no gradient where that is stopped."""

        def given(parameter: Tensor) -> Tensor:
            return parameter.detach() if stop_gradient else parameter

        for layer, (matrix, bias) in enumerate(zip(self.matrices, self.biases, strict=True)):
            x = torch.matmul(F.softplus(given(matrix)), x) + given(bias)
            if layer < len(self.factors):
                x = x + torch.tanh(given(self.factors[layer])) * torch.tanh(x)
        return x

    def _likelihood(self, x: Tensor, stop_gradient: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """Mass of the interval of length 1 around x (C, 1, n), and the logits at its two ends."""
        lower = self._logits_cumulative(x - 0.5, stop_gradient)
        upper = self._logits_cumulative(x + 0.5, stop_gradient)
        return torch.sigmoid(upper) - torch.sigmoid(lower), lower, upper


class GaussianDensity(Density):
    """A Gaussian of its own mean and scale for every symbol.

    Args:
        scale_table: ascending, those that have a CDF table.
    """

    scale_table: Tensor
    scale_bound: Tensor

    def __init__(self, scale_table: Sequence[float]):
        super().__init__()
        self.lower_bound_scale = LowerBound(SCALE_MIN)
        self.register_buffer("scale_table", torch.tensor(scale_table))
        # Nothing reads it; it is part of the state.
        self.register_buffer("scale_bound", torch.tensor([SCALE_MIN]))

    def _likelihood(self, y: Tensor, scale: Tensor, mean: Tensor) -> Tensor:
        """Mass of the interval of length 1 around y; all of one shape."""
        distance = torch.abs(y - mean)
        scale = self.lower_bound_scale(scale)
        return _cumulative((0.5 - distance) / scale) - _cumulative((-0.5 - distance) / scale)


def _cumulative(x: Tensor) -> Tensor:
    return 0.5 * torch.erfc(-(2**-0.5) * x)
