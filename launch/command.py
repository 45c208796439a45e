"""What all entry scripts share: errors become one line, and Hydra's own refusals too."""

import io
import os
import sys
from collections.abc import Callable, Sequence

from omegaconf.errors import OmegaConfBaseException

from launch.errors import fail
from launch.process import prepare

MISTAKES = (ValueError, TypeError, OSError, ImportError, OmegaConfBaseException)
"""What building things from a wrong configuration raises; Hydra's ``InstantiationException`` besides."""


def asks_for_help(arguments: Sequence[str]) -> bool:
    """Whether a command line wants to be told what there is, and nothing be done."""
    return not {"--help", "-h", "--hydra-help"}.isdisjoint(arguments)


def run_main(main: Callable[[], None], refusals: tuple[type[BaseException], ...]) -> None:
    """Run a Hydra main function.

    Args:
        main: decorated by ``hydra.main``.
        refusals: what Hydra raises on a wrong command line: one line and status 2.
    """
    if not asks_for_help(sys.argv[1:]):
        prepare()
        # Before Hydra sets up logging: thereafter Lightning would take stdout for its own.
        import lightning.pytorch  # noqa: F401

    # Hydra then raises what it would print over several lines.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    # What the terminal has no letters for ends no run.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        main()
    except (*refusals, OmegaConfBaseException) as error:
        fail(error, 2)
