"""Columns of a table as labels: which columns are which label, and how their cells are read.

An empty cell is a missing label.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from datamodules.samples import MISSING, Label
from datamodules.source import DataError
from datamodules.tables import Row
from pictures.names import printable, shown

Cells = Mapping[str, str]


class Columns:
    """One label of a table.

    Attributes:
        names: of the columns it is read from.
        places: whether it tells places in the stored pixels, so that pictures must not be turned by their EXIF.
    """

    names: tuple[str, ...]
    places = False

    def bind(self, rows: Sequence[Row], root: Path) -> tuple[Label, Callable[[Cells], Tensor]]:
        """What is published, and how a row's cells become a label as ``datamodules.samples`` describes it.

        Args:
            rows: all rows of the table.
            root: folder of the data set.

        Returns:
            The label, and a function that raises ``ValueError`` with the reason where a cell cannot be read.
        """
        raise NotImplementedError

    def fitted(self, value: Tensor, size: tuple[int, int]) -> Tensor:
        """The label once the size (H, W) of the picture is known.

        Raises:
            ValueError: the label does not fit the picture: the reason.
        """
        return value


class ClassColumn(Columns):
    """One class a row: a name, or an index into names. Identities are classes, too.

    Args:
        column: that has it.
        names: the classes in order; ``None``: all values in the column, sorted (numbers by their size).
        names_file: a file in the root with a name a line, instead of ``names``.
        cells: what cells hold, ``"name"`` or ``"index"`` (from 0).

    Raises:
        ValueError: ``names`` and ``names_file``, or indices without names.
    """

    def __init__(
        self,
        column: str,
        *,
        names: Sequence[str] | None = None,
        names_file: str | None = None,
        cells: Literal["name", "index"] = "name",
    ):
        if names is not None and names_file is not None:
            raise ValueError(f"column {column!r}: give `names` or `names_file`, not both")
        if cells not in ("name", "index"):
            raise ValueError(f"column {column!r}: cells is {cells!r}, must be 'name' or 'index'")
        if cells == "index" and names is None and names_file is None:
            raise ValueError(f"column {column!r}: cells='index' needs `names` or `names_file`")
        self.names = (column,)
        self.classes = None if names is None else tuple(map(str, names))
        self.names_file, self.cells = names_file, cells

    def bind(self, rows: Sequence[Row], root: Path) -> tuple[Label, Callable[[Cells], Tensor]]:
        """See ``Columns``."""
        (column,) = self.names
        classes = self.classes
        if self.names_file is not None:
            classes = _names_in(root / self.names_file)
        elif classes is None:
            values = {row.cells[column] for row in rows} - {""}
            numbers = all(value.isdecimal() for value in values)
            classes = tuple(sorted(values, key=lambda value: (int(value) if numbers else 0, value)))
        named = map(str, range(len(classes))) if self.cells == "index" else classes
        indices = {name: index for index, name in enumerate(named)}
        rule = f"0..{len(classes) - 1}" if self.cells == "index" else f"one of {_few(classes)}"

        def read(cells: Cells) -> Tensor:
            cell = cells[column]
            if cell and cell not in indices:
                raise ValueError(f"{column} is {printable(cell)!r}, must be {rule}")
            return torch.tensor(indices[cell] if cell else MISSING)

        return Label("class", tuple(map(printable, classes))), read


class NumberColumn(Columns):
    """A quantity such as an age, as the nearest of evenly spaced values: a class whose names are numbers.

    Args:
        column: that has it.
        low: the first value.
        high: the last value.
        step: from one to the next.

    Raises:
        ValueError: ``step`` does not lead from ``low`` to ``high``.
    """

    def __init__(self, column: str, *, low: float, high: float, step: float = 1.0):
        count = (high - low) / step if step > 0 else -1
        if count < 1 or abs(count - round(count)) > 1e-6:
            raise ValueError(f"column {column!r}: step={step} must lead from low={low} to high={high}")
        self.names = (column,)
        self.values = tuple(low + step * i for i in range(round(count) + 1))
        self.step = step

    def bind(self, rows: Sequence[Row], root: Path) -> tuple[Label, Callable[[Cells], Tensor]]:
        """See ``Columns``."""
        (column,), low, high = self.names, self.values[0], self.values[-1]

        def read(cells: Cells) -> Tensor:
            if not cells[column]:
                return torch.tensor(MISSING)
            number = _number(column, cells[column])
            if not low - self.step / 2 <= number <= high + self.step / 2:
                raise ValueError(f"{column} is {number:g}, must be within {low:g}..{high:g}")
            return torch.tensor(min(max(round((number - low) / self.step), 0), len(self.values) - 1))

        return Label("class", tuple(f"{value:g}" for value in self.values)), read


class AttributeColumns(Columns):
    """Yes-or-no facts, a column each.

    Args:
        columns: those columns, or {name of the attribute: column}.
        yes: what a cell holds where the attribute is there.
        no: where it is not.
        mirror: pairs of indices that a flip exchanges.
    """

    def __init__(
        self,
        columns: Sequence[str] | Mapping[str, str],
        *,
        yes: str = "1",
        no: str = "0",
        mirror: Sequence[Sequence[int]] = (),
    ):
        named = dict(columns) if isinstance(columns, Mapping) else {column: column for column in columns}
        self.names = tuple(named.values())
        self.label = Label("attributes", tuple(named), checked_pairs(mirror, len(named)))
        self.answers = {str(yes): 1, str(no): 0, "": MISSING}

    def bind(self, rows: Sequence[Row], root: Path) -> tuple[Label, Callable[[Cells], Tensor]]:
        """See ``Columns``."""

        def read(cells: Cells) -> Tensor:
            for column in self.names:
                if cells[column] not in self.answers:
                    yes, no, _ = self.answers
                    raise ValueError(f"{column} is {printable(cells[column])!r}, must be {yes} or {no}")
            return torch.tensor([self.answers[cells[column]] for column in self.names])

        return self.label, read


class LandmarkColumns(Columns):
    """Points, two columns each.

    Args:
        points: names of the points, or how many there are, called 0, 1, ...
        x: column of a point's x, ``{}`` is its name.
        y: likewise.
        normalised: cells are shares of the picture's width and height, its edges being 0 and 1; otherwise pixels, the
            middle of the first one being ``origin``.
        origin: 0, or 1 where tools count from one.
        tolerance: how far outside the picture a point may lie, as a share of its longer side; ``None``: anywhere.
        mirror: pairs of indices that a flip exchanges.

    Raises:
        ValueError: ``mirror`` or ``tolerance`` is out of its range.
    """

    places = True

    def __init__(
        self,
        points: Sequence[str] | int,
        *,
        x: str = "x{}",
        y: str = "y{}",
        normalised: bool = False,
        origin: float = 0.0,
        tolerance: float | None = 0.1,
        mirror: Sequence[Sequence[int]] = (),
    ):
        if tolerance is not None and tolerance < 0:
            raise ValueError(f"tolerance={tolerance} must not be negative")
        names = tuple(map(str, range(points) if isinstance(points, int) else points))
        self.label = Label("landmarks", names, checked_pairs(mirror, len(names)))
        self.names = tuple(pattern.format(name) for name in names for pattern in (x, y))
        self.normalised, self.origin, self.tolerance = normalised, origin, tolerance

    def bind(self, rows: Sequence[Row], root: Path) -> tuple[Label, Callable[[Cells], Tensor]]:
        """See ``Columns``."""
        return self.label, self.read

    def read(self, cells: Cells) -> Tensor:
        """Points (P, 2) as they stand in the table; NaN where both cells are empty.

        Raises:
            ValueError: no number, or one cell of a point alone is empty.
        """
        numbers = [_number(column, cells[column]) if cells[column] else float("nan") for column in self.names]
        points = torch.tensor(numbers).unflatten(0, (-1, 2))
        halves = points.isnan().any(1) != points.isnan().all(1)
        if bool(halves.any()):
            name = self.label.names[int(halves.nonzero()[0])]
            raise ValueError(f"point {name} has one coordinate alone: give both, or neither")
        return points

    def fitted(self, value: Tensor, size: tuple[int, int]) -> Tensor:
        """Pixels, the middle of the first one being 0."""
        sides = torch.tensor([size[1], size[0]], dtype=value.dtype)
        points = value * sides - 0.5 if self.normalised else value - self.origin
        if self.tolerance is not None:
            slack = self.tolerance * max(size)
            # NaN compares false: a missing point is nowhere.
            outside = ((points < -0.5 - slack) | (points > sides - 0.5 + slack)).any(1)
            if bool(outside.any()):
                which = int(outside.nonzero()[0])
                (x, y), many = points[which].tolist(), int(outside.sum())
                raise ValueError(
                    f"point {self.label.names[which]} lies at ({x:.1f}, {y:.1f}), outside the {size[1]}x{size[0]} "
                    f"picture by more than tolerance={self.tolerance} of its side ({many} of {len(points)} points)"
                )
        return points


def checked_pairs(mirror: Sequence[Sequence[int]], count: int) -> tuple[tuple[int, int], ...]:
    """``Label.mirror`` from a yaml.

    Raises:
        ValueError: no pairs of indices below ``count``.
    """
    for pair in mirror:
        if len(pair) != 2 or not all(0 <= index < count for index in pair):
            raise ValueError(f"mirror holds {tuple(pair)}, must be pairs of indices within 0..{count - 1}")
    return tuple((int(a), int(b)) for a, b in mirror)


def _number(column: str, cell: str) -> float:
    try:
        number = float(cell)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{column} is {printable(cell)!r}, must be a number")
    return number


def _names_in(path: Path) -> tuple[str, ...]:
    try:
        names = path.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"names_file {shown(path)} cannot be read: {error}") from error
    while names and not names[-1].strip():
        names.pop()
    if empty := [line for line, name in enumerate(names, 1) if not name.strip()]:
        raise DataError(f"{shown(path)}, line {empty[0]}: no name; line k + 1 must name class k")
    return tuple(name.strip() for name in names)


def _few(names: Sequence[str]) -> str:
    return ", ".join(map(printable, names[:8])) + (f"... ({len(names)} names)" if len(names) > 8 else "")
