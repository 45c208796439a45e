"""Entropy models against closed forms and slow independent versions."""

import math

import pytest
import torch
from scipy.stats import norm
from torch import nn

from models.entropy import tables
from models.entropy.code_length import code_length
from models.entropy.density import TAIL_MASS
from models.entropy.exact import Exact
from models.entropy.factorized import Factorized
from models.entropy.hyperprior import Hyperprior
from models.entropy.noise import sample_keys, uniform_noise
from models.entropy.rounding import round_ste
from models.entropy.scale_table import SCALE_LEVELS, SCALE_MAX, SCALE_MIN
from models.transforms.convolutional import hyper_analysis, hyper_synthesis


def test_code_length_of_fair_coins_is_one_bit_a_symbol() -> None:
    assert code_length(torch.full((3, 4, 5, 6), 0.5)).tolist() == [120.0] * 3


def test_round_ste_rounds_and_passes_gradients() -> None:
    x = torch.tensor([0.4, 1.6, -2.5], requires_grad=True)
    y = round_ste(x)
    assert y.tolist() == [0.0, 2.0, -2.0]
    (3 * y).sum().backward()
    assert x.grad.tolist() == [3.0, 3.0, 3.0]


def test_noise_is_uniform_and_independent() -> None:
    keys = sample_keys(0, torch.arange(64))
    noise = uniform_noise(keys, (64, 8, 16, 16), salt=0).flatten(1).double()
    assert -0.5 <= noise.min() < -0.4999
    assert 0.4999 < noise.max() < 0.5
    count = noise.numel()
    # Four standard errors of mean and variance of a uniform variable.
    assert abs(noise.mean()) < 4 * math.sqrt(1 / 12 / count)
    assert abs(noise.var() - 1 / 12) < 4 * math.sqrt(1 / 180 / count)
    histogram = torch.histc(noise, 256, -0.5, 0.5)
    chi_squared = ((histogram - count / 256).square() / (count / 256)).sum()
    assert chi_squared < 255 + 5 * math.sqrt(2 * 255)
    within = torch.corrcoef(noise)
    assert (within - torch.eye(64)).abs().max() < 6 / math.sqrt(noise.shape[1])
    for lag in (1, 2, 16, 256):
        pairs = (noise[:, lag:] * noise[:, :-lag]).mean() * 12
        assert abs(pairs) < 5 / math.sqrt(count)
    other = uniform_noise(keys, (64, 8, 16, 16), salt=1).flatten(1).double()
    assert abs((noise * other).mean() * 12) < 5 / math.sqrt(count)


def test_keys_depend_on_seed_and_draw_alone() -> None:
    draws = torch.arange(10_000)
    keys = sample_keys(0, draws)
    assert keys.unique().numel() > 9_990  # birthday collisions of 32 bits: 0.01 expected
    assert torch.equal(sample_keys(0, draws[5000:]), keys[5000:])
    assert not torch.equal(sample_keys(1, draws), keys)
    assert sample_keys(0, draws + (1 << 32)).ne(keys).all()


def test_factorised_likelihood_is_the_difference_of_its_cumulative() -> None:
    torch.manual_seed(0)
    model = Factorized(3).eval()
    nn.init.normal_(model.entropy_bottleneck.quantiles, std=0.3)
    y = 3 * torch.randn(2, 3, 4, 5)
    output = model(y, keys=None)
    medians = model.entropy_bottleneck.quantiles[:, 0, 1].detach()

    def cumulative(channel: int, value: float) -> float:
        logit = torch.zeros(3, 1, 1)
        logit[channel] = value
        return torch.sigmoid(model.entropy_bottleneck._logits_cumulative(logit, stop_gradient=True))[
            channel
        ].item()

    for b, c, i, j in [(0, 0, 0, 0), (1, 2, 3, 4), (0, 1, 2, 2)]:
        rounded = float(torch.round(y[b, c, i, j] - medians[c]) + medians[c])
        assert output.y_hat[b, c, i, j].item() == pytest.approx(rounded, abs=1e-6)
        expected = cumulative(c, rounded + 0.5) - cumulative(c, rounded - 0.5)
        assert output.likelihoods["z"][b, c, i, j].item() == pytest.approx(expected, rel=1e-3)


