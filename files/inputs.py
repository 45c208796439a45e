"""Which files a command line means: files, folders and patterns."""

import glob
import os
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from pictures.finding import below, said
from pictures.names import shown


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
    arguments: Sequence[str],
    suffixes: Collection[str],
    *,
    apart: Path | None = None,
    tell: Callable[[str], None] = lambda line: None,
) -> tuple[list[InputFile], list[str]]:
    """All files that a command line names, each once, in its order; what a folder holds, sorted.

    A file that does not exist is kept: reading it tells so, and the others are done.

    Args:
        arguments: files, folders (searched as ``pictures.finding.below`` does), or patterns with ``*``, ``?``, ``[]``.
        suffixes: lower-case, of the files to take from folders.
        apart: a folder whose files are left out of searches: the output, if it lies inside the input.
        tell: takes a line about what a folder holds and is left out.

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
            held = below(path, suffixes, apart=apart)
            sources = [InputFile(path / name, Path(name)) for name in held.names]
            if held.left_out:
                tell(said(path, held.left_out))
            if not sources:
                mistakes.append(f"{shown(argument)} holds no file ending in {', '.join(sorted(suffixes))}")
        elif not path.exists() and glob.has_magic(argument):
            matches = map(Path, sorted(glob.glob(str(path), recursive=True)))
            sources = [InputFile(match, Path(match.name)) for match in matches if match.is_file()]
            if not sources:
                mistakes.append(f"nothing matches {shown(argument)}")
        else:
            sources = [InputFile(path, Path(path.name))]
        for source in sources:
            # Through whatever links its folder is reached; a link that is named itself has a result of its own.
            found.setdefault(Path(os.path.realpath(source.path.parent), source.path.name), source)
    if not found:
        raise ValueError("; ".join(mistakes))
    return list(found.values()), mistakes
