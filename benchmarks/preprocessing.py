"""Filters in front of JPEG and HEVC, for machines that read: the record ``preprocessing``.

python -m benchmarks.preprocessing PHOTOS IMAGENET DIR      writes benchmarks/results/preprocessing.json

PHOTOS is a folder of photographs without labels, shared out among train, val and test, on which filters learn that
know what blocks tell EfficientNet-Lite0 (experiment=preprocessing_jpeg_informed, preprocessing_hevc_informed). IMAGENET
is the folder of ``data=imagenet_val``, whose pictures are seen by no training: the plain codecs and the filters, of
whole and of smaller pictures, and JPEG's filter with ten gradient steps a picture at the encoder are read by Lite0
itself and by two networks that were no part of it. Fidelity of the proxies, on pictures as they are and as the filters
make them; what a training step costs with the real codec in the loop. DIR gets the runs; killed, the same command goes
on. Needs the extra ``pretrained``.
"""

import itertools
import json
import os
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import Tensor

from benchmarks import proxy_fidelity
from benchmarks.record import ROOT, Figures, Rows, as_called, parser, write
from benchmarks.runs import evaluate, train
from launch.overrides import quoted
from models.codecs.refined import refined
from models.pretrained import load
from pictures.finding import below
from pictures.reading import read_picture


@dataclass(frozen=True)
class Standard:
    """A standard codec and the filter before it.

    Args:
        experiment: that trains the filter.
        qualities: of the codec alone.
        own: of the filter, ordered from the fewest bits.
        scales: of its pictures.
        share: of the test pictures that are read: some codecs take long.
    """

    experiment: str
    qualities: Sequence[int]
    own: Sequence[int]
    scales: Sequence[float]
    share: float = 1.0


STANDARDS = {
    "jpeg": Standard(
        "preprocessing_jpeg_informed", (5, 8, 12, 18, 27, 40, 60, 95), (5, 8, 12, 18, 27, 40), (1, 0.85, 0.7)
    ),
    "hevc": Standard(
        "preprocessing_hevc_informed", (51, 47, 42, 37, 32, 27), (47, 42, 37, 32), (1, 0.7), share=0.5
    ),
}
MIDDLE = 18
"""Quality of JPEG at which refinement is timed."""
STEPS = 10
SMALLER = 0.7
"""Side of the smaller pictures that are filtered."""
HEADS = {"lite0": "lite0", "lite1": "lite1_unseen", "lite2": "lite2_unseen"}
"""{network: what figures call it}"""
METRICS = ("kl", "nll")
PREFIX = {"trained": "", "refined": "refined_", "gaussian": "gaussian_"}
"""{codec: what its figures begin with}"""


def trained(standard: str, photos: Path, run: Path, more: Sequence[str]) -> None:
    """Train a filter, or the rest of it."""
    arguments = [f"experiment={STANDARDS[standard].experiment}", f"data.root={quoted(photos)}"]
    train(run, [*arguments, "+trainer.limit_test_batches=1", *more], os.cpu_count() or 1)


def read(
    standard: str, run: Path, imagenet: Path, out: Path, images: int, *, refine: bool = False
) -> list[dict[str, Any]]:
    """Rows of a standard codec and of its filter at every quality and scale, and of evaluate.py's comparison."""
    setting, codec = STANDARDS[standard], "refined" if refine else "trained"
    codecs, rates = (
        [standard, f"{{{codec}: {quoted(run)}}}"],
        {standard: setting.qualities, codec: setting.own},
    )
    if refine:
        rates[codec] = setting.own[:-1]
    else:
        codecs.append(f"{{gaussian: preprocessed_{standard}_gaussian}}")
        rates["gaussian"] = setting.own
    overrides = [
        "evaluation=imagenet_reading", f"data.root={quoted(imagenet)}",
        f"codecs=[{', '.join(codecs)}]",
        f"anchors=[{standard}, {standard}+scaled]",
        f"scales={{{standard}: {[*setting.scales]}, {codec}: {[1, SMALLER]}}}",
        f"rates={{{', '.join(f'{name}: {[*values]}' for name, values in rates.items())}}}",
        f"refine={f'{{refined: {{steps: {STEPS}, task: reads}}}}' if refine else 'null'}",
        f"num_images={images}", f"cache={quoted(out.parent / 'cache')}",
        "own_tasks=false", "metrics=[psnr]", "gallery=0", "complexity=false", "timed_images=0",
    ]  # fmt: skip
    kept = ("codec", "rate", "scale", "bpp", "bpp_payload", "psnr", "tasks", "ci95", "num_images")
    rows = [
        {"kind": "point", **{key: row[key] for key in kept if key in row}}
        for row in evaluate(out, overrides)["rows"]
    ]
    rows += ({"kind": "bd", **row} for row in json.loads((out / "bd.json").read_text())["rows"])
    return [{"standard": standard, **row} for row in rows]


