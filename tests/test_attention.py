"""Attention against torch's in float64, its exact form against Python's integers, and the same bits on every path."""

import math
from contextlib import nullcontext
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from benchmarks import attention_flips
from models.entropy.exact import Exact
from models.entropy.exact_attention import MASS_BITS, Product, exp, layer_norm, softmax, total
from models.threads import threads
from models.transforms.attention import Attention, Block, TokenParameters, block_causal


def lively(network: nn.Module) -> nn.Module:
    """An untrained network whose attention chooses."""
    with torch.no_grad():
        for part in network.modules():
            if isinstance(part, Attention):
                part.to_qkv.weight.mul_(3)
            if isinstance(part, nn.LayerNorm):
                part.weight.add_(0.3 * torch.randn_like(part.weight))
                part.bias.add_(0.3 * torch.randn_like(part.bias))
    return network.eval()


def network() -> TokenParameters:
    torch.manual_seed(0)
    return lively(TokenParameters([(7, 5), (1, 6)], 9, 4, width=24, heads=3))


class Masked(nn.Module):
    """A layer under a fixed mask."""

    def __init__(self, layer: nn.Module, mask: Tensor | None):
        super().__init__()
        self.layer = layer
        self.register_buffer("mask", mask)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x, self.mask)


@pytest.fixture
def given() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return 5 * torch.randn(4, 7, 5, generator=generator), 5 * torch.randn(4, 6, generator=generator)


# -- what it computes --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("masked", [False, True])
def test_attention_is_torch_s(masked: bool) -> None:
    torch.manual_seed(0)
    layer, x = lively(Attention(24, 3)).double(), torch.randn(2, 10, 24, dtype=torch.float64)
    mask = block_causal([3, 1, 6]) if masked else None
    q, k, v = (part.unflatten(2, (3, 8)).transpose(1, 2) for part in layer.to_qkv(x).chunk(3, 2))
    mixed = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    expected = layer.out(mixed.transpose(1, 2).flatten(2))
    torch.testing.assert_close(layer(x, mask), expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(Exact()(Masked(layer, mask), x), expected, rtol=0, atol=1e-3)


def test_block_causal_masks_see_their_own_layer_and_those_before() -> None:
    layers = [0, 0, 1, 2, 2, 2]
    mask = block_causal([2, 1, 3])
    assert mask.dtype == torch.bool
    assert mask.tolist() == [[mine >= other for other in layers] for mine in layers]


def test_a_block_is_prenorm_with_residuals() -> None:
    torch.manual_seed(0)
    block, x = lively(Block(8, 2, expansion=3)).double(), torch.randn(2, 5, 8, dtype=torch.float64)

    def norm(layer: nn.LayerNorm, x: Tensor) -> Tensor:
        deviation = (x.var(-1, unbiased=False, keepdim=True) + layer.eps).sqrt()
        return (x - x.mean(-1, keepdim=True)) / deviation * layer.weight + layer.bias

    middle = x + block.attention(norm(block.norm1, x))
    hidden = norm(block.norm2, middle) @ block.mlp[0].weight.T + block.mlp[0].bias
    expected = middle + hidden.clamp(min=0) @ block.mlp[2].weight.T + block.mlp[2].bias
    torch.testing.assert_close(block(x), expected)


def test_widths_and_layers_that_do_not_fit_are_told(given: tuple[Tensor, Tensor]) -> None:
    with pytest.raises(ValueError, match="width=10 must be a multiple of heads=4"):
        Attention(10, 4)
    with pytest.raises(ValueError, match=r"made for \[\(7, 5\), \(1, 6\)\]"):
        network()(given[0])
    with pytest.raises(ValueError, match="made for"):
        network()(given[0][:, :5], given[1])


@pytest.mark.parametrize("bf16", [False, True])
def test_it_trains(bf16: bool, given: tuple[Tensor, Tensor]) -> None:
    model = network().train()
    target = torch.randn(4, 9, 8, generator=torch.Generator().manual_seed(2))
    optimiser, losses = torch.optim.Adam(model.parameters(), 3e-3), []
    for _ in range(20):
        with torch.autocast("cpu", dtype=torch.bfloat16) if bf16 else nullcontext():
            loss = (model(*given).float() - target).square().mean()
        optimiser.zero_grad()
        loss.backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad.isfinite().all(), name
            assert parameter.grad.any(), name
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]


