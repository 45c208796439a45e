"""Grids of captioned pictures. A picture is a numpy array, uint8 (H, W, 3), RGB."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

PAPER, RULE, INK, FAINT = (255, 255, 255), (222, 222, 228), (24, 24, 28), (110, 110, 120)
MARGIN, GAP, NAME, LINE = 18, 10, 18, 16
"""Pixels: around the grid, between tiles, for a tile's name, for a line of its caption."""
NARROWEST = 150
"""Width below which a tile's caption could not be read."""


@dataclass
class Tile:
    """One picture of a grid.

    Args:
        name: stands above it.
        picture: uint8 (H, W, 3).
        caption: stands below it.
        top: value of the brightest colour of ``heat``; a scale then takes the caption's place.
        unit: of ``top``.
    """

    name: str
    picture: np.ndarray
    caption: str = ""
    top: float | None = None
    unit: str = ""


@dataclass
class Row:
    """A heading and the tiles below it.

    Args:
        title: begins the heading.
        detail: goes on with it.
        tiles: from left to right.
        facts: plain values that are kept with the file, for programs.
    """

    title: str
    detail: str
    tiles: Sequence[Tile]
    facts: Mapping[str, Any] = field(default_factory=dict)


def heat(values: np.ndarray, top: float) -> np.ndarray:
    """Numbers (H, W) as a picture: black at 0, over red, to pale yellow at ``top``."""
    colours = matplotlib.colormaps["inferno"](np.clip(values / max(top, 1e-12), 0, 1))
    return np.round(colours[..., :3] * 255).astype(np.uint8)


def fit(picture: np.ndarray, side: int) -> Image.Image:
    """Show a picture at about ``side`` pixels.

    Small ones are enlarged by a whole factor with nearest neighbours, so that every pixel stays a sharp
    square; large ones are shrunk until their longer side fits.
    """
    image = Image.fromarray(np.ascontiguousarray(picture))
    longer = max(image.size)
    if longer <= side:
        factor = max(1, round(side / longer))
        return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    width, height = (max(1, round(length * side / longer)) for length in image.size)
    return image.resize((width, height), Image.Resampling.LANCZOS)


def grid(title: str, subtitle: str, rows: Sequence[Row], *, side: int) -> tuple[np.ndarray, dict[str, Any]]:
    """Lay out rows of tiles below a title.

    Args:
        title: in large letters.
        subtitle: below it.
        rows: each with tiles of its own size.
        side: about the longer side of a picture, in pixels.

    Returns:
        The grid, and what is where in it: ``{"title", "subtitle", "rows": [{"title", "detail", **facts,
        "tiles": {name: {"box": [x0, y0, x1, y1], "caption", "top"}}}]}``.
    """
    tiles = [[_draw_tile(tile, side) for tile in row.tiles] for row in rows]
    width = 2 * MARGIN + max([640, *(sum(t.width + GAP for t in images) - GAP for images in tiles)])
    parts = [_draw_title(title, subtitle, width)]
    about: list[dict[str, Any]] = []
    for row, images in zip(rows, tiles, strict=True):
        above = sum(part.height for part in parts)
        part, corners = _draw_row(row, images, width)
        boxes = {}
        for tile, (x, y) in zip(row.tiles, corners, strict=True):
            shown = fit(tile.picture, side)
            box = [x, above + y, x + shown.width, above + y + shown.height]
            boxes[tile.name] = {"box": box, "caption": tile.caption, "top": tile.top}
        about.append({"title": row.title, "detail": row.detail, **row.facts, "tiles": boxes})
        parts.append(part)
    canvas = Image.new("RGB", (width, sum(part.height for part in parts)), PAPER)
    y = 0
    for part in parts:
        canvas.paste(part, (0, y))
        y += part.height
    return np.array(canvas), {"title": title, "subtitle": subtitle, "rows": about}


def _font(size: int) -> Any:
    return ImageFont.load_default(size=size)


def _draw_title(title: str, subtitle: str, width: int) -> Image.Image:
    lines = _wrap(subtitle, _font(16), width - 2 * MARGIN)
    canvas = Image.new("RGB", (width, MARGIN + 34 + 20 * len(lines) + 14), PAPER)
    pen = ImageDraw.Draw(canvas)
    pen.text((MARGIN, MARGIN), title, INK, font=_font(24))
    for number, line in enumerate(lines):
        pen.text((MARGIN, MARGIN + 34 + 20 * number), line, FAINT, font=_font(16))
    return canvas


def _draw_row(
    row: Row, tiles: Sequence[Image.Image], width: int
) -> tuple[Image.Image, list[tuple[int, int]]]:
    """The row, and where the pictures of its tiles begin, (x, y)."""
    font = _font(16)
    start = MARGIN + int(font.getlength(row.title)) + 16
    lines = _wrap(row.detail, font, width - MARGIN - start)
    top = 8 + 22 * max(1, len(lines)) + 6
    canvas = Image.new("RGB", (width, top + max(tile.height for tile in tiles) + 14), PAPER)
    pen = ImageDraw.Draw(canvas)
    pen.line((MARGIN, 0, width - MARGIN, 0), RULE)
    pen.text((MARGIN, 8), row.title, INK, font=font)
    for number, line in enumerate(lines):
        pen.text((start, 8 + 22 * number), line, FAINT, font=font)
    corners, x = [], MARGIN
    for tile in tiles:
        canvas.paste(tile, (x, top))
        corners.append((x, top + NAME))
        x += tile.width + GAP
    return canvas, corners


def _draw_tile(tile: Tile, side: int) -> Image.Image:
    font, picture = _font(13), fit(tile.picture, side)
    width = max(picture.width, NARROWEST)
    lines = [""] if tile.top is not None else _wrap(tile.caption, font, width)
    canvas = Image.new("RGB", (width, NAME + picture.height + 6 + LINE * len(lines)), PAPER)
    pen = ImageDraw.Draw(canvas)
    pen.text((0, 0), tile.name, FAINT, font=font)
    canvas.paste(picture, (0, NAME))
    below = NAME + picture.height + 4
    for number, line in enumerate(lines):
        pen.text((0, below + LINE * number), line, INK, font=font)
    if tile.top is not None:
        text = f"{tile.top:.3g} {tile.unit}"
        pen.text((0, below), "0", INK, font=font)
        pen.text((width - int(font.getlength(text)), below), text, INK, font=font)
        bar = np.linspace(0, 1, max(16, width - int(font.getlength(text)) - 20))
        canvas.paste(Image.fromarray(heat(np.tile(bar, (10, 1)), 1.0)), (13, below + 3))
    return canvas


def _wrap(text: str, font: Any, width: int) -> list[str]:
    """Break a text into lines of at most ``width`` pixels, between words where that is possible."""
    lines: list[str] = []
    for word in text.split(" "):
        rest = word
        if lines and font.getlength(f"{lines[-1]} {rest}") <= width:
            lines[-1] += f" {rest}"
            continue
        while font.getlength(rest) > width and len(rest) > 1:
            keep = max(1, sum(font.getlength(rest[: end + 1]) <= width for end in range(len(rest))))
            lines.append(rest[:keep])
            rest = rest[keep:]
        lines.append(rest)
    return lines
