"""CSVLabels: a folder of pictures and one table that says what they show."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from datamodules.base import ImageDataModule, Split
from datamodules.columns import Columns
from datamodules.files import checked_fractions, checked_root, read_image, share_of
from datamodules.samples import Label
from datamodules.source import DataError, InvalidLabel
from datamodules.tables import Mistakes, Row, read_table
from pictures.names import printable, shown


@dataclass(kw_only=True, eq=False)
class CSVLabels(ImageDataModule):
    """Pictures with a row each in a table; publishes what ``columns`` names::

        index.csv        file,split,age,x0,y0,x1,y1
        images/          a.jpg,train,31,40.5,52,83,51.5
          a.jpg          b.jpg,test,,41,50,80.5,49

    Args:
        root: folder of the data set.
        columns: {key of a label: which columns it is read from}, of ``datamodules.columns``.
        index: the table, in the root.
        images: the folder in the root that file names are relative to.
        file_column: has the file names.
        split_column: has each row's split; ``None``: files are shared out by ``split_fractions``.
        splits: {split: values of that column}; a split that has none is left out.
        unused_splits: further values of that column, whose rows are in no split.
        split_fractions: shares of (train, val, test), by file name alone; their sum must be 1.
        delimiter: between cells; ``None``: white space.
        header: names of the columns of a table whose first line does not have them.
        batch_size: this and the following are those of ``ImageDataModule``.

    Raises:
        ValueError: the table cannot be read; with its lines: columns that are missing, cells that cannot be read,
            unknown splits, files listed twice. Files that do not exist, when their split is asked for.
    """

    root: str | Path = field(kw_only=False)
    columns: Mapping[str, Columns]
    index: str = "index.csv"
    images: str = "images"
    file_column: str = "file"
    split_column: str | None = "split"
    splits: Mapping[str, Sequence[str]] = field(
        default_factory=lambda: {"train": ["train"], "val": ["val"], "test": ["test"]}
    )
    unused_splits: Sequence[str] = ()
    split_fractions: Sequence[float] = (0.9, 0.05, 0.05)
    delimiter: str | None = ","
    header: Sequence[str] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.root = checked_root(self.root)
        self.split_fractions = checked_fractions(self.split_fractions)
        if not self.columns:
            raise ValueError("columns is empty: say which columns are which label, or take data=image_folder")
        if unknown := set(self.splits) - {"train", "val", "test"}:
            raise ValueError(f"splits names {sorted(unknown)}, must name some of train, val, test")
        self.table = read_table(self.root / self.index, delimiter=self.delimiter, header=self.header)
        self.table.need([self.file_column], "say which column names the files (data.file_column)")
        if self.split_column is not None:
            self.table.need(
                [self.split_column],
                "say which column names the split (data.split_column), or null to share files out by split_fractions",
            )
        for key, columns in self.columns.items():
            self.table.need(columns.names, f"correct data.columns.{key}, or the table")
        self._read_rows()

    def _read_rows(self) -> None:
        """All labels, and which rows make which split."""
        bound = {key: columns.bind(self.table.rows, self.root) for key, columns in self.columns.items()}
        self._labels = {key: label for key, (label, _) in bound.items()}
        values: dict[str, list[Tensor]] = {key: [] for key in bound}
        self._rows: dict[str, list[int]] = {"train": [], "val": [], "test": [], "": []}
        mistakes, lines = Mistakes(self.table.path), dict[str, int]()
        for number, row in enumerate(self.table.rows):
            file = row.cells[self.file_column]
            try:
                if not file:
                    raise ValueError(f"{self.file_column} is empty")
                if (line := lines.setdefault(file, row.line)) != row.line:
                    raise ValueError(f"{shown(file)} is in line {line} already")
                self._rows[self._split_of(row)].append(number)
                for key, (_, read) in bound.items():
                    values[key].append(read(row.cells))
            except ValueError as error:
                mistakes.add(row.line, error)
        mistakes.tell()
        self._values = {key: torch.stack(parts) for key, parts in values.items() if parts}

    def _split_of(self, row: Row) -> str:
        """Its split; empty of a row that is in none."""
        if self.split_column is None:
            return share_of(row.cells[self.file_column], self.split_fractions)
        value = row.cells[self.split_column]
        for split, its_own in self.splits.items():
            if value in its_own:
                return split
        if value in self.unused_splits:
            return ""
        known = [v for its_own in self.splits.values() for v in its_own]
        raise ValueError(
            f"{self.split_column} is {printable(value)!r}, must be one of {', '.join(known)} (data.splits), or listed "
            "in data.unused_splits"
        )

    @property
    def labels(self) -> dict[str, Label]:
        """What ``columns`` names."""
        return dict(self._labels)

    def source(self, split: Split) -> "TableFiles":
        """The rows of a split.

        Raises:
            ValueError: there are none, or files that do not exist.
        """
        chosen = [self.table.rows[number] for number in self._rows[split]]
        if not chosen:
            counts = {name: len(rows) for name, rows in self._rows.items() if rows and name}
            raise DataError(
                f"{shown(self.table.path)}: no row is in split {split!r}; there are {counts or 'none'}"
            )
        folder = self.root / self.images
        mistakes = Mistakes(self.table.path)
        for row in chosen:
            if not os.path.isfile(folder / row.cells[self.file_column]):
                mistakes.add(row.line, f"{shown(folder / row.cells[self.file_column])} does not exist")
        mistakes.tell("add the files, correct the lines, or say where pictures are (data.images)")
        values = {key: value[self._rows[split]] for key, value in self._values.items()}
        return TableFiles(folder, chosen, self, values)


class TableFiles:
    """Rows of a table as a Source.

    Args:
        folder: that file names are relative to.
        rows: of this split.
        module: whose table it is.
        values: {key: labels of these rows, (N, ...)}.
    """

    def __init__(self, folder: Path, rows: Sequence[Row], module: CSVLabels, values: Mapping[str, Tensor]):
        self.folder = folder
        self.files = [row.cells[module.file_column] for row in rows]
        self.lines = [row.line for row in rows]
        self.table, self.labels = module.table.path, module.labels
        self.columns, self.values = dict(module.columns), dict(values)
        self.upright = not any(columns.places for columns in self.columns.values())

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.files)

    def name(self, index: int) -> str:
        """The file as the table names it."""
        return shown(self.files[index])

    def read(self, index: int) -> dict[str, Tensor]:
        """The picture and its labels.

        Raises:
            UnreadableSample: a damaged file.
            InvalidLabel: a label does not fit the picture.
        """
        sample = {"image": read_image(self.folder / self.files[index], upright=self.upright)}
        height, width = sample["image"].shape[1:]
        for key, columns in self.columns.items():
            try:
                sample[key] = columns.fitted(self.values[key][index], (height, width))
            except ValueError as error:
                raise InvalidLabel(f"{shown(self.table)}, line {self.lines[index]}: {error}") from error
        return sample
