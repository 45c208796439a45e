"""The report's tables, as plain cells: what is written, what it sorts by, and what a hover tells."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from models.counted import counted

NOTHING = "–"
PARTS = ("encoder", "entropy", "decoder", "total")


@dataclass(frozen=True)
class Cell:
    """One value.

    Attributes:
        text: as it is written.
        detail: below it, smaller.
        sort: what the column sorts by; empty for what was not measured.
        hover: more about it.
        strong: whether it stands out.
        strip: low end, value and high end from 0 to 100 on the scale of the table, 50 is no difference.
    """

    text: str
    detail: str = ""
    sort: str = ""
    hover: str = ""
    strong: bool = False
    strip: tuple[float, float, float] | None = None


@dataclass(frozen=True)
class Record:
    """One line of a table.

    Attributes:
        codec: whose.
        detail: which of the codec's lines.
        cells: one a column.
        secondary: whether it is shown only on demand.
    """

    codec: str
    detail: str
    cells: tuple[Cell, ...]
    secondary: bool = False


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        columns: ``(title, what it counts)``.
        records: in the order in which they are shown.
        reasons: why cells are empty, ``(reason, [which])``.
        methods: how the values were made.
    """

    columns: tuple[tuple[str, str], ...]
    records: tuple[Record, ...]
    reasons: tuple[tuple[str, list[str]], ...] = ()
    methods: tuple[str, ...] = ()

    @property
    def has_secondary(self) -> bool:
        """Whether some lines are shown only on demand."""
        return any(record.secondary for record in self.records)


@dataclass
class _Grid:
    """Values by line and column, in the order in which they come."""

    columns: dict[tuple, None] = field(default_factory=dict)
    lines: dict[tuple, dict[tuple, Mapping[str, Any]]] = field(default_factory=dict)

    @classmethod
    def of(cls, rows: Iterable[Mapping[str, Any]]) -> "_Grid":
        grid = cls()
        for row in rows:
            column = row["metric"], row.get("task_head")
            grid.columns.setdefault(column)
            line = row["codec"], row.get("ladder"), row.get("seed")
            grid.lines.setdefault(line, {})[column] = row
        return grid


def bd_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """BD-rates against one anchor on one rate axis; the best by the first column come first.

    Args:
        rows: of ``bd.json``.
    """
    grid = _Grid.of(rows)
    scale = _strip_scale(rows)
    empty: dict[str, list[str]] = {}
    records = []
    for line, found in grid.lines.items():
        cells = tuple(_bd_cell(found.get(column), scale, empty) for column in grid.columns)
        records.append(Record(line[0], _which(line, grid), cells, _is_one_of_seeds(line, grid)))
    methods = dict.fromkeys(row["method"] for row in rows if row.get("method"))
    columns = tuple(_column(*column) for column in grid.columns)
    return Table(columns, _best_first(records), tuple(empty.items()), tuple(methods))


def bound_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """The rate from which on each codec's tasks are as good as on originals but for a point, on one rate axis.

    Args:
        rows: ``within_one_point`` of ``results.json``.
    """
    grid = _Grid.of(rows)
    empty: dict[str, list[str]] = {}
    records = []
    for line, found in grid.lines.items():
        cells = tuple(_bound_cell(found.get(column), empty) for column in grid.columns)
        records.append(Record(line[0], _which(line, grid), cells))
    columns = []
    for metric, head in grid.columns:
        bounds = {row["bound"] for f in grid.lines.values() if (row := f.get((metric, head)))} - {None}
        title, note = _column(metric, head)
        columns.append((title, ", ".join(filter(None, [note, *(f"bound {number(b, 4)}" for b in bounds)]))))
    return Table(tuple(columns), _best_first(records), tuple(empty.items()))


