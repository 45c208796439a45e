"""Standard codecs, set for PSNR, on the Kodak images: BD-rates, agreement with CompressAI's tool, costs of evaluating.

python -m benchmarks.kodak_anchors DIR [OUT]      writes benchmarks/results/kodak_anchors.json

DIR holds the 24 images; OUT gets the report (default: runs/kodak_anchors). Killed, it goes on from what OUT holds.
Most of the time is VVC's.
"""

import csv
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.record import Figures, Rows, write
from datamodules.image_folder import ImageFolder
from evaluation.curves import bootstrap
from evaluation.curves.comparison import compare
from evaluation.evaluator import evaluate
from evaluation.points import Point
from evaluation.sources import SplitImages
from launch.overrides import quoted
from models.codecs.standard.pillow import JPEG

NAME = "kodak_anchors"
CODECS = ("jpeg", "webp", "jpeg2000", "jpegxl", "avif", "hevc", "vvc")
AS_OTHER_TOOLS = {"jpeg_default": "jpeg", "webp_default": "webp"}
QUALITIES = (5, 15, 30, 45, 60, 75, 85, 95)
LADDERS = {
    "jpegxl": (0, 20, 40, 60, 75, 85, 92),
    "avif": (0, 15, 30, 45, 55, 65, 75, 85),
    "hevc": (47, 42, 37, 32, 27, 22),
    "vvc": (47, 42, 37, 32, 27, 22),
}
"""Of slow codecs: the range in which codecs are usually compared, 0.05 to 1.5 bpp."""

ANCHORS = ("hevc", "vvc")
REPEATS = 3


def main(root: Path, out: Path = Path("runs/kodak_anchors")) -> None:
    """Measure everything and write the record."""
    rows = [*_evaluated(root, out), *_of_other_tool(root), _overhead(root)]
    _check_against(json.loads((out / "bd.json").read_text())["rows"], bd_rates(rows))
    path = write(
        NAME,
        commands=[
            "python -m benchmarks.kodak_anchors DIR [OUT]",
            *dict.fromkeys(r["command"] for r in rows if "command" in r),
        ],
        rows=rows,
        figures=figures,
        notes="DIR: the 24 Kodak images. BD-rates are of PSNR over file bytes in percent, negative is better than the "
        "anchor; _low and _high are 95 % intervals of a paired bootstrap over the images. All are derived from rows of "
        "kind 'point', which hold bytes and PSNR of each image, in the order of the row of kind 'images'; rows of kind "
        "'codec' say how each is set. Choices were made on five of the images. JPEG has the standard's quantisation "
        "tables; WebP and JPEG XL cannot be set for PSNR here; vvenc codes 4:2:0 alone. The overhead is that of "
        "evaluate() with PSNR as its one metric, without its timing pass, bootstrap or report, over a bare loop on ONE "
        "core that reads, encodes, decodes and takes PSNR; medians of three, in turn in one process. "
        "evaluate_overhead_ratio lets evaluate() use all cores, so a loop over as many would be that much faster; "
        "evaluate_overhead_ratio_one_worker is on one core as well, and is the cost of the tool.",
    )
    print(path)


def figures(rows: Rows) -> Figures:
    """The quoted figures, rounded to what is the same on every machine."""
    found: dict[str, float | None] = {}
    for (codec, anchor), (value, interval) in bd_rates(rows).items():
        name = f"bd_rate_{codec}_vs_{anchor}"
        for end, number in zip(("", "_low", "_high"), (value, *(interval or (None, None))), strict=True):
            found[name + end] = None if number is None else round(number, 4)
    for key in ("bpp", "psnr"):
        found[f"max_{key}_difference_to_compressai_bench"] = _largest_difference(rows, key)
    (overhead,) = (row for row in rows if row["kind"] == "overhead")
    found["evaluate_overhead_ratio"] = overhead["ratio"]
    found["evaluate_overhead_ratio_one_worker"] = overhead["ratio_one_worker"]
    return found


def bd_rates(rows: Rows) -> dict[tuple[str, str], tuple[float | None, list[float] | None]]:
    """{(codec, anchor): (BD-rate of PSNR over file bytes in percent, its interval)}, as ``evaluate.py`` finds them."""
    points = _points(rows)
    counts = bootstrap.resamples(len(points[0]["bpp"]))
    samples = [{key: bootstrap.means(point[key], counts) for key in ("bpp", "psnr")} for point in points]
    means = [
        point | {"num_images": counts.shape[1], "bpp": point["bpp"].mean(), "psnr": point["psnr"].mean()}
        for point in points
    ]
    found = compare(means, samples, anchors=ANCHORS)["rows"]
    return {(row["codec"], row["anchor"]): (row["bd_rate_percent"], row["ci95"]) for row in found}


