"""The measurements of benchmarks/entropy_coder.py measure what they say, on codecs that are small enough to test."""

import pytest
import torch
from torch import Tensor

from benchmarks import entropy_coder as coder
from models.codecs.compressai import CompressAICodec
from models.entropy import tables


def small(architecture: str) -> CompressAICodec:
    torch.manual_seed(0)
    codec = CompressAICodec(architecture, {"N": 8, "M": 12}).eval()
    for parameter in codec.model.g_a.parameters():
        if parameter.dim() == 4:
            parameter.data.mul_(1.6)
    return codec


@pytest.fixture
def picture() -> Tensor:
    return torch.rand(1, 3, 64, 128, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("architecture", ["bmshj2018-hyperprior", "mbt2018-mean"])
def test_y_is_measured_on_the_same_weights(architecture: str, picture: Tensor) -> None:
    row = coder.coding_of_y(small(architecture), picture, repeats=1)
    assert row["symbols"] == 12 * 4 * 8
    seconds = row["seconds"]
    assert row["speedup"]["decode"] == seconds["compressai_decode"] / seconds["decode"] > 0
    assert row["bytes"]["ours"] <= row["bytes"]["compressai"]
    assert row["bytes"]["y"] <= row["bytes"]["compressai_y"]


def test_the_ideal_is_what_the_tables_approach(picture: Tensor) -> None:
    codec = small("mbt2018-mean")
    row = coder.over_ideal(codec, picture)
    output = codec(picture)
    # forward() estimates in float32 and without our rounding of scales.
    assert row["ideal_bits"] == pytest.approx(float(output.bits["base"]), rel=0.01)
    assert row["over_percent"] == pytest.approx(100 * (row["bits"] - 64) / row["ideal_bits"] - 100)


def test_calls_take_turns() -> None:
    order: list[str] = []
    coder.in_turn({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 2)
    assert order == ["a", "b"] * 3


def test_the_copy_holds_compressai_s_own_tables() -> None:
    codec = small("mbt2018-mean")
    tables.build(codec)
    copy = coder.compressai_of(codec)
    assert len(copy.gaussian_conditional.scale_table) == 64
    assert torch.equal(copy.h_s[0].weight, codec.model.h_s[0].weight)
