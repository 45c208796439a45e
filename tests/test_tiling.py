"""Tiles with a halo give what the whole picture gives."""

import pytest
import torch
from torch import Tensor, nn

from models.codecs.base import Codec
from models.codecs.compressai import CompressAICodec
from models.codecs.hyperprior import MeanScaleHyperprior
from models.tiling import in_tiles, reach, tiled
from models.transforms import convolutional
from tests.conftest import tiny_codec


@pytest.fixture
def picture() -> Tensor:
    """(1, 3, 200, 330): no multiple of anything."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, 3, 20, 33, generator=generator)
    return nn.functional.interpolate(coarse, size=(200, 330), mode="bicubic").clamp(0, 1)


def lively(codec: Codec) -> Codec:
    """Latents far from zero, so that wrong tiles would show in the symbols."""
    last = [m for m in codec.transforms()["g_a"].modules() if isinstance(m, nn.Conv2d)][-1]
    last.weight.data.mul_(40)
    return codec.eval()


def make(name: str) -> Codec:
    torch.manual_seed(0)
    if name == "two stages":
        return lively(MeanScaleHyperprior(8, 12, num_stages=2))
    if name == "attention":
        return lively(CompressAICodec("cheng2020-attn", {"N": 8}))
    return lively(tiny_codec(name))


@pytest.mark.parametrize(
    ("name", "tile"),
    [
        *(("mean_scale", tile) for tile in (16, 64, 112, 512)),
        ("mean_scale_tiny", 16),
        ("two stages", 16),
        ("compressai_elic", 64),
        ("compressai_mbt2018_mean", 64),
    ],
)
def test_tiles_change_no_symbol(name: str, tile: int, picture: Tensor) -> None:
    codec = make(name)
    (whole,) = codec.compress(picture)
    decoded = codec.decompress([whole])
    assert decoded.latents["y_hat"].abs().max() > 2
    with tiled(codec, tile):
        (parts,) = codec.compress(picture)
        again = codec.decompress([whole])
    assert parts == whole
    assert torch.equal(again.latents["y_hat"], decoded.latents["y_hat"])
    torch.testing.assert_close(again.x_hat, decoded.x_hat, rtol=0, atol=2e-6)
    assert codec.compress(picture) == [whole]
    assert "forward" not in vars(codec.transforms()["g_a"])


def test_a_halo_too_small_would_show(picture: Tensor) -> None:
    """The reach is no larger than it must be: one latent position less, and symbols change."""
    codec = make("mean_scale")
    x = nn.functional.pad(picture, (0, 54, 0, 56))
    with torch.no_grad():
        whole = codec.g_a(x)
        enough, short = (in_tiles(codec.g_a, x, tile=64, halo=halo, down=16) for halo in (32, 16))
    torch.testing.assert_close(enough, whole, rtol=1e-5, atol=1e-5)
    assert (short - whole).abs().max() > 0.1


@pytest.mark.parametrize(("num_stages", "pixels"), [(1, 2), (2, 8), (3, 16), (4, 32)])
def test_reach_of_five_by_five_convolutions(num_stages: int, pixels: int) -> None:
    """Each stage sees 2 of its own positions on either side: 2 (1 + 2 + 4 + 8) = 30 pixels for four, 2 of y."""
    g_a, g_s = convolutional.analysis(4, 6, num_stages), convolutional.synthesis(4, 6, num_stages)
    assert reach(g_a, g_s, latent_channels=6, stride=2**num_stages) == pixels


def test_reach_takes_the_farther_of_both_directions() -> None:
    g_a, g_s = nn.Conv2d(3, 4, 4, stride=4), nn.ConvTranspose2d(4, 3, 4, stride=4)
    assert reach(g_a, g_s, latent_channels=4, stride=4) == 0
    wide = nn.Sequential(g_a, nn.Conv2d(4, 4, (1, 7), padding=(0, 3)))
    assert reach(wide, g_s, latent_channels=4, stride=4) == 12
    tall = nn.Sequential(nn.Conv2d(4, 4, (5, 1), padding=(2, 0)), g_s)
    assert reach(g_a, tall, latent_channels=4, stride=4) == 8


def test_what_looks_everywhere_has_no_reach() -> None:
    class Pooled(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 4, stride=4)

        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x)
            return y * y.mean((2, 3), keepdim=True)

    assert reach(Pooled(), nn.ConvTranspose2d(4, 3, 4, stride=4), latent_channels=4, stride=4) is None


def test_codecs_without_a_receptive_field_refuse() -> None:
    for name in ("jpeg", "two_layers", "identity"):
        with pytest.raises(ValueError, match="cannot be run in tiles"), tiled(tiny_codec(name).eval(), 64):
            pass


@pytest.mark.parametrize("pixels", [0, -16, 8, 100])
def test_tiles_lie_on_the_grid_of_the_latents(pixels: int) -> None:
    codec = tiny_codec("mean_scale").eval()
    with (
        pytest.raises(ValueError, match=f"{pixels} pixels must be a positive multiple of 16"),
        tiled(codec, pixels),
    ):
        pass


def test_transforms_never_see_more_than_a_tile_and_its_halo(picture: Tensor) -> None:
    codec = make("mean_scale")
    seen: list[int] = []
    with tiled(codec, 64):
        codec.g_a[0].register_forward_pre_hook(lambda _, inputs: seen.append(max(inputs[0].shape[-2:])))
        codec.compress(picture)
    assert max(seen) == 64 + 2 * 32
    assert len(seen) == 4 * 6
