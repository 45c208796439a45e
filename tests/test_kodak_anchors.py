"""The record ``kodak_anchors``: its figures follow from bytes and PSNR of each image."""

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import kodak_anchors, record
from benchmarks.kodak_anchors import bd_rates, figures

NUM_IMAGES = 5
RATES = (1.0, 2.0, 3.0, 4.0)


def rows() -> list[dict[str, Any]]:
    """HEVC; VVC in half its bytes on each image; AVIF in 0.8 of them or in 1.2, by the image."""
    rng = np.random.default_rng(0)
    hardness = rng.uniform(0.5, 2, NUM_IMAGES)
    of_codec = {"hevc": 1.0, "vvc": 0.5, "avif": np.where(np.arange(NUM_IMAGES) % 2, 0.8, 1.2)}
    points = [
        {
            "kind": "point",
            "codec": codec,
            "rate": rate,
            "bytes": [int(b) for b in 1000 * 2**rate * hardness * share],
            "psnr": [float(p) for p in 28 + 3 * rate - hardness],
        }
        for codec, share in of_codec.items()
        for rate in RATES
    ]
    bpp, psnr = (float(np.mean(v)) for v in ([b / 1e4 for b in points[0]["bytes"]], points[0]["psnr"]))
    return [
        {"kind": "images", "names": [f"{i}.png" for i in range(NUM_IMAGES)], "pixels": [80_000] * NUM_IMAGES},
        *points,
        {"kind": "compressai", "codec": "hevc", "rate": 1.0, "bpp": bpp + 0.25, "psnr": psnr - 0.5},
        {"kind": "overhead", "ratio": 1.2, "ratio_one_worker": 1.7},
    ]


def as_bd_json() -> list[dict[str, Any]]:
    return [
        {"codec": c, "anchor": a, "metric": "psnr", "rate_axis": "bpp", "bd_rate_percent": v, "ci95": ends}
        for (c, a), (v, ends) in bd_rates(rows()).items()
    ]


def test_bd_rates_and_intervals_are_derived_from_images() -> None:
    found = figures(rows())
    assert found["bd_rate_vvc_vs_hevc"] == pytest.approx(-50, abs=0.05)
    assert found["bd_rate_hevc_vs_vvc"] == pytest.approx(100, abs=0.2)
    # Half of every image's bytes is half of any resample's.
    assert found["bd_rate_vvc_vs_hevc_low"] == pytest.approx(-50, abs=0.05)
    assert found["bd_rate_vvc_vs_hevc_high"] == pytest.approx(-50, abs=0.05)
    low, high = (found[f"bd_rate_avif_vs_hevc_{end}"] for end in ("low", "high"))
    assert -20.1 < low < found["bd_rate_avif_vs_hevc"] < high < 20.1
    assert high - low > 5
    assert found["max_bpp_difference_to_compressai_bench"] == pytest.approx(0.25)
    assert found["max_psnr_difference_to_compressai_bench"] == pytest.approx(0.5)


def test_changed_bytes_of_one_image_change_the_figures() -> None:
    changed = copy.deepcopy(rows())
    point = next(r for r in changed if r["kind"] == "point" and r["codec"] == "vvc")
    point["bytes"][0] *= 2
    assert figures(changed)["bd_rate_vvc_vs_hevc"] != figures(rows())["bd_rate_vvc_vs_hevc"]


def test_figures_must_be_those_of_the_evaluation() -> None:
    kodak_anchors._check_against(as_bd_json(), bd_rates(rows()))
    for key, value in (("bd_rate_percent", -49.0), ("ci95", [-51.0, -50.0]), ("ci95", None)):
        wrong = [row | {key: value} for row in as_bd_json()]
        with pytest.raises(RuntimeError, match=r"is derived, bd.json has"):
            kodak_anchors._check_against(wrong, bd_rates(rows()))


def test_a_record_without_all_of_its_points_is_not_written() -> None:
    whole = {"skipped": [], "excluded_images": []}
    kodak_anchors._check_complete(whole)
    for part in (
        {"skipped": [{"codec": "vvc 22", "reason": "too slow"}]},
        {"excluded_images": [{"image": "a.png"}]},
    ):
        with pytest.raises(RuntimeError, match="incomplete, run it again"):
            kodak_anchors._check_complete(whole | part)


def test_records_have_a_line_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "RESULTS", tmp_path)
    notes = 'quotes "rows": [] and \\ stay'
    path = record.write("name", commands=["a"], rows=rows(), figures=figures, notes=notes)
    stored = json.loads(path.read_text())
    assert (stored["rows"], stored["notes"]) == (rows(), notes)
    assert stored["figures"] == figures(rows())
    assert list(stored)[-2:] == ["rows", "notes"]
    assert sum(line.startswith('    {"kind"') for line in path.read_text().splitlines()) == len(rows())