# -- its exact form ----------------------------------------------------------------------------------------------------


def whole_numbers(x: Tensor, fraction_bits: int, low: int, high: int) -> list[list[Fraction]]:
    """By Python's own arithmetic: every number on the grid, halves to even, within low..high."""
    step = Fraction(1, 1 << fraction_bits)
    return [[min(max(round(Fraction(v) / step) * step, low), high) for v in row] for row in x.tolist()]


@pytest.mark.parametrize("weights", [False, True])
@pytest.mark.parametrize(("length", "scale"), [(1, 1.0), (7, 1.0), (64, 30.0), (300, 1e4)])
def test_products_are_those_of_whole_numbers(weights: bool, length: int, scale: float) -> None:
    torch.manual_seed(0)
    product = Product(weights=weights).double()
    a, b = (scale * torch.randn(*shape, dtype=torch.float64) for shape in ((3, length), (length, 2)))
    if weights:
        a = torch.rand(3, length, dtype=torch.float64).softmax(1)
    limit = 1 << product.range_bits(length)
    left = whole_numbers(a, 20 if weights else 14, 0 if weights else -limit, 1 if weights else limit)
    right = whole_numbers(b, 14, -limit, limit)
    expected = [
        [sum(x * right[k][j] for k, x in enumerate(row)) for j in range(2)] for row in left
    ]  # as fractions: no sum is rounded
    found = Exact()(product, a, b)
    assert [[Fraction(v) for v in row] for row in found.tolist()] == expected
    torch.testing.assert_close(product(a, b), a @ b, rtol=0, atol=0)
    if scale < 1e4:
        torch.testing.assert_close(found, a @ b, rtol=0, atol=1e-3 * scale)
    order = torch.randperm(length)
    assert torch.equal(Exact()(product, a[:, order], b[order]), found)
    assert torch.equal(Exact()(product, a.T.contiguous().T, b.T.contiguous().T), found)


@pytest.mark.parametrize("weights", [False, True])
@pytest.mark.parametrize("length", [1, 2, 63, 64, 65, 4096, 5000, 1 << 17])
def test_the_largest_sums_stay_below_two_to_the_53(weights: bool, length: int) -> None:
    product = Product(weights=weights)
    bits = product.range_bits(length)
    largest = (1 << (20 if weights else 14 + bits)) * (1 << (14 + bits)) * length
    assert largest <= 1 << 52
    assert bits == 12 or 2 * largest > 1 << 50  # no bit of the range is wasted
    # At the limit, less one step of the first product: the last digit of the sum is still there.
    a, b = (
        torch.full((1, length), 1e9, dtype=torch.float64),
        torch.full((length, 1), 1e9, dtype=torch.float64),
    )
    b[0] = 2.0**bits - 2.0**-14
    (found,) = Exact()(product, a, b).flatten().tolist()
    left = 1 if weights else 1 << bits
    assert Fraction(found) == length * left * (1 << bits) - left * Fraction(1, 1 << 14)


def test_products_that_cannot_be_exact_are_refused() -> None:
    assert [Product().range_bits(n) for n in (64, 65, 1 << 24)] == [9, 8, 0]
    assert [Product(weights=True).range_bits(n) for n in (64, 512, 1 << 18)] == [12, 9, 0]
    with pytest.raises(ValueError, match="cannot be exact"):
        Product(weights=True).range_bits((1 << 18) + 1)
    with pytest.raises(ValueError, match="cannot be exact"):
        Product().range_bits((1 << 24) + 1)


