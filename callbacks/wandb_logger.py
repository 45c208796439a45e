"""Weights & Biases: a run folder is one run there, however often it was restarted."""

import secrets
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from models.pretrained.whole_file import write_whole


class RunWandb(WandbLogger):
    """Lightning's logger with the run's id kept in the run folder, so that a restart goes on in the same W&B run.

    What lies between the state that a restart goes on from and the kill is logged again, with the same values at the
    same steps.

    Args:
        save_dir: the run folder.
        arguments: of ``WandbLogger`` and ``wandb.init``: project, name, mode...
    """

    def __init__(self, save_dir: str, **arguments: Any):
        self._id_file = Path(save_dir) / "wandb" / "run_id.txt"
        known = self._id_file.read_text().strip() if self._id_file.is_file() else secrets.token_hex(4)
        super().__init__(save_dir=save_dir, id=known, resume="allow", **arguments)

    @rank_zero_only
    def log_hyperparams(self, params: Any) -> None:
        """The config, and the id for a restart: both once it is known that the run will begin."""
        super().log_hyperparams(params)
        write_whole(self._id_file, str(self._id))
