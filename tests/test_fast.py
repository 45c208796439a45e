"""Accelerated transforms: the same numbers up to float rounding, the same files, the same weights."""

import copy
import pickle

import pytest
import torch
from torch import Tensor, nn

from models.codecs.base import Codec
from models.tiling import tiled
from models.transforms import fast, gdn
from models.transforms.gdn import GDN
from tests.conftest import tiny_codec
from tests.drawn_pictures import as_tensor, drawn
from tests.test_entropy_exact import own, wrapped

CODECS = ["own", "bmshj2018-hyperprior", "mbt2018", "cheng2020-attn", "elic2022-official"]

needs_bf16 = pytest.mark.skipif(
    fast.bf16_instructions() is None, reason="this CPU has no bfloat16 instructions"
)


def fresh(name: str) -> Codec:
    return own() if name == "own" else wrapped(name)


def network(layer: nn.Module) -> nn.Sequential:
    return nn.Sequential(layer).eval()


@pytest.fixture
def pictures() -> Tensor:
    return torch.cat([as_tensor(drawn(70, 130, seed)) for seed in range(2)])


@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("shape", [(1, 6, 5, 7), (3, 6, 2, 4), (1, 6, 1, 1)])
def test_gdn_is_its_equation(inverse: bool, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gdn, "PIECE", 6 * 4)  # several pieces, the last one shorter
    torch.manual_seed(0)
    layer = GDN(6, inverse=inverse)
    layer.gamma.data += 0.3 * torch.rand(6, 6)
    layer.beta.data += torch.rand(6)
    x = torch.randn(shape)
    beta, gamma = layer.beta_reparam(layer.beta).double(), layer.gamma_reparam(layer.gamma).double()
    norm = (beta[:, None, None] + torch.einsum("ij,bjhw->bihw", gamma, x.double() ** 2)) ** (
        0.5 if inverse else -0.5
    )
    net = network(layer)
    fast.speed_up(net)
    with torch.no_grad():
        assert torch.allclose(net(x).double(), x.double() * norm, rtol=2e-6, atol=0)


GEOMETRIES = [
    {"kernel_size": 5, "stride": 2, "padding": 2, "output_padding": 1},
    {"kernel_size": 3, "stride": 2, "padding": 1, "output_padding": 1},
    {"kernel_size": 4, "stride": 2, "padding": 1},
    {"kernel_size": 2, "stride": 2},
    {"kernel_size": 9, "stride": 4, "padding": 4, "output_padding": 3},
    {"kernel_size": (5, 3), "stride": 2, "padding": (2, 1), "output_padding": 1, "bias": False},
    {"kernel_size": 1, "stride": 2, "output_padding": 1},
]


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_transposed_convolutions_to_few_channels_are_convolutions(geometry: dict) -> None:
    torch.manual_seed(0)
    net = network(nn.ConvTranspose2d(7, 3, **geometry))
    x = torch.randn(2, 7, 5, 6)
    with torch.no_grad():
        expected = net(x)
        fast.speed_up(net)
        assert len(net[0].derive()[0]) == 3 * net[0].stride[0] ** 2
        assert torch.allclose(net(x), expected, atol=1e-6)


@pytest.mark.parametrize(
    "geometry",
    [
        {"kernel_size": 5, "stride": 2, "padding": 2},
        {"kernel_size": 3, "stride": 1, "padding": 1},
        {"kernel_size": 3, "stride": 2, "padding": 2, "output_padding": 1, "dilation": 2},
        {"kernel_size": 5, "stride": (2, 1), "padding": 2, "output_padding": (1, 0)},
    ],
    ids=str,
)
def test_other_transposed_convolutions_stay(geometry: dict) -> None:
    net = network(nn.ConvTranspose2d(7, 3, **geometry))
    x = torch.randn(2, 7, 5, 6)
    with torch.no_grad():
        expected = net(x)
        fast.speed_up(net)
        assert net[0].derive()[0] is net[0].weight
        assert torch.allclose(net(x), expected, atol=1e-6)


def test_outputs_are_contiguous_float32(pictures: Tensor) -> None:
    codec = fresh("own").accelerate()
    with torch.no_grad():
        y = codec.g_a(pictures[..., :64, :64])
    assert y.is_contiguous()
    assert y.dtype == torch.float32


@pytest.mark.parametrize("name", CODECS)
def test_pixels_and_estimates_agree(name: str, pictures: Tensor) -> None:
    plain, other = fresh(name), fresh(name).accelerate()
    files = plain.compress(pictures)
    a, b = plain.decompress(files), other.decompress(files)
    assert torch.equal(a.latents["y_hat"], b.latents["y_hat"])
    assert a.x_hat.std() > 0.01
    assert torch.allclose(a.x_hat, b.x_hat, atol=1e-4)
    with torch.no_grad():
        a, b = plain(pictures), other(pictures)
    assert torch.allclose(a.bits["base"], b.bits["base"], rtol=0.02)


@pytest.mark.parametrize("bf16", [False, pytest.param(True, marks=needs_bf16)])
@pytest.mark.parametrize("name", CODECS)
def test_files_are_exchangeable(name: str, bf16: bool, pictures: Tensor) -> None:
    """g_a may round a latent at a border the other way, which the encoder is free to do: everybody reads the same."""
    plain, other = fresh(name), fresh(name).accelerate(bf16=bf16)
    assert plain.model_id() == other.model_id()
    for writer in (plain, other):
        files = [writer.serialise(b) for b in writer.compress(pictures)]
        read = [
            reader.decompress([reader.parse(f) for f in files], want=("latents",)).latents["y_hat"]
            for reader in (plain, other)
        ]
        assert torch.equal(*read)
        assert read[0].unique().numel() > 2


