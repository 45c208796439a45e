"""Result records: one JSON file a claim, written by the command it names, its figures derived from its rows."""

import argparse
import datetime
import hashlib
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch

from evaluation.environment import processor
from evaluation.results import git_commit
from models.pretrained.whole_file import write_whole

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
KEPT = ROOT / "runs"
"""Where sections that are done are kept, so that a later one that fails does not cost them."""
Figures = Mapping[str, float | None]
Rows = Sequence[Mapping[str, Any]]


def machine() -> str:
    """Processor, cores and library versions, without anything that names the machine."""
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{processor()}, {os.cpu_count()} cores{gpu}, Python {platform.python_version()}, torch {torch.__version__}"


def parser(name: str, documentation: str) -> argparse.ArgumentParser:
    """The command line of a record whose command trains: described by its module, with overrides of its trainings."""
    introduction, _, more = documentation.partition("\n\n")
    found = argparse.ArgumentParser(
        prog=f"python -m benchmarks.{name}",
        description=introduction,
        epilog=more,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    found.add_argument("--set", nargs="*", default=(), metavar="KEY=VALUE", help="overrides of all trainings")
    return found


def as_called(name: str, arguments: str, overrides: Sequence[str]) -> str:
    """The command line of a record, for the record itself."""
    return " ".join(
        [f"python -m benchmarks.{name}", arguments, *(["--set", *overrides] if overrides else [])]
    )


def write(
    name: str, *, commands: Sequence[str], rows: Rows, figures: Callable[[Rows], Figures], notes: str
) -> Path:
    """Write ``benchmarks/results/<name>.json``.

    Args:
        name: of the record.
        commands: that make it, from a fresh clone.
        rows: what was measured.
        figures: derives the quoted figures from the rows.
        notes: how to read them, and what they do not say.
    """
    record = {
        "name": name,
        "commands": list(commands),
        "git_commit": git_commit(),
        "date": datetime.date.today().isoformat(),
        "machine": machine(),
        "figures": dict(figures(rows)),
        "rows": list(rows),
        "notes": notes,
    }
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(_with_a_line_a_row(record))
    return path


def section(
    record: str, name: str, rows: Callable[[], Iterable[Mapping[str, Any]]], settings: Sequence[Any] = ()
) -> tuple[list[dict[str, Any]], float]:
    """Measure one section of a record, or take it from an earlier call: of the same code, machine and settings.

    Args:
        record: its name.
        name: of the section.
        rows: measures them.
        settings: plain values that the rows depend on.

    Returns:
        Rows, and the seconds that they took when they were measured.
    """
    path = kept(record, name, settings).with_suffix(".json")
    if not path.is_file():
        start = time.monotonic()
        measured = list(rows())
        write_whole(path, json.dumps({"seconds": time.monotonic() - start, "rows": measured}))
    content = json.loads(path.read_text())
    print(
        f"{record}: {name}: {len(content['rows'])} rows, {content['seconds']:.0f} s",
        file=sys.stderr,
        flush=True,
    )
    return content["rows"], content["seconds"]


def kept(record: str, name: str, settings: Sequence[Any] = ()) -> Path:
    """Where what belongs to this code, machine and settings is kept, without a suffix; nothing may be there yet."""
    digest = hashlib.blake2b(digest_size=8)
    digest.update(json.dumps([code(), machine(), list(settings)]).encode())
    return KEPT / record / f"{name.replace(' ', '-')}-{digest.hexdigest()}"


@cache
def code() -> str:
    """Digest of the code and configs, committed or not, as they were at the first call: when they were imported."""
    listed = ["git", "ls-files", "-z", "*.py", "*.yaml"]
    files = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    digest = hashlib.blake2b(digest_size=8)
    for path in (ROOT / file for file in files):
        digest.update(path.read_bytes() if path.is_file() else b"")
    return digest.hexdigest()


def _with_a_line_a_row(record: Mapping[str, Any]) -> str:
    """JSON in which a list of many numbers takes no line for each of them."""
    rows = ",\n".join(f"    {json.dumps(row)}" for row in record["rows"])
    head = json.dumps({**record, "rows": []}, indent=2)
    return head.replace('"rows": []', f'"rows": [\n{rows}\n  ]') + "\n"
