"""Tables: CSV files and the like, read with the numbers of their lines, so that mistakes can be found again."""

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from datamodules.source import DataError
from pictures.names import shown

SHOWN = 3
"""Mistakes of a file that an error tells in full; of the others it gives the number."""


@dataclass(frozen=True)
class Row:
    """One row.

    Attributes:
        line: number of its (last) line in the file, from 1.
        cells: {column: text}, without spaces around it.
    """

    line: int
    cells: Mapping[str, str]


@dataclass(frozen=True)
class Table:
    """A file of rows.

    Attributes:
        path: of the file.
        columns: their names, in order.
        rows: all of them, in order.
    """

    path: Path
    columns: Sequence[str]
    rows: Sequence[Row]

    def need(self, columns: Sequence[str], remedy: str) -> None:
        """Make sure that columns are there.

        Raises:
            DataError: which are not; the remedy stands at its end.
        """
        if missing := [column for column in columns if column not in self.columns]:
            few = [*self.columns[:12], *(["..."] if len(self.columns) > 12 else [])]
            raise DataError(
                f"{shown(self.path)}, line 1: no column {', '.join(map(repr, missing[:SHOWN]))}"
                f"{_more(len(missing))}; there are {', '.join(few)}: {remedy}"
            )


class Mistakes:
    """What is wrong in a file, gathered, so that one error tells how much it is.

    Args:
        path: of the file.
    """

    def __init__(self, path: Path):
        self.path = path
        self.count = 0
        self.first: list[str] = []

    def add(self, line: int, what: str | Exception) -> None:
        """Note a mistake in a line."""
        self.count += 1
        if len(self.first) < SHOWN:
            self.first.append(f"line {line}: {what}")

    def tell(self, remedy: str = "correct these lines") -> None:
        """Raise what was noted.

        Raises:
            DataError: anything was.
        """
        if self.count:
            raise DataError(f"{shown(self.path)}, {'; '.join(self.first)}{_more(self.count)}: {remedy}")


def read_table(
    path: Path, *, delimiter: str | None = ",", header: Sequence[str] | None = None, skip: int = 0
) -> Table:
    """A text of cells; empty lines are passed over.

    Args:
        path: of the file, UTF-8.
        delimiter: between cells, which may be in double quotes; ``None``: any white space, and no quotes.
        header: names of the columns; ``None``: the first line has them.
        skip: lines at the beginning that are passed over.

    Raises:
        DataError: no such file, no line, a column named twice, a row with another number of cells.
    """
    mistakes = Mistakes(path)
    rows: list[Row] = []
    columns = None if header is None else list(header)
    try:
        # File names need not be UTF-8; the mark at the beginning is an editor's.
        with open(path, newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
            for line, cells in _lines(file, delimiter):
                if line <= skip:
                    continue
                if columns is None:
                    columns = cells
                elif len(cells) == len(columns):
                    rows.append(Row(line, dict(zip(columns, cells, strict=True))))
                else:
                    mistakes.add(line, f"{len(cells)} cells, must be {len(columns)}, one a column")
    except (OSError, csv.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise DataError(f"table {shown(path)} cannot be read: {reason}") from error
    if not columns:
        raise DataError(f"table {shown(path)} is empty: its first line must name the columns")
    if twice := sorted({column for column in columns if columns.count(column) > 1}):
        raise DataError(f"{shown(path)}, line 1: two columns are called {twice[0]!r}: rename one of them")
    mistakes.tell()
    return Table(path, columns, rows)


def _lines(file: TextIO, delimiter: str | None) -> Iterator[tuple[int, list[str]]]:
    if delimiter is None:
        found = ((line, text.split()) for line, text in enumerate(file, 1))
    else:
        reader = csv.reader(file, delimiter=delimiter)
        found = ((reader.line_num, [cell.strip() for cell in cells]) for cells in reader)
    return ((line, cells) for line, cells in found if any(cells))


def _more(count: int) -> str:
    return f" and {count - SHOWN} more" if count > SHOWN else ""