def test_tails_are_solved_without_moving_parameters() -> None:
    torch.manual_seed(0)
    model = Factorized(4).eval()
    bottleneck = model.entropy_bottleneck
    nn.init.constant_(bottleneck.quantiles[..., 0], -0.1)
    nn.init.constant_(bottleneck.quantiles[..., 1], 0.0)
    nn.init.constant_(bottleneck.quantiles[..., 2], 0.1)
    before = bottleneck.quantiles.detach().clone()
    tables.build(model)
    assert torch.equal(bottleneck.quantiles, before)
    # CompressAI's own update would leave one symbol a channel; the tails hold the mass it asks for.
    for channel in range(4):
        first = float(bottleneck.offset[channel])
        for edge, inside in ((first - 0.02, False), (first + 1.02, True)):
            logit = bottleneck._logits_cumulative(torch.full((4, 1, 1), edge), stop_gradient=True)[channel]
            assert (torch.sigmoid(logit.double()).item() > TAIL_MASS / 2) == inside


@pytest.fixture
def hyperprior() -> Hyperprior:
    torch.manual_seed(0)
    model = Hyperprior(hyper_analysis(8, 12), hyper_synthesis(8, 12), Factorized(8), stride=4)
    for parameter in model.h_s.parameters():
        parameter.data.mul_(4)
    return model


def test_gaussian_likelihood_matches_scipy_with_the_table_s_scale(hyperprior: Hyperprior) -> None:
    hyperprior.eval()
    y = 4 * torch.randn(1, 12, 8, 8)
    output = hyperprior(y, keys=None)
    z_hat = hyperprior.hyper(hyperprior.h_a(y), keys=None).y_hat
    scale, mean = hyperprior.h_s(z_hat).detach().double().chunk(2, 1)
    levels = torch.logspace(math.log10(SCALE_MIN), math.log10(SCALE_MAX), SCALE_LEVELS, dtype=torch.float64)
    nearest = (scale.clamp(SCALE_MIN, SCALE_MAX).log()[..., None] - levels.log()).abs().argmin(-1)
    value, sigma = torch.round(y.double() - mean), levels[nearest]
    expected = norm.cdf(((value + 0.5) / sigma).numpy()) - norm.cdf(((value - 0.5) / sigma).numpy())
    # Float32 tails are coarse: compare where they matter.
    close = torch.isclose(
        output.likelihoods["y"].double(), torch.from_numpy(expected).clamp(min=1e-9), rtol=2e-3, atol=1e-6
    )
    assert close.float().mean() > 0.995
    assert (nearest > 0).float().mean() > 0.1  # the test reaches beyond the lower bound


def test_entropy_parameters_are_float64_and_survive_half(hyperprior: Hyperprior) -> None:
    hyperprior.eval()
    z_hat = torch.randn(1, 8, 2, 2).round()
    mean, index = hyperprior.entropy_parameters(z_hat)
    assert mean.dtype == torch.float64
    assert index.dtype == torch.int16
    assert not any("exact" in key for key in hyperprior.state_dict())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        again, same = hyperprior.entropy_parameters(z_hat)
    assert torch.equal(mean, again)
    assert torch.equal(index, same)
    batch = hyperprior.entropy_parameters(z_hat.repeat(5, 1, 1, 1).to(memory_format=torch.channels_last))[1]
    assert torch.equal(batch[3:4], index)


def test_exact_copies_forget_old_weights(hyperprior: Hyperprior) -> None:
    hyperprior.eval()
    z_hat = torch.randn(1, 8, 2, 2).round()
    old, _ = hyperprior.entropy_parameters(z_hat)
    hyperprior.train()
    hyperprior.h_s[0].weight.data.mul_(2)
    hyperprior.eval()
    new, _ = hyperprior.entropy_parameters(z_hat)
    # Fixed-point arithmetic differs from floating point by about 1e-5.
    plain = hyperprior.h_s.double()(z_hat.double()).chunk(2, 1)[1]
    torch.testing.assert_close(new, plain, rtol=0, atol=2e-4)
    assert not torch.allclose(old, new)
    hyperprior.float().load_state_dict(
        {k: v * 0 for k, v in hyperprior.state_dict().items() if v.is_floating_point()}, strict=False
    )
    assert hyperprior.entropy_parameters(z_hat)[0].abs().max() == 0


def test_exact_is_independent_of_the_original() -> None:
    linear = nn.Linear(2, 2).half()
    exact = Exact()
    assert exact(linear, torch.ones(1, 2)).dtype == torch.float64
    assert linear.weight.dtype == torch.float16
