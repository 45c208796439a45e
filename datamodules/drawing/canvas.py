"""A small painter on NumPy arrays: anti-aliased shapes, band-limited patterns and noise, at any resolution.

Shapes are given in units of the picture, never in pixels, and return their *coverage*: the part of each pixel
that they fill, in [0, 1]. Patterns fade out before they reach half a cycle a pixel. Both together make a
small drawing look like a large one scaled down.
"""

# H, W = size: pixels of the picture; h, w: pixels of one window of it

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

Plane = NDArray[np.float32]

_LATTICE = 384  # side of the table of random values that all noise is read from
_OFFSETS = 256  # places in each direction where a noise can begin; the rest of the table is for its cells

NOISES = _OFFSETS * _OFFSETS
"""How many different noises there are to pick from."""


@cache
def _lattice() -> Plane:
    """Random values in [-1, 1], float32 (_LATTICE, _LATTICE): one fixed table, read at another offset each
    time.
    """
    generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence(20240229)))
    return (generator.random((_LATTICE, _LATTICE)) * 2 - 1).astype(np.float32)


def edge(distance: Plane, pixel: float) -> Plane:
    """Coverage of what lies where ``distance`` (to an edge, negative inside) is negative; ``pixel`` in its
    unit.
    """
    return np.minimum(np.maximum(0.5 - distance * np.float32(1 / pixel), 0), 1)


def between(value: Plane, low: ArrayLike, high: ArrayLike, pixel: float) -> Plane:
    """Coverage of low < value < high. It is exact where the band is thinner than a pixel; empty where low >
    high.
    """
    per_pixel = np.float32(1 / pixel)
    above = np.minimum(0.5 + (value - low) * per_pixel, 1)
    below = np.minimum(0.5 + (high - value) * per_pixel, 1)
    return np.maximum(np.maximum(above, 0) + np.maximum(below, 0) - 1, 0)


def ellipse_distance(u: Plane, v: Plane, half_width: float, half_height: float) -> Plane:
    """Distance to an ellipse around the origin, negative inside; exact to first order near the edge."""
    along, across = u * np.float32(1 / half_width), v * np.float32(1 / half_height)
    level = along * along + across * across - 1
    slope = np.sqrt((along * np.float32(1 / half_width)) ** 2 + (across * np.float32(1 / half_height)) ** 2)
    return level / (2 * slope + np.float32(1e-4))


def box_distance(u: Plane, v: Plane, half_width: float, half_height: float, *, corner: float = 0.0) -> Plane:
    """Distance to a rectangle around the origin with rounded corners, negative inside."""
    along, across = np.abs(u) - (half_width - corner), np.abs(v) - (half_height - corner)
    outside = np.sqrt(np.maximum(along, 0) ** 2 + np.maximum(across, 0) ** 2)
    return outside + np.minimum(np.maximum(along, across), 0) - corner


def fade(cycles_per_pixel: float) -> float:
    """Amplitude left to a pattern: all of it up to a quarter of a cycle a pixel, none at half a cycle
    (aliasing).
    """
    return min(max(2 - 4 * cycles_per_pixel, 0.0), 1.0)


def stripes(phase: Plane, cycles_per_pixel: float, *, share: float = 0.5) -> Plane:
    """Coverage of stripes, one for each unit of ``phase``, each ``share`` of the period wide."""
    distance = np.abs(phase - np.floor(phase) - np.float32(0.5)) - np.float32(share / 2)
    covered = edge(distance, max(cycles_per_pixel, 1e-6))
    kept = fade(cycles_per_pixel)
    return covered * kept + share * (1 - kept) if kept < 1 else covered


@dataclass(frozen=True)
class Window:
    """A rectangle of the picture: its slices, and the head coordinates of its pixels, each float32 (h, w)."""

    slices: tuple[slice, slice]
    u: Plane
    v: Plane