def _points(rows: Rows) -> list[dict[str, Any]]:
    """Codec and rate of each point, and its ``bpp`` and ``psnr`` of each image, (N,)."""
    (images,) = (row for row in rows if row["kind"] == "images")
    pixels = np.asarray(images["pixels"])
    return [
        {
            "codec": row["codec"],
            "rate": row["rate"],
            "bpp": 8 * np.asarray(row["bytes"]) / pixels,
            "psnr": np.asarray(row["psnr"]),
        }
        for row in rows
        if row["kind"] == "point"
    ]


def _check_against(
    rows: Rows, derived: dict[tuple[str, str], tuple[float | None, list[float] | None]]
) -> None:
    """That the figures are those of the evaluation's own ``bd.json``.

    Raises:
        RuntimeError: they differ by more than rounding.
    """
    for row in rows:
        if (row["metric"], row["rate_axis"]) == ("psnr", "bpp"):
            value, interval = derived[row["codec"], row["anchor"]]
            ours, theirs = (
                (v, *(i or ())) for v, i in ((value, interval), (row["bd_rate_percent"], row["ci95"]))
            )
            # The evaluation keeps bits per pixel in single precision.
            if len(ours) != len(theirs) or not np.allclose(ours, theirs, rtol=0, atol=1e-3):
                raise RuntimeError(
                    f"{row['codec']} against {row['anchor']}: {ours} is derived, bd.json has {theirs}"
                )


def _largest_difference(rows: Rows, key: str) -> float | None:
    ours = {(point["codec"], point["rate"]): float(point[key].mean()) for point in _points(rows)}
    others = [r for r in rows if r["kind"] == "compressai"]
    # Rounded above what the order of a sum changes.
    return max((round(abs(ours[r["codec"], r["rate"]] - r[key]), 12) for r in others), default=None)


def _evaluated(root: Path, out: Path) -> Iterator[dict[str, Any]]:
    codecs = [*CODECS, *AS_OTHER_TOOLS]
    ladders = LADDERS | dict.fromkeys(AS_OTHER_TOOLS, QUALITIES)
    rates = ", ".join(f"{name}: {list(values)}" for name, values in ladders.items())
    arguments = [
        f"codecs=[{', '.join(codecs)}]",
        f"rates={{{rates}}}",
        f"anchors=[{', '.join(ANCHORS)}]",
        "metrics=[psnr]",
        "timed_images=0",
        "gallery=0",
        "complexity=false",
    ]
    command = [sys.executable, "evaluate.py", *arguments, f"data.root={quoted(root)}", f"out={quoted(out)}"]
    subprocess.run(command, check=True)
    shown = " ".join(["python evaluate.py", *(f"'{a}'" for a in arguments), "data.root=DIR out=OUT"])
    results = json.loads((out / "results.json").read_text())
    _check_complete(results)
    with (out / "per_image.csv").open(newline="") as file:
        measured = list(csv.DictReader(file))
    names = list(dict.fromkeys(m["image"] for m in measured))
    pixels = {name: _size(root, name) for name in names}
    yield {"kind": "images", "command": shown, "names": names, "pixels": list(pixels.values())}
    encoders = {row["codec"]: row["encoder"] for row in results["rows"]}
    for codec, encoder in encoders.items():
        yield {"kind": "codec", "codec": codec, **encoder}
    for row in results["rows"]:
        of_point = [m for m in measured if (m["codec"], float(m["rate"])) == (row["codec"], row["rate"])]
        yield {
            "kind": "point",
            "codec": row["codec"],
            "rate": row["rate"],
            "bytes": [round(float(m["bpp"]) * pixels[m["image"]] / 8) for m in of_point],
            "psnr": [float(m["psnr"]) for m in of_point],
        }


def _check_complete(results: Mapping[str, Any]) -> None:
    """That no codec, rate or image is missing: the curves would be others.

    Raises:
        RuntimeError: something is, with the reason.
    """
    if missing := [*results["skipped"], *results["excluded_images"]]:
        raise RuntimeError(
            f"the record would be incomplete, run it again (what was measured is kept): {missing}"
        )


def _size(root: Path, name: str) -> int:
    with Image.open(root / name) as image:
        return image.width * image.height


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