def complexity_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Operations, parameters, seconds and memory of every codec's parts.

    Args:
        rows: ``complexity`` of ``results.json``; a column in which nothing was measured is left out.
    """
    heads = dict.fromkeys(h for row in rows for h in (row.get("macs_per_pixel") or {}).get("heads") or {})
    columns = [(part, "kMAC per pixel; parameters") for part in PARTS]
    columns += [(f"head {head}", "kMAC per pixel; parameters") for head in heads]
    columns += [("encode", "seconds per image"), ("decode", "seconds per image"), ("peak memory", "MB")]
    lines = []
    for row in rows:
        macs, parameters = (row.get(key) or {} for key in ("macs_per_pixel", "parameters"))
        cells = [_part_cell(macs.get(part), parameters.get(part)) for part in PARTS]
        of_heads, sizes = macs.get("heads") or {}, parameters.get("heads") or {}
        cells += [_part_cell(of_heads.get(head), sizes.get(head)) for head in heads]
        cells += [_number_cell(row.get(f"{way}code_seconds"), 4) for way in ("en", "de")]
        lines.append([*cells, _number_cell(row.get("peak_memory_mb"), 0)])
    kept = [i for i in range(len(columns)) if any(cells[i].text != NOTHING for cells in lines)]
    records = [
        Record(
            row["codec"],
            f"heads: {row['task_head']}" if row.get("task_head") else "",
            tuple(c[i] for i in kept),
        )
        for row, c in zip(rows, lines, strict=True)
    ]
    return Table(tuple(columns[i] for i in kept), tuple(records))


def points_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Every row of the results."""
    tasks = list(dict.fromkeys(key for row in rows for key in row.get("tasks") or {}))
    plain = [
        ("rate", None), ("scale", None), ("bpp", 4), ("bpp_payload", 4), ("header_bytes", 0), ("bpp_estimated", 4),
        ("psnr", 2), ("ms_ssim", 4), ("gmsd", 4),
    ]  # fmt: skip
    titles = {
        "bpp": ("bpp", "file"), "bpp_payload": ("payload", "bpp"), "header_bytes": ("header", "bytes"),
        "bpp_estimated": ("estimated", "bpp"), "psnr": ("PSNR", "dB"), "ms_ssim": ("MS-SSIM", ""), "gmsd": ("GMSD", ""),
    }  # fmt: skip
    columns = [titles.get(key, (key, "")) for key, _ in plain]
    columns += [(key, "bits the task pays for" if key.endswith("/bpp") else "") for key in tasks]
    columns += [("encode", "seconds"), ("decode", "seconds")]
    seeds: dict[str, set] = {}
    for row in rows:
        seeds.setdefault(row["codec"], set()).add(row.get("seed"))
    records = []
    for row in rows:
        ends = row.get("ci95") or {}
        values = row.get("tasks") or {}
        cells = [_number_cell(row.get(key), digits, ci=ends.get(key)) for key, digits in plain]
        cells += [_number_cell(values.get(key), 4, ci=ends.get(key)) for key in tasks]
        cells += [_number_cell(row.get(f"{way}code_seconds"), 4) for way in ("en", "de")]
        seed = f"seed {row['seed']}" if len(seeds[row["codec"]]) > 1 else ""
        head = f"heads: {row['task_head']}" if row.get("task_head") and values else ""
        records.append(Record(row["codec"], " · ".join(filter(None, [seed, head])), tuple(cells)))
    return Table(tuple(columns), tuple(records))


def number(value: float | None, digits: int | None = None) -> str:
    """A number with a real minus sign; all its digits without ``digits``; a dash for ``None`` and NaN."""
    if value is None or not math.isfinite(value):
        return NOTHING
    text = f"{value:g}" if digits is None else f"{value:,.{digits}f}".replace(",", "\u202f")
    return text.replace("-", "−")


def _bd_cell(row: Mapping[str, Any] | None, scale: float, empty: dict[str, list[str]]) -> Cell:
    if row is None:
        return Cell(NOTHING, hover="not measured")
    value, ends = row.get("bd_rate_percent"), row.get("ci95")
    facts = []
    if row.get("bd_metric") is not None:
        facts.append(f"mean difference at equal rate {_signed(row['bd_metric'], 4)}")
    if row.get("overlap") is not None:
        facts.append(f"curves overlap by {100 * row['overlap']:.0f} %")
    if row.get("num_images") is not None:
        facts.append(counted(row["num_images"], "image"))
    if row.get("anchor_task_head") not in (None, row.get("task_head")):
        facts.append(f"the anchor is read by the heads {row['anchor_task_head']}")
    if value is None:
        reason = row.get("reason") or "no reason given"
        empty.setdefault(reason, []).append(_name(row))
        return Cell(NOTHING, hover="; ".join([reason, *facts]))
    decided = ends is not None and (ends[0] > 0 or ends[1] < 0)
    low, high = ends or (value, value)
    strip = tuple(_on_strip(v, scale) for v in (low, value, high))
    detail = f"[{_signed(low, 1)}, {_signed(high, 1)}]" if ends else "no interval"
    return Cell(f"{_signed(value, 1)} %", detail, str(value), "; ".join(facts), decided, strip)


