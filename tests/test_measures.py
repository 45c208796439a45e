"""Measures against slow independent versions, and the round trip through real files."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks import recompute
from evaluation import real_bytes
from evaluation.measures import ImageMeans, Measures, levels, picture_quality, psnr
from evaluation.results import make_row, table
from losses.distortion import MSSSIM
from models.codecs.standard.pillow import JPEG
from models.outputs import CodecOutput
from tests.conftest import tiny_codec
from tests.drawn_pictures import drawn

ROOT = Path(__file__).parents[1]


def test_psnr_is_of_each_image_in_8_bits() -> None:
    x, x_hat = torch.rand(2, 3, 5, 7), torch.rand(2, 3, 5, 7) * 1.2 - 0.1
    got = psnr(levels(x_hat) / 255, levels(x) / 255)
    for i in range(2):
        a = np.clip(np.round(x_hat[i].numpy() * 255), 0, 255)
        b = np.round(x[i].numpy() * 255)
        assert got[i].item() == pytest.approx(10 * math.log10(255**2 / np.mean((a - b) ** 2)), abs=1e-3)
    assert psnr(x, x).tolist() == [100.0, 100.0]


def test_means_are_over_images_not_over_batches() -> None:
    means = ImageMeans(["a", "b"])
    means.update("a", torch.tensor([1.0, 2.0, 3.0]))
    means.update("a", torch.tensor([10.0]))
    assert means.compute() == {"a": 4.0}
    means.reset()
    means.update("b", torch.tensor([5.0]))
    assert means.compute() == {"b": 5.0}


def test_small_images_have_no_ms_ssim() -> None:
    measures = Measures({})
    x = torch.rand(1, 3, 64, 64)
    measures.add_pictures(CodecOutput((64, 64), x_hat=x), x)
    assert set(measures.compute()) == {"psnr", "gmsd"}
    for size in ((175, 300), (176, 180)):
        x = torch.rand(2, 3, *size)
        measures.add_pictures(CodecOutput(size, x_hat=x), levels(x) / 255)
    assert measures.compute()["ms_ssim"] == pytest.approx(1.0, abs=1e-3)


def slow_ms_ssim(a: np.ndarray, b: np.ndarray, peak: float) -> float:
    """Wang, Simoncelli and Bovik, Multiscale structural similarity, Asilomar 2003; a, b: (3, H, W) up to ``peak``."""
    window = np.exp(-((np.arange(11) - 5) ** 2) / (2 * 1.5**2))
    window = np.outer(window, window) / window.sum() ** 2
    c1, c2 = (0.01 * peak) ** 2, (0.03 * peak) ** 2

    def blurred(x: np.ndarray) -> np.ndarray:
        patches = np.lib.stride_tricks.sliding_window_view(x, (11, 11), axis=(1, 2))
        return np.einsum("chwij,ij->chw", patches, window)

    result, weights = 1.0, (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
    for scale, weight in enumerate(weights):
        mean_a, mean_b = blurred(a), blurred(b)
        var_a, var_b = blurred(a * a) - mean_a**2, blurred(b * b) - mean_b**2
        covariance = blurred(a * b) - mean_a * mean_b
        similarity = (2 * covariance + c2) / (var_a + var_b + c2)
        if scale == len(weights) - 1:
            similarity *= (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
        result *= similarity.mean() ** weight
        a, b = (
            x[:, : x.shape[1] // 2 * 2, : x.shape[2] // 2 * 2]
            .reshape(3, x.shape[1] // 2, 2, x.shape[2] // 2, 2)
            .mean((2, 4))
            for x in (a, b)
        )
    return result


def slow_gmsd(a: np.ndarray, b: np.ndarray) -> float:
    """GMSD of two pictures (3, H, W), position by position, zeros beyond all borders."""

    def gradient(picture: np.ndarray) -> np.ndarray:
        luma = 0.299 * picture[0] + 0.587 * picture[1] + 0.114 * picture[2]
        height, width = luma.shape

        def at(values: np.ndarray, row: int, column: int) -> float:
            inside = 0 <= row < values.shape[0] and 0 <= column < values.shape[1]
            return float(values[row, column]) if inside else 0.0

        half = np.zeros(((height + 1) // 2, (width + 1) // 2))
        for r, c in np.ndindex(*half.shape):
            half[r, c] = sum(at(luma, 2 * r + i, 2 * c + j) for i in (0, 1) for j in (0, 1)) / 4
        found = np.zeros_like(half)
        for r, c in np.ndindex(*half.shape):
            across = sum(at(half, r + i, c - 1) - at(half, r + i, c + 1) for i in (-1, 0, 1)) / 3
            down = sum(at(half, r - 1, c + i) - at(half, r + 1, c + i) for i in (-1, 0, 1)) / 3
            found[r, c] = math.hypot(across, down)
        return found

    one, other = gradient(a), gradient(b)
    similar = [(2 * p * q + 170) / (p * p + q * q + 170) for p, q in zip(one.flat, other.flat, strict=True)]
    mean = sum(similar) / len(similar)
    return math.sqrt(sum((s - mean) ** 2 for s in similar) / (len(similar) - 1))


@pytest.mark.parametrize("size", [(24, 30), (15, 21)])
def test_gmsd_is_that_of_the_paper(size: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (2, 3, *size), generator=generator).float()
    x_hat = (x + 20 * torch.randn(x.shape, generator=generator)).round().clamp(0, 255)
    expected = [slow_gmsd(a.double().numpy(), b.double().numpy()) for a, b in zip(x_hat, x, strict=True)]
    found = picture_quality(CodecOutput(size, x_hat=x_hat / 255), x / 255)["gmsd"]
    assert found.tolist() == pytest.approx(expected, rel=1e-4)
    assert picture_quality(CodecOutput(size, x_hat=x / 255), x / 255)["gmsd"].tolist() == [0.0, 0.0]
    tiny = x[..., :3, :3] / 255
    assert "gmsd" not in picture_quality(CodecOutput((3, 3), x_hat=tiny), tiny)


def test_ms_ssim_is_that_of_the_paper_in_training_and_evaluation() -> None:
    # Flat where the constants decide, textured elsewhere, and darker than white.
    x = torch.from_numpy(np.stack([drawn(180, 200, seed) for seed in (0, 1)])).permute(0, 3, 1, 2).float()
    x[:, :, :, :90] = 40.0
    x_hat = (x + 12 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))).round().clamp(0, 255)
    expected = [
        slow_ms_ssim(a.double().numpy(), b.double().numpy(), 255) for a, b in zip(x_hat, x, strict=True)
    ]
    assert 0.3 < min(expected) < max(expected) < 0.97
    output = CodecOutput((180, 200), x_hat=x_hat / 255)
    # The last digits differ: at the coarsest scale, torchmetrics mirrors the picture at its borders.
    assert picture_quality(output, x / 255)["ms_ssim"].tolist() == pytest.approx(expected, abs=5e-4)
    assert MSSSIM()(output, {"image": x / 255}).item() == pytest.approx(1 - np.mean(expected), abs=5e-4)
    measures = Measures({})
    measures.add_pictures(output, x / 255)
    assert measures.compute()["ms_ssim"] == pytest.approx(np.mean(expected), abs=5e-4)


@pytest.mark.parametrize(
    "name", ["mean_scale_tiny", "compressai_mbt2018_mean", "jpeg", "identity", "two_layers"]
)
def test_real_bytes_are_those_of_files(name: str, images: Tensor, tmp_path: Path) -> None:
    codec = tiny_codec(name).eval()
    coded = real_bytes.code(codec, images)
    for image, bits in zip(images, coded.file_bits.tolist(), strict=True):
        path = tmp_path / f"x{codec.file_suffix}"
        path.write_bytes(codec.serialise(codec.compress(image[None])[0]))
        assert path.stat().st_size * 8 == bits
    assert not coded.gaps()
    rates = coded.rates(real_bytes.grey_bytes(codec, (70, 90)))
    assert (rates["bpp_payload"] + 8 * rates["header_bytes"] / (70 * 90)).tolist() == rates[
        "bpp_real"
    ].tolist()


def test_the_payload_of_our_own_files_is_their_strings(images: Tensor) -> None:
    """Whatever the codec makes of a grey picture: an untrained one spends more on it than on others."""
    codec = tiny_codec("two_layers").eval()
    assert real_bytes.grey_bytes(codec, (70, 90)) is None
    rates = real_bytes.code(codec, images).rates(None)
    for place, bitstream in enumerate(codec.compress(images)):
        strings = sum(map(len, bitstream.strings.values()))
        assert rates["bpp_payload"][place] * (70 * 90) == pytest.approx(8 * strings)
        assert rates["header_bytes"][place] == len(codec.serialise(bitstream)) - strings


def test_the_header_of_other_formats_is_a_grey_picture_s_file(images: Tensor) -> None:
    codec = JPEG().eval()
    grey = np.full((70, 90, 3), 128, np.uint8)
    header = len(codec.encode(grey, codec.rates[len(codec.rates) // 2]))
    assert real_bytes.grey_bytes(codec, (70, 90)) == header
    rates = real_bytes.code(codec, images).rates(header)
    assert rates["header_bytes"].tolist() == [header] * len(images)


def test_a_layer_that_costs_other_than_estimated_is_named() -> None:
    output = CodecOutput(
        (8, 8), bits={"base": torch.tensor([1000.0, 1300.0]), "top": torch.tensor([90.0, 100.0])}
    )
    coded = real_bytes.Coded(output, torch.tensor([1200.0, 1500.0]),
                             {"base": torch.tensor([1000.0, 1000.0]), "top": torch.tensor([1.0, 1.0])})  # fmt: skip
    assert coded.gaps() == {"base": 300.0}
    # 110 and 100 bits of containers; a reader of the base layer does not pay for the top.
    assert coded.bits_for(["base"]).tolist() == [1110.0, 1400.0]


def test_rows_hold_the_contract_and_tables_show_them() -> None:
    values = {"bpp": 0.5, "bpp_real": 0.6, "bpp_payload": 0.4, "header_bytes": 30.0, "psnr": 31.234, "loss": 1.0,
              "bpp_of_base": 0.3, "bpp_of_top": 0.2, "seg/miou": 0.7, "seg/bpp": 0.6}  # fmt: skip
    row = make_row("mine", values, seed=3, command="python train.py", rate=2.0)
    assert list(row) == [
        "codec", "uncompressed", "rate", "seed", "bpp", "bpp_payload", "header_bytes", "bpp_estimated",
        "bpp_by_layer", "psnr", "ms_ssim", "gmsd", "tasks", "task_head", "encode_seconds", "decode_seconds", "command",
    ]  # fmt: skip
    assert (row["bpp"], row["bpp_estimated"], row["ms_ssim"]) == (0.6, 0.5, None)
    assert row["uncompressed"] is False
    assert row["bpp_by_layer"] == {"base": 0.3, "top": 0.2}
    assert row["tasks"] == {"seg/miou": 0.7, "seg/bpp": 0.6}
    text = table([row, {**row, "tasks": {}, "codec": "other"}], {"seg": "miou"})
    assert [line.split() for line in text.splitlines()[2:]] == [
        ["mine", "2", "0.6000", "0.4000", "31.23", "0.7000"],
        ["other", "2", "0.6000", "0.4000", "31.23", "-"],
    ]


RECORDS = sorted(path.stem for path in (ROOT / "benchmarks" / "results").glob("*.json"))


@pytest.mark.parametrize("name", RECORDS)
def test_a_record_s_figures_follow_from_its_rows(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    record = json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text())
    assert list(record) == [
        "name",
        "commands",
        "git_commit",
        "date",
        "machine",
        "figures",
        "rows",
        "notes",
    ]
    assert recompute.main(name) == 0
    assert recompute.same(json.loads(capsys.readouterr().out), record["figures"])


def test_figures_are_the_same_but_for_rounding() -> None:
    stored = {"bd_rate": -7.25, "none": None, "zero": 0.0}
    assert recompute.same(stored | {"bd_rate": -7.25 * (1 + 1e-13), "zero": 1e-17}, stored)
    for wrong in ({"bd_rate": -7.2501}, {"bd_rate": None}, {"none": 0.0}, {"zero": 1e-6}, {"more": 1.0}):
        assert not recompute.same(stored | wrong, stored), wrong
    assert not recompute.same({"bd_rate": -7.25}, stored)