def faithful(standard: str, run: Path, imagenet: Path, images: int) -> list[dict[str, Any]]:
    """Rows of the proxy's fidelity."""
    codec = load(run, tasks=()).codec
    folder = imagenet / "images"
    names = below(folder).names
    chosen = [folder / names[round(i)] for i in np.linspace(0, len(names) - 1, min(images, len(names)))]
    found = proxy_fidelity.rows(
        codec.proxy.eval(), [read_picture(p) for p in chosen], {"filtered": codec.filtered}
    )
    return [{"kind": "fidelity", "standard": standard, **row} for row in found]


def refining(run: Path, imagenet: Path, images: int) -> list[dict[str, Any]]:
    """Seconds that refinement takes an image, in one batch, at the middle quality."""
    model = load(run)
    folder = imagenet / "images"
    x = torch.cat([read_picture(folder / name)[..., :224, :224] for name in below(folder).names[:images]])
    codec = refined(model.codec, STEPS, model.tasks["reads"].compared_with)
    for _ in range(2):  # networks plan their memory at the first
        codec.changed(x, MIDDLE)
    return [{"kind": "refining", "images": images, "seconds_per_image": codec.seconds[-1]}]


def steps(run: Path, turns: int) -> list[dict[str, Any]]:
    """Seconds of training steps with the real codec in the loop and with its proxy alone, by turns.

    A step is the filter, the codec or its proxy or both, Lite0 on the decode, the way back, and Adam; of 16 pictures of
    128x128, noise with the spectrum of photographs.
    """
    reads = load(run).tasks["reads"]
    x = _like_photos(16, 128)
    keys, compare = torch.arange(16), reads.compared_with(x)
    found = []
    for name, config in (("jpeg", "preprocessed_jpeg_small"), ("webp", "preprocessed_webp")):
        codec = instantiate(OmegaConf.load(ROOT / "configs" / "codec" / f"{config}.yaml")).train()
        codec.proxy.requires_grad_(False).eval()
        adam = torch.optim.Adam(codec.filter.parameters(), lr=1e-4)
        seconds: dict[str, list[float]] = {"real_forward": [], "proxy_only": []}
        for _ in range(turns + 1):
            for mode, measured in seconds.items():
                codec.mode = mode
                start = time.perf_counter()
                output = codec.answer(
                    {"image": x, "id": [""] * len(x)}, codec.rates[len(codec.rates) // 2], keys
                )
                adam.zero_grad()
                (sum(output.bits.values()).log().sum() + compare(output.x_hat).sum()).backward()
                adam.step()
                measured.append(time.perf_counter() - start)
        ratios = [a / b for a, b in zip(*(values[1:] for values in seconds.values()), strict=True)]
        found.append({"kind": "step", "codec": name, "ratios": ratios})
    return found


def _like_photos(count: int, side: int) -> Tensor:
    """Pictures in [0, 1] whose power falls with the square of the frequency."""
    noise = torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(0))
    frequency = torch.fft.fftfreq(side).square()[:, None] + torch.fft.fftfreq(side).square()
    found = torch.fft.ifft2(torch.fft.fft2(noise) / frequency.sqrt().clamp_min(1 / side)).real
    return (0.5 + 0.2 * found / found.std((1, 2, 3), keepdim=True)).clamp(0, 1)


