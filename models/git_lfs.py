"""Files of git-LFS: what a clone without it holds in their place."""

from pathlib import Path

START = b"version https://git-lfs.github.com/spec/"


def refuse_pointer(path: Path) -> None:
    """Nothing, for a file with content of its own, or none at all.

    Raises:
        ValueError: the file only names what git-LFS would fetch.
    """
    if not path.is_file():
        return
    with path.open("rb") as file:
        start = file.read(len(START))
    if start == START:
        raise ValueError(
            f"{path} is a git-LFS pointer, not the file itself: fetch that by `git lfs pull` in its repository"
        )
