"""What all entry scripts share: mistakes become one line, and Hydra's own refusals too."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from lightning.fabric.utilities.exceptions import MisconfigurationException
from omegaconf.errors import OmegaConfBaseException

from launch.errors import one_line

SHOW_ALL = os.environ.get("HYDRA_FULL_ERROR") == "1"
"""Whether mistakes come with the frames that led to them."""

MISTAKES = (ValueError, TypeError, OSError, ImportError, OmegaConfBaseException, MisconfigurationException)
"""What building things from a wrong configuration raises; Hydra's ``InstantiationException`` besides."""


def fail(error: BaseException, status: int, more: str = "") -> NoReturn:
    """One line on stderr, and the end."""
    if SHOW_ALL:
        raise error
    print(f"{Path(sys.argv[0]).name}: error: {one_line(error)}{more}", file=sys.stderr)
    sys.exit(status)


def run_main(main: Callable[[], None], refusals: tuple[type[BaseException], ...]) -> None:
    """Run a Hydra main function.

    Args:
        main: decorated by ``hydra.main``.
        refusals: what Hydra raises on a wrong command line: one line and status 2.
    """
    # Hydra then raises what it would print over several lines.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        main()
    except (*refusals, OmegaConfBaseException) as error:
        fail(error, 2)
