"""The files of an evaluation: results.json, results.csv, per_image.csv, bd.json, report.html, figures/."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from evaluation.results import Row
from models.pretrained.whole_file import write_whole

TEXT = {"encoding": "utf-8", "errors": "backslashreplace"}
"""How text is written: a command line may hold bytes of file names, which need not be UTF-8."""


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a file whole or not at all; what is no number becomes null."""
    write_whole(path, json.dumps(_finite(content), indent=2, allow_nan=False) + "\n")


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """Result rows as a table: one column a figure, ``<task>/<metric>`` as in ``results.json``."""
    write_table(path, [_flat(row) for row in rows])


def write_table(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Mappings of plain values as CSV, whole or not at all; columns are all keys as they first come."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns)
    writer.writeheader()
    writer.writerows(rows)
    write_whole(path, text.getvalue().encode(**TEXT))


def _flat(row: Row) -> dict[str, Any]:
    flat = {key: value for key, value in row.items() if not isinstance(value, Mapping)}
    flat |= {f"bpp of {layer}": value for layer, value in row["bpp_by_layer"].items()}
    flat |= row["tasks"]
    for key, ends in row["ci95"].items():
        flat |= {f"{key} low": ends[0], f"{key} high": ends[1]} if ends else {}
    return flat


def _finite(node: Any) -> Any:
    if isinstance(node, Mapping):
        return {key: _finite(value) for key, value in node.items()}
    if isinstance(node, list | tuple):
        return [_finite(value) for value in node]
    return (
        None if (isinstance(node, float) and node != node) or node in (float("inf"), -float("inf")) else node
    )
