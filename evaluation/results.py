"""Result rows: the schema every evaluation shares, and how people read them."""

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Row = dict[str, Any]


def make_row(
    codec: str,
    values: Mapping[str, float],
    *,
    seed: int,
    command: str,
    rate: float | None = None,
    task_head: str = "own",
    uncompressed: bool = False,
) -> Row:
    """One row of results.

    Args:
        codec: what to call it.
        values: as ``Measures.compute`` gives them after real coding.
        seed: of the run.
        command: that produced the row.
        rate: the codec's native rate value.
        task_head: where the task heads come from.
        uncompressed: the codec's fact: the row is the bound that others are measured against.

    Returns:
        Rates in bits per pixel of the original image (``bpp`` counts whole files, ``bpp_by_layer`` the layers' strings
        alone, ``bpp_payload`` files less their ``header_bytes``), PSNR, MS-SSIM and GMSD as means over
        images, ``tasks`` with ``"<task>/<metric>"`` and ``"<task>/bpp"``. What was not measured is ``None``.
    """
    tasks = {key: value for key, value in values.items() if "/" in key}
    return {
        "codec": codec,
        "uncompressed": uncompressed,
        "rate": rate,
        "seed": seed,
        "bpp": values["bpp_real"],
        "bpp_payload": values["bpp_payload"],
        "header_bytes": values["header_bytes"],
        "bpp_estimated": values["bpp"],
        "bpp_by_layer": {
            key.removeprefix("bpp_of_"): value for key, value in values.items() if key.startswith("bpp_of_")
        },
        "psnr": values.get("psnr"),
        "ms_ssim": values.get("ms_ssim"),
        "gmsd": values.get("gmsd"),
        "tasks": tasks,
        "task_head": task_head,
        "encode_seconds": None,
        "decode_seconds": None,
        "command": command,
    }


def table(rows: Sequence[Row], monitors: Mapping[str, str]) -> str:
    """Rows as aligned text.

    Args:
        rows: from ``make_row``.
        monitors: {task: the metric to show}.
    """
    scaled = any(row.get("scale", 1) != 1 for row in rows)
    foreign = any(row["task_head"] not in (None, "own") for row in rows)
    head = ["codec", *(["scale"] if scaled else []), *(["heads"] if foreign else [])]
    lines = [
        [*head, "rate", "bpp", "payload", "PSNR", *(f"{task} {metric}" for task, metric in monitors.items())]
    ]
    for row in rows:
        line = [row["codec"]]
        line += [f"{row.get('scale', 1):g}"] if scaled else []
        line += [row["task_head"] or ""] if foreign else []
        line += ["" if row["rate"] is None else f"{row['rate']:g}"]
        line += [_number(row["bpp"], 4), _number(row["bpp_payload"], 4), _number(row["psnr"], 2)]
        line += [_number(row["tasks"].get(f"{task}/{metric}"), 4) for task, metric in monitors.items()]
        lines.append(line)
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    text = [
        "  ".join(
            cell.rjust(w) if i else cell.ljust(w)
            for i, (cell, w) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    ]
    return "\n".join([text[0], "-" * len(text[0]), *text[1:]])


def git_commit() -> str | None:
    """The commit of the code that runs, with ``-dirty`` where files differ from it; ``None`` outside a checkout."""
    root = Path(__file__).parent
    try:
        command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        return subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