@needs_bf16
@pytest.mark.parametrize("name", ["own", "mbt2018-mean"])
def test_bf16_is_used_and_near(name: str, pictures: Tensor) -> None:
    plain, other = fresh(name), fresh(name).accelerate(bf16=True)
    files = plain.compress(pictures)
    a, b = plain.decompress(files), other.decompress(files)
    error = (a.x_hat - b.x_hat).abs()
    assert 0 < error.mean() < 0.01
    with torch.no_grad():
        # What tasks read is no bfloat16 number.
        y_hat = other(pictures).latents["y_hat"]
    assert not torch.equal(y_hat, y_hat.bfloat16().float())


def test_without_instructions_float32_takes_bf16_s_place(
    monkeypatch: pytest.MonkeyPatch, pictures: Tensor
) -> None:
    monkeypatch.setattr(fast, "bf16_instructions", lambda: None)
    codec, plain = fresh("own"), fresh("own").accelerate()
    with pytest.warns(UserWarning, match="^bf16=True: this CPU has no bfloat16 instructions") as told:
        codec.accelerate(bf16=True)
    assert len(told) == 1
    assert codec.compress(pictures)[0].strings == plain.compress(pictures)[0].strings


@needs_bf16
def test_layers_that_need_float32_have_it() -> None:
    codec = fresh("own")
    codec.g_s.append(nn.GroupNorm(1, 3))
    with pytest.warns(
        UserWarning, match="bf16=True: layer '7' is a GroupNorm, which computes in float32 only"
    ):
        codec.accelerate(bf16=True)
    codec.decompress(codec.compress(torch.rand(1, 3, 64, 64)))


def test_training_ends_it_and_refuses_it() -> None:
    codec = fresh("own").accelerate().accelerate()
    assert type(codec.g_a[1]) is fast.FastGDN
    codec.train()
    assert {type(m) for m in codec.g_a} == {nn.Conv2d, GDN}
    assert not codec.g_a._forward_hooks
    assert not codec.g_a._forward_pre_hooks
    with pytest.raises(ValueError, match=r"call codec\.eval\(\) first"):
        codec.accelerate()


def test_weights_and_names_do_not_change(pictures: Tensor) -> None:
    plain, other = fresh("own"), fresh("own").accelerate()
    other.compress(pictures)
    states = plain.state_dict(), other.state_dict()
    assert list(states[0]) == [key for key in states[1] if "cdf" in key or key in states[0]]
    for key, value in plain.named_parameters():
        assert torch.equal(states[1][key], value)
        assert states[1][key].stride() == value.stride()


def test_other_weights_end_it_and_are_used(pictures: Tensor) -> None:
    codec, target = fresh("own").accelerate(), tiny_codec("mean_scale").eval()
    codec.compress(pictures)
    codec.load_state_dict(target.state_dict())
    assert type(codec.g_a[1]) is GDN
    codec.accelerate()
    with torch.no_grad():
        assert torch.allclose(
            codec.g_a(pictures[..., :64, :64]), target.g_a(pictures[..., :64, :64]), atol=1e-5
        )


def test_weights_that_are_written_to_are_noticed(pictures: Tensor) -> None:
    plain, other = fresh("own"), fresh("own").accelerate()
    x = pictures[..., :64, :64]
    with torch.no_grad():
        other.g_a(x)
        for codec in (plain, other):
            codec.g_a[1].beta.mul_(2)
        assert torch.allclose(plain.g_a(x), other.g_a(x), rtol=1e-4, atol=1e-4)


def test_with_gradients_the_layers_compute_as_ever(pictures: Tensor) -> None:
    """Also guards against torch 2.15's crash: a 1x1 convolution of stride 2 on RGB, backward in channels_last."""
    plain, other = fresh("cheng2020-attn"), fresh("cheng2020-attn").accelerate()
    x = pictures[..., :64, :64]
    gradients = []
    for codec in (plain, other):
        codec.model.g_a(x).square().sum().backward()
        gradients.append(codec.model.g_a[0].skip.weight.grad)
    assert torch.equal(*gradients)


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda c: pickle.loads(pickle.dumps(c))], ids=["copy", "pickle"]
)
def test_copies_stand_alone(copied, pictures: Tensor) -> None:
    codec = fresh("own").accelerate()
    file = codec.compress(pictures[:1])
    expected = codec.decompress(file).x_hat
    other = copied(codec)
    other.g_s[1].derived.of(other.g_s[1], torch.float32)[0].zero_()
    assert torch.equal(codec.decompress(file).x_hat, expected)
    other.train()
    assert type(other.g_a[1]) is GDN
    assert not other.g_a._forward_hooks
    assert type(codec.g_a[1]) is fast.FastGDN
    assert torch.allclose(other.eval().decompress(file).x_hat, expected, atol=1e-5)


def test_tiles_are_accelerated_too(pictures: Tensor) -> None:
    plain, other = fresh("own"), fresh("own").accelerate()
    assert plain.receptive_field == other.receptive_field
    file = plain.compress(pictures[:1])
    expected = plain.decompress(file).x_hat
    with tiled(other, 64):
        assert torch.allclose(other.decompress(file).x_hat, expected, atol=1e-4)
    assert type(other.g_s[1]) is fast.FastGDN


def test_a_codec_without_such_transforms_stays_as_it_is() -> None:
    for name in ("jpeg", "identity", "two_layers"):
        codec = tiny_codec(name).eval()
        assert codec.accelerate() is codec
