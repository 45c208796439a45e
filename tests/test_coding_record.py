"""The record ``coding``: what it measures on codecs small enough to test, and how its figures follow from its rows."""

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from benchmarks import coding, recompute, record
from benchmarks.coding import Architecture
from models.codecs.compressai import CompressAICodec
from models.codecs.hyperprior import MeanScaleHyperprior
from models.outputs import CodecOutput
from models.pretrained import Pretrained
from models.transforms.fast import bf16_instructions
from tests.conftest import tiny_codec
from tests.drawn_pictures import as_tensor, drawn
from tests.test_entropy_exact import own, wrapped

SPREAD = {
    "trained_coder_encode_speedup",
    "trained_coder_decode_speedup",
    "trained_encode_speedup_fp32",
    "trained_decode_speedup_fp32",
    "trained_encode_speedup_bf16",
    "trained_decode_speedup_bf16",
    "trained_bytes_saved_percent",
    "analyze_time_ratio",
}
KEYS = {
    *SPREAD,
    *(f"{name}_{end}" for name in SPREAD for end in ("low", "high")),
    "trained_photos",
    "briefly_trained_coder_encode_speedup",
    "briefly_trained_coder_decode_speedup",
    "briefly_trained_encode_speedup_fp32",
    "briefly_trained_decode_speedup_fp32",
    "briefly_trained_encode_speedup_bf16",
    "briefly_trained_decode_speedup_bf16",
    "briefly_trained_elic_time_ratio",
    "briefly_trained_ar_decode_speedup",
    "bytes_vs_compressai_percent",
    "over_ideal_percent",
    "determinism_ways",
    "determinism_codecs",
    "wrong_photos",
    "fuzz_codecs",
    "fuzz_files",
    "fuzz_files_trained",
    "fuzz_failures",
    "bif_overhead_bytes",
    "max_psnr_difference_to_compressai",
    "max_estimated_bpp_difference_to_compressai",
    "max_bpp_difference_to_compressai",
}


def whole(codec: str, ours: int, **speedup: dict[str, float]) -> dict[str, Any]:
    return {"kind": "whole", "codec": codec, "speedup": speedup, "bytes": {"compressai": 1000, "ours": ours}}


def tool(psnr: float, estimated_bpp: float, bpp: float) -> dict[str, float]:
    return {"psnr": psnr, "estimated_bpp": estimated_bpp, "bpp": bpp}


def both(encode: float, decode: float) -> dict[str, float]:
    return {"encode": encode, "decode": decode, "both": 2 / (1 / encode + 1 / decode)}


def rows() -> list[dict[str, Any]]:
    """Three photos of the trained model, one of the others."""
    trained = [
        row
        for number, ours in enumerate((396, 392, 399))
        for row in (
            {"kind": "y", "codec": coding.TRAINED, "speedup": both(7.0 + number, 17.0 - number)},
            whole(coding.TRAINED, 990, fp32=both(2.0 + number, 5.0), bf16=both(3.0, 9.0 - number)),
            {"kind": "bytes", "codec": coding.TRAINED, "bytes": {"compressai": 400, "ours": ours}},
            {"kind": "analyze", "accelerated": False, "ratio": 0.1},
            {"kind": "analyze", "accelerated": True, "ratio": 0.3 - 0.1 * number},
        )
    ]
    return [
        *trained,
        {"kind": "y", "codec": "bmshj2018-hyperprior", "speedup": both(19.0, 20.0)},
        whole("bmshj2018-hyperprior", 950, fp32=both(1.5, 1.75), bf16=both(2.5, 3.0)),
        whole("mbt2018", 980, fp32=both(2.0, 4.0)),
        whole("elic2022-official", 995, fp32={"encode": 0.5, "decode": 1.0, "both": 0.8}),
        {"kind": "bytes", "codec": "bmshj2018-hyperprior", "bytes": {"compressai": 400, "ours": 300}},
        {"kind": "ideal", "over_percent": 0.02},
        {"kind": "ideal", "over_percent": 0.05},
        {"kind": "file", "overhead": 19},
        {"kind": "file", "overhead": 20},
        {"kind": "tool", "compressai": tool(30.0, 0.5, 0.51), "ours": tool(30.5, 0.5, 0.5)},
        {"kind": "tool", "compressai": tool(31.0, 0.25, 0.26), "ours": tool(31.0, 0.5, 0.26)},
        {"kind": "star", "codec": "a", "way": "1 thread", "differs_in": [], "wrong": 0},
        {"kind": "star", "codec": "a", "way": "batch 4", "differs_in": ["batch"], "wrong": 2},
        {"kind": "star", "codec": "b", "way": "batch 4", "differs_in": ["batch"], "wrong": 1},
        {"kind": "fuzz", "trained": True, "files": 60, "failure": 1},
        {"kind": "fuzz", "trained": False, "files": 40, "failure": 0},
        {"kind": "section", "section": "coder", "seconds": 3.0},
    ]


