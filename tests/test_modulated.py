"""The analysis network reads a map, vectors, or both, with the same blocks."""

from functools import partial

import pytest
import torch
from torch import Tensor

from models.heads.classifier import FeatureClassifier
from models.heads.encoded import Encoded
from models.heads.modulated import Itself, Modulated
from models.heads.points import FeaturePoints, in_cells
from models.heads.segmenter import FeatureSegmenter
from models.outputs import LatentSpec
from tests.conftest import tiny_codec

MAP, STYLE = LatentSpec("map", 6, "content", stride=16), LatentSpec("vector", 5, "style")
TOKENS = LatentSpec("tokens", 5, "style", length=3)
SIZE = (70, 90)
HEADS = {
    FeatureSegmenter: (2, 4, *SIZE),
    FeatureClassifier: (2, 4),
    FeaturePoints: (2, 4, 2),
}


def latents(specs: list[LatentSpec]) -> list[Tensor]:
    return [torch.randn(2, 6, 8, 8) if spec is MAP else torch.randn(2, 5) for spec in specs]


@pytest.mark.parametrize("head", HEADS, ids=lambda head: head.__name__)
@pytest.mark.parametrize("specs", [[MAP, STYLE], [STYLE, MAP], [MAP], [STYLE], [STYLE, MAP, STYLE]], ids=str)
def test_any_streams_and_any_head(head: type, specs: list[LatentSpec]) -> None:
    network = Modulated(specs, 4, head=partial(head, features=Itself), width=16, blocks=1)
    preds = network(*latents(specs), size=SIZE)
    assert preds.shape == HEADS[head]
    preds.square().mean().backward()
    assert not [name for name, p in network.named_parameters() if p.grad is None]


def test_both_streams_count() -> None:
    torch.manual_seed(0)
    network = Modulated([MAP, STYLE], 4, head=partial(FeatureSegmenter, features=Itself), width=16, blocks=2)
    content, style = latents([MAP, STYLE])
    preds = network(content, style, size=SIZE)
    assert not torch.allclose(network(content.flip(0), style, size=SIZE), preds)
    assert not torch.allclose(network(content, style.flip(0), size=SIZE), preds)
    torch.testing.assert_close(network(content[1:], style[1:], size=SIZE), preds[1:], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("specs", [[MAP, MAP], [TOKENS], [MAP, TOKENS]], ids=str)
def test_what_it_cannot_read_is_told(specs: list[LatentSpec]) -> None:
    with pytest.raises(ValueError, match="one map at most and any vectors"):
        Modulated(specs, 4, head=partial(FeatureClassifier, features=Itself))


@pytest.mark.parametrize("size", [(4, 4), (7, 9), (2, 3), (16, 5)])
@pytest.mark.parametrize("grid", [1, 4])
def test_cells_are_adaptive_average_pooling(size: tuple[int, int], grid: int) -> None:
    x = torch.randn(2, 3, *size)
    torch.testing.assert_close(in_cells(x, grid), torch.nn.functional.adaptive_avg_pool2d(x, grid))


def test_encoded_pixels_are_read_as_the_codec_s_latents_are() -> None:
    """With the codec's encoders and the same analysis, it says what a task on unrounded latents would."""
    torch.manual_seed(0)
    codec = tiny_codec("layered_generative_small").eval()
    analysis = partial(Modulated, head=partial(FeatureSegmenter, features=Itself), width=16, blocks=1)
    head = Encoded(
        [LatentSpec("map", 3, "base", stride=1)],
        4,
        content_channels=6,
        style_channels=5,
        content_encoder=lambda channels: codec.content.g_a,
        style_encoder=lambda channels: codec.style.g_a,
        head=analysis,
    )
    x = torch.rand(2, 3, *SIZE)
    padded = torch.nn.functional.pad(x, (0, 6, 0, 10), mode="replicate")
    expected = head.head(codec.content.g_a(padded), codec.style.g_a(padded), size=SIZE)
    torch.testing.assert_close(head(x, size=SIZE), expected)
    with pytest.raises(ValueError, match="Encoded reads pixels"):
        Encoded(
            [MAP],
            4,
            content_channels=1,
            style_channels=1,
            content_encoder=None,
            style_encoder=None,
            head=analysis,
        )
