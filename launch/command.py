"""What all entry scripts share: mistakes become one line, and Hydra's own refusals too."""

import io
import os
import sys
from collections.abc import Callable

from lightning.fabric.utilities.exceptions import MisconfigurationException
from omegaconf.errors import OmegaConfBaseException

from launch.errors import fail

MISTAKES = (ValueError, TypeError, OSError, ImportError, OmegaConfBaseException, MisconfigurationException)
"""What building things from a wrong configuration raises; Hydra's ``InstantiationException`` besides."""


def run_main(main: Callable[[], None], refusals: tuple[type[BaseException], ...]) -> None:
    """Run a Hydra main function.

    Args:
        main: decorated by ``hydra.main``.
        refusals: what Hydra raises on a wrong command line: one line and status 2.
    """
    # Hydra then raises what it would print over several lines.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    # What the terminal has no letters for ends no run.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        main()
    except (*refusals, OmegaConfBaseException) as error:
        fail(error, 2)
