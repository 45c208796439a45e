"""Filters for a detector, of the record ``preprocessing``: COCO's pictures, by what detectors find in the originals.

FastestDet taught the filters; a second detector, SSD-MobileNetV2, was no part of it (models/heads/opencv_ssd.py). Both
judge by their own detections on the originals, FastestDet also by COCO's annotations.
"""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.preprocessing_points import SMALLER, Standard, bd_figures, measured, trained
from benchmarks.record import Figures, Rows
from launch.overrides import quoted
from models.heads.opencv_ssd import NUM_CLASSES, PACKAGE

STANDARDS = {
    "jpeg": Standard(
        "preprocessing_jpeg_detection", (5, 8, 12, 18, 27, 40, 60), (5, 8, 12, 18, 27, 40), (1, 0.7)
    ),
    "hevc": Standard(
        "preprocessing_hevc_detection", (51, 47, 42, 37, 32, 27), (47, 42, 37, 32), (1, 0.7), share=0.5
    ),
}
JUDGES = {
    "fastestdet/map": "fastestdet_ap", "fastestdet_own/map": "fastestdet_self_map",
    "ssd_own/map": "ssd_unseen_self_map",
}  # fmt: skip
"""{metric: what figures call it}"""
UNSEEN = (
    "+frozen.ssd_own={_target_: tasks.own_detections.OwnDetections, _partial_: true, _convert_: all, reads: pixels, "
    f"num_classes: {NUM_CLASSES}, head: {{_target_: models.heads.frozen.FrozenDetector, _partial_: true, nms: 1.0, "
    "network: {_target_: models.frozen.Frozen, network: {_target_: models.heads.opencv_ssd.SSD}}}}"
)


def rows(
    coco: Path, detector: Path, root: Path, proxy: Path, images: int, more: Sequence[str]
) -> list[dict[str, Any]]:
    """Train the filters on COCO's training photos, unless they are there, and compare them on its others.

    Args:
        coco: folder of ``data=coco``.
        detector: FastestDet's file.
        root: folder of the runs.
        proxy: run with HEVC's.
        images: of JPEG's test; HEVC has its share.
        more: overrides of the trainings.
    """
    found: list[dict[str, Any]] = []
    begun = {
        "jpeg": [],
        "hevc": [
            "~schedule.proxy",
            "~schedule.fitting",
            f"schedule.filter.init_from={{codec.proxy: {quoted(proxy)}}}",
        ],
    }
    for standard, setting in STANDARDS.items():
        run = root / standard
        file = f"tasks.reads.teacher.network.file={quoted(detector)}"
        trained(setting, coco / "train", run, [file, *begun[standard], *more])
        judges = [
            "evaluation=coco_reading", f"data.root={quoted(coco)}",
            f"frozen.fastestdet.head.network.network.file={quoted(detector)}",
        ]  # fmt: skip
        if find_spec(PACKAGE) is not None:
            judges.append(UNSEEN)
        codecs = {standard: standard, "trained": run, "gaussian": f"preprocessed_{standard}_gaussian"}
        rates = {standard: setting.qualities, "trained": setting.own, "gaussian": setting.own}
        found += (
            {"set": "coco", "standard": standard, **row}
            for row in measured(
                root / f"{standard}_read",
                judges,
                codecs=codecs,
                anchors=[standard, f"{standard}+scaled", "gaussian"],
                rates=rates,
                scales={standard: setting.scales, "trained": (1, SMALLER)},
                images=round(images * setting.share),
            )
        )
    return found


def figures(found: Rows) -> Figures:
    """BD-rates against the codec, the best of its down-scaled ladder and the blur, by every judge."""
    named: dict[str, float | None] = {}
    for row in found:
        if row["kind"] == "bd" and row.get("set") == "coco" and row["metric"] in JUDGES:
            named |= bd_figures(row, f"bd_rate_coco_{row['standard']}_{JUDGES[row['metric']]}")
    return named
