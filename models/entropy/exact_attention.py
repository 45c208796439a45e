"""Attention's products, softmax and layer norm in arithmetic that every machine does alike.

Two kinds of computation have one result whatever the kernel: sums of whole numbers below 2**53, in any order, and
single additions, multiplications, divisions and square roots in an order that is written down, each of which IEEE 754
rounds in one way. All that follows is made of these two, in float64. So a symbol's parameters come out the same, bit by
bit, with any number of threads, batch size or memory format, and beside any number of masked positions.

What could still differ is a compiler that contracts a multiplication and an addition into one rounding (inductor does
not on CPUs). That moves softmax and layer norm by an ulp or two, and shows only where it carries a value across a
border of the next layer's grid: a relative error of 2**-51 changes a symbol's table or its mean with a probability of
5e-10 or less (benchmarks/attention_flips.py). One in thirty of these is a table: all that follows in the string is
garbage then, and its 16-bit fingerprint makes it an error rather than a wrong picture, but for one case in 65535. The
others are means: y_hat is off by 1/256 in one place, no picture that one would call wrong, and layers that depend on it
decode all the same or end in an error, too.
"""

import math

import torch
from torch import Tensor, nn

from models.entropy.grid import FRACTION_BITS, RANGE_BITS, SUM_BITS, to_grid

WEIGHT_BITS = 20
"""Attention weights, which lie in [0, 1], are multiples of 2**-20: their rounding adds up to 2**-21 times n at most."""

MASS_BITS = 32
"""Softmax sums multiples of 2**-32: exact for up to 2**20 of them."""

LN2_HIGH, LN2_LOW = float.fromhex("0x1.62E42FEEp-1"), float.fromhex("0x1.A39EF35793C76p-33")
"""ln 2 in two parts; the first has few enough digits that its product with an exponent is exact.

Source: Sun's fdlibm, e_exp.c.
"""


class Product(nn.Module):
    r"""A matrix product of two activations: q k^T, or attention weights times v.

    Plain ``a @ b`` in training. In an ``Exact`` copy, both are rounded to a grid and clamped to a range such that every
    sum over the inner length n stays within 2**52 steps, and therefore exact:

    ========  ======================  ==============================================================
    operand   grid                    range
    ========  ======================  ==============================================================
    any two   2**-14 both             ±2**r both, r the largest with n 2**(2 (14 + r)) <= 2**52
    weights   2**-20                  [0, 1]
    and v     2**-14                  ±2**r, r the largest with n 2**(20 + 14 + r) <= 2**52
    ========  ======================  ==============================================================

    r is 9 for heads of 64 channels; 12 for 64 positions attended to, 9 for 512; never above 12. Grids do not depend on
    n, and so positions of weight 0 may come and go.

    Args:
        weights: the left operand holds attention weights.
    """

    def __init__(self, *, weights: bool = False):
        super().__init__()
        self.weights = weights

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """(..., m, n) and (..., n, p) to (..., m, p)."""
        return a @ b

    def exactly(self, a: Tensor, b: Tensor) -> Tensor:
        """The same in float64, whole numbers of steps throughout.

        Raises:
            ValueError: the inner length is beyond what leaves v a range of ±1 (2**18; 2**24 between any two).
        """
        range_bits = self.range_bits(b.shape[-2])
        if self.weights:
            return to_grid(a, WEIGHT_BITS, 0).clamp_(min=0) @ to_grid(b, FRACTION_BITS, range_bits)
        return to_grid(a, FRACTION_BITS, range_bits) @ to_grid(b, FRACTION_BITS, range_bits)

    def range_bits(self, length: int) -> int:
        """r in the table, for the inner length n."""
        bits = SUM_BITS - (length - 1).bit_length()
        found = bits - WEIGHT_BITS - FRACTION_BITS if self.weights else bits // 2 - FRACTION_BITS
        if found < 0:
            raise ValueError(f"a product over {length} positions cannot be exact: too long")
        return min(found, RANGE_BITS)


def softmax(x: Tensor, dim: int = -1) -> Tensor:
    """Weights that sum to 1 along ``dim``: those below 2**-33 of the largest are 0, and so are those of -inf.

    Args:
        x: float64, up to 2**20 along ``dim``; not -inf everywhere.
    """
    mass = to_grid(exp(x - x.amax(dim, keepdim=True)), MASS_BITS, 0)
    return mass / mass.sum(dim, keepdim=True)


def exp(x: Tensor) -> Tensor:
    """exp(x) of float64 x <= 64, within 2 ulp; below -64 as at -64.

    x = k ln 2 + r, |r| <= ln(2) / 2; 2**k is put together from its bits, exp(r) is Taylor's polynomial of degree 13
    (remainder 4e-18).
    """
    x = x.clamp(min=-64)
    k = (x * (1 / math.log(2))).round()
    r = x - k * LN2_HIGH - k * LN2_LOW
    series = torch.full_like(r, 1 / math.factorial(13))
    for degree in range(12, -1, -1):
        series = series * r + 1 / math.factorial(degree)
    return series * ((k.long() + 1023) << 52).view(torch.float64)


def layer_norm(layer: nn.LayerNorm, x: Tensor) -> Tensor:
    """``layer(x)`` over the last dimension, float64, with every sum in one order."""
    share = 1 / x.shape[-1]
    centred = x - total(x) * share
    result = centred / (total(centred * centred) * share + layer.eps).sqrt()
    if layer.weight is not None:
        result = result * layer.weight
    return result if layer.bias is None else result + layer.bias


def total(x: Tensor) -> Tensor:
    """Sum over the last dimension, which stays as one: the second half onto the first, again and again."""
    while (length := x.shape[-1]) > 1:
        half = length // 2
        folded = x[..., :half] + x[..., half : 2 * half]
        x = torch.cat([folded, x[..., 2 * half :]], -1) if length % 2 else folded
    return x
