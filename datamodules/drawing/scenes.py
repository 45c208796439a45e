"""The busy backgrounds of the portraits: seven kinds of scene, each different in every image.

A scene fills the whole canvas in scene coordinates (-1 .. 1) and takes all its choices from the dice it is
given.
"""

from collections.abc import Callable

import numpy as np

from datamodules.drawing.canvas import (
    NOISES,
    Canvas,
    Plane,
    between,
    box_distance,
    edge,
    fade,
    scatter,
    stripes,
)
from datamodules.drawing.parameters import Dice


def paint_scene(canvas: Canvas, scene: str, dice: Dice) -> None:
    """Fill the canvas with a background.

    Args:
        canvas: nothing has been painted on it yet.
        scene: one of ``parameters.SCENES``.
        dice: decides everything else.
    """
    _PAINTERS[scene](canvas, dice)
    # Film of fine light and dark: real walls, leaves and skies are never flat.
    at = dice.below(NOISES)
    canvas.shade(canvas.everything, 1 + 0.10 * canvas.noise(23, at) + 0.09 * canvas.noise(61, at + 7))
    canvas.shade(canvas.everything, 1.04 - 0.16 * (canvas.x * canvas.x + canvas.y * canvas.y))


def _gradient(canvas: Canvas, top: tuple, bottom: tuple) -> None:
    part = (canvas.y + 1) / 2
    for channel in range(3):
        canvas.rgb[channel] = top[channel] + part * (bottom[channel] - top[channel])


def _steps(
    canvas: Canvas, dice: Dice, *, narrowest: float, widest: float, count: int
) -> tuple[Plane, np.ndarray]:
    """Cut the width of the picture into random pieces.

    Returns:
        How much of each pixel column belongs to each piece, (count, W), and the width of each piece,
        (count,).
    """
    widths = narrowest + (widest - narrowest) * dice.values(count)
    start = -1 - dice.between(0, narrowest)
    ends = (start + np.cumsum(widths))[:, None]
    low, high = ends - widths[:, None], ends
    left, right = canvas.x - canvas.pixel / 2, canvas.x + canvas.pixel / 2
    overlap = np.clip(np.minimum(right, high) - np.maximum(left, low), 0, None) / canvas.pixel
    return overlap.astype(np.float32), widths


def _wall(canvas: Canvas, dice: Dice) -> None:
    """Wallpaper with stripes or lozenges, and pictures hung on it."""
    paper = dice.colour(brightness=(0.45, 0.9), saturation=(0.15, 0.55))
    other = dice.near(paper, 0.3)
    _gradient(canvas, paper, tuple(0.8 * c for c in paper))
    rate = dice.between(2.5, 6.5)  # stripes in one scene unit
    if dice.chance(0.5):
        pattern = stripes(
            rate * canvas.x + dice.between(0, 1), rate * canvas.pixel, share=dice.between(0.2, 0.6)
        )
        pattern = np.broadcast_to(pattern, canvas.mask.shape)
    else:
        across, down = rate * (canvas.x + canvas.y), rate * (canvas.x - canvas.y)
        pattern = 1 - stripes(across, rate * canvas.pixel, share=0.7) * stripes(
            down, rate * canvas.pixel, share=0.7
        )
    canvas.paint(canvas.everything, pattern, other)
    for _ in range(3):
        x, y = dice.between(-0.95, 0.95), dice.between(-0.95, 0.3)
        width, height = dice.between(0.14, 0.3), dice.between(0.14, 0.3)
        distance = box_distance(canvas.x - x, canvas.y - y, width, height)
        frame = dice.colour(brightness=(0.15, 0.6), saturation=(0.2, 0.7))
        canvas.paint(canvas.everything, 0.35 * edge(distance - 0.04, 0.08), (0.0, 0.0, 0.0))
        canvas.paint(canvas.everything, edge(distance, canvas.pixel), frame)
        inner = edge(distance + 0.045, canvas.pixel)
        canvas.paint(canvas.everything, inner, dice.colour(brightness=(0.6, 1), saturation=(0.1, 0.6)))
        land = edge(y + 0.3 * height - canvas.y + 0.12 * canvas.noise(7, dice.below(NOISES)), canvas.pixel)
        canvas.paint(
            canvas.everything, inner * land, dice.colour(brightness=(0.3, 0.8), saturation=(0.3, 0.8))
        )


