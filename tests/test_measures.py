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
from evaluation.measures import ImageMeans, Measures, levels, psnr
from evaluation.results import make_row, table
from models.codecs.standard.pillow import JPEG
from models.outputs import CodecOutput
from tests.conftest import tiny_codec

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
    assert set(measures.compute()) == {"psnr"}
    for size in ((175, 300), (176, 180)):
        x = torch.rand(2, 3, *size)
        measures.add_pictures(CodecOutput(size, x_hat=x), levels(x) / 255)
    assert measures.compute()["ms_ssim"] == pytest.approx(1.0, abs=1e-3)


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
        "bpp_by_layer", "psnr", "ms_ssim", "tasks", "task_head", "encode_seconds", "decode_seconds", "command",
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


def test_every_record_s_figures_follow_from_its_rows(capsys: pytest.CaptureFixture[str]) -> None:
    records = sorted((ROOT / "benchmarks" / "results").glob("*.json"))
    assert records, "no result records"
    for path in records:
        record = json.loads(path.read_text())
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
        assert recompute.main(path.stem) == 0
        assert json.loads(capsys.readouterr().out) == record["figures"]
