"""Terms against slow versions, schedules at their ends, and the weighted sum."""

import pytest
import torch
from torch import nn

from losses.distortion import MSE, MSSSIM
from losses.objective import Objective
from losses.rate import Rate
from losses.schedules import Cosine, Linear, OfRate, value_at
from losses.term import Term
from models.outputs import CodecOutput


@pytest.fixture
def output() -> CodecOutput:
    generator = torch.Generator().manual_seed(0)
    x_hat = torch.rand(2, 3, 6, 10, generator=generator)
    return CodecOutput(
        (6, 10), x_hat=x_hat, bits={"base": torch.tensor([60.0, 120.0]), "top": torch.tensor([30.0, 0.0])}
    )


@pytest.fixture
def batch() -> dict:
    return {"image": torch.rand(2, 3, 6, 10, generator=torch.Generator().manual_seed(1))}


def test_rate_is_bits_per_original_pixel(output: CodecOutput, batch: dict) -> None:
    assert Rate()(output, batch).item() == pytest.approx((90 + 120) / 2 / 60)


def test_mse_is_on_the_scale_of_8_bit_values(output: CodecOutput, batch: dict) -> None:
    slow = 0.0
    for a, b in zip(
        (255 * output.x_hat).flatten().tolist(), (255 * batch["image"]).flatten().tolist(), strict=True
    ):
        slow += (a - b) ** 2
    assert MSE()(output, batch).item() == pytest.approx(slow / output.x_hat.numel(), rel=1e-5)


