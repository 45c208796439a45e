"""Latent codecs of every shape, alone and given one another: likelihoods, real bits, noise, and what does not fit."""

import math
from collections.abc import Sequence

import pytest
import torch
from scipy.stats import norm
from torch import Tensor, nn

from models.bitstream import BitstreamError
from models.codecs.hyperprior import MeanScaleHyperprior
from models.entropy import tables
from models.entropy.code_length import code_length
from models.entropy.conditional import Conditional
from models.entropy.factorized import Factorized
from models.entropy.hyperprior import Hyperprior
from models.entropy.latent_codec import LatentCodec, own_shape
from models.entropy.noise import salt_of, sample_keys
from models.entropy.scale_table import SCALE_LEVELS, SCALE_MAX, SCALE_MIN
from models.transforms.attention import TokenParameters
from models.transforms.convolutional import hyper_analysis, hyper_synthesis

SHAPES = {"map": (3, 6, 5, 4), "tokens": (3, 7, 6), "vector": (3, 6)}
"""Of latents of 6 channels."""
OWN = {"map": (5, 4), "tokens": (7,), "vector": ()}


def latent(kind: str, *, seed: int = 0, scale: float = 4.0) -> Tensor:
    return scale * torch.randn(SHAPES[kind], generator=torch.Generator().manual_seed(seed))


def conditional(kind: str, name: str = "y") -> Conditional:
    """Told by a linear network, from a latent of the same kind."""
    torch.manual_seed(0)
    network = nn.Conv2d(6, 12, 1) if kind == "map" else nn.Linear(6, 12)
    with torch.no_grad():
        network.weight.mul_(0.5)
        network.bias[:6] = torch.linspace(0.05, 3, 6)
    return Conditional(network, name=name)


def coded(codec: LatentCodec, y: Tensor, given: Sequence[Tensor] = ()) -> tuple[Tensor, list[bytes]]:
    """What a decoder gets, after checking that it is what ``forward`` says, and the strings."""
    codec.eval()
    tables.build(codec)
    with torch.no_grad():
        strings = codec.compress(y, given)
        y_hat = codec.decompress(strings, own_shape(y), given)
        estimate = codec(y, None, given)
    assert torch.equal(estimate.y_hat, y_hat)
    bits = sum(code_length(likelihood) for likelihood in estimate.likelihoods.values())
    for string, expected in zip(strings, bits.tolist(), strict=True):
        assert abs(8 * len(string) - expected) < 0.02 * expected + 200
    return y_hat, strings


# -- every shape -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", sorted(SHAPES))
def test_own_shape_is_without_images_and_channels(kind: str) -> None:
    assert own_shape(latent(kind)) == OWN[kind]


@pytest.mark.parametrize("kind", sorted(SHAPES))
def test_a_factorised_latent_of_any_shape_is_that_of_a_map(kind: str) -> None:
    torch.manual_seed(0)
    codec = Factorized(6)
    nn.init.normal_(codec.entropy_bottleneck.quantiles, std=0.3)
    y, keys = latent(kind), sample_keys(0, torch.arange(3))
    y_hat, _ = coded(codec, y)
    assert y_hat.shape == y.shape
    channels_second = {"map": y, "tokens": y.mT[..., None], "vector": y[..., None, None]}[kind]
    expected = codec(channels_second.contiguous(), None)
    found = codec(y, None)

    def back(x: Tensor) -> Tensor:
        return {"map": x, "tokens": x[..., 0].mT, "vector": x[..., 0, 0]}[kind] if x.dim() == 4 else x

    assert torch.equal(found.y_hat, back(expected.y_hat))
    torch.testing.assert_close(found.likelihoods["z"], back(expected.likelihoods["z"]))
    noise = codec(y, keys).y_tilde - y
    assert noise.shape == y.shape
    assert -0.5 <= noise.min() < -0.3 < 0.3 < noise.max() < 0.5


@pytest.mark.parametrize("kind", sorted(SHAPES))
def test_a_conditional_likelihood_is_the_normal_s(kind: str) -> None:
    codec, y, given = conditional(kind).eval(), latent(kind), latent(kind, seed=1, scale=1.0)
    output = codec(y, None, (given,))
    weight, bias = (p.detach().double() for p in codec.network.parameters())
    axis = 1 if kind == "map" else -1
    told = torch.tensordot(given.double(), weight.flatten(1), dims=([axis], [1])) + bias
    scale, mean = (part.movedim(-1, axis) for part in told.chunk(2, -1))
    levels = torch.logspace(math.log10(SCALE_MIN), math.log10(SCALE_MAX), SCALE_LEVELS, dtype=torch.float64)
    nearest = (scale.clamp(SCALE_MIN, SCALE_MAX).log()[..., None] - levels.log()).abs().argmin(-1)
    found_mean, index = codec.entropy_parameters(given)
    # An exact layer rounds weights and inputs: borders move by as much.
    assert (index == nearest).float().mean() > 0.98
    assert index.unique().numel() > 5
    torch.testing.assert_close(found_mean, mean, rtol=0, atol=1 / 512 + 1e-3)
    assert torch.equal(256 * found_mean, (256 * found_mean).round())
    value, sigma = torch.round(y.double() - found_mean), levels[index.long()]
    assert torch.equal(output.y_hat.double(), value + found_mean)
    expected = norm.cdf(((value + 0.5) / sigma).numpy()) - norm.cdf(((value - 0.5) / sigma).numpy())
    torch.testing.assert_close(
        output.likelihoods["y"].double(), torch.from_numpy(expected).clamp(min=1e-9), rtol=2e-3, atol=1e-6
    )


