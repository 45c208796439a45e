"""The native rate whose real files come closest to a wanted size without exceeding it."""

import math

import torch
from torch import Tensor

from models.codecs.base import Codec
from models.outputs import Bitstream


@torch.no_grad()
def rate_for_bpp(
    codec: Codec,
    x: Tensor,
    bpp: float,
    *,
    step: float | None = None,
    tolerance: float = 0.002,
    max_codings: int = 24,
) -> tuple[float, list[Bitstream]]:
    """Search the codec's range of rates; no rate is coded twice.

    Rates in steps are bisected. Continuous ones are looked for where log bpp = A rate + B through the nearest two known
    says, which takes a few codings. Both may rise or fall with the bits (quality, QP). Bits should not fall from a rate
    to a better one; where they do, the result still keeps ``bpp``, and the next step still exceeds it, but a farther
    one may not.

    Args:
        codec: in evaluation mode, with ``rates``; their ends are the range that is searched.
        x: images (B, 3, H, W) in [0, 1].
        bpp: most bits per pixel of whole files, mean over the images.
        step: distance of neighbouring rates; default: the codec's own ``rate_step`` where it has one, else continuous.
        tolerance: where rates are continuous, stop within this share below ``bpp``.
        max_codings: where rates are continuous, stop after so many.

    Returns:
        The rate and the images' bitstreams at that rate.

    Raises:
        ValueError: a codec of one rate, ``bpp`` not above zero, or even the lowest rate needs more than ``bpp``.

    Example:
        >>> from models.codecs.standard.pillow import JPEG
        >>> rate, bitstreams = rate_for_bpp(JPEG().eval(), torch.rand(1, 3, 64, 64), 2.0)
        >>> 8 * len(bitstreams[0].strings["base"]) <= 2.0 * 64 * 64
        True
    """
    if not codec.rates:
        raise ValueError(f"{type(codec).__name__} has one rate: there is nothing to choose for bpp={bpp}")
    if not bpp > 0:
        raise ValueError(f"bpp={bpp} must be above zero")
    step = codec.rate_step if step is None else step
    fewest, most = codec.rates[0], codec.rates[-1]
    pixels = x.shape[-2] * x.shape[-1]

    def code(rate: float) -> tuple[float, list[Bitstream]]:
        bitstreams = codec.compress(x, rate)
        lengths = [len(codec.serialise(bitstream)) for bitstream in bitstreams]
        return 8 * sum(lengths) / len(lengths) / pixels, bitstreams

    def rate_at(position: float) -> float:
        return most if position == last else fewest + math.copysign(position, most - fewest)

    # Positions run from the fewest bits to the most, in units of the rate, or in steps of it.
    span = abs(most - fewest)
    last = span if step is None else math.ceil(span / step - 1e-9) * step
    reached, bitstreams = code(fewest)
    if reached > bpp:
        raise ValueError(
            f"bpp={bpp:g} cannot be reached: at its lowest rate {fewest:g} this codec needs {reached:.4g}"
        )
    below, above, codings, too_much = 0.0, None, 1, math.inf
    while below != last:
        # First the far end, so that a target above everything costs two codings.
        if above is None:
            middle = last
        elif (
            step is not None or codings % 3 == 0
        ):  # where the line misleads, a third of all steps halve the range
            middle = _between(below, above, step)
        else:
            aim = (1 - tolerance / 2) * bpp
            along = math.log(aim / reached) / math.log(too_much / reached)
            middle = below + min(max(along, 0.0), 1.0) * (above - below)
        if middle in (below, above) or (step is None and codings >= max_codings):
            break
        spent, candidates = code(rate_at(middle))
        codings += 1
        if spent > bpp:
            above, too_much = middle, spent
            continue
        below, reached, bitstreams = middle, spent, candidates
        if step is None and reached >= (1 - tolerance) * bpp:
            break
    return rate_at(below), bitstreams


def _between(below: float, above: float, step: float | None) -> float:
    if step is None:
        return (below + above) / 2
    return below + (round((above - below) / step) // 2) * step