def _foliage(canvas: Canvas, dice: Dice) -> None:
    """Layers of leaves from dark to light, with a few blossoms."""
    leaf = dice.near((0.30, 0.55, 0.20), 0.12)
    _gradient(canvas, tuple(0.5 * c for c in leaf), tuple(0.25 * c for c in leaf))
    for depth in range(4):
        at = dice.below(NOISES)
        cells = dice.between(9, 20)
        angle = dice.between(0, np.pi)
        along = float(np.cos(angle)) * canvas.x + float(np.sin(angle)) * canvas.y
        veins = np.sin(cells * (2.4 * along + 0.35 * canvas.noise(5, at + 3)))
        level = canvas.noise(cells, at) + 0.5 * canvas.noise(2.3 * cells, at + 1) + 0.35 * veins
        distance = (0.25 + 0.12 * depth - level) / np.float32(2.2 * cells)
        tone = tuple((0.55 + 0.28 * depth) * c + 0.03 * depth for c in leaf)
        canvas.paint(canvas.everything, edge(distance, canvas.pixel), tone)
    blossom = dice.colour(brightness=(0.85, 1), saturation=(0.3, 0.8))
    for _ in range(dice.below(9)):
        _disc(canvas, dice.between(-1, 1), dice.between(-1, 1), dice.between(0.03, 0.07), blossom, 1.0)


def _disc(
    canvas: Canvas, x: float, y: float, radius: float, colour: tuple, opacity: float, rim: float = 0.0
) -> None:
    """A disc in scene coordinates, with a rim that is brighter by ``rim``."""
    slices, distance = canvas.disc(x, y, radius)
    coverage = edge(distance, canvas.pixel)
    if rim:
        coverage = coverage * (1 + rim * edge(-distance - 0.22 * radius, 0.2 * radius))
    area = canvas.rgb[(slice(None), *slices)]
    area += opacity * coverage * (np.asarray(colour, np.float32)[:, None, None] - area)


def _lights(canvas: Canvas, dice: Dice) -> None:
    """Lights of a city at night, out of focus."""
    night = dice.colour(brightness=(0.12, 0.3), saturation=(0.3, 0.8))
    _gradient(canvas, tuple(0.5 * c for c in night), night)
    glow = 0.5 + 0.5 * canvas.noise(3, dice.below(NOISES))
    canvas.paint(canvas.everything, 0.5 * glow, dice.colour(brightness=(0.3, 0.55), saturation=(0.3, 0.8)))
    warmth = dice.between(0, 1)
    for number in range(22):
        colour = dice.colour(brightness=(0.75, 1.0), saturation=(0.2, 0.8))
        if dice.chance(warmth):
            colour = (1.0, dice.between(0.6, 0.9), dice.between(0.25, 0.6))
        radius = dice.between(0.05, 0.12) + 0.10 * (number % 4 == 0)
        _disc(
            canvas, dice.between(-1, 1), dice.between(-1, 1), radius, colour, dice.between(0.3, 0.65), rim=0.5
        )


def _books(canvas: Canvas, dice: Dice) -> None:
    """Shelves of books of all widths, heights and colours."""
    rows = 3 + dice.below(2)
    wood = dice.near((0.40, 0.26, 0.15), 0.08)
    canvas.rgb[:] = (np.asarray(wood, np.float32) * 0.35)[:, None, None]
    for row in range(rows):
        top, bottom = -1 + 2 * row / rows, -1 + 2 * (row + 1) / rows
        columns, widths = _steps(canvas, dice, narrowest=0.055, widest=0.17, count=38)
        colours = np.array(
            [dice.colour(brightness=(0.25, 0.9), saturation=(0.15, 0.8)) for _ in widths], np.float32
        )
        heights = (bottom - top) * (0.68 + 0.26 * dice.values(len(widths)))
        titles = dice.values(len(widths))
        # Only the rows of pixels on this shelf are touched.
        low, high = (
            min(max(int((y + 1) / canvas.pixel), 0), canvas.size) for y in (top, bottom + canvas.pixel)
        )
        y = canvas.y[low:high]
        area = canvas.rgb[:, low:high]
        book = edge(np.float32(bottom) - (heights @ columns).astype(np.float32) - y, canvas.pixel)
        area += book * ((colours.T @ columns)[:, None, :] - area)
        label = (bottom - heights * (0.35 + 0.4 * titles)) @ columns
        label = between(y, (label - 0.03).astype(np.float32), (label + 0.03).astype(np.float32), canvas.pixel)
        area += 0.6 * label * (np.float32(0.92) - area)
        gaps = (columns * (1 - columns)).sum(0)  # dark where two books meet inside a pixel column
        area *= 1 - 0.8 * gaps.astype(np.float32)
        shelf = between(y, bottom - 0.055, bottom, canvas.pixel)
        area += shelf * (np.asarray(wood, np.float32)[:, None, None] - area)


