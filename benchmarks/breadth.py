"""Every task on its real data set, in real bytes: the record ``breadth``.

python -m benchmarks.breadth DATA DIR --jobs 2      writes benchmarks/results/breadth.json

DATA has the sets as folders (celebamask, ytfaces_landmarks, utkface_agegender, bccd, camvid, imagenet_val, coco) and
weights/fastestdet.onnx; DIR gets the runs; killed, the same command goes on. Each experiment trains one codec for its
set from the one in benchmarks/weights, with a head on its pixels and one on its latents for each task, and is tested in
whole files. Published networks (the extra ``pretrained``) are evaluated as they are. Figures of the records
``adaptation`` and ``variable_rate``, where they were made, are taken over. ``--only NAME`` measures these sections and
keeps the record's rows of all others; a row says of which commit it is.
"""

import argparse
import json
import os
import statistics
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from omegaconf import OmegaConf

from benchmarks.record import RESULTS, ROOT, Figures, Rows, write
from benchmarks.runs import evaluate, train
from evaluation.results import git_commit
from launch.overrides import quoted

CODEC = ROOT / "benchmarks" / "weights" / "scenes6_codec"
SETS: Mapping[str, tuple[str, Mapping[str, Sequence[str]]]] = {
    "celebamask": ("celebamask", {"parsing": ("miou",), "presence": ("ap",)}),
    "ytfaces": ("ytfaces_landmarks", {"landmarks": ("nme",), "identity": ("eer", "tar", "rank1")}),
    "utkface": ("utkface_agegender", {"age": ("mae",), "gender": ("accuracy",)}),
    "camvid": ("camvid", {"": ("miou",)}),
    "bccd": ("bccd", {"": ("map", "map_50")}),
}
"""{set: (its folder, {task: what is measured})}; tasks are called ``<task>_pixels`` and ``<task>_latents``."""
FOLDS = 5
NETWORKS = ("lite0", "lite1", "lite2")
QUICK = ("metrics=[psnr]", "timed_images=0", "gallery=0", "complexity=false")
OTHERS = ("adaptation", "variable_rate")


def trained(data: Path, root: Path, threads: int, name: str, fold: int | None = None) -> list[dict[str, Any]]:
    """Rows of one set's experiment: the test of its last stage."""
    folder, _ = SETS[name]
    run = root / (name if fold is None else f"{name}-{fold}")
    overrides = [
        f"experiment={name}_joint",
        f"data.root={quoted(data / folder)}",
        f"schedule.pretrain.init_from={{codec: {quoted(CODEC)}}}",
        *([] if fold is None else [f"data.fold={fold}"]),
    ]
    summary = train(run, overrides, threads)
    images = len(instantiate(OmegaConf.load(run / "config.yaml").data).split("test"))
    return [
        {
            "kind": "set",
            "set": name,
            "fold": fold,
            "num_images": images,
            "git_commit": summary["git_commit"],
            **{key: row[key] for key in ("codec", "rate", "bpp", "bpp_payload", "psnr", "tasks")},
        }
        for row in summary["test"]["rows"]
    ]


def published(data: Path, root: Path, threads: int, name: str) -> list[dict[str, Any]]:
    """Rows of published networks on originals, or on standard codecs' ladders."""
    results = evaluate(root / name, [*PUBLISHED[name](data), *QUICK])
    kept = ("codec", "rate", "scale", "bpp", "bpp_payload", "psnr", "tasks", "ci95", "num_images")
    return [
        {"kind": "published", "set": name, **{key: row[key] for key in kept if key in row}}
        for row in results["rows"]
    ]


def _imagenet(data: Path) -> list[str]:
    return ["evaluation=imagenet_frozen", f"data.root={quoted(data / 'imagenet_val')}"]


def _coco(data: Path) -> list[str]:
    file = quoted(data / "weights" / "fastestdet.onnx")
    network = f"frozen.fastestdet.head.network.network.file={file}"
    return ["evaluation=coco_frozen", f"data.root={quoted(data / 'coco')}", network]


ORIGINALS = ("codecs=[identity]", "anchors=null")
QUALITIES = (
    "jpeg: [5, 10, 20, 50, 80]",
    "webp: [0, 10, 35, 65, 90]",
    "avif: [0, 20, 40, 60, 80]",
    "hevc: [47, 42, 37, 32, 22]",
)
RATES = f"rates={{{', '.join(QUALITIES)}}}"
VVC = ("codecs=[vvc_fast]", "rates={vvc_fast: [52, 47, 42, 37, 27]}", "anchors=null")
PUBLISHED: Mapping[str, Callable[[Path], list[str]]] = {
    "imagenet": lambda data: [*_imagenet(data), *ORIGINALS],
    "coco": lambda data: [*_coco(data), *ORIGINALS],
    "imagenet_ladders": lambda data: [*_imagenet(data), RATES, "num_images=300"],
    "imagenet_vvc": lambda data: [*_imagenet(data), *VVC, "num_images=300"],
    "coco_ladders": lambda data: [*_coco(data), RATES],
}
"""{section: overrides of evaluate.py}."""