def test_headlines_are_the_trained_model_s_over_all_photos() -> None:
    """Median, lowest and highest; neither a photo nor an untrained codec stands for all."""
    found = coding.figures(rows())

    def spread(name: str) -> list[float | None]:
        return [found[f"trained_{name}{end}"] for end in ("", "_low", "_high")]

    assert spread("coder_encode_speedup") == [8.0, 7.0, 9.0]
    assert spread("coder_decode_speedup") == [16.0, 15.0, 17.0]
    assert spread("encode_speedup_fp32") == [3.0, 2.0, 4.0]
    assert spread("decode_speedup_bf16") == [8.0, 7.0, 9.0]
    assert spread("bytes_saved_percent") == pytest.approx([1.0, 0.25, 2.0])
    assert found["trained_photos"] == 3
    assert found["briefly_trained_coder_encode_speedup"] == 19.0
    assert found["briefly_trained_decode_speedup_fp32"] == 1.75
    assert found["briefly_trained_elic_time_ratio"] == 1.25
    assert found["briefly_trained_ar_decode_speedup"] == 4.0


def test_other_figures_are_the_worst_where_there_are_several() -> None:
    found = coding.figures(rows())
    assert set(found) == KEYS
    assert (found["wrong_photos"], found["determinism_ways"], found["determinism_codecs"]) == (3, 1, 2)
    assert found["bytes_vs_compressai_percent"] == pytest.approx(-0.25)
    assert found["over_ideal_percent"] == 0.05
    assert (found["fuzz_codecs"], found["fuzz_files"], found["fuzz_files_trained"]) == (2, 100, 60)
    assert found["fuzz_failures"] == 1
    assert found["analyze_time_ratio"] == pytest.approx(0.2)
    assert found["bif_overhead_bytes"] == 20
    assert found["max_psnr_difference_to_compressai"] == 0.5
    assert found["max_estimated_bpp_difference_to_compressai"] == 0.25
    assert found["max_bpp_difference_to_compressai"] == pytest.approx(0.01)


def test_without_instructions_bf16_is_null() -> None:
    kept = rows()
    for row in kept:
        row.get("speedup", {}).pop("bf16", None)
    found = coding.figures(kept)
    assert found["trained_encode_speedup_bf16"] is found["trained_decode_speedup_bf16_high"] is None
    assert found["briefly_trained_decode_speedup_bf16"] is None
    assert found["trained_encode_speedup_fp32"] == 3.0


@pytest.fixture
def nothing_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(record, "KEPT", tmp_path / "runs")
    return tmp_path / "runs"


def test_a_section_is_measured_once_for_the_same_settings(nothing_kept: Path) -> None:
    calls: list[int] = []

    def measure() -> Iterator[dict[str, Any]]:
        calls.append(len(calls))
        yield {"kind": "y", "call": len(calls), "size": (4, 6)}

    first, seconds = record.section("coding", "star MODEL", measure, [12, "a"])
    assert first == [{"kind": "y", "call": 1, "size": [4, 6]}]
    assert record.section("coding", "star MODEL", measure, [12, "a"]) == (first, seconds)
    assert record.section("coding", "star MODEL", measure, [13, "a"])[0][0]["call"] == 2
    assert record.section("coding", "other", measure, [12, "a"])[0][0]["call"] == 3
    assert len(calls) == 3


def test_a_section_that_fails_is_measured_again(nothing_kept: Path) -> None:
    def measure() -> Iterator[dict[str, Any]]:
        yield {"kind": "y"}
        if fails:
            raise RuntimeError("stopped")

    fails = [True]
    with pytest.raises(RuntimeError, match="stopped"):
        record.section("coding", "coder", measure)
    assert not list(nothing_kept.rglob("*.json"))
    fails.clear()
    assert record.section("coding", "coder", measure)[0] == [{"kind": "y"}]