class Canvas:
    """A square picture being painted, in colours and in parsing classes.

    Two coordinate systems lie on it. *Scene* coordinates ``x`` (right) and ``y`` (down) reach from -1 to 1
    over the picture. *Head* coordinates ``u`` and ``v`` are shifted, turned and scaled with the head.

    Args:
        size: pixels on a side.
        centre: of the head, scene units.
        scale: scene units in one head unit.
        roll: rotation of the head, clockwise on the screen, radians.
    """

    def __init__(self, *, size: int, centre: tuple[float, float], scale: float, roll: float) -> None:
        self.size = size
        self.pixel = 2 / size  # scene units
        self.head_pixel = self.pixel / scale  # head units
        self.rgb = np.zeros((3, size, size), np.float32)
        self.mask = np.zeros((size, size), np.uint8)
        ramp = ((np.arange(size) + 0.5) * self.pixel - 1).astype(np.float32)
        self.x, self.y = ramp[None, :], ramp[:, None]  # (1, W), (H, 1): they broadcast
        self._centre, self._scale = centre, scale
        self._cos, self._sin = float(np.cos(roll)), float(np.sin(roll))
        right, down = (self.x - np.float32(centre[0])), (self.y - np.float32(centre[1]))
        cos, sin = np.float32(self._cos / scale), np.float32(self._sin / scale)
        self.u, self.v = cos * right + sin * down, cos * down - sin * right

    @property
    def everything(self) -> Window:
        """The whole picture as a window."""
        return Window((slice(None), slice(None)), self.u, self.v)

    def to_pixels(self, points: ArrayLike) -> Plane:
        """Head coordinates (..., 2) to pixels (..., 2), x and y, with pixel centres at integers."""
        u, v = np.moveaxis(np.asarray(points, np.float64), -1, 0)
        x = self._centre[0] + self._scale * (self._cos * u - self._sin * v)
        y = self._centre[1] + self._scale * (self._cos * v + self._sin * u)
        return ((np.stack([x, y], -1) + 1) / self.pixel - 0.5).astype(np.float32)

    def window(self, u: float, v: float, half_width: float, half_height: float) -> Window:
        """The part of the picture around a rectangle of head coordinates, a pixel larger on each side.

        Args:
            u: middle of the rectangle.
            v: middle of the rectangle.
            half_width: along u.
            half_height: along v.
        """
        middle_x = self._centre[0] + self._scale * (self._cos * u - self._sin * v)
        middle_y = self._centre[1] + self._scale * (self._cos * v + self._sin * u)
        reach_x = self._scale * (abs(self._cos) * half_width + abs(self._sin) * half_height)
        reach_y = self._scale * (abs(self._cos) * half_height + abs(self._sin) * half_width)
        slices = (self._pixels(middle_y, reach_y), self._pixels(middle_x, reach_x))
        return Window(slices, self.u[slices], self.v[slices])

    def disc(self, x: float, y: float, radius: float) -> tuple[tuple[slice, slice], Plane]:
        """A disc in scene coordinates: the slices around it, and distance to its edge (negative inside)."""
        slices = (self._pixels(y, radius), self._pixels(x, radius))
        across, down = self.x[:, slices[1]] - np.float32(x), self.y[slices[0]] - np.float32(y)
        return slices, np.sqrt(across * across + down * down) - np.float32(radius)

    def _pixels(self, middle: float, reach: float) -> slice:
        """Rows or columns from ``middle - reach`` to ``middle + reach``, scene units, and one more on each
        side.
        """
        low, high = (middle - reach + 1) / self.pixel, (middle + reach + 1) / self.pixel
        return slice(min(max(int(low - 1), 0), self.size), min(max(int(high + 2), 0), self.size))

    def paint(self, window: Window, coverage: Plane, colour: ArrayLike, part: int | None = None) -> None:
        """Blend a colour into a window.

        Args:
            window: where.
            coverage: how much of each pixel, in [0, 1], (h, w).
            colour: (3,), or (3, h, w) for one colour a pixel.
            part: parsing class given to the pixels of which at least half is covered; None leaves them as
                they are.
        """
        area = self.rgb[(slice(None), *window.slices)]
        paint = np.asarray(colour, np.float32)
        area += coverage * ((paint[:, None, None] if paint.ndim == 1 else paint) - area)
        if part is not None:
            self.claim(window, coverage, part)

    def claim(self, window: Window, coverage: Plane, part: int) -> None:
        """Give the pixels of which at least half is covered to a parsing class."""
        self.mask[window.slices][coverage >= 0.5] = part

    def shade(self, window: Window, factor: ArrayLike) -> None:
        """Multiply the colours of a window, by a number or by one number a pixel (h, w)."""
        self.rgb[(slice(None), *window.slices)] *= np.asarray(factor, np.float32)

    def noise(self, cells: float, at: int, *, stretch: float = 1.0) -> Plane:
        """Smooth random values over the picture.

        Args:
            cells: how many independent values lie across the picture.
            at: any integer: which noise.
            stretch: cells are this many times higher than wide.

        Returns:
            Values in [-1, 1], float32 (H, W), less where cells come close to the size of a pixel, then 0.
        """
        kept = fade(0.5 * cells * max(1.0, 1 / stretch) / self.size)
        if kept == 0:
            return np.zeros((self.size, self.size), np.float32)
        column, part_x = self._cells(cells)
        row, part_y = self._cells(cells / stretch)
        first_row, first_column = at // _OFFSETS % _OFFSETS, at % _OFFSETS
        assert max(row[-1], column[-1]) + 1 < _LATTICE - _OFFSETS, "more cells than the table holds"
        table = _lattice()[first_row:, first_column : first_column + column[-1] + 2]
        strips = table[row]
        strips += part_y[:, None] * (table[row + 1] - strips)
        left = strips[:, column]
        left += part_x * (strips[:, column + 1] - left)
        return left * np.float32(kept)

    def _cells(self, cells: float) -> tuple[NDArray[np.int64], Plane]:
        """Which cell each pixel is in and the smoothed place within it, both (size,)."""
        place = (np.arange(self.size) + 0.5) * (cells / self.size)
        cell = place.astype(np.int64)
        part = (place - cell).astype(np.float32)
        return cell, part * part * (3 - 2 * part)


def scatter(column: NDArray[np.int64], row: NDArray[np.int64], at: int) -> Plane:
    """A random value in [-1, 1] for each tile (column, row), fixed by ``at``; shapes broadcast."""
    return _lattice()[(row + at // _OFFSETS) % _LATTICE, (column + at) % _LATTICE]
