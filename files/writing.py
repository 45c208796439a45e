"""Where results go."""

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from files.inputs import InputFile


def targets(sources: Sequence[InputFile], folder: Path, suffix: str) -> list[Path]:
    """The output file of each input.

    ``a.png`` becomes ``a`` + suffix. Inputs that would share a name (``a.png`` and ``a.jpg``) keep their own suffix:
    ``a.png`` + suffix and ``a.jpg`` + suffix. Upper and lower case count as one, as on many file systems.

    Raises:
        ValueError: two inputs share their whole name, an output would replace an input, or the folder cannot be.
    """
    place = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if not place.is_dir():
        raise ValueError(f"-o {folder}: {place} is a file; give a folder for the results")
    if not os.access(place, os.W_OK | os.X_OK):
        raise ValueError(f"-o {folder}: {place} cannot be written to; give another folder for the results")
    short = [source.name.with_suffix(suffix) for source in sources]
    shared = Counter(_key(name) for name in short)
    names = [
        source.name.with_name(source.name.name + suffix) if shared[_key(name)] > 1 else name
        for source, name in zip(sources, short, strict=True)
    ]
    taken: dict[str, InputFile] = {}
    inputs = {os.path.realpath(source.path) for source in sources}
    for source, name in zip(sources, names, strict=True):
        if (other := taken.setdefault(_key(name), source)) is not source:
            raise ValueError(
                f"{other.path} and {source.path} would both become {folder / name}: give the folder that holds them, "
                "or use two calls with two output folders"
            )
        if os.path.realpath(folder / name) in inputs:
            raise ValueError(
                f"{folder / name} is an input and would be overwritten: give another folder with -o"
            )
    return [folder / name for name in names]


def _key(name: Path) -> str:
    return name.as_posix().casefold()
