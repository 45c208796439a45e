"""A lmbda that finds its target, on a codec that is a formula, and what it must not do."""

import pytest
import torch
from torch import Tensor

from losses.distortion import MSE
from losses.objective import Objective
from losses.rate import Rate
from losses.rate_control import TargetBpp, TwoLevels
from models.outputs import CodecOutput


def answer(bpp: float, count: int = 2) -> CodecOutput:
    """Pictures of 10 x 10 that take so many bits a pixel."""
    pixels = torch.full((count, 3, 10, 10), 0.5, requires_grad=True)
    return CodecOutput((10, 10), x_hat=pixels, bits={"base": torch.full((count,), 100 * bpp)})


def objective(lmbda) -> Objective:
    return Objective(rate=Rate(), distortion={"mse": MSE()}, lmbda=lmbda)


def batch() -> dict[str, Tensor]:
    return {"image": torch.full((2, 3, 10, 10), 0.4)}


def test_a_target_is_found_and_held_whatever_the_start() -> None:
    for start in (1e-4, 1e1):
        found = objective(TargetBpp(0.3, start=start, gain=0.1)).train()
        lmbda = start
        generator = torch.Generator().manual_seed(0)
        tail = []
        for step in range(400):
            # Bits go with lmbda's root, and with the batch.
            noise = float(torch.randn((), generator=generator))
            bpp = 2.0 * lmbda**0.5 * (1 + 0.1 * noise)
            lmbda = found(answer(max(bpp, 1e-3)), batch(), {}, 0.5)["lmbda"].item()
            tail += [2.0 * lmbda**0.5] if step >= 300 else []
        assert sum(tail) / len(tail) == pytest.approx(0.3, rel=0.03)


def test_the_value_multiplies_distortion_and_validation_leaves_it_alone() -> None:
    found = objective(TargetBpp(0.3, start=0.02, gain=0.5)).train()
    parts = found(answer(0.6), batch(), {}, 0.0)
    expected = parts["rate"] + 0.02 * parts["distortion/mse"]
    torch.testing.assert_close(parts["loss"], expected)
    moved = found.lmbda.log_value.exp().item()
    assert moved == pytest.approx(0.02 * 0.5**0.5)
    found.eval()
    found(answer(5.0), batch(), {}, 1.0)
    found.train()
    with torch.no_grad():
        found(answer(5.0), batch(), {}, 1.0)
    assert found.lmbda.log_value.exp().item() == pytest.approx(moved)
    # It is kept, so that a stage that is killed goes on with it.
    other = objective(TargetBpp(0.3, start=0.5))
    other.load_state_dict(found.state_dict())
    assert other.lmbda.log_value == found.lmbda.log_value
    for broken in (float("nan"), 0.0, float("inf")):
        found(answer(broken), batch(), {}, 0.0)
        assert torch.isfinite(found.lmbda.log_value)


def test_two_levels_change_at_the_target() -> None:
    found = objective(TwoLevels(0.3, over=0.001, under=0.1))
    assert found(answer(0.31), batch(), {}, 0.0)["lmbda"].item() == pytest.approx(0.001)
    assert found(answer(0.29), batch(), {}, 0.0)["lmbda"].item() == pytest.approx(0.1)


def test_what_cannot_be_controlled_is_refused() -> None:
    with pytest.raises(ValueError, match=r"bpp=0 must be above 0"):
        TargetBpp(0, start=1.0)
    with pytest.raises(ValueError, match=r"start=5 within low=0.1 .. high=2"):
        TargetBpp(1, start=5, low=0.1, high=2)
    with pytest.raises(ValueError, match="counts none"):
        TwoLevels(1.0, over=1, under=2)(0.0)
    with pytest.raises(ValueError, match="several rates"):
        TargetBpp(1, start=1)(0.0, 0.5, torch.ones(2))
