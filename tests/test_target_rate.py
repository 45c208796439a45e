"""The rate that meets a target size, against exhaustive search."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from models.codecs.base import Codec
from models.codecs.identity import Identity
from models.codecs.standard.pillow import JPEG
from models.codecs.target_rate import rate_for_bpp
from tests.drawn_pictures import as_tensor, drawn, standard


class Counted(Codec):
    """A codec of any ladder whose files have the length that ``length`` says; it counts what it codes."""

    def __init__(self, rates: tuple[float, ...], length, step: float | None):
        super().__init__()
        self.rates, self.length, self.rate_step = rates, length, step
        self.coded: list[float] = []

    def _encode(self, x: Tensor, rate: float | None) -> list[dict[str, bytes]]:
        self.coded.append(rate)
        return [{"base": bytes(self.length(rate))} for _ in x]

    def serialise(self, bitstream) -> bytes:
        return bitstream.strings["base"]


def exhaustive(codec: Codec, x: Tensor, bpp: float, rates: list[float]) -> tuple[float, list[bytes]]:
    """The slow version: code at every rate, keep the largest that fits."""
    best = (-1.0, 0.0, [])
    for rate in rates:
        files = [codec.serialise(b) for b in codec.compress(x, rate)]
        spent = sum(8 * len(data) for data in files) / len(files) / x.shape[-2] / x.shape[-1]
        if spent <= bpp and spent >= best[0]:
            best = (spent, rate, files)
    return best[1], best[2]


@pytest.mark.parametrize("name", ["jpeg", "webp_default", "hevc"])
def test_rate_for_bpp_is_what_exhaustive_search_finds(name: str) -> None:
    codec = standard(name)
    x = torch.cat([as_tensor(drawn(48, 64, seed)) for seed in (3, 4)])
    low, high = sorted((codec.rates[0], codec.rates[-1]))
    rates = [float(rate) for rate in range(int(low), int(high) + 1)]
    rates = rates if codec.rates[0] == low else rates[::-1]
    spent = {
        rate: np.mean([8 * len(b.strings["base"]) for b in codec.compress(x, rate)]) / 48 / 64
        for rate in rates
    }
    for share in (0.0, 0.1, 0.4, 0.8, 1.0):
        target = min(spent.values()) + share * (max(spent.values()) - min(spent.values())) + 1e-9
        fits = max(value for value in spent.values() if value <= target)
        rate, bitstreams = rate_for_bpp(codec, x, target)
        files = [codec.serialise(b) for b in bitstreams]
        assert np.mean([8 * len(data) for data in files]) / 48 / 64 == spent[rate]
        assert [b.rate for b in bitstreams] == [rate, rate]
        # Where neighbouring qualities swap places, the search keeps the target and stops at the first that breaks it.
        following = rates[rates.index(rate) + 1 :][:1]
        assert spent[rate] <= target
        assert spent[rate] == fits or spent[following[0]] > target


@pytest.mark.parametrize("rates", [(1.0, 9.0, 63.0), (63.0, 20.0, 1.0), (0.0, 1.0), (10.0, 9.5, 0.25)])
@pytest.mark.parametrize("step", [1.0, 0.5])
def test_stepped_rates_are_found_exactly_and_coded_once(rates: tuple[float, ...], step: float) -> None:
    fewest, most = rates[0], rates[-1]
    codec = Counted(rates, lambda rate: 10 + round(4 * abs(rate - fewest)), step).eval()
    x = torch.zeros(2, 3, 8, 8)
    count = math.ceil(abs(most - fewest) / step)
    every = [
        fewest + math.copysign(min(k * step, abs(most - fewest)), most - fewest) for k in range(count + 1)
    ]
    for length in (10, 11, 13, 50, 117, 10_000):
        codec.coded.clear()
        rate, bitstreams = rate_for_bpp(codec, x, 8 * length / 64)
        coded = list(codec.coded)
        assert len(coded) == len(set(coded)) <= 2 + math.ceil(math.log2(count + 1))
        expected, files = exhaustive(codec, x, 8 * length / 64, every)
        assert (rate, [b.strings["base"] for b in bitstreams]) == (expected, files)


@pytest.mark.parametrize("rates", [(0.001, 0.1), (50.0, 2.0)])
def test_continuous_rates_are_approached_from_below(rates: tuple[float, float]) -> None:
    fewest, most = rates
    codec = Counted(
        rates, lambda rate: round(1e5 * (0.1 + abs(rate - fewest) / abs(most - fewest)) ** 2), None
    ).eval()
    x = torch.zeros(1, 3, 100, 100)
    for share in (0.02, 0.3, 0.9):
        target = 8 * share * 1e5 / 1e4
        rate, (bitstream,) = rate_for_bpp(codec, x, target)
        assert 0.998 * target <= 8 * len(bitstream.strings["base"]) / 1e4 <= target
        assert min(rates) <= rate <= max(rates)
        assert len(codec.coded) == len(set(codec.coded)) <= 24
        codec.coded.clear()
    rate, _ = rate_for_bpp(codec, x, 1000.0)
    assert (rate, len(codec.coded)) == (most, 2)


def test_targets_out_of_reach_are_told() -> None:
    x = as_tensor(drawn(32, 32))
    least = 8 * len(JPEG().encode(drawn(32, 32), 1)) / 32 / 32
    with pytest.raises(ValueError, match=rf"bpp=0.01 .*lowest rate 1 this codec needs {least:.4g}"):
        rate_for_bpp(JPEG().eval(), x, 0.01)
    with pytest.raises(ValueError, match="has one rate"):
        rate_for_bpp(Identity().eval(), x, 1.0)
    with pytest.raises(ValueError, match="bpp=0 must be above zero"):
        rate_for_bpp(JPEG().eval(), x, 0)
