"""Which files a command line means: files, folders and patterns."""

import glob
import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

PICTURES = frozenset(
    {
        ".png",
        ".apng",
        ".jpg",
        ".jpeg",
        ".jpe",
        ".jfif",
        ".webp",
        ".avif",
        ".heic",
        ".heif",
        ".hif",
        ".tif",
        ".tiff",
    }
    | {".bmp", ".dib", ".gif", ".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".jp2", ".j2k", ".jpx"}
)
"""What is taken from a folder; a file that is named itself is tried whatever its suffix."""


@dataclass(frozen=True)
class InputFile:
    """One input file.

    Attributes:
        path: where it lies.
        name: its path below the folder that was given, or its own name: where its result goes below the output.
    """

    path: Path
    name: Path


def find(
    arguments: Sequence[str], suffixes: Collection[str], *, apart: Path | None = None
) -> tuple[list[InputFile], list[str]]:
    """All files that a command line names, each once, in its order; what a folder holds, sorted.

    A file that does not exist is kept: reading it tells so, and the others are done.

    Args:
        arguments: files, folders (searched at any depth, hidden files left out), or patterns with ``*``, ``?``, ``[]``.
        suffixes: lower-case, of the files to take from folders.
        apart: a folder whose files are left out of searches: the output, if it lies inside the input.

    Returns:
        The files, and what is wrong with arguments that name none: folders and patterns without any such file.

    Raises:
        ValueError: no argument names a file.
    """
    found: dict[Path, InputFile] = {}
    mistakes: list[str] = []
    for argument in arguments:
        path = Path(argument).expanduser()
        if path.is_dir():
            sources = [InputFile(path / name, name) for name in _below(path, suffixes, apart)]
            if not sources:
                mistakes.append(f"{argument} holds no file ending in {', '.join(sorted(suffixes))}")
        elif not path.exists() and glob.has_magic(argument):
            matches = map(Path, sorted(glob.glob(str(path), recursive=True)))
            sources = [InputFile(match, Path(match.name)) for match in matches if match.is_file()]
            if not sources:
                mistakes.append(f"nothing matches {argument}")
        else:
            sources = [InputFile(path, Path(path.name))]
        for source in sources:
            found.setdefault(Path(os.path.abspath(source.path)), source)
    if not found:
        raise ValueError("; ".join(mistakes))
    return list(found.values()), mistakes


def _below(folder: Path, suffixes: Collection[str], apart: Path | None) -> list[Path]:
    apart = None if apart is None or apart.resolve() == folder.resolve() else apart.resolve()
    names = []
    for place, folders, files in os.walk(folder):
        folders[:] = [
            name for name in folders if not name.startswith(".") and Path(place, name).resolve() != apart
        ]
        relative = Path(place).relative_to(folder)
        names += [
            relative / name
            for name in files
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in suffixes
        ]
    return sorted(names)