def sections_of(data: Path, root: Path, threads: int) -> dict[str, Callable[[], list[dict[str, Any]]]]:
    """{name: what gives its rows}."""
    sets = [name for name in SETS if name != "bccd"]
    return {
        **{name: partial(trained, data, root, threads, name) for name in sets},
        **{f"bccd-{fold}": partial(trained, data, root, threads, "bccd", fold) for fold in range(FOLDS)},
        **{name: partial(published, data, root, threads, name) for name in PUBLISHED},
    }


def figures(rows: Rows) -> Figures:
    """Metrics of both heads and bits by set (means over folds), top-1 and AP on originals; what other records say."""
    found: dict[str, float | None] = {}
    for name, (_, tasks) in SETS.items():
        own = [row for row in rows if row["kind"] == "set" and row["set"] == name and row["codec"] == "joint"]
        if not own:
            continue
        found[f"{name}_bpp"] = statistics.mean(row["bpp"] for row in own)
        found[f"{name}_num_test"] = float(sum(row["num_images"] for row in own))
        for task, metrics in tasks.items():
            for metric in metrics:
                for side in ("pixels", "latents"):
                    head = f"{task}_{side}" if task else side
                    values = [row["tasks"][f"{head}/{metric}"] for row in own]
                    found[f"{name}_{metric}_{side}"] = statistics.mean(values)
    for row in rows:
        if row["kind"] == "published" and row["codec"] == "identity":
            if row["set"] == "imagenet":
                found |= {f"imagenet_top1_{name}": row["tasks"][f"{name}/top1"] for name in NETWORKS}
            elif row["set"] == "coco":
                found["coco_ap_fastestdet"] = row["tasks"]["fastestdet/map"]
    for row in rows:
        if row["kind"] == "record":
            found |= {key: value for key, value in row["figures"].items() if key.startswith(row["name"])}
        elif row["kind"] == "contract":
            found["codecs_in_contract"] = float(row["codecs"])
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Run everything and write the record."""
    introduction, _, more = __doc__.partition("\n\n")
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.breadth",
        description=introduction,
        epilog=more,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("data", type=Path, metavar="DATA", help="folder of the data sets")
    parser.add_argument("out", type=Path, metavar="DIR", help="folder of the runs")
    parser.add_argument("--jobs", type=int, default=1, help="runs at once, sharing the cores (default: 1)")
    parser.add_argument(
        "--only", nargs="+", metavar="NAME", help="measure these, keep the record's other rows"
    )
    options = parser.parse_args(arguments)
    data, root = options.data.absolute(), options.out.absolute()
    root.mkdir(parents=True, exist_ok=True)
    sections = sections_of(data, root, max(1, (os.cpu_count() or 1) // options.jobs))
    wanted = list(options.only or sections)
    if unknown := sorted({*wanted} - {*sections}):
        parser.error(f"{' '.join(unknown)}: there are {', '.join(sections)}")
    kept = json.loads((RESULTS / "breadth.json").read_text()) if options.only else {"rows": []}

    def rows_of(name: str) -> list[dict[str, Any]]:
        found = [{"section": name, "git_commit": git_commit(), **row} for row in sections[name]()]
        print(f"{name}: done", flush=True)
        return found

    with ThreadPoolExecutor(options.jobs) as pool:
        new = dict(zip(wanted, pool.map(rows_of, wanted), strict=True))
    old = {name: [row for row in kept["rows"] if row.get("section") == name] for name in sections}
    rows = [row for found in (old | new).values() for row in found]
    rows.append({"kind": "contract", "codecs": len(list((ROOT / "configs" / "codec").glob("*.yaml")))})
    rows += [
        {
            "kind": "record",
            "name": name,
            "figures": json.loads((RESULTS / f"{name}.json").read_text())["figures"],
        }
        for name in OTHERS
        if (RESULTS / f"{name}.json").is_file()
    ]
    notes = (
        "One seed each; tests on the sets' own test splits (bccd: on each fold in turn), bits of whole files. "
        "Codecs begin with the one in benchmarks/weights, which was trained on scenes6; all lengths are "
        "those of the experiments' yamls, 850 to 2,200 batches, so the figures say that every task works on "
        "pixels and latents, not what careful training would reach. Published networks are not "
        "trained; ladders on imagenet_val are on every third picture."
    )
    commands = [f"python -m benchmarks.breadth DATA DIR --jobs {options.jobs}"]
    print(write("breadth", commands=commands, rows=rows, figures=figures, notes=notes))


if __name__ == "__main__":
    main()