def _bound_cell(row: Mapping[str, Any] | None, empty: dict[str, list[str]]) -> Cell:
    if row is None:
        return Cell(NOTHING, hover="not measured")
    rate, ends, reason = row.get("rate"), row.get("ci95"), row.get("reason") or ""
    if rate is None:
        empty.setdefault(reason or "no reason given", []).append(_name(row))
        return Cell(NOTHING, hover=reason)
    # A rate with a reason is an upper limit: the curve begins within the point.
    text = f"≤ {number(rate, 3)}" if reason else number(rate, 3)
    detail = ""
    if ends:
        detail = f"[{number(ends[0], 3)}, {'never' if ends[1] is None else number(ends[1], 3)}]"
    return Cell(text, detail, str(rate), reason)


def _number_cell(
    value: float | None, digits: int | None, factor: float = 1, ci: Sequence[float | None] | None = None
) -> Cell:
    if value is None or not math.isfinite(value):
        return Cell(NOTHING)
    hover = f"95 % interval {number(ci[0], digits)} to {number(ci[1], digits)}" if ci else ""
    return Cell(number(value * factor, digits), sort=str(value), hover=hover)


def _part_cell(macs: float | None, parameters: float | None) -> Cell:
    detail = f"{number(parameters / 1e6, 2 if parameters >= 1e6 else 4)} M" if parameters else ""
    if macs is None:
        return Cell(NOTHING, detail)
    return Cell(number(macs / 1e3, 2), detail, str(macs), f"{number(macs, 1)} MAC per pixel")


def _column(metric: str, head: str | None) -> tuple[str, str]:
    title = {"psnr": "PSNR", "ms_ssim": "MS-SSIM", "gmsd": "GMSD"}.get(metric, metric)
    return title, f"by {head}" if head else ""


def _which(line: tuple, grid: _Grid) -> str:
    codec, ladder, seed = line
    parts = ["with down-scaling"] if ladder == "scaled" else []
    seeds = {s for c, _, s in grid.lines if c == codec}
    if len(seeds) > 1:
        count = len(seeds - {"mean"})
        parts.append(f"mean of {count} seeds" if seed == "mean" else f"seed {seed}")
    return " · ".join(parts)


def _is_one_of_seeds(line: tuple, grid: _Grid) -> bool:
    codec, ladder, seed = line
    return seed != "mean" and (codec, ladder, "mean") in grid.lines


def _best_first(records: Sequence[Record]) -> tuple[Record, ...]:
    def key(record: Record) -> tuple[bool, float]:
        value = next((cell.sort for cell in record.cells if cell.sort), "")
        return not value, float(value or 0)

    return tuple(sorted(records, key=key))


def _strip_scale(rows: Iterable[Mapping[str, Any]]) -> float:
    """Half the width of the strips in log rate: at least 10 %, at most a factor of 4."""
    known = [row for row in rows if row.get("bd_rate_percent") is not None]
    values = [v for row in known for v in (row["bd_rate_percent"], *(row.get("ci95") or ()))]
    return min(max([0.1, *(abs(_log(v)) for v in values)]), math.log(4))


def _on_strip(percent: float, scale: float) -> float:
    return round(min(max(50 + 50 * _log(percent) / scale, 0), 100), 1)


def _log(percent: float) -> float:
    # In log rate half the bits are as far to one side as twice the bits to the other.
    return math.log(max(1 + percent / 100, 1e-3))


def _signed(value: float, digits: int) -> str:
    rounded = round(value, digits) or 0.0  # without the sign of a negative zero
    return ("+" if rounded > 0 else "") + number(rounded, digits)


def _name(row: Mapping[str, Any]) -> str:
    parts = [row["codec"], "with down-scaling" if row.get("ladder") == "scaled" else "", row["metric"]]
    parts += [f"heads {row['task_head']}" if row.get("task_head") else ""]
    parts += [f"seed {row['seed']}" if row.get("seed") is not None else ""]
    return " · ".join(part for part in parts if part)
