"""metrics.csv: every value of the run in one file; training, validation and test write a row each at their step."""

import csv
import io
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from models.pretrained.whole_file import write_whole


class RunCSV(Logger):
    """Appends to ``metrics.csv``; a resumed run goes on in the same file (Lightning's CSVLogger would delete it).

    Args:
        path: of the file.
    """

    def __init__(self, path: str | Path):
        super().__init__()
        self.path = Path(path)
        self._columns: list[str] | None = None

    @property
    def name(self) -> str:
        return "csv"

    @property
    def version(self) -> str:
        return ""

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """The run folder's config.yaml holds them."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Add one row."""
        row = {"step": step, **metrics}
        if self._columns is None:
            self._columns = self._read()[0] if self.path.is_file() else []
        if new := [name for name in row if name not in self._columns]:
            rows = self._read()[1] if self.path.is_file() else []
            self._columns += new
            self._write(rows)
        with self.path.open("a", newline="") as file:
            csv.DictWriter(file, self._columns).writerow(row)

    @rank_zero_only
    def rewind(self, step: int, *, tested: bool = True) -> None:
        """Forget what a killed run logged after the state that it goes on from, and its last line if that is torn.

        Args:
            step: the last one that stays.
            tested: test rows of that very step stay too; not where it is that test which is taken again.
        """
        if not self.path.is_file():
            return
        self._columns, rows = self._read()
        whole = self.path.read_bytes().endswith(b"\n")
        kept = [row for row in (rows if whole else rows[:-1]) if _is_whole(row) and int(row["step"]) <= step]
        if not tested:
            kept = [row for row in kept if int(row["step"]) < step or not _is_test(row)]
        if len(kept) < len(rows):
            self._write(kept)

    def _read(self) -> tuple[list[str], list[dict[str, str]]]:
        with self.path.open(newline="") as file:
            reader = csv.DictReader(file)
            return list(reader.fieldnames or []), list(reader)

    def _write(self, rows: list[dict[str, str]]) -> None:
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, self._columns)
        writer.writeheader()
        writer.writerows(rows)
        # A kill in between loses nothing.
        write_whole(self.path, text.getvalue())


def _is_whole(row: Mapping[str | None, str | None]) -> bool:
    """Whether a line has a step and as many values as there are columns: one that was cut off has not."""
    return (row["step"] or "").isdigit() and None not in row and None not in row.values()


def _is_test(row: Mapping[str, str]) -> bool:
    return any(value and key.startswith("test/") for key, value in row.items())
