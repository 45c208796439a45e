"""A mistake in one line."""

import os
import sys
from pathlib import Path
from typing import NoReturn

from omegaconf.errors import OmegaConfBaseException

from pictures.names import printable

SHOW_ALL = os.environ.get("HYDRA_FULL_ERROR") == "1"
"""Whether errors come with the frames that led to them."""


class UserError(Exception):
    """A mistake in the configuration or the data, found before anything trains."""


def one_line(error: BaseException) -> str:
    """The mistake itself in one line, without the frames around it."""
    if type(error).__name__ == "OverrideParseException":
        return _unread(error.override, str(error).splitlines()[0])
    cause = error
    while cause.__cause__ is not None and type(cause).__name__ == "InstantiationException":
        cause = cause.__cause__
    where = next((line for line in str(error).splitlines() if line.startswith("full_key: ")), "")
    prefix = f"{where.removeprefix('full_key: ')}: " if where and cause is not error else ""
    text = str(cause)
    if "Original Traceback" in text:
        # From a loading process: its frames come first.
        text = text.strip().splitlines()[-1].partition(": ")[2]
    if type(error).__module__.startswith("hydra.") and type(error).__name__ != "InstantiationException":
        text = text.partition("Config search path")[0]
        if isinstance(cause.__cause__, OmegaConfBaseException) and "append to your config" not in text:
            text += f": {str(cause.__cause__).splitlines()[0]}"
    if isinstance(error, OmegaConfBaseException):
        key = getattr(error, "full_key", None)
        text = str(error).splitlines()[0] + (f" ({key})" if key else "")
    return printable(prefix + " ".join(text.split()))


def _unread(override: str, reason: str) -> str:
    """Of what Hydra's grammar cannot read: most often a path that needs quotes."""
    key, equals, value = override.partition("=")
    plain = equals and not set("[]{}()\"'") & set(value)
    example = f"'{key}=\"{value}\"'" if plain else "'codecs=[\"runs/a=b\", jpeg]'"
    rule = (
        "give key=value, and text with = , # quotes, brackets or letters beyond ASCII in quotes of its own inside the "
        f"shell's, as in {example}"
    )
    return f"{override!r} cannot be read ({reason}): {rule}"


def fail(error: BaseException, status: int, more: str = "") -> NoReturn:
    """One line on stderr, and the end."""
    if SHOW_ALL:
        raise error
    print(f"{Path(sys.argv[0]).name}: error: {one_line(error)}{more}", file=sys.stderr)
    sys.exit(status)
