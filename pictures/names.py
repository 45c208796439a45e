"""File names as text. On disk a name is bytes, which need not be UTF-8 and may hold line breaks."""

import re
from pathlib import PurePath

# Control characters, what ends a line for some reader, and what stands for bytes that are no UTF-8.
ODD = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def printable(text: str) -> str:
    """Text on one line that every file and stream takes; plain text stays as it is."""
    return ODD.sub(_escaped, text)


def shown(name: str | PurePath) -> str:
    r"""A name or path as it is printed, stored and shown: on one line, valid UTF-8, no two names alike.

    Odd characters become ``\xe9``, ``\n`` or ``\u2028``, a backslash of the name's own becomes two; other names stay
    as they are. Nothing can be opened by it: keep the name itself for that.
    """
    return printable(str(name).replace("\\", "\\\\"))


def _escaped(match: re.Match[str]) -> str:
    char = match[0]
    if "\udc80" <= char <= "\udcff":  # os.fsdecode's stand-in for a single byte
        return f"\\x{ord(char) - 0xDC00:02x}"
    return ascii(char)[1:-1]
