"""Result records: one JSON file a claim, written by the command it names, its figures derived from its rows."""

import datetime
import json
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from evaluation.environment import processor
from evaluation.results import git_commit

RESULTS = Path(__file__).parent / "results"
Figures = Mapping[str, float | None]
Rows = Sequence[Mapping[str, Any]]


def machine() -> str:
    """Processor, cores and library versions, without anything that names the machine."""
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{processor()}, {os.cpu_count()} cores{gpu}, Python {platform.python_version()}, torch {torch.__version__}"


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


def _with_a_line_a_row(record: Mapping[str, Any]) -> str:
    """JSON in which a list of many numbers takes no line for each of them."""
    rows = ",\n".join(f"    {json.dumps(row)}" for row in record["rows"])
    head = json.dumps({**record, "rows": []}, indent=2)
    return head.replace('"rows": []', f'"rows": [\n{rows}\n  ]') + "\n"
