"""Complexity: against counts by hand, and against formulas of the published architectures."""

import os
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from datamodules.samples import Label
from evaluation.complexity import complexity
from evaluation.memory import code_and_decode, peak_memory_mb
from models.codecs.compressai import CompressAICodec
from models.codecs.hyperprior import MeanScaleHyperprior
from models.codecs.identity import Identity
from models.codecs.read_through import ReadThrough
from models.codecs.standard.pillow import JPEG
from models.outputs import LatentSpec
from tasks.classification import Classification
from tests.conftest import TwoLayers

# Layers of a network as (in, out, kernel, stride of its output): the area that the kernel is applied on, and GDN as a
# 1x1 convolution. A transposed convolution applies its kernel at every position of its *input*.
Layers = Sequence[tuple[int, int, int, int]]


def g_a(n: int, m: int) -> Layers:
    return [(3, n, 5, 2), (n, n, 1, 2), (n, n, 5, 4), (n, n, 1, 4), (n, n, 5, 8), (n, n, 1, 8), (n, m, 5, 16)]


def g_s(n: int, m: int) -> Layers:
    return [(m, n, 5, 16), (n, n, 1, 8), (n, n, 5, 8), (n, n, 1, 4), (n, n, 5, 4), (n, n, 1, 2), (n, 3, 5, 2)]


def h_a(n: int, m: int) -> Layers:
    return [(m, n, 3, 16), (n, n, 5, 32), (n, n, 5, 64)]


def h_s_scale(n: int, m: int) -> Layers:
    """bmshj2018: scales alone."""
    return [(n, n, 5, 64), (n, n, 5, 32), (n, m, 3, 16)]


