"""Figures as pictures for papers: matplotlib, in the colours of the report."""

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Canvas
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, NullFormatter

from evaluation.report.figures import Figure, Line
from evaluation.report.palette import MATPLOTLIB_DASHES, Look, dashes, looks

DPI = 200
INK, FAINT, GRID = "#1c1e21", "#767676", "#e4e5e8"


def draw(figure: Figure, styles: Mapping[str, Look] | None = None) -> bytes:
    """A figure as a PNG: rates in file bytes on a logarithmic axis, where equal distances are equal percentages.

    Args:
        figure: as ``figures`` makes them.
        styles: {codec: look}; default: as this figure alone would have them.
    """
    lines = [line for line in figure.lines if line.axis == "bpp"]
    styles = styles or looks(line.codec for line in lines)
    strokes = dashes(figure.heads)
    heads = figure.heads or [None]
    canvas = Canvas(figsize=(2.3 + 4.4 * len(heads) if len(heads) == 1 else 2.3 + 3.4 * len(heads), 4.2))
    canvas.set_layout_engine("constrained")
    panels = canvas.subplots(1, len(heads), sharex=True, sharey=True, squeeze=False)[0]
    for axes, head in zip(panels, heads, strict=True):
        for line in lines:
            if line.head == head:
                _draw_line(axes, line, styles[line.codec], strokes[line.head])
        for bound in figure.bounds:
            if bound.head == head:
                axes.axhline(
                    bound.value, color=FAINT, linewidth=1, linestyle=MATPLOTLIB_DASHES["dash"], zorder=1
                )
        if head is not None:
            axes.set_title(f"heads: {_short(head)}", loc="left", fontsize=9.5, color=INK)
        _frame(axes, figure, bool(lines))
    panels[0].set_ylabel(_short(figure.y_label, 60))
    canvas.supxlabel(f"{figure.x_label} (file bytes)", fontsize=10)
    canvas.suptitle(_short(figure.title, 90), x=0.01, ha="left", fontsize=10.5, fontweight="bold", color=INK)
    _legend(canvas, figure, lines, styles)
    FigureCanvasAgg(canvas)
    buffer = io.BytesIO()
    # No version of matplotlib inside: the same results give the same file.
    canvas.savefig(buffer, dpi=DPI, metadata={"Software": None})
    return buffer.getvalue()


def save(figure: Figure, folder: Path, styles: Mapping[str, Look] | None = None) -> bytes:
    """Write ``<folder>/<key>.png`` and return it."""
    data = draw(figure, styles)
    (folder / f"{figure.key}.png").write_bytes(data)
    return data


def _draw_line(axes: Axes, line: Line, look: Look, stroke: str) -> None:
    scaled = line.ladder == "scaled"
    axes.plot(
        line.x,
        line.y,
        color=look.light,
        linestyle=MATPLOTLIB_DASHES[stroke],
        linewidth=0.9 if scaled else 1.5,
        marker=look.matplotlib_marker,
        markersize=6,
        markerfacecolor="white" if scaled else look.light,
        markeredgecolor=look.light if scaled else "white",
        markeredgewidth=0.8 if scaled else 0.35,
        zorder=2 if scaled else 3,
    )
    if scaled:
        return
    known = [(x, y, *i) for x, y, i in zip(line.x, line.y, line.intervals, strict=True) if i is not None]
    if known:
        x, y, low, high = np.array(known).T
        error = np.stack([np.maximum(y - low, 0), np.maximum(high - y, 0)])
        axes.errorbar(x, y, error, fmt="none", ecolor=look.light, elinewidth=0.7, alpha=0.45, zorder=2)


def _frame(axes: Axes, figure: Figure, any_lines: bool) -> None:
    if any_lines:
        axes.set_xscale("log")
        low, high = axes.get_xlim()
        wide = math.log10(high / low) > 2.3
        axes.set_xticks([m * 10.0**e for e in range(-4, 3) for m in ((1, 3) if wide else (1, 2, 5))])
        axes.set_xlim(low, high)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
    axes.grid(color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FAINT)
    axes.tick_params(colors=INK, labelsize=9)


def _legend(canvas: Canvas, figure: Figure, lines: Sequence[Line], styles: Mapping[str, Look]) -> None:
    def sample(label: str, **style: Any) -> Line2D:
        return Line2D([], [], label=_short(label), markersize=5, linewidth=1.5, **style)

    entries = [
        sample(
            codec, color=styles[codec].light, marker=styles[codec].matplotlib_marker, markeredgecolor="white"
        )
        for codec in dict.fromkeys(line.codec for line in lines)
    ]
    if any(line.ladder == "scaled" for line in lines):
        entries.append(
            sample("with down-scaling", color=FAINT, marker="o", markerfacecolor="white", markeredgewidth=0.8)
        )
    if figure.bounds:
        entries.append(sample("uncompressed", color=FAINT, linestyle=MATPLOTLIB_DASHES["dash"]))
    if entries:
        canvas.legend(
            handles=entries,
            labels=[entry.get_label() for entry in entries],
            loc="outside right upper",
            frameon=False,
            fontsize=8.5,
            handlelength=2.6,
            labelcolor=INK,
        )


def _short(text: str, length: int = 40) -> str:
    """Text that leaves room for the curves and that matplotlib does not read as a formula."""
    if len(text) > length:
        text = f"{text[: length // 2]}…{text[-length // 2 + 1 :]}"
    return text.replace("$", r"\$")