def test_exp_is_within_two_ulp() -> None:
    x = -torch.cat([torch.linspace(0, 63, 50_001), 10 ** torch.linspace(-17, 0, 5001)]).double()
    true = np.exp(x.numpy().astype(np.longdouble))
    error = np.abs(exp(x).numpy().astype(np.longdouble) - true) / np.spacing(true.astype(np.float64))
    assert error.max() < 2
    assert exp(torch.zeros(1, dtype=torch.float64)).item() == 1
    assert exp(torch.tensor([-torch.inf, -1e300, -64], dtype=torch.float64)).unique().numel() == 1


def test_softmax_is_the_quotient_of_whole_numbers() -> None:
    torch.manual_seed(0)
    x = 6 * torch.randn(4, 9, dtype=torch.float64)
    x[1, 2:5] = -torch.inf
    found = softmax(x)
    for row, weights in zip(x.tolist(), found.tolist(), strict=True):
        mass = [round(math.exp(max(v - max(row), -64)) * 2**MASS_BITS) for v in row]
        # Correct rounding of a quotient of integers is what Python's division gives.
        assert weights == [m / sum(mass) for m in mass]
    assert not found[1, 2:5].any()
    torch.testing.assert_close(found, x.softmax(-1), rtol=0, atol=1e-8)
    torch.testing.assert_close(softmax(x.T, 0), found.T, rtol=0, atol=0)
    wider = torch.cat([x[:, :4], torch.full((4, 3), -torch.inf, dtype=torch.float64), x[:, 4:]], 1)
    assert torch.equal(softmax(wider)[:, [0, 1, 2, 3, 7, 8, 9, 10, 11]], found)


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("width", [1, 2, 24, 63, 64])
def test_layer_norm_is_torch_s_in_one_order(width: int, affine: bool) -> None:
    torch.manual_seed(0)
    layer = nn.LayerNorm(width, elementwise_affine=affine).double()
    if affine:
        nn.init.normal_(layer.weight)
        nn.init.normal_(layer.bias)
    x = 3 + 5 * torch.randn(6, 4, width, dtype=torch.float64)
    found = layer_norm(layer, x)
    torch.testing.assert_close(found, layer(x), rtol=1e-12, atol=1e-12)
    assert torch.equal(layer_norm(layer, x[2:3]), found[2:3])
    assert torch.equal(Exact()(layer, x), found)
    strided = x.transpose(0, 2).contiguous().transpose(0, 2)
    assert torch.equal(layer_norm(layer, strided), found)
    for value, row in zip(total(x).flatten().tolist(), x.flatten(0, 1).tolist(), strict=True):
        assert value == pytest.approx(math.fsum(row), abs=1e-12)


def test_all_but_rounding_is_as_in_floating_point(given: tuple[Tensor, Tensor]) -> None:
    model = network()
    torch.testing.assert_close(
        Exact()(model, *given), model.double()(*(x.double() for x in given)), rtol=0, atol=5e-3
    )


