"""Standard codecs on the Kodak images: curves, BD-rates, agreement with CompressAI's tool, and what evaluating costs.

python -m benchmarks.kodak_anchors DIR [OUT]      writes benchmarks/results/kodak_anchors.json

DIR holds the 24 images; OUT gets the report (default: runs/kodak_anchors). Killed, it goes on from what OUT holds.
Half an hour on two quiet cores.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.record import Figures, Rows, write
from datamodules.image_folder import ImageFolder
from evaluation.evaluator import evaluate
from evaluation.points import Point
from evaluation.sources import SplitImages
from launch.overrides import quoted
from models.codecs.standard.pillow import JPEG

NAME = "kodak_anchors"
CODECS = ("jpeg", "webp", "jpeg2000", "avif", "hevc", "vvc")
AS_OTHER_TOOLS = {"jpeg_default": "jpeg", "webp_default": "webp"}
QUALITIES = (5, 15, 30, 45, 60, 75, 85, 95)
LADDERS = {"hevc": (47, 42, 37, 32, 27, 22), "vvc": (47, 42, 37, 32, 27, 22)}
"""Of the anchors: the range in which codecs are usually compared, 0.05 to 1.5 bpp."""

ANCHORS = ("hevc", "vvc")
REPEATS = 3


def main(root: Path, out: Path = Path("runs/kodak_anchors")) -> None:
    """Measure everything and write the record."""
    rows = [*_evaluated(root, out), *_of_other_tool(root), _overhead(root)]
    path = write(
        NAME,
        commands=[
            "python -m benchmarks.kodak_anchors DIR [OUT]",
            *dict.fromkeys(r["command"] for r in rows if "command" in r),
        ],
        rows=rows,
        figures=figures,
        notes="DIR: the 24 Kodak images. BD-rates are of PSNR over file bytes, negative is better than the anchor; "
        "rows of kind 'bd' hold every metric, both rate axes and intervals (bootstrap over the images). The overhead "
        "is that of evaluate() as it runs by default, an image a core, over a bare loop on one core that reads, "
        "encodes, decodes and takes PSNR, in turn in one process, medians of three; beside it stands that of "
        "evaluate() on one core.",
    )
    print(path)


def figures(rows: Rows) -> Figures:
    """The quoted figures."""
    found: dict[str, float | None] = {}
    for anchor in ANCHORS:
        for codec in (*CODECS, *AS_OTHER_TOOLS):
            if codec != anchor:
                found[f"bd_rate_{codec}_vs_{anchor}"] = next(
                    (
                        row["bd_rate_percent"]
                        for row in rows
                        if row["kind"] == "bd"
                        and (row["codec"], row["anchor"]) == (codec, anchor)
                        and (row["metric"], row["rate_axis"]) == ("psnr", "bpp")
                    ),
                    None,
                )
    for key in ("bpp", "psnr"):
        found[f"max_{key}_difference_to_compressai_bench"] = _largest_difference(rows, key)
    (overhead,) = (row for row in rows if row["kind"] == "overhead")
    found["evaluate_overhead_ratio"] = overhead["ratio"]
    found["evaluate_overhead_ratio_one_worker"] = overhead["ratio_one_worker"]
    return found


def _largest_difference(rows: Rows, key: str) -> float | None:
    ours = {(r["codec"], r["rate"]): r[key] for r in rows if r["kind"] == "point"}
    others = [r for r in rows if r["kind"] == "compressai"]
    return max((abs(ours[r["codec"], r["rate"]] - r[key]) for r in others), default=None)


def _evaluated(root: Path, out: Path) -> Iterator[dict[str, Any]]:
    codecs = [*CODECS, *AS_OTHER_TOOLS]
    ladders = LADDERS | dict.fromkeys(AS_OTHER_TOOLS, QUALITIES)
    rates = ", ".join(f"{name}: {list(values)}" for name, values in ladders.items())
    arguments = [
        f"codecs=[{', '.join(codecs)}]",
        f"rates={{{rates}}}",
        f"anchors=[{', '.join(ANCHORS)}]",
        "gallery=0",
        "complexity=false",
    ]
    command = [sys.executable, "evaluate.py", *arguments, f"data.root={quoted(root)}", f"out={quoted(out)}"]
    subprocess.run(command, check=True)
    shown = " ".join(["python evaluate.py", *(f"'{a}'" for a in arguments), "data.root=DIR out=OUT"])
    results = json.loads((out / "results.json").read_text())
    bd = json.loads((out / "bd.json").read_text())
    kept = (
        "codec",
        "rate",
        "bpp",
        "bpp_payload",
        "psnr",
        "ms_ssim",
        "encode_seconds",
        "decode_seconds",
        "encoder",
        "ci95",
    )
    for row in results["rows"]:
        yield {
            "kind": "point",
            "command": shown,
            "num_images": results["num_images"],
            **{key: row[key] for key in kept},
        }
    for row in bd["rows"]:
        yield {"kind": "bd", **row}


def _of_other_tool(root: Path) -> Iterator[dict[str, Any]]:
    for ours, theirs in AS_OTHER_TOOLS.items():
        arguments = ["-m", "compressai.utils.bench", theirs, str(root), "-q", ",".join(map(str, QUALITIES))]
        done = subprocess.run([sys.executable, *arguments], check=True, capture_output=True, text=True)
        found = json.loads(done.stdout)["results"]
        for place, quality in enumerate(QUALITIES):
            yield {
                "kind": "compressai",
                "command": f"python -m compressai.utils.bench {theirs} DIR -q {','.join(map(str, QUALITIES))}",
                "codec": ours,
                "rate": float(quality),
                "bpp": found["bpp"][place],
                "psnr": found["psnr-rgb"][place],
            }


def _overhead(root: Path) -> dict[str, Any]:
    data = ImageFolder(root, split_fractions=(0, 0, 1), batch_size=1)
    points = [Point("jpeg", JPEG().eval(), rate=float(q), shown_rate=float(q)) for q in QUALITIES]
    times: dict[str, list[float]] = {"bare": [], "one_worker": [], "all_workers": []}
    torch.set_num_threads(1)
    for _ in range(REPEATS):
        times["bare"].append(_seconds(lambda: _bare_loop(root)))
        for name, workers in (("one_worker", 1), ("all_workers", None)):
            with tempfile.TemporaryDirectory() as cache:
                times[name].append(_seconds(lambda: _evaluate(points, data, Path(cache), workers)))  # noqa: B023
    medians = {name: statistics.median(values) for name, values in times.items()}
    return {
        "kind": "overhead",
        "seconds": times,
        "ratio": medians["all_workers"] / medians["bare"],
        "ratio_one_worker": medians["one_worker"] / medians["bare"],
    }


def _evaluate(points: list[Point], data: ImageFolder, cache: Path, workers: int | None) -> None:
    images = SplitImages(data, "test")
    evaluate(points, images, cache=cache, metrics=["psnr"], workers=workers, timed_images=0, progress=False)


def _bare_loop(root: Path) -> None:
    codec = JPEG()
    for path in sorted(root.iterdir()):
        with Image.open(path) as file:
            image = np.asarray(file.convert("RGB"))
        for quality in QUALITIES:
            decoded = codec.decode(codec.encode(image, quality))
            mse = np.mean((decoded.astype(np.float64) - image) ** 2)
            _ = 10 * np.log10(255**2 / mse)


def _seconds(job: Any) -> float:
    start = time.perf_counter()
    job()
    return time.perf_counter() - start


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        print("usage: python -m benchmarks.kodak_anchors DIR [OUT]", file=sys.stderr)
        sys.exit(2)
    main(*map(Path, sys.argv[1:]))