def test_other_code_is_measured_again(nothing_kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = record.kept("coding", "coder")
    read = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: read(path) + b"#" * (path.name == "rans.py"))
    # What runs is what was imported.
    assert record.kept("coding", "coder") == before
    monkeypatch.setattr(record, "code", record.code.__wrapped__)
    assert record.kept("coding", "coder") != before


def test_sections_go_by_name(nothing_kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``--only`` keeps its sections for the call that writes the record; nothing else is measured."""
    monkeypatch.setattr(record, "RESULTS", tmp_path)
    asked: list[tuple[str, int]] = []

    def fuzz(name: str, *, files: int, seconds: float) -> dict[str, Any]:
        asked.append((name, files))
        return {"codec": name, "trained": False, "files": files, "failure": 0}

    monkeypatch.setattr(coding.fuzz, "fuzz", fuzz)
    command = ["--photos", str(tmp_path), "--fuzz-files", "24", "--only", "fuzz three_layers"]
    coding.main(command)
    coding.main(command)
    assert asked == [("three_layers", -(-24 // len(coding.fuzz.CODECS)))]
    assert not list(tmp_path.glob("*.json"))
    with pytest.raises(
        ValueError, match="--only stars: the sections are model, coder, .*, fuzz three_layers"
    ):
        coding.main(["--photos", str(tmp_path), "--only", "stars"])
    with pytest.raises(ValueError, match=r"there is no .*nowhere"):
        coding.main(["--photos", str(tmp_path / "nowhere")])


def test_the_trained_model_is_measured_on_every_photo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place in range(2):
        Image.fromarray(drawn(64, 128, place)).save(tmp_path / f"{place}.png")
    effort = coding.Effort(2, 1, (), 0, 0.0, threads=1, steps=1)
    subjects = coding.Subjects(tmp_path, Path("MODEL"), effort)
    vars(subjects).update(exported=wrapped("mbt2018-mean"))
    monkeypatch.setattr(subjects, "briefly", lambda architecture: wrapped("bmshj2018-hyperprior"))
    for section in (coding.coder, coding.whole):
        found = [row["photo"] for row in section(subjects) if row["codec"] == coding.TRAINED]
        assert found == [0, 1]


def test_figures_are_derived_again(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (record, recompute):
        monkeypatch.setattr(module, "RESULTS", tmp_path)
    path = record.write("coding", commands=["c"], rows=rows(), figures=coding.figures, notes="")
    assert recompute.main("coding") == 0
    content = json.loads(path.read_text())
    content["figures"]["wrong_photos"] = 0
    path.write_text(json.dumps(content))
    assert recompute.main("coding") == 1


@pytest.fixture
def picture() -> Tensor:
    return as_tensor(drawn(64, 128))


@pytest.mark.parametrize("architecture", ["bmshj2018-hyperprior", "mbt2018-mean", "mbt2018"])
def test_whole_codecs_are_measured_on_the_same_weights(architecture: str, picture: Tensor) -> None:
    codec = wrapped(architecture)
    row = coding.beside_compressai(codec, picture, repeats=1, num_threads=1)
    precisions = {"fp32"} | ({"bf16"} if bf16_instructions() else set())
    assert set(row["speedup"]) == precisions
    seconds = row["seconds"]
    assert row["speedup"]["fp32"]["both"] == seconds["compressai_both"] / seconds["fp32_both"] > 0
    assert seconds["fp32_both"] == seconds["fp32_encode"] + seconds["fp32_decode"]
    assert row["bytes"]["ours"] <= row["bytes"]["compressai"]
    assert coding.bytes_of(codec, picture)["bytes"] == row["bytes"]
    # The codec itself stays plain, for what is measured next.
    assert not codec.model.g_a._forward_hooks


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["bmshj2018-hyperprior", "mbt2018-mean"])
def test_compressai_s_tool_and_ours_agree_on_a_checkpoint(architecture: str, tmp_path: Path) -> None:
    for seed in range(2):
        Image.fromarray(drawn(192, 256, seed)).save(tmp_path / f"{seed}.png")
    found = list(coding.beside_eval_tool(wrapped(architecture), tmp_path))
    assert [row["photo"] for row in found] == ["0", "1"]
    for row in found:
        theirs, ours = row["compressai"], row["ours"]
        assert ours["psnr"] == pytest.approx(theirs["psnr"], abs=1e-3)
        assert ours["estimated_bpp"] == pytest.approx(theirs["estimated_bpp"], rel=1e-4)
        # Two coder states of 8 bytes at most against one and 2 bytes of fingerprint; tables from float32 or float64.
        saved = (theirs["bpp"] - ours["bpp"]) * 192 * 256 / 8
        assert 0 <= saved <= 16 + 0.01 * theirs["bpp"] * 192 * 256 / 8


def test_overhead_is_what_is_no_string(picture: Tensor) -> None:
    codec = own()
    (bitstream,) = codec.compress(picture)
    row = coding.overhead(codec, picture)
    assert row["file_bytes"] - row["overhead"] == len(bitstream.strings["base"])
    assert 0 < row["overhead"] <= 20 + 8


class Mean(nn.Module):
    """A task that reads one thing, and notes what else was decoded."""

    def __init__(self, reads: str, target: str = "scene"):
        super().__init__()
        self.reads, self.target = (reads,), target
        self.seen: list[CodecOutput] = []

    def predict(self, output: CodecOutput) -> Tensor:
        self.seen.append(output)
        return output.read(self.reads[0]).mean((1, 2, 3))

    def decide(self, preds: Tensor, size: tuple[int, int]) -> Tensor:
        return preds

    def describe(self, decided: Tensor) -> dict[str, float]:
        return {"mean": float(decided)}


@pytest.mark.parametrize("accelerated", [False, True])
def test_analysis_from_latents_decodes_no_pixels(accelerated: bool, picture: Tensor) -> None:
    tasks = Mean("y_hat"), Mean("pixels")
    row = coding.analysing(own(), *tasks, picture, repeats=2, accelerated=accelerated, num_threads=1)
    assert row["ratio"] == row["seconds"]["analyze"] / row["seconds"]["decompress_and_analyze"]
    assert len(tasks[0].seen) == len(tasks[1].seen) == 3
    assert all(output.x_hat is None for output in tasks[0].seen)
    assert all(output.x_hat is not None for output in tasks[1].seen)


def model_with(**tasks: nn.Module) -> Pretrained:
    return SimpleNamespace(codec=own(), tasks=tasks, source="SOURCE")  # type: ignore[return-value]


def test_tasks_of_one_kind_are_found() -> None:
    tasks = {"a": Mean("y_hat", "other"), "b": Mean("pixels"), "c": Mean("y_hat")}
    assert coding.tasks_of_one_kind(model_with(**tasks)) == (tasks["c"], tasks["b"])
    del tasks["c"]
    with pytest.raises(ValueError, match=r"needs two tasks with one target.*it has \{'a': \['y_hat'\], 'b'"):
        coding.tasks_of_one_kind(model_with(**tasks))


def test_a_trained_codec_becomes_compressai_s(picture: Tensor) -> None:
    codec = own()
    exported = coding.for_compressai(codec)
    with torch.no_grad():
        assert torch.allclose(exported.model.g_a(picture), codec.g_a(picture))
        assert torch.allclose(
            exported.model.h_s(torch.ones(1, 8, 1, 2)), codec.latent_codec.h_s(torch.ones(1, 8, 1, 2))
        )
    for other in (MeanScaleHyperprior(8, 12, num_stages=3), tiny_codec("identity")):
        with pytest.raises(ValueError, match="unknown to CompressAI"):
            coding.for_compressai(other)


def test_short_trainings_are_kept(tmp_path) -> None:
    photos, weights = tmp_path / "photos", tmp_path / "weights" / "a.safetensors"
    photos.mkdir()
    Image.fromarray(drawn(140, 150)).save(photos / "a.png")
    architecture = Architecture("bmshj2018-hyperprior", {"N": 8, "M": 12}, 2)
    first = coding.trained(architecture, photos, weights, num_threads=1, most_steps=300)
    torch.manual_seed(0)
    untrained = CompressAICodec(architecture.name, architecture.arguments)
    assert not torch.equal(first.model.g_a[0].weight, untrained.model.g_a[0].weight)
    (photos / "a.png").unlink()
    again = coding.trained(architecture, photos, weights, num_threads=1, most_steps=300)
    for key, value in first.model.named_parameters():
        assert torch.equal(value, again.model.get_parameter(key))
    assert not again.training
