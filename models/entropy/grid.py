"""Fixed-point numbers, held in float64: what exact layers compute on."""

from torch import Tensor

FRACTION_BITS, RANGE_BITS, SUM_BITS = 14, 12, 52
"""An exact layer's inputs are multiples of 2**-14 within ±2**12; its sums stay below 2**52 steps of their own grid."""


def to_grid(x: Tensor, fraction_bits: int, range_bits: int) -> Tensor:
    """To multiples of 2**-fraction_bits within ±2**range_bits; float64 in, float64 out."""
    limit = 2.0 ** (fraction_bits + range_bits)
    return (x * 2.0**fraction_bits).round_().clamp_(-limit, limit).mul_(2.0**-fraction_bits)


def round_inputs(x: Tensor) -> Tensor:
    """To the grid and range of an exact layer's inputs; float64 in, float64 out."""
    return to_grid(x, FRACTION_BITS, RANGE_BITS)