def figures(rows: Rows) -> Figures:
    """BD-rates against JPEG and against the best of its down-scaled ladders, by metric; and the proxy's fidelity."""
    found: dict[str, float | None] = {}
    for row in rows:
        if row["kind"] != "bd" or row["codec"] not in PREFIX:
            continue
        head, _, metric = row["metric"].partition("/")
        if head in HEADS and metric in METRICS:
            name = f"{PREFIX[row['codec']]}bd_rate_imagenet_{row['standard']}_{HEADS[head]}_{metric}"
            if row["rate_axis"] == "bpp_payload":
                name += "_payload"
            if row["ladder"] == "scaled":
                name += "_scaled"
            if row["anchor"] != row["standard"]:
                name += "_vs_best_simple"
            found[name] = row["bd_rate_percent"]
            found[f"{name}_ci_low"], found[f"{name}_ci_high"] = row["ci95"] or (None, None)
    for standard, kind in itertools.product(STANDARDS, ("plain", "filtered")):
        of = [
            row
            for row in rows
            if row["kind"] == "fidelity" and (row["standard"], row["pictures"]) == (standard, kind)
        ]
        if of:
            ending = standard if kind == "plain" else f"{standard}_{kind}"
            found[f"proxy_psnr_{ending}"] = statistics.mean(row["psnr"] for row in of)
            found[f"proxy_bits_error_percent_{ending}"] = statistics.mean(
                row["bits_error_percent"] for row in of
            )
    for row in rows:
        if row["kind"] == "refining":
            found["refine_seconds_per_image"] = row["seconds_per_image"]
        elif row["kind"] == "step":
            found[f"step_cost_ratio_{row['codec']}"] = statistics.median(row["ratios"])
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Run everything and write the record."""
    reader = parser("preprocessing", __doc__)
    reader.add_argument("photos", metavar="PHOTOS", type=Path, help="folder of photographs to learn on")
    reader.add_argument("imagenet", metavar="IMAGENET", type=Path, help="folder of data=imagenet_val")
    reader.add_argument("out", metavar="DIR", type=Path, help="folder of the run and its evaluation")
    reader.add_argument(
        "--images", type=int, default=900, help="of the test, evenly spaced, of HEVC half (default: 900)"
    )
    reader.add_argument(
        "--refined-images",
        type=int,
        default=300,
        help="of the test of refinement; 0 leaves that out (default: 300)",
    )
    options = reader.parse_args(arguments)
    photos, imagenet, root = (path.absolute() for path in (options.photos, options.imagenet, options.out))
    root.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    for standard in STANDARDS:
        run = root / standard
        trained(standard, photos, run, options.set)
        images = round(options.images * STANDARDS[standard].share)
        rows += read(standard, run, imagenet, root / f"{standard}_read", images)
        rows += faithful(standard, run, imagenet, images=50)
    run = root / "jpeg"
    if options.refined_images:
        rows += read("jpeg", run, imagenet, root / "jpeg_refined", options.refined_images, refine=True)
    rows += [
        *refining(run, imagenet, images=8),
        *steps(run, turns=15),
    ]
    notes = (
        "BD-rates are on file bytes, of which headers are many here, or on payload; negative saves. KL and NLL are to "
        "each network's own prediction on the original. "
        "Lite0 taught the filters and the refinement; what it says of refined files carries no claim, for the encoder "
        "knows its answer. `_scaled` is the best at each rate of pictures at their own size and shrunk to "
        f"{100 * SMALLER:g} % of their sides, all of them filtered; best_simple is the standard codec likewise, "
        "without a filter, JPEG also at 85 %. Intervals: "
        "bootstrap over pictures; one seed. Seconds are of this machine, step costs ratios in one process."
    )
    lengths = f"--images {options.images} --refined-images {options.refined_images}"
    command = as_called("preprocessing", f"PHOTOS IMAGENET DIR {lengths}", options.set)
    print(write("preprocessing", commands=[command], rows=rows, figures=figures, notes=notes))


if __name__ == "__main__":
    main()
