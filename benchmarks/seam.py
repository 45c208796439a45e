"""Does the seam between stages, parts and updates hold? Makes the record ``seam``: ``python -m benchmarks.seam``.

The quickstart before and after the seam was redrawn, at one seed: weights of every stage and coded files. Kills at
random moments (benchmarks/kills.py), in one process and in two. One process against two over every kind of shipped
schedule and over the doubles of tests/doubles. How often attention's arithmetic could flip a symbol
(benchmarks/attention_flips.py). About half an hour on two quiet CPU cores.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from benchmarks import attention_flips, kills
from benchmarks.record import ROOT, Figures, Rows, section, write
from datamodules.portraits import Portraits
from launch.overrides import quoted
from tests.documents import add_doubles, copy_project

BEFORE = "9d64e46"
"""The last commit of which ``lightning_modules`` knew one kind of training."""
NUM_PICTURES = 16


def quickstart(folder: Path) -> Iterator[dict[str, Any]]:
    """Seed 0 with the code before and with today's: largest difference of any weight, and how many files are equal."""
    before = folder / "before"
    subprocess.run(
        ["git", "worktree", "add", "--quiet", "--detach", str(before), BEFORE], cwd=ROOT, check=True
    )
    try:
        pictures = folder / "pictures"
        pictures.mkdir()
        portraits = Portraits(batch_size=1).split("test")
        for index in range(NUM_PICTURES):
            image = portraits.read(index)["image"].permute(1, 2, 0).numpy()
            Image.fromarray(image).save(pictures / f"{index:02d}.png")
        for code, name in ((before, "old"), (ROOT, "new")):
            run, out = folder / f"quickstart-{name}", folder / f"files-{name}"
            _call(code, "train.py", f"run_dir={quoted(run)}")
            _call(code, "codec.py", "compress", str(run), str(pictures), "-o", str(out))
    finally:
        subprocess.run(["git", "worktree", "remove", "--force", str(before)], cwd=ROOT, check=True)
    old, new = folder / "quickstart-old", folder / "quickstart-new"
    found = kills.compare(old, new)
    files = [
        (folder / f"files-{name}" / f"{i:02d}.bif").read_bytes()
        for i in range(NUM_PICTURES)
        for name in ("old", "new")
    ]
    equal = sum(a == b for a, b in zip(files[::2], files[1::2], strict=True))
    yield {"what": "quickstart", "before": BEFORE, **found, "files": NUM_PICTURES, "equal_files": equal}


def two_processes(folder: Path) -> Iterator[dict[str, Any]]:
    """Every kind of shipped schedule and every double, trained by one process and by two."""
    project = copy_project(folder / "project")
    add_doubles(project)
    for script, code in (("tests/run_schedules.py", ROOT), ("tests/run_doubles.py", project)):
        for trainer in ("cpu", "ddp_cpu"):
            _call(code, script, trainer, str(folder / Path(script).stem / trainer), OMP_NUM_THREADS="1")
        one, two = (folder / Path(script).stem / trainer for trainer in ("cpu", "ddp_cpu"))
        for run in sorted(path.name for path in one.iterdir()):
            difference = kills.compare(one / run, two / run)["max_difference"]
            yield {"what": "two processes", "run": run, "max_difference": difference}


def _call(code: Path, *arguments: str, **environment: str) -> None:
    subprocess.run([sys.executable, *arguments], cwd=code, env=os.environ | environment, check=True)


def figures(rows: Rows) -> Figures:
    """The quoted figures, from the rows."""

    def largest(what: str) -> float | None:
        return max((row["max_difference"] for row in rows if row["what"] == what), default=None)

    flips = attention_flips.figures([row for row in rows if row["what"] == "flips"])
    return {
        "quickstart_max_weight_difference": largest("quickstart"),
        **kills.figures(rows),
        "two_process_max_difference": largest("two processes"),
        **flips,
    }


SECTIONS: dict[str, Callable[[Path], Iterator[dict[str, Any]]]] = {
    "quickstart": quickstart,
    "one_process": lambda folder: kills.measure(20, folder, processes=1),
    "two_at_once": lambda folder: kills.measure(5, folder, processes=2),
    "two_processes": two_processes,
    "flips": lambda folder: ({"what": "flips", **row} for row in attention_flips.measure()),
}


def measure(name: str) -> list[dict[str, Any]]:
    """The rows of one section."""
    with tempfile.TemporaryDirectory() as temporary:
        return list(SECTIONS[name](Path(temporary)))


def main() -> None:
    """Measure everything and write the record."""
    rows = [row for name in SECTIONS for row in section("seam", name, partial(measure, name))[0]]
    notes = (
        f"quickstart: seed 0 at commit {BEFORE} against this one, all checkpoints and {NUM_PICTURES} coded test "
        "portraits. kills: SIGKILL at random moments of runs of three stages with dropout, averaged weights and "
        "TensorBoard, gone on with until finished, then compared with a run that was left alone: 20 kills of one "
        "process, 5 of two at once. two processes: after a few batches a stage; sums run in another order. flips: "
        "upper limit a symbol for an error of 2**-51 in every softmax and layer norm, extrapolated in proportion from "
        "larger errors; the fingerprint of a string catches them."
    )
    path = write("seam", commands=["python -m benchmarks.seam"], rows=rows, figures=figures, notes=notes)
    print(path)


if __name__ == "__main__":
    main()