@pytest.mark.parametrize("kind", sorted(SHAPES))
def test_a_conditional_latent_codes_what_it_estimates(kind: str) -> None:
    codec, given = conditional(kind), latent(kind, seed=1)
    y_hat, strings = coded(codec, latent(kind), (given,))
    assert y_hat.shape == SHAPES[kind]
    alone = codec.decompress(strings[1:2], OWN[kind], (given[1:2],))
    assert torch.equal(alone, y_hat[1:2])


@pytest.mark.parametrize("kind", sorted(SHAPES))
def test_a_conditional_latent_trains_what_tells_it(kind: str) -> None:
    codec, keys = conditional(kind).train(), sample_keys(0, torch.arange(3))
    y, given = latent(kind).requires_grad_(), latent(kind, seed=1).requires_grad_()
    output = codec(y, keys, (given,))
    (code_length(output.likelihoods["y"]).sum() + output.y_hat.sum()).backward()
    for tensor in (y, given, *codec.network.parameters()):
        assert tensor.grad.isfinite().all()
        assert tensor.grad.any()
    half = codec(y[1:], keys[1:], (given[1:],))
    assert torch.equal(half.y_tilde, output.y_tilde[1:])


# -- layers that are given those before --------------------------------------------------------------------------------


class Layers(nn.Module):
    """Three layers of tokens, each told by those before; strings and ``y_hat`` by layer."""

    def __init__(self) -> None:
        super().__init__()
        sizes = [(12, 8), (12, 8), (16, 6)]
        codecs: list[LatentCodec] = [Factorized(8, name="t0")]
        for number in (1, 2):
            network = TokenParameters(sizes[:number], *sizes[number], width=32, heads=2)
            with torch.no_grad():
                for block in network.blocks:
                    block.attention.to_qkv.weight.mul_(3)
                network.leave.weight.mul_(4)
                # Untrained: of about the latents' own scale, so that escapes are as rare as estimates have it.
                network.leave.bias[: sizes[number][1]] = 4
            codecs.append(Conditional(network, name=f"t{number}"))
        self.codecs, self.sizes = nn.ModuleList(codecs), sizes

    def latents(self, images: int) -> list[Tensor]:
        generator = torch.Generator().manual_seed(3)
        return [3 * torch.randn(images, *size, generator=generator) for size in self.sizes]

    def encode(self, latents: Sequence[Tensor]) -> tuple[list[list[bytes]], list[Tensor]]:
        strings, decoded = [], []
        for codec, y in zip(self.codecs, latents, strict=True):
            strings.append(codec.compress(y, decoded))
            decoded.append(codec(y, None, decoded).y_hat)
        return strings, decoded


@pytest.fixture
def layers() -> Layers:
    torch.manual_seed(0)
    model = Layers().eval()
    tables.build(model)
    return model


@torch.no_grad()
def test_token_layers_decode_from_those_before_alone(layers: Layers) -> None:
    strings, expected = layers.encode(layers.latents(4))
    present: list[Tensor] = []
    for codec, of_layer, (length, _), y_hat in zip(
        layers.codecs, strings, layers.sizes, expected, strict=True
    ):
        one_by_one = [
            codec.decompress([string], (length,), [x[image : image + 1] for x in present])
            for image, string in enumerate(of_layer)
        ]
        assert torch.equal(torch.cat(one_by_one), y_hat)
        present.append(codec.decompress(of_layer, (length,), present))
        assert torch.equal(present[-1], y_hat)
    estimates = [
        codec(y, None, expected[:number]).likelihoods[f"t{number}"]
        for number, (codec, y) in enumerate(zip(layers.codecs, layers.latents(4), strict=True))
    ]
    for of_layer, likelihood in zip(strings, estimates, strict=True):
        for string, bits in zip(of_layer, code_length(likelihood).tolist(), strict=True):
            assert abs(8 * len(string) - bits) < 0.02 * bits + 200