def test_the_same_bits_on_every_path(given: tuple[Tensor, Tensor]) -> None:
    model = network()
    expected = Exact()(model, *given)
    for image in range(4):
        assert torch.equal(
            Exact()(model, *(x[image : image + 1] for x in given)), expected[image : image + 1]
        )
    with threads(2):
        repeated = Exact()(model, *(x.repeat(16, *[1] * (x.dim() - 1)) for x in given))
    assert torch.equal(repeated[-4:], expected)
    strided = [x.movedim(0, -1).contiguous().movedim(-1, 0) for x in given]
    assert not strided[0].is_contiguous()
    assert torch.equal(Exact()(model, *strided), expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(Exact()(model, *given), expected)
    with torch.backends.mkldnn.flags(enabled=False):
        assert torch.equal(Exact()(model, *given), expected)


def test_later_layers_change_nothing_for_those_before() -> None:
    torch.manual_seed(0)
    blocks = [lively(Block(24, 3)) for _ in range(2)]
    x, lengths = 3 * torch.randn(2, 13, 24), [4, 3, 6]

    def stack(lengths: list[int]) -> nn.Module:
        return nn.Sequential(*(Masked(block, block_causal(lengths)) for block in blocks))

    whole = Exact()(stack(lengths), x)
    assert torch.equal(Exact()(stack(lengths[:2]), x[:, :7]), whole[:, :7])
    assert torch.equal(Exact()(stack(lengths[:1]), x[:, :4]), whole[:, :4])


@pytest.mark.parametrize(
    "name", ["positions", "norm.weight", "blocks.0.norm1.bias", "blocks.1.attention.out.weight"]
)
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_broken_weights_are_refused(name: str, value: float, given: tuple[Tensor, Tensor]) -> None:
    model = network()
    model.get_parameter(name).data.flatten()[0] = value
    with pytest.raises(ValueError, match="NaN or infinite weights"):
        Exact()(model, *given)


# -- what an error would do --------------------------------------------------------------------------------------------


def test_flips_are_counted_and_the_codec_is_as_before() -> None:
    codec, layers = attention_flips.subject(pictures=24)
    before = codec.entropy_parameters(*layers)
    rows = list(attention_flips.flips(codec, layers, (-12, -24, -60), batch=10))
    assert [row["symbols"] for row in rows] == [24 * 256] * 3
    large, middle, none = rows
    assert (
        large["flips"] > middle["flips"] > none["flips"] == none["flipped_pictures"] == none["squares"] == 0
    )
    assert large["of_rows"] > 0
    assert max(large["of_rows"], large["of_means"]) <= large["flips"] <= large["of_rows"] + large["of_means"]
    assert large["flips"] ** 2 / 24 <= large["squares"] <= large["flips"] ** 2
    for a, b in zip(before, codec.entropy_parameters(*layers), strict=True):
        assert torch.equal(a, b)
    with (
        pytest.raises(ValueError, match="neither softmax nor layer norm"),
        attention_flips.errors(attention_flips.Conditional(nn.Linear(2, 2)), 0.1, seed=0),
    ):
        pass


def test_flips_are_extrapolated_in_proportion() -> None:
    def rows(power: float) -> list[dict[str, int]]:
        counts = {e: round(1000 * 2.0 ** (power * (e + 28))) for e in (-28, -30, -32)}
        return [
            {
                "exponent": e,
                "pictures": 4000,
                "symbols": 10**6,
                "flips": n,
                "flipped_pictures": n,
                "squares": n,
            }
            for e, n in counts.items()
        ]

    found = attention_flips.figures(rows(1.0))
    assert found["attention_flip_exponent"] == pytest.approx(1, abs=0.01)
    # 62 flips of 2**-32: one-sided 95 % of a Poisson count is about 62 + 1.645 sqrt(62).
    expected = (62 + 1.645 * math.sqrt(62)) / 1e6 * 2.0**-19
    assert found["symbol_flip_probability_attention"] == pytest.approx(expected)
    with pytest.raises(ValueError, match="not in proportion"):
        attention_flips.figures(rows(0.7))
    with pytest.raises(ValueError, match="take more pictures"):
        attention_flips.figures(rows(1.0)[:2])


def test_a_shortcut_begins_as_the_linear_function_and_is_exact_with_it() -> None:
    torch.manual_seed(0)
    given = [torch.randn(3, 7, 5), torch.randn(3, 1, 6)]
    with_shortcut = TokenParameters([(7, 5), (1, 6)], 9, 4, width=24, heads=3, shortcut=True)
    nn.init.normal_(with_shortcut.shortcut.mean.weight)
    torch.testing.assert_close(with_shortcut(*given), with_shortcut.shortcut(*given))
    nn.init.normal_(with_shortcut.leave.weight)
    lively(with_shortcut)
    exact = Exact()
    whole = exact(with_shortcut, *given)
    torch.testing.assert_close(whole.float(), with_shortcut(*given), atol=1e-3, rtol=1e-3)
    assert torch.equal(whole[1:2], exact(with_shortcut, *(x[1:2] for x in given)))
