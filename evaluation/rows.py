"""From measured images to result rows, and to the same rows under every bootstrap resample."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

from evaluation.cache import Entry
from evaluation.curves import bootstrap
from evaluation.evaluator import Evaluation
from evaluation.points import Head
from evaluation.results import Row, make_row
from evaluation.set_metrics import Resampled, from_json

Samples = dict[str, np.ndarray]
"""{rate, picture or ``<task>/<metric>`` key: its value under every resample, (num_resamples,)}."""

RATES = {"bpp_real": "bpp", "bpp_payload": "bpp_payload"}


def rows_of(
    evaluation: Evaluation, *, command: str, num_resamples: int = 1000, progress: bool = True
) -> tuple[list[Row], list[Samples]]:
    """One row for each point and source of heads.

    Args:
        evaluation: what was measured.
        command: that measured it.
        num_resamples: of the images, for intervals; all rows share the resamples, so that differences are paired.
        progress: show a bar.

    Returns:
        Rows as in ``results.json``, and for each the same figures under every resample.
    """
    counts = bootstrap.resamples(len(evaluation.images), num=num_resamples)
    rows: list[Row] = []
    samples: list[Samples] = []
    measured = zip(evaluation.points, evaluation.entries, evaluation.seconds, strict=True)
    bar = tqdm(measured, total=len(evaluation.points), desc="bootstrap", unit="point", disable=not progress)
    for point, entries, seconds in bar:
        means, sampled = _image_means(entries, counts)
        sources = list(dict.fromkeys(head.source for head in point.heads)) or [None]
        for source in sources:
            tasks, of_tasks = {}, {}
            for head in point.heads:
                if head.source == source:
                    values, drawn = _task(head, entries, counts)
                    tasks |= values
                    of_tasks |= drawn
            row = make_row(
                point.name,
                means | tasks,
                seed=point.seed,
                command=command,
                rate=point.shown_rate,
                uncompressed=point.codec.uncompressed,
            )
            everything = sampled | of_tasks
            row |= {
                "task_head": source,
                "encode_seconds": seconds.get("encode"),
                "decode_seconds": seconds.get("decode"),
                "scale": point.scale,
                "num_images": len(entries),
                "ci95": {key: bootstrap.interval(values) for key, values in everything.items()},
                "encoder": dict(point.about),
            }
            rows.append(row)
            samples.append(everything)
    return rows, samples


def image_rows(evaluation: Evaluation) -> list[dict[str, Any]]:
    """One row for each point and image, as in ``per_image.csv``: rates, picture quality, each head's metrics."""
    rows = []
    for point, entries in zip(evaluation.points, evaluation.entries, strict=True):
        judged = {head: _states(head, entries) for head in point.heads}
        for index, entry in enumerate(entries):
            values = {RATES.get(key, key): value for key, value in entry["values"].items() if key != "bpp"}
            row = {"codec": point.name, "rate": point.shown_rate, "scale": point.scale, "seed": point.seed}
            row |= {"image": entry["image"], **values, "bpp_estimated": entry["values"]["bpp"]}
            for head, metrics in judged.items():
                prefix = f"{head.name} ({head.source})"
                row[f"{prefix}/bpp"] = entry["heads"][head.key]["bpp"]
                row |= {f"{prefix}/{key}": value for key, value in metrics.of_image(index).items()}
            rows.append(row)
    return rows


def _image_means(entries: Sequence[Entry], counts: np.ndarray) -> tuple[dict[str, float], Samples]:
    means: dict[str, float] = {}
    sampled: Samples = {}
    for key in entries[0]["values"]:
        values = [entry["values"][key] for entry in entries]
        if None in values:
            continue  # a mean over some of the images would not compare with that of other measures
        means[key] = float(np.mean(values))
        if key in ("bpp_real", "bpp_payload", "psnr", "ms_ssim", "gmsd"):
            sampled[RATES.get(key, key)] = bootstrap.means(np.asarray(values), counts)
    return means, sampled


def _task(
    head: Head, entries: Sequence[Entry], counts: np.ndarray
) -> tuple[dict[str, float], Mapping[str, np.ndarray]]:
    metrics = _states(head, entries)
    rates = np.asarray([entry["heads"][head.key]["bpp"] for entry in entries])
    values = {f"{head.name}/{key}": value for key, value in metrics.compute().items()}
    drawn = [{f"{head.name}/{key}": value for key, value in metrics.compute(row).items()} for row in counts]
    # A figure that a resample lacks is undefined there: a class of which it has no image.
    sampled = {key: np.asarray([values_of.get(key, np.nan) for values_of in drawn]) for key in values}
    values[f"{head.name}/bpp"] = float(rates.mean())
    return values, sampled | {f"{head.name}/bpp": bootstrap.means(rates, counts)}


def _states(head: Head, entries: Sequence[Entry]) -> Resampled:
    return Resampled(
        head.task.metrics(), [from_json(entry["heads"][head.key]["states"]) for entry in entries]
    )
