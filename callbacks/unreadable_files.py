"""Say which files of a data set could not be read, and stop when there are too many."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info

from callbacks.trainer_folder import run_folder
from models.counted import counted
from models.pretrained.run_folder import RunFolder

WARNED_ONE_BY_ONE = 5
"""Files that get a line of their own on the screen; the list holds all."""


class TooManyUnreadable(ValueError):
    """More files cannot be read than the run may step over."""


class UnreadableFiles(Callback):
    """Counts the files that loading stepped over, warns, and lists them in ``unreadable_files.txt``.

    A file counts once in a run, however often it is drawn, in whatever stage. In a run of several processes
    each counts what it loads itself.

    Args:
        limit: so many files are stepped over; one more ends the run.
        folder: of the list; default: the run folder.

    Raises:
        ValueError: ``limit`` below 0.
    """

    def __init__(self, *, limit: int = 100, folder: str | Path | None = None):
        if limit < 0:
            raise ValueError(f"limit={limit} must be at least 0")
        self.limit, self.folder = limit, folder
        self._file: Path | None = None
        self._known: set[str] = set()
        self._warned = 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Earlier stages, and the run before it was killed, count too."""
        folder = run_folder(trainer) if self.folder is None else RunFolder(Path(self.folder))
        self._file = folder.unreadable_files
        if self._file.is_file():
            self._known |= set(self._file.read_text(encoding="utf-8").splitlines())

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._count(batch)

    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        self._count(args[1])

    def on_test_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        self._count(args[1])

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """The count, where not every file was named."""
        if self._warned > WARNED_ONE_BY_ONE:
            rank_zero_info(f"{counted(len(self._known), 'file')} cannot be read, listed in {self._file}")
            self._warned = 0

    def _count(self, batch: Mapping[str, Any]) -> None:
        lines = dict.fromkeys(" ".join(reason.split()) for reason in batch.get("skipped", ()))
        new = [line for line in lines if line not in self._known]
        if not new:
            return
        self._known |= set(new)
        self._file.parent.mkdir(parents=True, exist_ok=True)
        with self._file.open("a", encoding="utf-8") as file:
            file.writelines(f"{line}\n" for line in new)
        for line in new:
            self._warned += 1
            if self._warned <= WARNED_ONE_BY_ONE:
                warnings.warn(f"stepped over an unreadable file: {line}", stacklevel=2)
            elif self._warned == WARNED_ONE_BY_ONE + 1:
                warnings.warn(
                    f"more files cannot be read: from here on they are only listed in {self._file}",
                    stacklevel=2,
                )
        if len(self._known) > self.limit:
            raise TooManyUnreadable(
                f"{counted(len(self._known), 'file')} cannot be read, more than limit={self.limit}. All are listed in "
                f"{self._file}, the last is: {new[-1]}. Repair the data set, or raise the limit "
                "(callbacks.unreadable_files.limit)"
            )