def _bricks(canvas: Canvas, dice: Dice) -> None:
    """A brick wall, every brick of its own tone, sometimes with a painted sign."""
    brick = dice.near((0.60, 0.32, 0.24), 0.12)
    height = dice.between(0.11, 0.19)
    width = height * dice.between(2.0, 2.8)
    row = np.floor((canvas.y + 1) / height)
    column = (canvas.x + 1) / np.float32(width) + np.float32(0.5) * (row % 2)
    across = (np.abs(column - np.floor(column) - 0.5) - 0.5) * np.float32(width)
    down = np.abs((canvas.y + 1) / height - row - 0.5) * height - 0.5 * height
    tone = 1 + 0.28 * scatter(np.floor(column).astype(np.int64), row.astype(np.int64), dice.below(NOISES))
    canvas.rgb[:] = np.asarray(brick, np.float32)[:, None, None] * tone
    mortar = edge(-0.022 - np.maximum(across, down), canvas.pixel)
    canvas.paint(canvas.everything, mortar, dice.near((0.72, 0.69, 0.64), 0.1))
    if dice.chance(0.6):
        paint = dice.colour(brightness=(0.6, 1), saturation=(0.3, 0.9))
        x, y, radius = dice.between(-0.9, 0.9), dice.between(-0.9, 0.2), dice.between(0.25, 0.5)
        distance = np.sqrt((canvas.x - x) ** 2 + (canvas.y - y) ** 2)
        ring = edge(np.abs(distance - radius) - 0.06, canvas.pixel) + edge(
            distance - 0.5 * radius, canvas.pixel
        )
        canvas.paint(canvas.everything, 0.75 * ring, paint)


def _hills(canvas: Canvas, dice: Dice) -> None:
    """Sky with clouds and a sun, and ranges of hills with trees or fields on them."""
    sky = dice.near((0.45, 0.66, 0.92), 0.12)
    _gradient(canvas, sky, dice.near((0.95, 0.88, 0.80), 0.08))
    _disc(
        canvas, dice.between(-1, 1), dice.between(-0.95, -0.3), dice.between(0.1, 0.2), (1.0, 0.95, 0.7), 0.9
    )
    at = dice.below(NOISES)
    cloud = (
        canvas.noise(5, at, stretch=0.5)
        + 0.5 * canvas.noise(11, at + 1, stretch=0.5)
        + 0.25 * canvas.noise(25, at)
    )
    canvas.paint(canvas.everything, np.clip(1.6 * cloud - 0.2, 0, 0.9), (0.98, 0.97, 0.97))
    ground = dice.near((0.36, 0.50, 0.26), 0.12)
    for layer in range(3):
        rise = 0.16 * np.sin(dice.between(2, 5) * canvas.x + dice.between(0, 6)) - 0.15 + 0.42 * layer
        rough = 0.07 * canvas.noise(dice.between(14, 30), dice.below(NOISES)) * (1 + 0.5 * layer)
        below = (np.float32(1) * rise).astype(np.float32) - canvas.y + rough
        haze = 0.55 - 0.25 * layer
        tone = tuple(
            (1 - haze) * g * (1.05 - 0.15 * layer) + haze * s for g, s in zip(ground, sky, strict=True)
        )
        canvas.paint(canvas.everything, edge(below, canvas.pixel), tone)
        rate = dice.between(5, 9)
        rows = stripes(rate * (canvas.y - 0.4 * rise).astype(np.float32), rate * canvas.pixel)
        canvas.paint(canvas.everything, 0.22 * rows * edge(below + 0.1, canvas.pixel), (0.1, 0.12, 0.05))


def _street(canvas: Canvas, dice: Dice) -> None:
    """House fronts of all heights, with some windows lit."""
    _gradient(canvas, dice.near((0.30, 0.36, 0.56), 0.2), dice.near((0.90, 0.66, 0.50), 0.12))
    lit, dark = dice.near((1.0, 0.88, 0.5), 0.08), dice.near((0.16, 0.18, 0.26), 0.06)
    for layer in range(2):
        columns, widths = _steps(canvas, dice, narrowest=0.28, widest=0.6, count=8)
        roofs = (-0.95 + 0.7 * dice.values(len(widths)) + 0.35 * layer) @ columns
        fronts = np.array(
            [dice.colour(brightness=(0.3, 0.75), saturation=(0.1, 0.6)) for _ in widths], np.float32
        )
        house = edge(roofs.astype(np.float32) - canvas.y, canvas.pixel)
        canvas.paint(
            canvas.everything, house, np.broadcast_to((fronts.T @ columns)[:, None, :], canvas.rgb.shape)
        )
        rate_x, rate_y = dice.between(5.5, 9), dice.between(4.5, 7)
        pane = stripes(rate_x * canvas.x, rate_x * canvas.pixel, share=0.5)
        pane = pane * stripes(rate_y * canvas.y, rate_y * canvas.pixel, share=0.55)
        glow = scatter(
            np.floor(rate_x * canvas.x).astype(np.int64),
            np.floor(rate_y * canvas.y).astype(np.int64),
            dice.below(NOISES),
        )
        glow = (glow > 0.25) * np.float32(fade(rate_y * canvas.pixel / 2))
        canvas.paint(canvas.everything, house * pane * glow, lit)
        canvas.paint(canvas.everything, house * pane * (1 - glow), dark)


_PAINTERS: dict[str, Callable[[Canvas, Dice], None]] = {
    "wall": _wall,
    "foliage": _foliage,
    "lights": _lights,
    "books": _books,
    "bricks": _bricks,
    "hills": _hills,
    "street": _street,
}
