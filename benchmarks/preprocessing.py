"""Filters in front of JPEG and HEVC, for machines that read: the record ``preprocessing``.

python -m benchmarks.preprocessing PHOTOS IMAGENET DIR      writes benchmarks/results/preprocessing.json

PHOTOS is a folder of photographs without labels, shared out among train, val and test, on which filters learn that
know what blocks tell EfficientNet-Lite0 (experiment=preprocessing_jpeg_informed, preprocessing_hevc_informed). IMAGENET
is the folder of ``data=imagenet_val``, whose pictures are seen by no training: the plain codecs and the filters, of
whole and of smaller pictures, and JPEG's filter with ten gradient steps a picture at the encoder are read by Lite0
itself and by two networks that were no part of it. Fidelity of the proxies, on pictures as they are and as the filters
make them; what a training step costs with the real codec in the loop. An ablation says what the way through the real
codec is worth; with ``--coco``, filters that know what blocks tell a detector. DIR gets the runs; killed, the same
command goes on. Needs the extra ``pretrained``; the unseen detector is left out where ``make research`` was not run.
"""

import itertools
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import Tensor

from benchmarks import preprocessing_ablation, preprocessing_detection, proxy_fidelity
from benchmarks.preprocessing_points import SMALLER, Standard, bd_figures, measured, trained
from benchmarks.record import ROOT, Figures, Rows, as_called, parser, write
from launch.overrides import quoted
from models.codecs.refined import refined
from models.pretrained import load
from pictures.finding import below
from pictures.reading import read_picture

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
HEADS = {"lite0": "lite0", "lite1": "lite1_unseen", "lite2": "lite2_unseen"}
"""{network: what figures call it}"""
METRICS = ("kl", "nll")


def read(
    standard: str, run: Path, imagenet: Path, out: Path, images: int, *, refine: bool = False
) -> list[dict[str, Any]]:
    """Rows of a standard codec and of its filter at every quality and scale, and of evaluate.py's comparison."""
    setting, codec = STANDARDS[standard], "refined" if refine else "trained"
    codecs: dict[str, Path | str] = {standard: standard, codec: run}
    rates = {standard: setting.qualities, codec: setting.own[:-1] if refine else setting.own}
    anchors = [standard, f"{standard}+scaled"]
    if not refine:
        anchors.append("gaussian")
        codecs["gaussian"], rates["gaussian"] = f"preprocessed_{standard}_gaussian", setting.own
    rows = measured(
        out,
        ["evaluation=imagenet_reading", f"data.root={quoted(imagenet)}"],
        codecs=codecs,
        anchors=anchors,
        rates=rates,
        scales={standard: setting.scales, codec: (1, SMALLER)},
        images=images,
        refine=f"{{refined: {{steps: {STEPS}, task: reads}}}}" if refine else "null",
    )
    return [{"set": "imagenet", "standard": standard, **row} for row in rows]


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
            for mode, of_mode in seconds.items():
                codec.mode = mode
                start = time.perf_counter()
                output = codec.answer(
                    {"image": x, "id": [""] * len(x)}, codec.rates[len(codec.rates) // 2], keys
                )
                adam.zero_grad()
                (sum(output.bits.values()).log().sum() + compare(output.x_hat).sum()).backward()
                adam.step()
                of_mode.append(time.perf_counter() - start)
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
        if row["kind"] == "bd" and row["set"] == "imagenet":
            head, _, metric = row["metric"].partition("/")
            if head in HEADS and metric in METRICS:
                found |= bd_figures(row, f"bd_rate_imagenet_{row['standard']}_{HEADS[head]}_{metric}")
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
    return found | dict(preprocessing_detection.figures(rows)) | dict(preprocessing_ablation.figures(rows))


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
    reader.add_argument(
        "--ablation-images",
        type=int,
        default=300,
        help="of the test of the ablation; 0 leaves that out (default: 300)",
    )
    reader.add_argument(
        "--coco",
        nargs=2,
        type=Path,
        metavar=("COCO", "DETECTOR"),
        help="folder of data=coco, and fastestdet.onnx: filters for a detector as well",
    )
    reader.add_argument(
        "--coco-images", type=int, default=281, help="of its test, of HEVC half (default: 281)"
    )
    options = reader.parse_args(arguments)
    photos, imagenet, root = (path.absolute() for path in (options.photos, options.imagenet, options.out))
    root.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    for standard in STANDARDS:
        run = root / standard
        trained(STANDARDS[standard], photos, run, options.set)
        images = round(options.images * STANDARDS[standard].share)
        rows += read(standard, run, imagenet, root / f"{standard}_read", images)
        rows += faithful(standard, run, imagenet, images=50)
    run = root / "jpeg"
    if options.refined_images:
        rows += read("jpeg", run, imagenet, root / "jpeg_refined", options.refined_images, refine=True)
    if options.ablation_images:
        rows += preprocessing_ablation.rows(
            photos, imagenet, root / "ablation", options.ablation_images, options.set
        )
    if options.coco:
        coco, detector = (path.absolute() for path in options.coco)
        rows += preprocessing_detection.rows(
            coco, detector, root / "coco", root / "hevc", options.coco_images, options.set
        )
    rows += [
        *refining(run, imagenet, images=8),
        *steps(run, turns=15),
    ]
    notes = (
        "BD-rates are on file bytes, of which headers are many here, or on payload; negative saves. KL and "
        "NLL are to each network's own prediction on the original. Lite0 taught the filters and the "
        "refinement; what it says of refined files carries no claim, for the encoder knows its answer. "
        f"`_scaled` is the best at each rate of pictures at their own size and shrunk to {100 * SMALLER:g} % "
        "of their sides, all of them filtered; best_simple is the standard codec likewise, without a filter, "
        "JPEG of ImageNet's also at 85 %. `self_map` is by what a detector is sure of in the original (0.3), "
        "`ap` by COCO's annotations; FastestDet taught those filters, and HEVC's learned through the proxy of "
        "ImageNet's. The ablation's filters begin with a small price of a bit (0.01) and learn for equally "
        "many batches, one for each quality for as many each; straight_through has no gradient of bits. They "
        "moved little from where they began, so that most of what they save is their form's, and the ways to "
        "learn differ by less than can be told. Intervals: bootstrap over pictures; one seed. Seconds are of "
        "this machine, step costs ratios in one process."
    )
    lengths = (
        f"--images {options.images} --refined-images {options.refined_images} "
        f"--ablation-images {options.ablation_images}"
    )
    if options.coco:
        lengths += f" --coco COCO DETECTOR --coco-images {options.coco_images}"
    command = as_called("preprocessing", f"PHOTOS IMAGENET DIR {lengths}", options.set)
    print(write("preprocessing", commands=[command], rows=rows, figures=figures, notes=notes))


if __name__ == "__main__":
    main()
