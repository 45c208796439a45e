"""Gain units: one model over a range of rates, in real files, and rates and lmbdas that meet a target."""

import pytest
import torch
from torch import Tensor

from losses.distortion import MSE
from losses.objective import Objective
from losses.rate import Rate
from losses.schedules import OfRate
from models.codecs.target_rate import rate_for_bpp
from models.entropy.gains import Gains, GainUnit
from models.entropy.noise import sample_keys
from tests.conftest import tiny_codec


def test_a_gain_is_straight_in_its_logarithm_between_levels() -> None:
    unit = GainUnit(2, 3, 4.0)
    with torch.no_grad():
        unit.log_gain.copy_(torch.tensor([[0.0, 1.0], [1.0, 3.0], [2.0, -1.0]]))
    for rate, expected in (
        (0.0, (0, 1)),
        (0.25, (0.5, 2)),
        (0.5, (1, 3)),
        (0.9, (1.8, -0.2)),
        (1.0, (2, -1)),
    ):
        found = unit(rate)
        torch.testing.assert_close(found.flatten().log(), torch.tensor(expected, dtype=torch.float32))
        (slope,) = torch.autograd.grad(found.sum(), unit.log_gain)
        torch.testing.assert_close(slope.sum(0), found.flatten())


def test_fresh_gains_span_what_they_should_and_undo_each_other() -> None:
    gains = Gains(3, levels=4, span=9.0)
    assert gains.rates == (0.0, 1 / 3, 2 / 3, 1.0)
    for rate in (*gains.rates, 0.2):
        up, down = gains.at(rate)
        torch.testing.assert_close(up * down, torch.ones(3, 1, 1))
    torch.testing.assert_close(gains.up(1.0), 9 * gains.up(0.0))


def test_with_gains_of_one_it_is_the_plain_hyperprior(images: Tensor) -> None:
    codec, plain = tiny_codec("mean_scale_variable"), tiny_codec("mean_scale_small")
    weights = {k: v for k, v in codec.state_dict().items() if not k.startswith("gains.")}
    plain.load_state_dict(weights)
    with torch.no_grad():
        for gain in codec.gains.parameters():
            gain.zero_()
    keys = sample_keys(0, torch.arange(2))
    found, expected = codec(images, 0.3, keys=keys), plain(images, keys=keys)
    torch.testing.assert_close(found.bits, expected.bits)
    torch.testing.assert_close(found.x_hat, expected.x_hat)


def test_encoder_and_decoder_have_the_same_gains_at_every_rate_even_by_default(images: Tensor) -> None:
    codec = tiny_codec("mean_scale_variable").eval()
    asked = []
    at, codec.gains.at = codec.gains.at, lambda rate: asked.append(rate) or at(rate)
    for rate in (None, 0.6, 0.37):
        asked.clear()
        bitstreams = codec.compress(images, rate)
        read = [codec.parse(codec.serialise(b)) for b in bitstreams]
        assert torch.equal(codec.decompress(read).x_hat, codec.decompress(bitstreams).x_hat)
        assert len(set(asked)) == 1, "what a file stores is what was coded at"


def test_files_grow_and_pictures_improve_with_the_rate(images: Tensor) -> None:
    codec = tiny_codec("mean_scale_variable")
    objective = Objective(
        rate=Rate(), distortion={"mse": MSE()}, lmbda=OfRate({0: 0.001, 1: 0.06}, logarithmic=True)
    )
    optimiser = torch.optim.Adam(codec.parameters(), lr=3e-3)
    generator = torch.Generator().manual_seed(0)
    for step in range(150):
        rate = float(torch.rand((), generator=generator))
        keys = sample_keys(step, torch.arange(2))
        optimiser.zero_grad()
        output = codec(images, rate, keys=keys)
        (objective(output, {"image": images}, {}, 0.0)["loss"] + codec.auxiliary_loss()).backward()
        optimiser.step()
    codec.eval()
    lengths, errors = [], []
    for rate in (0.0, 0.37, 1.0):
        files = [codec.serialise(b) for b in codec.compress(images, rate)]
        decoded = codec.decompress([codec.parse(data) for data in files])
        torch.testing.assert_close(decoded.latents["y_hat"], codec(images, rate).latents["y_hat"])
        lengths.append(sum(map(len, files)))
        errors.append((decoded.x_hat - images).square().mean().item())
    assert lengths == sorted(lengths)
    assert lengths[-1] > 1.2 * lengths[0]
    assert errors == sorted(errors, reverse=True)

    calls = []
    compress = codec.compress
    codec.compress = lambda x, rate=None: calls.append(rate) or compress(x, rate)
    aim = 8 * 0.5 * (lengths[0] + lengths[-1]) / (2 * 70 * 90)
    rate, found = rate_for_bpp(codec, images, aim)
    spent = 8 * sum(len(codec.serialise(b)) for b in found) / (2 * 70 * 90)
    assert 0.98 * aim <= spent <= aim
    assert 0 < rate < 1
    # Its rate is what log bpp says; halving alone would take eight and more.
    assert len(calls) <= 8


@pytest.mark.parametrize("wrong", [{"levels": 1}, {"span": 1.0}])
def test_bad_gains_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"levels=.* must be at least 2 and span=.* above 1"):
        Gains(4, **wrong)
