"""Evaluate codecs and the tasks that read them: real bytes, real decodes, curves, BD-rates, one report.

python evaluate.py 'codecs=[jpeg, webp, hevc]' data.root=DIR out=DIR
python evaluate.py 'codecs=[RUN, jpeg, identity]' 'tasks=[OTHER_RUN:head]' data=NAME data.root=DIR out=DIR
python evaluate.py 'codecs=[jpeg, webp]' +task@frozen.NAME=TASK data=NAME data.root=DIR out=DIR
python evaluate.py --help                              all keys
"""

import json
import logging
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import hydra
from hydra.errors import HydraException, InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from evaluation.curves.comparison import compare, within_bound
from evaluation.result_files import write_json, write_rows, write_table
from evaluation.results import table
from launch.command import MISTAKES, run_main
from launch.config_check import check_components
from launch.errors import UserError, fail, one_line
from models.counted import counted
from pictures.names import shown

# What takes seconds to load is imported where it is used: `--help` waits for none of it.
if TYPE_CHECKING:
    from evaluation.evaluator import Evaluation
    from evaluation.points import Point
    from evaluation.sources import Skipped, SplitImages

KEYS = {
    "codecs": Sequence,
    "tasks": Sequence,
    "frozen": Mapping,
    "out": str,
    "data": Mapping,
    "split": Literal["train", "val", "test"],
    "num_images": int | None,
    "metrics": Sequence,  # of measures.PICTURE_METRICS
    "rates": Mapping[str, Sequence[float]] | None,
    "scales": Sequence[float] | Mapping[str, Sequence[float]] | None,
    "anchors": Sequence[str] | None,
    "own_tasks": bool,
    "refine": Mapping[str, Mapping] | None,
    "bootstrap": int,
    "workers": int | None,
    "timed_images": int,
    "gallery": int,
    "complexity": bool,
    "device": str,
    "cache": str,
}
"""Top-level keys of a config and what they hold."""

FEW = 10
"""Images below which a bootstrap over them says little."""

LEAST = {"num_images": 1, "bootstrap": 1, "workers": 1, "timed_images": 0, "gallery": 0}
"""Lowest values of numbers."""


def run(cfg: DictConfig, command: str) -> dict[str, Any]:
    """Evaluate what a config asks for and write everything.

    Args:
        cfg: as ``configs/evaluate.yaml``.
        command: to be written beside the figures.

    Returns:
        The content of ``results.json``.

    Raises:
        UserError: one clear line, before anything is coded.
        KeyboardInterrupt: what was measured is kept.
    """
    from evaluation.costs import costs
    from evaluation.environment import environment
    from evaluation.points import directions, own_heads
    from evaluation.report.matched_pictures import matched_pictures
    from evaluation.report.report import write_report
    from evaluation.rows import image_rows, rows_of
    from evaluation.sources import WHOLE, Skipped, SplitImages, points_of

    try:
        if missing := [key for key in ("codecs", "out") if OmegaConf.is_missing(cfg, key)]:
            raise ValueError(f"{missing[0]} is missing: give {missing[0]}=VALUE; --help shows examples")
        plain = OmegaConf.to_container(cfg, resolve=True)
        _check(plain)
        images = SplitImages(instantiate(cfg.data), cfg.split, cfg.num_images)
        points, skipped, notes = points_of(
            plain["codecs"],
            plain["tasks"],
            frozen=plain["frozen"],
            labels=images.source.labels,
            rates=plain["rates"] or {},
            scales=plain["scales"] or WHOLE,
            own_tasks=cfg.own_tasks,
            refine=plain["refine"],
        )
        anchors = _anchors(plain["anchors"], points, skipped)
        out = Path(cfg.out)
        out.mkdir(parents=True, exist_ok=True)
    except (*MISTAKES, InstantiationException) as error:
        raise UserError(one_line(error)) from error
    cache = Path(cfg.cache)
    evaluation = _evaluate(
        points,
        images,
        cache=cache,
        metrics=plain["metrics"],
        workers=cfg.workers,
        timed_images=cfg.timed_images,
        device=cfg.device,
    )
    skipped += [Skipped(point.title, reason) for point, reason in evaluation.skipped]
    rows, samples = rows_of(evaluation, command=command, num_resamples=cfg.bootstrap)
    if len(evaluation.images) < FEW:
        notes.append(
            f"intervals are too narrow: they are over {counted(len(evaluation.images), 'image')} alone"
        )
    if cfg.num_images is not None and len(images) < cfg.num_images:
        held = counted(len(images), "image")
        notes.append(
            f"num_images={cfg.num_images}, and split {cfg.split} has {held}: data=test_folder takes a whole folder"
        )
    if small := [e["image"] for e in evaluation.entries[0] if e["values"].get("ms_ssim", 0) is None]:
        notes.append(
            f"MS-SSIM is left out: it has no value for {counted(len(small), 'small image')}, first {small[0]}"
        )
    heads = {"higher_is_better": directions(points), "own_head_of": own_heads(points)}
    bd = compare(rows, samples, anchors=anchors, **heads)
    results = {
        "dataset": shown(Path(str(plain["data"].get("root", cfg.data._target_.rpartition(".")[2]))).name),
        "split": cfg.split,
        "num_images": len(evaluation.images),
        "rows": rows,
        "environment": environment(),
        "skipped": [{"codec": s.codec, "reason": s.reason} for s in skipped],
        "excluded_images": [{"image": i, "reason": r} for i, r in evaluation.excluded.items()],
        "notes": notes,
        "higher_is_better": heads["higher_is_better"],
        "complexity": costs(evaluation, images, cache=cache, device=cfg.device) if cfg.complexity else [],
        "within_one_point": within_bound(rows, samples, **heads),
        "command": command,
    }
    gallery = matched_pictures(evaluation, images, cfg.gallery)
    write_json(out / "results.json", results)
    write_rows(out / "results.csv", rows)
    write_table(out / "per_image.csv", image_rows(evaluation))
    write_json(out / "bd.json", bd)
    # The report shows what the files hold: what is no number there is none here.
    stored = [json.loads((out / name).read_text()) for name in ("results.json", "bd.json")]
    write_report(out, *stored, gallery)
    _tell(out, results, points)
    return results


