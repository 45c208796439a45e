"""The report: one ``report.html`` that opens anywhere without a network, and its figures as PNG."""

import base64
import datetime
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from evaluation.curves.curve import RATE_AXES
from evaluation.report import plots
from evaluation.report.figures import Figure, figures_of
from evaluation.report.gallery import GalleryImage, embed, heat_stops
from evaluation.report.palette import SVG_DASHES, Look, dashes, looks
from evaluation.report.tables import bd_table, bound_table, complexity_table, number, points_table
from evaluation.result_files import TEXT

PAGE = Path(__file__).parent / "page"
SCRIPTS = ("charts.js", "gallery.js", "page.js")


def write_report(
    out: Path, results: Mapping[str, Any], bd: Mapping[str, Any], gallery: Sequence[GalleryImage]
) -> None:
    """Write ``report.html`` and ``figures/*.png``.

    The page loads nothing: scripts, pictures and data are inside, and its content security policy forbids requests and
    scripts that are not its own.

    Args:
        out: folder; made where it is not there.
        results: content of ``results.json``, as JSON holds it: ``None`` for what is no number.
        bd: content of ``bd.json``, likewise.
        gallery: pictures at about the same bits; may be empty.
    """
    folder = out / "figures"
    folder.mkdir(parents=True, exist_ok=True)
    figures = figures_of(results)
    styles = looks(
        [*(row["codec"] for row in results["rows"]), *(view.codec for i in gallery for view in i.views)],
        {row["codec"] for row in results["rows"] if row.get("uncompressed")},
    )
    pngs = {figure.key: plots.save(figure, folder, styles) for figure in figures}
    page = _page(results, bd, gallery, figures, styles, pngs)
    (out / "report.html").write_text(page, **TEXT)


def _page(
    results: Mapping[str, Any],
    bd: Mapping[str, Any],
    gallery: Sequence[GalleryImage],
    figures: Sequence[Figure],
    styles: Mapping[str, Look],
    pngs: Mapping[str, bytes],
) -> str:
    heads = dict.fromkeys(line.head for figure in figures for line in figure.lines if line.head is not None)
    strokes = dashes(heads)
    scripts = [
        Markup(text) for text in (get_plotlyjs(), *((PAGE / name).read_text("utf-8") for name in SCRIPTS))
    ]
    head_script = Markup("document.documentElement.classList.add('js');")
    curves = [line for figure in figures for line in figure.lines]
    environment = dict(results.get("environment") or {})
    context = {
        "title": f"{results['dataset']} · {results['split']}",
        "results": results,
        "date": _day(environment.pop("date", None)),
        "environment": environment,
        "figures": figures,
        "pngs": {key: Markup(_png_uri(data)) for key, data in pngs.items()},
        "looks": {codec: look for codec, look in styles.items()},
        "codecs": list(dict.fromkeys(line.codec for line in curves)),
        "heads": list(heads),
        "strokes": {head: SVG_DASHES[stroke] for head, stroke in strokes.items()},
        "has_scaled": any(line.ladder == "scaled" for line in curves),
        "bd": {
            anchor: {axis: bd_table(rows) for axis in RATE_AXES if (rows := _bd_rows(bd, anchor, axis))}
            for anchor in dict.fromkeys(row.get("anchor", bd.get("anchor")) for row in bd.get("rows") or ())
        },
        "bd_skipped": bd.get("skipped") or [],
        "bounds": {
            axis: bound_table(rows)
            for axis in RATE_AXES
            if (
                rows := [
                    r for r in results.get("within_one_point") or () if r.get("rate_axis", "bpp") == axis
                ]
            )
        },
        "complexity": complexity_table(results["complexity"]) if results.get("complexity") else None,
        "points": points_table(results["rows"]),
        "encoders": _encoders(results["rows"]),
        "has_bound": any(row.get("uncompressed") for row in results["rows"]),
        "skipped": results.get("skipped") or [],
        "notes": results.get("notes") or [],
        "excluded": results.get("excluded_images") or [],
        "has_gallery": bool(gallery),
        "heat": Markup(", ".join(heat_stops())),
        "style": Markup((PAGE / "style.css").read_text("utf-8")),
        "head_script": head_script,
        "scripts": scripts,
        "policy": Markup(_policy([head_script, *scripts])),
        "page_data": {
            "figures": [_figure_data(figure) for figure in figures],
            "looks": {codec: asdict(look) for codec, look in styles.items()},
            "dashes": {"": "solid", **strokes},
            "codecs": list(dict.fromkeys(line.codec for line in curves)),
            "heads": list(heads),
        },
        "gallery_data": embed(gallery),
        "results_data": results,
        "bd_data": bd,
    }
    environment = Environment(
        loader=FileSystemLoader(PAGE),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters["number"] = number
    return environment.get_template("page.html").render(context)


def _figure_data(figure: Figure) -> dict[str, Any]:
    pictures = "/" not in figure.metric
    of_file, of_payload = ("file bytes", "payload alone") if pictures else ("file", "payload alone")
    return asdict(figure) | {
        "heads": figure.heads,
        "digits": {"psnr": 2, "ms_ssim": 2}.get(figure.metric, 4),
        "x_label": f"{figure.x_label} ({of_file})",
        "x_label_payload": f"{figure.x_label} ({of_payload})",
    }


def _bd_rows(bd: Mapping[str, Any], anchor: str | None, axis: str) -> list[Mapping[str, Any]]:
    return [
        row
        for row in bd["rows"]
        if row.get("anchor", bd.get("anchor")) == anchor and row.get("rate_axis", "bpp") == axis
    ]


def _encoders(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """How each codec was called, in as many ways as there are."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for row in rows:
        if about := row.get("encoder"):
            versions = ", ".join(
                f"{name} {version}" for name, version in (about.get("versions") or {}).items()
            )
            entry = {"codec": row["codec"], "command": about.get("command"), "colour": about.get("colour")}
            found.setdefault((row["codec"], str(about.get("command"))), entry | {"versions": versions})
    return list(found.values())


def _policy(scripts: Sequence[str]) -> str:
    """A content security policy: no request at all, and no script but these.

    Reference: W3C, Content Security Policy Level 3, sections 6.1 and 6.7.
    """
    hashes = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in scripts)
    allowed = " ".join(f"'sha256-{value}'" for value in hashes)
    return f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data: blob:"


def _png_uri(data: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"


def _day(date: str | None) -> str:
    if date is None:
        return datetime.date.today().isoformat()
    return str(date).replace("T", " ")[:16]