@torch.no_grad()
@pytest.mark.parametrize("change", ["another image's", "one element", "order", "a little"])
def test_what_is_given_wrongly_is_told(layers: Layers, change: str) -> None:
    strings, decoded = layers.encode(layers.latents(4))
    first, second = decoded[0].clone(), decoded[1].clone()
    if change == "another image's":
        first, second = first.roll(1, 0), second.roll(1, 0)
    elif change == "one element":
        first[:, 3, 2] += 8
    elif change == "order":
        first, second = second, first
    else:
        # Means and tables move by little, but of so many symbols some lie at a border.
        second += 0.25
    for image, string in enumerate(strings[2]):
        one = slice(image, image + 1)
        with pytest.raises(BitstreamError, match="damaged|differ from the encoder's"):
            layers.codecs[2].decompress([string], (16,), (first[one], second[one]))


def test_what_lacks_or_does_not_fit_is_told(layers: Layers) -> None:
    strings, decoded = layers.encode(layers.latents(2))
    last = layers.codecs[2]
    with pytest.raises(ValueError, match="needs `given`"):
        last.decompress(strings[2], (16,))
    with pytest.raises(ValueError, match="needs `given`"):
        last(torch.zeros(2, 16, 6), None)
    with pytest.raises(ValueError, match="made for"):
        last.decompress(strings[2], (16,), decoded[:1])
    with pytest.raises(ValueError, match=r"means of shape \(2, 16, 6\), but the latent is \(2, 15, 6\)"):
        last.decompress(strings[2], (15,), decoded[:2])
    with pytest.raises(ValueError, match=r"means of shape \(2, 16, 6\), but the latent is \(1, 16, 6\)"):
        last.decompress(strings[2][:1], (16,), decoded[:2])
    with pytest.raises(ValueError, match=r"but the latent is \(2, 16, 5\)"):
        last(torch.zeros(2, 16, 5), None, decoded[:2])


def test_siblings_share_neither_noise_nor_names() -> None:
    keys, y = sample_keys(0, torch.arange(3)), torch.zeros(SHAPES["map"])
    codecs = [conditional("map", name) for name in ("t12", "t21", "y")] + [Factorized(6, name="t3")]
    outputs = [codec(y, keys, (latent("map"),)) for codec in codecs]
    assert [set(output.likelihoods) for output in outputs] == [{"t12"}, {"t21"}, {"y"}, {"t3"}]
    noises = torch.stack([output.y_tilde.detach().flatten() for output in outputs])
    apart = torch.corrcoef(noises) - torch.eye(4)
    assert apart.abs().max() < 5 / math.sqrt(noises.shape[1])


def test_salts_of_names() -> None:
    # The noise of models that were trained with these names.
    assert [salt_of(name) for name in ("z", "y", "v")] == [122, 121, 118]
    names = [f"{word}{number}" for word in ("t", "layer", "base.t") for number in range(200)]
    assert len({salt_of(name) for name in names}) == len(names)


# -- the hyperprior among them -----------------------------------------------------------------------------------------


class Summed(nn.Module):
    """h_s of a hyper-latent and another map of y's size."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.beside = hyper_synthesis(8, 6), nn.Conv2d(3, 12, 3, padding=1)
        nn.init.constant_(self.beside.bias[:6].data, 4)

    def forward(self, z_hat: Tensor, other: Tensor) -> Tensor:
        return 3 * self.up(z_hat) + self.beside(other)


def test_a_hyperprior_passes_on_what_it_is_given() -> None:
    torch.manual_seed(0)
    codec = Hyperprior(hyper_analysis(8, 6), Summed(), Factorized(8))
    y, other = 4 * torch.randn(2, 6, 8, 12), torch.randn(2, 3, 8, 12)
    y_hat, strings = coded(codec, y, (other,))
    assert y_hat.shape == y.shape
    with pytest.raises(BitstreamError):
        codec.decompress(strings, (8, 12), (other + 1,))
    other.requires_grad_()
    output = codec.train()(y, sample_keys(0, torch.arange(2)), (other,))
    assert set(output.likelihoods) == {"y", "z"}
    code_length(output.likelihoods["y"]).sum().backward()
    assert other.grad.any()


def test_a_hyperprior_s_names_are_those_of_files_from_before() -> None:
    codec = MeanScaleHyperprior(4, 6)
    names = list(codec.latent_codec.state_dict())
    assert [n for n, _ in codec.latent_codec.named_children()] == [
        "h_a",
        "h_s",
        "hyper",
        "gaussian_conditional",
    ]
    assert not [n for n in names if n.startswith("network")]
    assert type(codec.latent_codec).__qualname__ == "Hyperprior"
    assert codec.latent_codec.mean_bits is None


def test_exact_copies_of_a_conditional_forget_old_weights() -> None:
    codec, given = conditional("tokens").eval(), latent("tokens")
    old, _ = codec.entropy_parameters(given)
    codec.train()
    codec.network.weight.data.mul_(2)
    codec.eval()
    new, _ = codec.entropy_parameters(given)
    assert not torch.equal(old, new)
    assert torch.equal(256 * new, (256 * new).round())
    codec.load_state_dict(
        {key: value * 0 if key.startswith("network") else value for key, value in codec.state_dict().items()}
    )
    assert not codec.entropy_parameters(given)[0].any()
