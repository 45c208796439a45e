"""The layered generative codec: streams that decode alone, who pays for what, and AdaIN against the equation."""

import copy
from functools import partial

import pytest
import torch
from torch import Tensor

from models.bitstream import BitstreamError
from models.codecs.layered_generative import LayeredGenerative, hyperprior
from models.codecs.read_through import ReadThrough
from models.entropy.factorized import Factorized
from models.heads.features import TimmFeatures
from models.transforms.adain import AdaIN, AdaINSynthesis
from models.transforms.residual import MapEncoder, MapSynthesis, VectorEncoder
from models.transforms.trunk import TrunkMap
from tests.conftest import tiny_codec

PRIORS = {
    "hyperprior": partial(hyperprior, width=4, name="content"),
    "factorised": partial(Factorized, name="content"),
}


@pytest.fixture(params=PRIORS)
def codec(request: pytest.FixtureRequest) -> LayeredGenerative:
    """Tiny, with styles and contents that are not all zero."""
    torch.manual_seed(0)
    codec = LayeredGenerative(
        6,
        5,
        content_encoder=partial(MapEncoder, num_stages=3, width=4, max_width=8, blocks=1),
        style_encoder=partial(VectorEncoder, num_stages=3, width=4, max_width=8),
        content_prior=PRIORS[request.param],
        style_prior=partial(Factorized, name="style"),
        synthesis=partial(AdaINSynthesis, width=16, min_width=8, blocks=1, mapping_width=8),
    )
    codec.style.g_a.linear.weight.data.mul_(40)
    codec.content.g_a.layers[-1].weight.data.mul_(20)
    codec.style.latent_codec.entropy_bottleneck.quantiles.data[:, 0, 1] = torch.linspace(-3, 3, 5)
    return codec.eval()


def test_each_stream_decodes_alone_and_the_other_is_what_its_model_expects(
    codec: LayeredGenerative, images: Tensor
) -> None:
    bitstreams = codec.compress(images)
    whole = codec.decompress(bitstreams)
    content, style = (codec.decompress(bitstreams, upto=name) for name in ("content", "style"))
    assert (list(content.latents), list(style.latents)) == (["content_hat"], ["style_hat"])
    assert (list(content.bits), list(style.bits)) == (["content"], ["style"])
    for alone in (content, style):
        ((name, latent),) = alone.latents.items()
        assert torch.equal(latent, whole.latents[name])
        assert not torch.equal(alone.x_hat, whole.x_hat)
    # The medians of a factorised prior, whatever the picture.
    medians = torch.linspace(-3, 3, 5).expand(2, -1)
    expected = codec.g_s(whole.latents["content_hat"], medians)
    torch.testing.assert_close(content.x_hat, expected[..., :70, :90].clamp(0, 1))
    assert torch.equal(style.x_hat, codec.decompress(bitstreams, upto="style", want=("pixels",)).x_hat)


def test_a_file_cut_off_behind_its_content_is_a_picture_of_it(
    codec: LayeredGenerative, images: Tensor
) -> None:
    (bitstream,) = codec.compress(images[:1])
    data = codec.serialise(bitstream)
    cut = codec.parse(data[: len(data) - len(bitstream.strings["style"])])
    assert torch.equal(codec.decompress([cut]).x_hat, codec.decompress([bitstream], upto="content").x_hat)
    with pytest.raises(BitstreamError):
        codec.parse(data[: len(data) - len(bitstream.strings["style"]) - 1])
    with pytest.raises(ValueError, match=r"lacks the layers \['style'\]"):
        codec.decompress([cut], upto="style")
    # Without a picture nothing stands in for what is missing.
    assert codec.decompress([cut], want=("latents",)).x_hat is None


def test_who_pays_for_what(codec: LayeredGenerative) -> None:
    assert codec.layers_of(["pixels"]) == ("content", "style")
    assert codec.layers_of(["style_hat"]) == ("style",)
    assert codec.layers_of(["content_hat"]) == ("content",)
    assert sorted(codec.readable) == ["content_hat", "pixels", "style_hat"]
    through = ReadThrough(codec, tiny_codec("mean_scale_tiny"))
    assert through.layers_of(["y_hat"]) == ("content", "style")