def h_s_mean_scale(n: int, m: int) -> Layers:
    """mbt2018: means and scales."""
    return [(n, m, 5, 64), (m, m * 3 // 2, 5, 32), (m * 3 // 2, 2 * m, 3, 16)]


def macs(layers: Layers) -> float:
    return sum(c_in * c_out * kernel**2 / stride**2 for c_in, c_out, kernel, stride in layers)


def weights(layers: Layers) -> int:
    return sum(c_in * c_out * kernel**2 + c_out for c_in, c_out, kernel, _ in layers)


def factorised_macs(n: int) -> float:
    """CompressAI's density model of z (filters 3, 3, 3, 3), at both ends of every symbol's bin."""
    return 2 * n * (1 * 3 + 3 * 3 + 3 * 3 + 3 * 3 + 3 * 1) / 64**2


@pytest.mark.parametrize(
    ("codec", "n", "m", "h_s"),
    [
        (lambda: MeanScaleHyperprior(16, 24), 16, 24, h_s_mean_scale),
        (lambda: CompressAICodec("mbt2018-mean", {"N": 16, "M": 24}), 16, 24, h_s_mean_scale),
        (lambda: CompressAICodec("bmshj2018-hyperprior", {"N": 16, "M": 24}), 16, 24, h_s_scale),
        (lambda: CompressAICodec("mbt2018-mean", {"N": 128, "M": 192}), 128, 192, h_s_mean_scale),
    ],
    ids=["own", "mbt2018-mean", "bmshj2018", "mbt2018-mean at its published width"],
)
def test_parts_equal_the_formulas_of_the_architecture(codec, n: int, m: int, h_s) -> None:
    result = complexity(codec(), size=(128, 192))
    expected = {"encoder": macs(g_a(n, m)), "decoder": macs(g_s(n, m))}
    expected["entropy"] = macs(h_a(n, m)) + macs(h_s(n, m)) + factorised_macs(n)
    expected["total"] = sum(expected.values())
    assert result["macs_per_pixel"].pop("heads") == {}
    assert result["macs_per_pixel"] == pytest.approx(expected)
    parameters = result["parameters"]
    assert parameters["encoder"] == weights(g_a(n, m))
    assert parameters["decoder"] == weights(g_s(n, m))
    density = n * (3 + 9 + 9 + 9 + 3 + (3 + 3 + 3 + 3 + 1) + (3 + 3 + 3 + 3)) + 3 * n  # and quantiles
    assert parameters["entropy"] == weights(h_a(n, m)) + weights(h_s(n, m)) + density
    assert parameters["total"] == sum(parameters[part] for part in ("encoder", "decoder", "entropy"))


def test_full_size_mean_scale_hyperprior_by_hand() -> None:
    """42.176 kMAC a pixel each way at N=128, M=192."""
    assert macs(g_a(128, 192)) == macs(g_s(128, 192)) == 42176


def test_elic_is_split_too() -> None:
    codec = CompressAICodec("elic2022-official", {"N": 8, "M": 12, "groups": [4, 8]})
    result = complexity(codec, size=(64, 64))
    parameters = {
        "encoder": sum(p.numel() for p in codec.model.g_a.parameters()),
        "decoder": sum(p.numel() for p in codec.model.g_s.parameters()),
        "entropy": sum(p.numel() for p in codec.model.latent_codec.parameters()),
    }
    assert {part: result["parameters"][part] for part in parameters} == parameters
    assert all(result["macs_per_pixel"][part] > 0 for part in parameters)


def test_codec_is_left_as_it_was() -> None:
    codec = MeanScaleHyperprior(8, 12).train()
    before = {key: value.clone() for key, value in codec.state_dict().items()}
    complexity(codec, size=(64, 64))
    assert codec.training
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in codec.modules())
    for key, value in codec.state_dict().items():
        torch.testing.assert_close(value, before[key], rtol=0, atol=0)


def test_padding_counts_against_the_original_pixels() -> None:
    codec = MeanScaleHyperprior(8, 12)
    whole, padded = (complexity(codec, size=size) for size in [(64, 128), (64, 65)])
    ratio = padded["macs_per_pixel"]["encoder"] / whole["macs_per_pixel"]["encoder"]
    assert ratio == pytest.approx(128 / 65)


@pytest.mark.parametrize("codec", [Identity(), JPEG()], ids=["identity", "jpeg"])
def test_codecs_without_networks(codec) -> None:
    result = complexity(codec, size=(32, 48))
    assert result == {
        "size": [32, 48],
        "parameters": {"encoder": 0, "entropy": 0, "decoder": 0, "total": 0, "heads": {}},
        "macs_per_pixel": {"encoder": None, "entropy": None, "decoder": None, "total": None, "heads": {}},
    }


@pytest.mark.parametrize("codec", [TwoLayers(), ReadThrough(JPEG(), MeanScaleHyperprior(8, 12))])
def test_codecs_whose_parts_have_no_names_have_a_total(codec) -> None:
    result = complexity(codec, size=(64, 64))
    for numbers in (result["parameters"], result["macs_per_pixel"]):
        assert [numbers[part] for part in ("encoder", "entropy", "decoder")] == [None] * 3
        assert numbers["total"] > 0


class Linear(nn.Module):
    """A head of known cost: one dense layer on the mean of a map."""

    def __init__(self, specs: Sequence[LatentSpec], num_outputs: int):
        super().__init__()
        self.dense = nn.Linear(specs[0].channels, num_outputs)

    def forward(self, x: Tensor, *, size: tuple[int, int]) -> Tensor:
        return self.dense(x.mean((2, 3)))


def test_heads_on_pixels_and_on_latents_and_behind_a_standard_codec() -> None:
    codec = MeanScaleHyperprior(8, 12)
    labels = {"scene": Label("class", ("a", "b", "c", "d", "e"))}
    tasks = {
        reads: Classification(codec.readable, labels, reads=reads, target="scene", head=Linear)
        for reads in ("pixels", "y_hat")
    }
    result = complexity(codec, tasks, size=(64, 128))
    assert result["parameters"]["heads"] == {"pixels": 3 * 5 + 5, "y_hat": 12 * 5 + 5}
    expected = {"pixels": 3 * 5 / (64 * 128), "y_hat": 12 * 5 / (64 * 128)}
    assert result["macs_per_pixel"]["heads"] == pytest.approx(expected)
    on_jpeg = complexity(JPEG(), {"pixels": tasks["pixels"]}, size=(64, 128))
    assert on_jpeg["macs_per_pixel"]["heads"] == pytest.approx({"pixels": expected["pixels"]})


def test_size_must_be_positive() -> None:
    with pytest.raises(ValueError, match="size=\\(0, 8\\) must be two positive numbers"):
        complexity(Identity(), size=(0, 8))


# -- memory ------------------------------------------------------------------------------------------------------------


def test_peak_memory_is_what_the_job_holds_at_its_height() -> None:
    # 8 bytes a number; allocation grains and the interpreter take the rest.
    assert peak_memory_mb(np.ones, 25_000_000) == pytest.approx(200, abs=15)


def test_peak_memory_counts_arguments_and_reports_a_killed_process() -> None:
    assert peak_memory_mb(len, np.ones(12_500_000)) == pytest.approx(100, abs=15)
    with pytest.raises(RuntimeError, match="the process that ran abort was killed"):
        peak_memory_mb(os.abort)


@pytest.mark.slow
def test_coding_a_picture_takes_at_least_its_pixels() -> None:
    used = peak_memory_mb(code_and_decode, JPEG(), torch.rand(1, 3, 2048, 2048))
    # Once as float at the way in, once as float at the way out; the rest are passing copies.
    picture = 3 * 2048**2 * 4 / 1e6
    assert 2 * picture < used < 8 * picture
