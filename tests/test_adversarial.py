"""Critics, and both sides' terms against slow versions."""

import math

import pytest
import torch
from torch import Tensor, nn

from lightning_modules.parts import Parts, freeze_all_but, frozen_state, set_modes
from losses.adversarial import (
    DiscriminatorLoss,
    FeatureMatching,
    GeneratorLoss,
    Hinge,
    LatentRegression,
    NonSaturating,
)
from models.codecs.identity import Identity
from models.critics.multiscale import MultiscaleCritic
from models.critics.projected import ProjectedCritic
from models.feature_maps import FeatureMaps
from models.frozen import Frozen
from models.heads.teacher import TimmTeacher
from models.outputs import CodecOutput
from tests.conftest import tiny_codec


class Known(nn.Module):
    """Scores and features that are easy to work out."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(3.0))

    def forward(self, x: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        return [self.weight * x[:, :1], x[:, 1:2, ::2, ::2] ** 2], [x, 2 * x[..., :1]]


@pytest.fixture
def pair() -> tuple[CodecOutput, dict]:
    generator = torch.Generator().manual_seed(0)
    x_hat, x = (torch.randn(2, 3, 4, 6, generator=generator) for _ in range(2))
    return CodecOutput((4, 6), x_hat=x_hat.requires_grad_()), {"image": x}


def slow_mean(values: list[float], cost) -> float:
    return sum(map(cost, values)) / len(values)


def scores_of(x: Tensor) -> list[list[float]]:
    return [(3 * x[:, 0]).flatten().tolist(), (x[:, 1, ::2, ::2] ** 2).flatten().tolist()]


GAMES = {
    "hinge": (Hinge(), lambda d: -d, lambda d: max(0.0, 1 - d), lambda d: max(0.0, 1 + d)),
    "non-saturating": (
        NonSaturating(),
        lambda d: math.log(1 + math.exp(-d)),
        lambda d: math.log(1 + math.exp(-d)),
        lambda d: math.log(1 + math.exp(d)),
    ),
}


@pytest.mark.parametrize("name", GAMES)
def test_both_sides_are_means_over_positions_then_scales(name: str, pair: tuple[CodecOutput, dict]) -> None:
    (output, batch), (game, fooling, real, fake) = pair, GAMES[name]
    critic = Known()
    fakes, reals = scores_of(output.x_hat), scores_of(batch["image"])
    expected = sum(slow_mean(scores, fooling) for scores in fakes) / 2
    assert GeneratorLoss(game)(output, batch, critic).item() == pytest.approx(expected, rel=1e-4)
    expected = sum(slow_mean(a, real) + slow_mean(b, fake) for a, b in zip(reals, fakes, strict=True)) / 2
    loss = DiscriminatorLoss(game)(output, batch, critic)
    assert loss.item() == pytest.approx(expected, rel=1e-4)
    loss.backward()
    assert output.x_hat.grad is None
    assert critic.weight.grad is not None


def test_r1_is_half_the_squared_slope_of_the_mean_score(pair: tuple[CodecOutput, dict]) -> None:
    output, batch = pair
    x, slope = batch["image"].double(), torch.zeros(2, 3, 4, 6)
    slope[:, 0] = 3 / 24 / 2
    slope[:, 1, ::2, ::2] = 2 * x[:, 1, ::2, ::2].float() / 6 / 2
    expected = 5.0 / 2 * slope.square().sum((1, 2, 3)).mean()
    with torch.no_grad():  # as validation asks
        found = [DiscriminatorLoss(Hinge(), r1=r1)(output, batch, Known()) for r1 in (0.0, 5.0)]
    torch.testing.assert_close(found[1] - found[0], expected, rtol=1e-3, atol=1e-6)
    with pytest.raises(ValueError, match="r1=-1 must be 0 or above"):
        DiscriminatorLoss(Hinge(), r1=-1)


def test_feature_matching_is_the_mean_of_the_maps_means(pair: tuple[CodecOutput, dict]) -> None:
    output, batch = pair
    difference = (output.x_hat - batch["image"]).abs()
    expected = (difference.mean() + 2 * difference[..., :1].mean()) / 2
    loss = FeatureMatching()(output, batch, Known())
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert output.x_hat.grad.any()


def test_latent_regression_encodes_the_decode_again(images: Tensor) -> None:
    codec = tiny_codec("layered_generative_small")
    output = codec(images, keys=torch.tensor([1, 2]))
    again = codec.style.g_a(nn.functional.pad(output.x_hat, (0, 6, 0, 26), mode="replicate"))
    expected = (again - output.latents["style_hat"]).abs().mean()
    loss = LatentRegression("style_hat", "codec.style.g_a", stride=32)(output, {}, codec.style.g_a)
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert codec.g_s.leave.weight.grad.any()


def test_an_empty_batch_is_told(pair: tuple[CodecOutput, dict]) -> None:
    none = CodecOutput((4, 6), x_hat=torch.zeros(0, 3, 4, 6))
    for term in (GeneratorLoss(Hinge()), DiscriminatorLoss(Hinge()), FeatureMatching()):
        with pytest.raises(ValueError, match="a batch without a picture"):
            term(none, {"image": none.x_hat}, Known())


def projected() -> ProjectedCritic:
    torch.manual_seed(0)
    network = TimmTeacher("test_efficientnet", backbone_args={"num_classes": 0})
    return ProjectedCritic(Frozen(FeatureMaps(network, ["net.blocks.0", "net.blocks.2"])), width=8)


CRITICS = {
    "multiscale": lambda: MultiscaleCritic(4, num_layers=2, num_scales=2),
    "plain": lambda: MultiscaleCritic(4, num_layers=2, num_scales=2, spectral_norm=False),
    "projected": projected,
}


@pytest.mark.parametrize("name", CRITICS)
def test_critics_look_at_any_size_and_learn_all_over(name: str) -> None:
    critic = CRITICS[name]()
    for size in ((64, 48), (33, 71)):
        scores, features = critic(torch.rand(2, 3, *size))
        assert len(scores) == 2
        assert all(score.shape[:2] == (2, 1) for score in scores)
        assert len(features) >= 2
    sum(score.mean() for score in scores).backward()
    assert not [n for n, p in critic.named_parameters() if p.grad is None or not p.grad.isfinite().all()]


@pytest.mark.parametrize("name", CRITICS)
def test_a_picture_s_scores_are_its_own(name: str) -> None:
    critic, x = CRITICS[name]().eval(), torch.rand(3, 3, 32, 32)
    together, alone = critic(x), critic(x[1:2])
    for a, b in zip(together, alone, strict=True):
        for one, other in zip(a, b, strict=True):
            torch.testing.assert_close(one[1:2], other, rtol=1e-4, atol=1e-5)


def test_spectral_norm_bounds_every_layer() -> None:
    critic = MultiscaleCritic(4, num_layers=1, num_scales=1)
    for _ in range(50):
        critic(torch.rand(1, 3, 16, 16))
    for layer in critic.scales[0]:
        norm = torch.linalg.matrix_norm(layer.weight.flatten(1), 2)
        assert norm.item() == pytest.approx(1.0, rel=1e-2)


@pytest.mark.parametrize("name", CRITICS)
def test_a_frozen_critic_stands_still(name: str) -> None:
    parts = Parts(Identity(), {}, {"critic": CRITICS[name](), "other": nn.Linear(1, 1)})
    freeze_all_but(parts, ["networks.other"])
    set_modes(parts.networks, True)
    before = {key: value.clone() for key, value in frozen_state(parts)}
    assert any("critic" in key for key in before)
    parts.networks["critic"](torch.rand(2, 3, 32, 32))
    for key, value in frozen_state(parts):
        assert torch.equal(value, before[key]), key


def test_a_projected_critic_s_mixture_is_stored_and_its_network_is_not() -> None:
    critic, other = projected(), projected()
    assert not [key for key in critic.state_dict() if key.startswith("network")]
    other.mix0.zero_()
    other.load_state_dict(critic.state_dict())
    x = torch.rand(1, 3, 32, 32)
    torch.testing.assert_close(other.eval()(x)[0][0], critic.eval()(x)[0][0])
