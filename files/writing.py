"""Where results go."""

import os
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from files.inputs import InputFile
from pictures.names import shown


def targets(sources: Sequence[InputFile], folder: Path, suffix: str) -> tuple[list[Path], dict[int, str]]:
    """The output file of each input, and which of them must not be written.

    ``a.png`` becomes ``a`` + suffix. Inputs that would share a name (``a.png`` and ``a.jpg``) keep their own suffix:
    ``a.png`` + suffix and ``a.jpg`` + suffix.

    Returns:
        Paths, and {position: why} of those that another input would overwrite, or that would overwrite an input.

    Raises:
        ValueError: the folder cannot be.
    """
    place = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if not place.is_dir():
        raise ValueError(f"-o {folder}: {place} is a file; give a folder for the results")
    if not os.access(place, os.W_OK | os.X_OK):
        raise ValueError(f"-o {folder}: {place} cannot be written to; give another folder for the results")
    key = _key_of(place, [source.name for source in sources])
    short = [source.name.with_suffix(suffix) for source in sources]
    shared = Counter(map(key, short))
    paths = [
        folder / (source.name.with_name(source.name.name + suffix) if shared[key(name)] > 1 else name)
        for source, name in zip(sources, short, strict=True)
    ]
    return paths, refused(sources, paths, key)


def refused(
    sources: Sequence[InputFile], paths: Sequence[Path], key: Callable[[Path], str] = str
) -> dict[int, str]:
    """{position: why its output must not be written}: it is another input's output too, or an input itself.

    Args:
        sources: the inputs.
        paths: where the output of each would go.
        key: equal for paths that are one file.
    """
    owners: dict[str, list[int]] = {}
    for position, path in enumerate(paths):
        owners.setdefault(key(path), []).append(position)
    inputs = {_identity(source.path) for source in sources} - {None}
    reasons = {}
    for position, path in enumerate(paths):
        if _identity(path) in inputs:
            reasons[position] = (
                f"{shown(path)} is an input and would be overwritten: give another folder with -o"
            )
        elif others := [sources[other].path for other in owners[key(path)] if other != position]:
            reasons[position] = (
                f"{shown(others[0])} would become {shown(path)} too: use two calls with two output folders, "
                "or rename one of them"
            )
    return reasons


def _key_of(place: Path, names: Sequence[Path]) -> Callable[[Path], str]:
    """What two paths below a folder have in common when they are one file there.

    ``X`` and ``x`` are two files where the file system says so. It is asked, for to call them one everywhere would
    refuse what the user himself keeps apart, and to call them two everywhere would lose one.
    """
    if len({_folded(name.with_suffix("")) for name in names}) == len(names) or _tells_case_apart(place):
        return str
    return _folded


def _folded(path: Path) -> str:
    return path.as_posix().casefold()


def _identity(path: Path) -> tuple[int, int] | None:
    """What a file has in common with itself under other names; ``None`` where there is none."""
    try:
        state = os.stat(path)
    except OSError:
        return None
    return state.st_dev, state.st_ino


def _tells_case_apart(folder: Path) -> bool:
    with tempfile.NamedTemporaryFile(prefix=".unfinished-", dir=folder) as file:
        return not Path(file.name).with_name(Path(file.name).name.upper()).exists()
