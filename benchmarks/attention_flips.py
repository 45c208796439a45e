"""How often would a symbol change if softmax and layer norm had an error? Counted where it can be, and extrapolated.

An exact copy's softmax and layer norm are the same on every IEEE machine (models/entropy/exact_attention.py); a
compiler that contracts multiplications and additions could move them by an ulp or two. Here each of their results has a
relative error of e, up or down at random. A symbol counts as flipped where its row of the scale table or its mean
(multiples of 1/256) then differs. Only what crosses a border of the next layer's grid goes on at all, so flips are as
frequent as e is large: measured for errors that are large enough to count them, in proportion below.

python -m benchmarks.attention_flips      prints rows and figures: about a minute on one core
"""

import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from benchmarks.entropy_coder import Row
from benchmarks.record import Figures, Rows
from models.entropy.conditional import Conditional
from models.transforms.attention import TokenParameters

EXPONENTS = (-24, -26, -28, -30, -32, -34)
"""Errors that are counted, as powers of two."""
ULPS = 2.0**-51
"""Error of the extrapolation: two ulp of a float64 just above a power of two, four of one just below."""
SATURATED, LEAST = 0.3, 10
"""Where more than this share of pictures, or fewer than so many, have flips, a row tells nothing about proportion."""


def subject(*, pictures: int) -> tuple[Conditional, list[Tensor]]:
    """A conditional latent codec of the third of three token layers, and what it is given.

    Untrained, but with attention that chooses, and scales over most of the table.

    Args:
        pictures: B.

    Returns:
        The codec of 16 tokens of 16 channels, and two layers of as many (B, 16, 16).
    """
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        network = TokenParameters([(16, 16), (16, 16)], 16, 16)
    with torch.no_grad():
        for block in network.blocks:
            block.attention.to_qkv.weight[: 2 * 64].mul_(3)
        network.leave.weight.mul_(3)
        network.leave.bias[:16] = torch.linspace(0.3, 6, 16)
    layers = [4 * torch.randn(pictures, 16, 16, generator=generator) for _ in range(2)]
    return Conditional(network, name="t2").eval(), [(256 * y).round() / 256 for y in layers]


def measure(*, pictures: int = 4096) -> Iterator[Row]:
    """The rows of the usual subject: 256 symbols a picture."""
    yield from flips(*subject(pictures=pictures))


def flips(
    codec: Conditional, given: Sequence[Tensor], exponents: Sequence[int] = EXPONENTS, *, batch: int = 64
) -> Iterator[Row]:
    """Count the symbols whose parameters change.

    Args:
        codec: with attention in its network, in evaluation mode.
        given: what it is given, (B, ...) each.
        exponents: base-2 logarithms of e.
        batch: pictures at a time.

    Yields:
        A row for each e: ``exponent``, ``pictures``, ``symbols``, of these ``flips`` (``of_rows``, ``of_means``),
        ``flipped_pictures``, and ``squares``, the sum over pictures of flips squared.
    """
    counted = {exponent: [] for exponent in exponents}
    for parts in zip(*(tensor.split(batch) for tensor in given), strict=True):
        mean, rows = codec.entropy_parameters(*parts)
        for exponent, found in counted.items():
            with errors(codec, 2.0**exponent, seed=len(found)):
                other_mean, other_rows = codec.entropy_parameters(*parts)
            changed = torch.stack([rows != other_rows, mean != other_mean])
            found.append(torch.cat([changed, changed.any(0, keepdim=True)]).flatten(2).sum(2))
    for exponent, found in counted.items():
        of_rows, of_means, either = torch.cat(found, 1)
        yield {
            "exponent": exponent,
            "pictures": len(either),
            "symbols": len(either) * mean[0].numel(),
            "flips": int(either.sum()),
            "of_rows": int(of_rows.sum()),
            "of_means": int(of_means.sum()),
            "flipped_pictures": int((either > 0).sum()),
            "squares": int(either.square().sum()),
        }


@contextmanager
def errors(codec: Conditional, error: float, *, seed: int) -> Iterator[None]:
    """Inside the block, results of softmax and layer norm in the exact copy are off by ``error``, up or down."""
    generator = torch.Generator().manual_seed(seed)

    def disturb(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        signs = torch.randint(0, 2, output.shape, generator=generator, dtype=torch.int8).double() * 2 - 1
        return output * (1 + error * signs)

    layers = codec._exact.copy_of(codec.network).modules()
    handles = [
        layer.register_forward_hook(disturb)
        for layer in layers
        if isinstance(layer, (nn.Softmax, nn.LayerNorm))
    ]
    if not handles:
        raise ValueError("the codec's network has neither softmax nor layer norm: nothing there can differ")
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def figures(rows: Rows) -> Figures:
    """The quoted figures.

    Args:
        rows: of ``flips``, one subject.

    Returns:
        ``symbol_flip_probability_attention``: of a symbol under an error of 2**-51, an upper bound: the largest of all
        rows' 95 % upper limits, each in proportion to e. A picture's flips come together, so limits are those of a
        compound Poisson process. ``attention_flip_exponent``: slope of log flips over log e, 1 for proportion.

    Raises:
        ValueError: fewer than three rows can be counted, or they do not fall in proportion.
    """
    used = [
        row
        for row in rows
        if row["flipped_pictures"] >= LEAST and row["flipped_pictures"] <= SATURATED * row["pictures"]
    ]
    if len(used) < 3:
        raise ValueError(f"flips can be counted at {len(used)} errors, and 3 are needed: take more pictures")
    slope = _slope(used)
    if not 0.85 < slope < 1.15:
        raise ValueError(f"flips grow like e**{slope:.2f}, not in proportion: nothing can be extrapolated")
    limits = [
        (row["flips"] + 1.645 * math.sqrt(row["squares"])) / row["symbols"] * ULPS / 2.0 ** row["exponent"]
        for row in used
    ]
    return {"symbol_flip_probability_attention": max(limits), "attention_flip_exponent": slope}


def _slope(rows: Rows) -> float:
    """Of log2(flips a symbol) over log2(e): least squares, rows weighted by flips² / squares, the inverse variance."""
    x = [row["exponent"] for row in rows]
    y = [math.log2(row["flips"] / row["symbols"]) for row in rows]
    weights = [row["flips"] ** 2 / row["squares"] for row in rows]
    whole = sum(weights)
    x_mean = sum(w * a for w, a in zip(weights, x, strict=True)) / whole
    y_mean = sum(w * b for w, b in zip(weights, y, strict=True)) / whole
    products = sum(w * (a - x_mean) * (b - y_mean) for w, a, b in zip(weights, x, y, strict=True))
    return products / sum(w * (a - x_mean) ** 2 for w, a in zip(weights, x, strict=True))


def main() -> None:
    """Print everything."""
    rows = []
    for row in measure():
        print(json.dumps(row), flush=True)
        rows.append(row)
    print(json.dumps(figures(rows), indent=2))


if __name__ == "__main__":
    main()
