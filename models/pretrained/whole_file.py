"""Files that are there whole or not at all, whenever a program is killed."""

import os
import secrets
from pathlib import Path


def write_whole(path: Path, data: bytes | str) -> None:
    """Write a file under a temporary name beside its own, then rename it: never a part of it under its own name.

    Args:
        path: of the file; its folder is made.
        data: its content; a text in UTF-8.

    Raises:
        OSError: the folder cannot be made or written, the disk is full, or ``path`` is a folder.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".unfinished-{secrets.token_hex(8)}"
    try:
        with open(temporary, "xb") as file:
            file.write(data.encode() if isinstance(data, str) else data)
        os.replace(temporary, path)
    except OSError as error:
        # The name that the user knows, not the temporary one.
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)