@pytest.mark.parametrize("size", [(1, 1), (3, 200), (33, 8)])
def test_any_size_leaves_instance_norm_two_positions(codec: LayeredGenerative, size: tuple[int, int]) -> None:
    x = torch.rand(1, 3, *size)
    (bitstream,) = codec.compress(x)
    assert codec.decompress([codec.parse(codec.serialise(bitstream))]).x_hat.shape == x.shape


def test_a_broken_branch_is_named(codec: LayeredGenerative, images: Tensor) -> None:
    broken = copy.deepcopy(codec)
    broken.style.g_a.linear.bias.data[0] = torch.nan
    with pytest.raises(ValueError, match="layer 'style': a latent is NaN"):
        broken.compress(images)


def test_transforms_are_named_and_accelerated_alike(codec: LayeredGenerative, images: Tensor) -> None:
    assert {"g_a", "style_g_a", "g_s"} <= set(codec.transforms())
    before = codec.decompress(codec.compress(images))
    codec.accelerate()
    after = codec.decompress(codec.compress(images))
    torch.testing.assert_close(after.x_hat, before.x_hat, rtol=0, atol=1e-4)
    assert torch.equal(after.latents["style_hat"], before.latents["style_hat"])


def test_noise_reaches_the_decoder_where_asked(codec: LayeredGenerative, images: Tensor) -> None:
    keys = torch.tensor([1, 2]), torch.tensor([3, 4])
    quiet = [codec(images, keys=k).x_hat for k in keys]
    assert torch.equal(*quiet)
    codec.quantise = "noise"
    noisy = [codec(images, keys=k) for k in keys]
    assert not torch.equal(noisy[0].x_hat, noisy[1].x_hat)
    assert torch.equal(noisy[0].latents["style_hat"], noisy[1].latents["style_hat"])


def test_adain_is_the_equation() -> None:
    torch.manual_seed(0)
    layer, h, vector = AdaIN(3, 4), torch.randn(2, 3, 5, 6) * 3 + 1, torch.randn(2, 4)
    scale, shift = layer.affine(vector).split(3, 1)
    expected = torch.empty_like(h)
    for image in range(2):
        for channel in range(3):
            values = h[image, channel].double()
            normal = (values - values.mean()) / (values.var(correction=0) + 1e-5).sqrt()
            expected[image, channel] = (1 + scale[image, channel]) * normal + shift[image, channel]
    torch.testing.assert_close(layer(h, vector), expected)


def test_one_stream_has_the_widths_of_two() -> None:
    alone, fused = (
        MapSynthesis(6, stride=8, width=32, min_width=12, blocks=1),
        AdaINSynthesis(6, 5, stride=8, width=32, min_width=12, blocks=1, mapping_width=8),
    )
    assert [layer.weight.shape for layer in alone.up] == [layer.weight.shape for layer in fused.up]
    assert [layer.out_channels for layer in alone.up] == [16, 12, 12]
    assert alone(torch.rand(2, 6, 4, 3)).shape == (2, 3, 32, 24)
    # Nothing takes the map's contrast away.
    h = torch.rand(1, 6, 4, 4)
    assert not torch.allclose(alone(h), alone(2 * h))


def test_wrong_arguments_are_told() -> None:
    with pytest.raises(ValueError, match="AdaIN needs a map of two positions"):
        AdaIN(3, 4)(torch.rand(1, 3, 1, 1), torch.rand(1, 4))
    with pytest.raises(ValueError, match="stride=12 must be a power of two"):
        AdaINSynthesis(3, 4, stride=12)
    with pytest.raises(ValueError, match="stride=1 must be a power of two"):
        MapSynthesis(3, stride=1)
    with pytest.raises(ValueError, match="num_stages=0 must be at least 1"):
        MapEncoder(3, num_stages=0)
    with pytest.raises(ValueError, match="width=0 must be at least 1"):
        VectorEncoder(3, width=0)
    features = partial(TimmFeatures, backbone="test_efficientnet")
    with pytest.raises(ValueError, match="stride=7 must be one of the network's levels"):
        TrunkMap(3, stride=7, features=features)
