"""Our densities and GDN are CompressAI's to the last bit: names, first weights, values, gradients and tables."""

from collections.abc import Callable

import pytest
import torch
from compressai.entropy_models import EntropyBottleneck, GaussianConditional
from compressai.layers import GDN as TheirGDN
from torch import Tensor, nn

from models.codecs.compressai import CompressAICodec
from models.entropy import tables
from models.entropy.density import FactorizedDensity, GaussianDensity
from models.entropy.scale_table import compressai_table, fine_table
from models.transforms import fast
from models.transforms.gdn import GDN

PAIRS: dict[str, tuple[Callable[[], nn.Module], Callable[[], nn.Module]]] = {
    "factorized": (lambda: FactorizedDensity(5), lambda: EntropyBottleneck(5)),
    "gaussian": (lambda: GaussianDensity(fine_table()), lambda: GaussianConditional(fine_table())),
    "gdn": (lambda: GDN(5), lambda: TheirGDN(5)),
    "inverse gdn": (lambda: GDN(5, inverse=True), lambda: TheirGDN(5, inverse=True)),
}


def both(name: str) -> tuple[nn.Module, nn.Module]:
    """Ours and theirs, each from the same random numbers."""
    made = []
    for make in PAIRS[name]:
        torch.manual_seed(0)
        made.append(make())
    return made[0], made[1]


def same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> bool:
    return list(ours) == list(theirs) and all(
        ours[key].dtype == theirs[key].dtype and torch.equal(ours[key], theirs[key]) for key in ours
    )


@pytest.mark.parametrize("name", PAIRS)
def test_it_begins_with_the_same_state_in_the_same_order(name: str) -> None:
    ours, theirs = both(name)
    assert same(ours.state_dict(), theirs.state_dict())
    assert [key for key, _ in ours.named_parameters()] == [key for key, _ in theirs.named_parameters()]


@pytest.mark.parametrize("name", ["factorized", "gdn", "inverse gdn"])
def test_values_and_gradients_are_the_same(name: str) -> None:
    results = []
    for model in both(name):
        generator = torch.Generator().manual_seed(1)
        for parameter in model.parameters():
            # Below the bounds too, where gradients pass in one direction alone.
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
        if name == "factorized":
            x = (40 * torch.randn(5, 1, 300, generator=generator)).requires_grad_()
            y = model.likelihood_lower_bound(model._likelihood(x)[0])
            assert (y == 1e-9).any()
            loss = -y.log().sum() + model.loss()
        else:
            x = torch.randn(2, 5, 6, 7, generator=generator).requires_grad_()
            y = model(x)
            loss = (y**3).sum()
        loss.backward()
        gradients = {key: parameter.grad for key, parameter in model.named_parameters()}
        results.append({"y": y.detach(), "loss": loss.detach(), "x": x.grad, **gradients})
    assert same(*results)


def test_values_and_gradients_under_gaussians_are_the_same() -> None:
    results = []
    for model in both("gaussian"):
        generator = torch.Generator().manual_seed(1)
        y, mean = (5 * torch.randn(2, 3, 40, generator=generator)).requires_grad_(), torch.zeros(2, 3, 40)
        mean = mean.requires_grad_()
        scale = torch.randn(2, 3, 40, generator=generator).requires_grad_()
        likelihood = model.likelihood_lower_bound(model._likelihood(y, scale, mean))
        assert (likelihood == 1e-9).any()
        (-likelihood.log()).sum().backward()
        results.append({"p": likelihood.detach(), "y": y.grad, "mean": mean.grad, "scale": scale.grad})
    assert same(*results)


@pytest.mark.parametrize("name", ["factorized", "gaussian"])
def test_tables_are_the_same(name: str) -> None:
    ours, theirs = both(name)
    for model in (ours, theirs):
        tables.build(model)
    assert ours.quantized_cdf.numel()
    assert same(ours.state_dict(), theirs.state_dict())
    tables.clear(theirs)
    assert not theirs.quantized_cdf.numel()


def test_our_range_of_scales_is_compressai_s() -> None:
    from compressai.models.base import get_scale_table

    assert torch.equal(compressai_table(), get_scale_table())


def test_compressai_s_gdn_is_accelerated_too() -> None:
    codec = CompressAICodec("bmshj2018-hyperprior", {"N": 4, "M": 6}).eval().accelerate()
    assert sum(type(layer) is fast.FastGDN for layer in codec.modules()) == 6
