"""The record ``layered_generative``: figures from rows, results that are sent alone, and decodes as a data set."""

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks import layered_runs
from benchmarks.layered_figures import figures
from benchmarks.layered_points import keep_decodes
from benchmarks.layered_runs import Trained
from benchmarks.layered_sets import SETS, Pictures, right, steps_off
from benchmarks.predict_and_transmit import Sent, SentClasses
from models.codecs.standard.pillow import JPEG
from tests.conftest import compose_config

PEOPLE = ["1", "1", "2", "3"]
RGB = [2.0, 2.0, 3.0, 3.0]


def point(codec: str, bits: float, nme: list[float], **more: Any) -> dict[str, Any]:
    read = {"nme": nme}
    readings = {"originals": read} if codec == "rgb" or "qp" in more else {"own": read}
    return {
        "kind": "point", "set": "ytfaces", "codec": codec, "rate": None, "file_bits": [bits + 100] * 4,
        "payload_bits": [bits] * 4, "readings": readings, **more,
    }  # fmt: skip


def rows() -> list[dict[str, Any]]:
    looks = {"gmsd": [0.1] * 4, "features": [0.5] * 4, "psnr": [22.0] * 4}
    better = {"gmsd": [0.2] * 4, "features": [0.4] * 4, "psnr": [23.0] * 4}
    hevc = {"scale": 0.5, "qp": 51, **better}
    return [
        {"kind": "images", "set": "ytfaces", "people": PEOPLE},
        point("rgb", 24 * 128**2 - 100, RGB),
        point("joint", 500, [v + 0.5 for v in RGB], rate="003", **looks),
        point("separate", 500, [v + 1 for v in RGB], rate="003", **looks),
        point("single", 510, [v + d for v, d in zip(RGB, (0.5, 0.5, 0.0, 0.0), strict=True)], rate="003", **looks),
        point("hevc", 600, [v + 2 for v in RGB], **hevc)
        | {"readings": {"originals": {"nme": [9.0] * 4}, "decodes": {"nme": [v + 2 for v in RGB]}}},
        # With fewer bits, and with far more: they do not stand against ours.
        point("vvc", 400, [v + 1 for v in RGB], scale=0.25, qp=63, **better),
        point("vvc", 1100, [v + 0.1 for v in RGB], scale=1, qp=52, **better),
        {"kind": "costs", "set": "ytfaces", "macs_per_pixel": {"streams": 10.0, "pixels": 40.0},
         "seconds": {"streams": [1.0, 1.0, 8.0], "pixels": [2.0, 4.0, 8.0]}},
        {"kind": "attached", "set": "ytfaces", "files": 4, "identical": 4},
    ]  # fmt: skip


def test_figures_of_a_set() -> None:
    found = figures(rows())
    assert found["ytfaces_nme_rgb"] == 2.5
    assert found["ytfaces_nme_joint_003"] == 3.0
    assert found["ytfaces_bits_joint_003"] == 600
    assert found["ytfaces_payload_bits_joint_003"] == 500
    assert found["ytfaces_nme_hevc_half_qp51_heads_of_originals"] == 9
    assert found["ytfaces_bits_saved_vs_rgb_percent_003"] == pytest.approx(100 * (1 - 600 / (24 * 128**2)))
    # Higher is better, although less of an error is.
    assert found["ytfaces_nme_gap_to_rgb_003"] == -0.5
    assert found["ytfaces_nme_gap_to_rgb_003_low"] == found["ytfaces_nme_gap_to_rgb_003_high"] == -0.5
    assert found["ytfaces_nme_gap_to_separate_003"] == 0.5
    # Of the standard codecs that count, the best reading: tuned heads, HEVC.
    assert found["ytfaces_nme_gap_to_best_standard_003"] == pytest.approx(1.5)
    assert found["ytfaces_gmsd_gap_to_hevc_half_qp51_003"] == pytest.approx(0.1)
    assert found["ytfaces_psnr_gap_to_hevc_half_qp51_003"] == pytest.approx(-1)
    assert not [key for key in found if "gap_to_vvc" in key]
    assert found["ytfaces_analyze_macs_ratio"] == 0.25
    assert found["ytfaces_analyze_seconds_ratio"] == 0.5
    assert found["ytfaces_files_identical_share"] == 1
    # In short: at the most bits that there are, of all sets the worst.
    assert found["ytfaces_bpp"] == pytest.approx(600 / 128**2)
    assert found["ytfaces_nme_gap_to_rgb_low"] == found["ytfaces_nme_gap_to_rgb"] == -0.5
    assert found["ytfaces_nme_joint"] == 3.0
    assert found["ytfaces_perceptual_ours"] == pytest.approx(0.1)
    assert found["ytfaces_perceptual_hevc"] == pytest.approx(0.2)
    assert "ytfaces_perceptual_vvc" not in found
    assert found["analyze_macs_ratio"] == 0.25
    assert found["bits_saved_vs_rgb_percent"] == found["ytfaces_bits_saved_vs_rgb_percent_003"]