def test_mse_gradient(batch: dict) -> None:
    x_hat = torch.rand(1, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    x = torch.rand(1, 3, 4, 4, dtype=torch.float64)
    # The term computes in float32: differences of 1e-3 are what it can resolve.
    assert torch.autograd.gradcheck(
        lambda p: MSE()(CodecOutput((4, 4), x_hat=p), {"image": x}).double() / 255**2,
        (x_hat,),
        eps=1e-2,
        atol=1e-3,
    )


def test_ms_ssim_is_zero_for_equal_pictures_and_refuses_small_ones(output: CodecOutput, batch: dict) -> None:
    x = torch.rand(1, 3, 176, 176)
    assert MSSSIM()(CodecOutput((176, 176), x_hat=x), {"image": x}).item() == pytest.approx(0, abs=1e-5)
    worse = MSSSIM()(CodecOutput((176, 176), x_hat=0.5 * x), {"image": x}).item()
    assert 0.01 < worse < 1
    with pytest.raises(ValueError, match="sides of 176"):
        MSSSIM()(output, batch)


def test_the_objective_weighs_every_part_once(output: CodecOutput, batch: dict) -> None:
    class Constant(Term):
        def __init__(self, value: float):
            super().__init__()
            self.value = value

        def forward(self, output: CodecOutput, batch: dict) -> torch.Tensor:
            return torch.tensor(self.value)

    objective = Objective(
        rate=Constant(2.0),
        distortion={"a": Constant(3.0), "b": Constant(5.0)},
        lmbda=Linear(1.0, 3.0),
        distortion_weights={"b": 0.5},
        tasks={"t": 7.0, "u": Linear(0.0, 2.0, until=0.5)},
    )
    losses = {"t": torch.tensor(11.0), "u": torch.tensor(13.0)}
    start = objective(output, batch, losses, 0.0)
    assert start["loss"].item() == pytest.approx(2 + 1 * (3 + 0.5 * 5) + 7 * 11 + 0)
    end = objective(output, batch, losses, 1.0)
    assert end["loss"].item() == pytest.approx(2 + 3 * (3 + 0.5 * 5) + 7 * 11 + 2 * 13)
    assert {k: v.item() for k, v in end.items() if k != "loss"} == {
        "rate": 2.0, "distortion/a": 3.0, "distortion/b": 5.0, "task/t": 11.0, "task/u": 13.0, "lmbda": 3.0,
    }  # fmt: skip


def test_an_empty_objective_is_refused() -> None:
    with pytest.raises(ValueError, match="empty"):
        Objective()
    with pytest.raises(ValueError, match="distortion_weights names"):
        Objective(rate=Rate(), distortion_weights={"lpips": 1.0})


def test_schedules() -> None:
    assert [Linear(0.0, 4.0, until=0.5)(p) for p in (0, 0.25, 0.5, 1)] == [0, 2, 4, 4]
    cosine = Cosine(warmup=0.1, floor=0.2)
    assert cosine(0.05) == pytest.approx(0.5)
    assert cosine(0.1) == pytest.approx(1.0)
    assert cosine(0.55) == pytest.approx(0.6)
    assert cosine(1.0) == pytest.approx(0.2)
    assert cosine(0.0) > 0
    assert value_at(0.3, 0.9) == 0.3
    with pytest.raises(ValueError, match="until"):
        Linear(0.0, 1.0, until=0.0)
    with pytest.raises(ValueError, match="warmup"):
        Cosine(warmup=1.0)


def test_a_value_of_rate_is_straight_between_rates_and_flat_beyond() -> None:
    lmbda = OfRate({10: 1.0, 30: 3.0}, times=Linear(1.0, 2.0))
    assert [lmbda(0.0, rate) for rate in (0, 10, 15, 30, 99)] == [1.0, 1.0, 1.5, 3.0, 3.0]
    assert lmbda(1.0, 15) == 3.0
    assert OfRate({10: 0.001, 30: 0.1}, logarithmic=True)(0.0, 20) == pytest.approx(0.01)
    assert OfRate({"10": 1.0, 30: 3.0})(0.0, 20) == 2.0  # a yaml may quote its keys
    with pytest.raises(ValueError, match="only one rate"):
        lmbda(0.0, None)
    with pytest.raises(ValueError, match="is empty"):
        OfRate({})
    with pytest.raises(ValueError, match="above 0"):
        OfRate({1: 0.0, 2: 1.0}, logarithmic=True)


def test_every_scalar_follows_the_rate_of_the_output(output: CodecOutput, batch: dict) -> None:
    class Constant(Term):
        def forward(self, output: CodecOutput, batch: dict) -> torch.Tensor:
            return torch.tensor(1.0)

    of_rate = OfRate({1: 10.0, 2: 20.0})
    objective = Objective(
        distortion={"a": Constant()},
        lmbda=of_rate,
        tasks={"t": of_rate},
        terms={"k": Constant()},
        term_weights={"k": of_rate},
    )
    for rate, expected in ((1.0, 30.0), (1.5, 45.0), (2.0, 60.0)):
        output.rate = rate
        assert objective(output, batch, {"t": torch.tensor(1.0)}, 0.0)["loss"].item() == pytest.approx(
            expected
        )


def test_terms_are_given_the_modules_they_name_and_hold_no_weights(output: CodecOutput, batch: dict) -> None:
    class Probe(Term):
        uses = ("networks.b", "networks.a")

        def forward(self, output: CodecOutput, batch: dict, b: nn.Module, a: nn.Module) -> torch.Tensor:
            return (10 * b.bias + a.bias).sum()

    modules = {f"networks.{name}": nn.Linear(1, 1) for name in "ab"}
    for value, module in enumerate(modules.values(), start=1):
        nn.init.constant_(module.bias, float(value))
    found = Objective(terms={"probe": Probe()})(output, batch, {}, 0.0, modules)
    assert found["loss"].item() == found["term/probe"].item() == 21.0

    class Owner(Probe):
        def __init__(self) -> None:
            super().__init__()
            self.network = nn.Linear(1, 1)

    with pytest.raises(ValueError, match=r"term/owner holds weights.*`networks`.*models.frozen.Frozen"):
        Objective(terms={"owner": Owner()})

    class PerImage(Term):
        def forward(self, output: CodecOutput, batch: dict) -> torch.Tensor:
            return output.bpp

    with pytest.raises(ValueError, match=r"must be scalars.*PerImage gave .*\(2,\)"):
        Objective(terms={"mine": PerImage()})(output, batch, {}, 0.0)
    with pytest.raises(ValueError, match="term_weights names"):
        Objective(terms={"probe": Probe()}, term_weights={"prob": 1.0})
