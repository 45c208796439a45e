"""TensorBoard files in the run folder that go on where a killed run stopped, without showing anything twice."""

from typing import Any

from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only


class RunTensorBoard(TensorBoardLogger):
    """Lightning's logger; after a restart, TensorBoard hides what earlier event files hold beyond the restart.

    Args:
        save_dir: the run folder.
        name: of the folder in it.
    """

    def __init__(self, save_dir: str, *, name: str = "tensorboard"):
        super().__init__(save_dir, name=name, version="")
        self._late: dict[str, Any] | None = None

    @rank_zero_only
    def rewind(self, step: int, *, tested: bool = True) -> None:
        """Show nothing after ``step`` of what was logged before; what is logged from now on counts.

        Args:
            step: the last one that stays.
            tested: does not matter here: a test that is taken again gives the same values at the same step.
        """
        if self._experiment is None:
            # Nothing was written by this process yet: its event file begins with the order to hide the rest.
            self._kwargs["purge_step"] = step + 1
        if self._late is not None:
            super().log_hyperparams(self._late)
            self._late = None

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any], *args: Any, **kwargs: Any) -> None:
        """Kept until ``rewind``: written at once, they would open the event file before it is known where to begin."""
        self._late = params