def test_intervals_are_over_people() -> None:
    found = figures(rows())
    assert found["ytfaces_nme_gap_to_single_stream_003"] == pytest.approx(-0.25)
    low, high = (found[f"ytfaces_nme_gap_to_single_stream_003_{end}"] for end in ("low", "high"))
    assert low == pytest.approx(-0.5)
    assert high == pytest.approx(0)
    # Resamples of three people are of one kind far more often than those of four pictures.
    everybody = figures([{**row, "people": None} if row["kind"] == "images" else row for row in rows()])
    draws = np.random.default_rng(1).integers(4, size=(4000, 4))
    alone = np.quantile(np.array([-0.5, -0.5, 0, 0])[draws].mean(1), [0.025, 0.975])
    assert [everybody[f"ytfaces_nme_gap_to_single_stream_003_{end}"] for end in ("low", "high")] == [*alone]


def test_metrics_of_an_image() -> None:
    assert steps_off(torch.tensor([1.5, 3.0]), torch.tensor([1, 5])).tolist() == [0.5, 2.0]
    assert right(torch.tensor([[0.9], [0.2]]), torch.tensor([[1], [1]])).tolist() == [1.0, 0.0]
    assert SETS["utkface"].tasks == ["age", "gender"]


def test_results_that_are_sent() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.laplace(size=(4000, 2)) @ np.diag([4.0, 1.0]) @ np.linalg.qr(rng.normal(size=(2, 2)))[0]
    errors, bits = [], []
    for step in (0.25, 1.0):
        arrived, spent = Sent(vectors[:2000], components=2, step=step)(vectors[2000:])
        errors.append(np.square(arrived - vectors[2000:]).mean(0).sum())
        bits.append(spent.mean())
        assert spent.min() > 0
    # A uniform quantiser's, of the mean of squares of both axes.
    assert errors[0] == pytest.approx(2 * 0.25**2 * 2 / 12, rel=0.15)
    # A quarter of the step is two bits a component.
    assert bits[0] - bits[1] == pytest.approx(4, abs=0.4)


def test_classes_are_sent_at_the_length_of_their_frequency() -> None:
    sent = SentClasses(np.array([0] * 5 + [1]), 2)
    assert sent(np.array([0, 1])).tolist() == pytest.approx([-np.log2(6 / 8), 2])


def test_runs_are_of_experiments_that_there_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, list[str]] = {}

    def train(run: Path, overrides: list[str], _: int) -> None:
        asked.setdefault(str(run.relative_to(tmp_path)), overrides)

    monkeypatch.setattr(layered_runs, "train", train)
    two_rates = replace(SETS["ytfaces"], rates={"003": 0.035, "0075": 0.08})
    first = Trained(two_rates, tmp_path / "a", tmp_path / "faces", [])
    second = Trained(SETS["utkface"], tmp_path / "b", tmp_path / "faces", ["seed=3"], first)
    first.joint("0075")
    assert list(asked) == ["a/codec-003", "a/codec-0075", "a/joint-0075"]
    opponent = SETS["utkface"].opponents[0]
    second.single("003"), second.separate("003"), second.tuned(opponent, tmp_path / "decodes")
    # What a run begins from is there first, and is another set's where the set says so.
    tuned = "b/tuned-hevc-0.5-48"
    assert list(asked)[3:] == [
        "a/codec_single-003", "b/codec_single-003", "b/joint_single-003",
        "b/codec-003", "b/separate-003", "b/rgb", tuned,
    ]  # fmt: skip
    configs = {name: compose_config(*overrides) for name, overrides in asked.items()}
    assert all((config.seed == 3) == name.startswith("b/") for name, config in configs.items())
    begins = configs["b/codec-003"].schedule.pretrain.init_from
    assert begins["codec.g_s"] == str(tmp_path / "a/codec-003")
    assert "codec" not in begins
    assert {name: list(configs[name].schedule) for name in ("b/joint_single-003", "b/separate-003")} == {
        "b/joint_single-003": ["joint"],
        "b/separate-003": ["heads"],
    }
    assert configs["b/separate-003"].schedule.heads.init_from.codec == str(tmp_path / "b/codec-003")
    assert configs[tuned].schedule.heads.init_from["tasks.gender"] == str(tmp_path / "b/rgb")
    assert configs[tuned].data.root == str(tmp_path / "decodes")


def test_decodes_are_a_data_set(tmp_path: Path) -> None:
    images = torch.rand(3, 3, 32, 32)
    cells = [{"file": f"{i}.jpg", "split": "old", "age": str(i)} for i in range(3)]
    seen = Pictures(images, {}, cells)
    splits = {"test": seen.some(2), "train": seen.some(1)}
    codec = JPEG().eval()
    bits = keep_decodes(tmp_path, codec, 50, splits, ["age"])
    with (tmp_path / "index.csv").open() as table:
        written = list(csv.DictReader(table))
    assert [(row["file"], row["split"], row["age"]) for row in written] == [
        ("0.png", "test", "0"),
        ("2.png", "test", "2"),
        ("0.png", "train", "0"),
    ]
    (bitstream,) = codec.compress(images[2:], 50)
    data = codec.serialise(bitstream)
    assert bits["test"][0][1] == 8 * len(data)
    assert 0 < bits["test"][1][1] < 8 * len(data)
    found = torch.from_numpy(np.array(Image.open(tmp_path / "images" / "2.png"))).permute(2, 0, 1) / 255
    torch.testing.assert_close(found, codec.decompress([codec.parse(data)]).x_hat[0], atol=1e-3, rtol=0)