def _evaluate(points: "Sequence[Point]", images: "SplitImages", **settings: Any) -> "Evaluation":
    from evaluation.evaluator import evaluate

    try:
        evaluation = evaluate(points, images, **settings)
    except ValueError as error:  # nothing can be read
        raise UserError(one_line(error)) from error
    if not evaluation.points:
        raise UserError(f"no codec could be measured: {evaluation.skipped[0][1]}")
    return evaluation


def _check(plain: Mapping[str, Any]) -> None:
    import torch

    from evaluation.measures import PICTURE_METRICS

    check_components(plain, KEYS | {"metrics": Sequence[Literal[PICTURE_METRICS]]})
    for key, least in LEAST.items():
        if plain[key] is not None and plain[key] < least:
            raise ValueError(f"{key}={plain[key]} must be at least {least}")
    if not plain["codecs"]:
        raise ValueError("codecs is empty: name at least one, as in 'codecs=[jpeg]'")
    if plain["device"] != "cpu" and not (plain["device"].startswith("cuda") and torch.cuda.is_available()):
        raise ValueError(f"device={plain['device']} is not here: use cpu, or cuda on a machine that has it")
    scales = plain["scales"] or []
    ladders = scales.values() if isinstance(scales, Mapping) else [scales]
    if wrong := [scale for ladder in ladders for scale in ladder if not 0 < scale <= 1]:
        raise ValueError(f"scales holds {wrong}: each must be above 0 and at most 1, as in [1, 0.5]")


def _anchors(
    names: Sequence[str] | None, points: "Sequence[Point]", skipped: "Sequence[Skipped]"
) -> list[str]:
    known = list(dict.fromkeys(point.name for point in points))
    if not known:
        raise ValueError(f"no codec can be evaluated: {'; '.join(s.reason for s in skipped)}")
    if names is None:
        return [next((point.name for point in points if not point.codec.uncompressed), known[0])]
    missing = {s.codec for s in skipped}
    if unknown := [n for n in names if n.removesuffix("+scaled") not in {*known, *missing}]:
        raise ValueError(f"anchors names {unknown}, which are not among the codecs {known}")
    return [name for name in names if name not in missing] or known[:1]


def _tell(out: Path, results: Mapping[str, Any], points: "Sequence[Point]") -> None:
    monitors = {head.name: head.task.monitor for point in points for head in point.heads}
    print(f"\n{table(results['rows'], monitors)}\n")
    for entry in results["excluded_images"]:
        print(f"excluded: {entry['image']}: {entry['reason']}", file=sys.stderr)
    for entry in results["skipped"]:
        print(f"skipped: {entry['codec']}: {entry['reason']}", file=sys.stderr)
    for note in results["notes"]:
        print(f"note: {note}", file=sys.stderr)
    counts = {"excluded": len(results["excluded_images"]), "skipped": len(results["skipped"])}
    left_out = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
    print(
        f"{counted(results['num_images'], 'image')}{', ' + left_out if left_out else ''}: {out / 'report.html'}"
    )


@hydra.main(config_path=str(Path(__file__).parent / "configs"), config_name="evaluate", version_base="1.3")
def main(cfg: DictConfig) -> None:
    """Entry point: the user's errors become one line and status 2."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    try:
        run(cfg, shlex.join(["python", Path(sys.argv[0]).name, *sys.argv[1:]]))
    except (UserError, OmegaConfBaseException) as error:
        fail(error, 2)
    except KeyboardInterrupt:
        print(f"\ninterrupted: the same command goes on from {cfg.cache}", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    run_main(main, (HydraException,))
