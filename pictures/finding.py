"""Files below a folder: each real folder and each real file once, and a count of what is left out."""

import os
from collections import Counter, deque
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

from pictures.names import shown

SUFFIXES = frozenset({
    ".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".avif", ".heic", ".heif", ".hif", ".tif",
    ".tiff", ".bmp", ".dib", ".gif", ".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".jp2", ".j2k", ".jpx",
})  # fmt: skip
"""Suffixes of the pictures that ``pictures.reading`` reads, in lower case."""

UNREAD = frozenset({
    ".jxl", ".svg", ".psd", ".psb", ".xcf", ".exr", ".hdr", ".pfm", ".ico", ".icns", ".pcx", ".dds", ".sgi",
    ".xpm", ".eps", ".pdf", ".fits", ".dcm", ".nii", ".npy", ".npz", ".bpg", ".dng", ".raw", ".cr2", ".cr3",
    ".nef", ".arw", ".orf", ".rw2", ".raf", ".qoi", ".mp4", ".mov", ".avi", ".mkv",
})  # fmt: skip
"""Of files that people take for pictures and that are not read. Where they lie among pictures, that is said."""

LINKS = "links to what is found already"
ODD_FILES = "pipes or devices"
CLOSED = "folders that cannot be opened"


@dataclass
class Found:
    """What a search came upon.

    Attributes:
        names: paths relative to the folder, with slashes, sorted.
        left_out: {suffix, or what else it is: how many} of pictures, links and folders that are not in ``names``.
    """

    names: list[str] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)


def below(folder: Path, suffixes: Collection[str] = SUFFIXES, *, apart: Path | None = None) -> Found:
    """Search a folder at any depth; hidden files and folders are passed over.

    Links are followed, but a folder or file that has a place of its own in the search keeps that name alone, and a link
    to a folder that it lies in leads nowhere.

    Args:
        folder: where to begin; may be a link itself.
        suffixes: of the files to take, in lower case.
        apart: a folder that is not entered: the output, if it lies inside the input.
    """
    start, avoided = os.path.realpath(folder), None if apart is None else os.path.realpath(apart)
    search = _Search(suffixes, None if avoided == start else avoided)
    search.enter("", start)
    # What is really there goes first, so that no name depends on where links lie.
    while search.places or search.links:
        if search.places:
            search.look(*search.places.popleft())
        else:
            search.follow(*search.links.popleft())
    search.found.names.sort()
    return search.found


def said(folder: Path, left_out: Counter[str]) -> str:
    """What a search left out, as one line; empty where that is nothing."""
    if not left_out:
        return ""
    counts = ", ".join(f"{count} {what}" for what, count in sorted(left_out.items()))
    return f"{shown(folder)}: left out: {counts}"


class _Search:
    """Where a search has been, and where it is still to go: (name below the folder, real path)."""

    def __init__(self, suffixes: Collection[str], avoided: str | None):
        self.suffixes, self.avoided = suffixes, avoided
        self.found = Found()
        self.places, self.links = deque[tuple[str, str]](), deque[tuple[str, str]]()
        self.seen: set[str] = set()  # folders
        self.linked: set[str] = set()  # files that links led to; of the others, their folder says it

    def enter(self, name: str, real: str) -> None:
        """Note a folder, unless it was noted before."""
        if real not in self.seen and real != self.avoided:
            self.seen.add(real)
            self.places.append((name, real))

    def look(self, name: str, real: str) -> None:
        """Go through a folder."""
        try:
            with os.scandir(real) as entries:
                listing = sorted(entries, key=lambda entry: entry.name)
        except OSError:
            self.found.left_out[CLOSED] += 1
            return
        for entry in listing:
            inner = f"{name}/{entry.name}" if name else entry.name
            path = os.path.join(real, entry.name)
            if entry.name.startswith("."):
                continue
            if entry.is_symlink():
                self.links.append((inner, path))
            elif entry.is_dir(follow_symlinks=False):
                self.enter(inner, path)
            else:
                self.take(inner, path in self.linked, entry.is_file(follow_symlinks=False))

    def follow(self, name: str, path: str) -> None:
        """Go where a link leads."""
        real = os.path.realpath(path)
        if os.path.isdir(real):
            if real in self.seen or f"{path}/".startswith(f"{real.rstrip('/')}/"):
                self.found.left_out[LINKS] += 1
            else:
                self.enter(name, real)
            return
        place, own = os.path.split(real)
        listed = place in self.seen and not own.startswith(".") and _suffix(own) in self.suffixes
        # One that leads nowhere is taken: whoever reads it says so.
        there = os.path.exists(real)
        if self.take(name, there and (listed or real in self.linked), os.path.isfile(real) or not there):
            self.linked.add(real)

    def take(self, name: str, known: bool, is_file: bool) -> bool:
        """List a file, or count it as left out; whether it is listed."""
        suffix = _suffix(name)
        if suffix in self.suffixes and is_file and not known:
            self.found.names.append(name)
            return True
        if suffix in self.suffixes:
            # To open a pipe is to wait for ever.
            self.found.left_out[LINKS if known else ODD_FILES] += 1
        elif suffix in SUFFIXES or suffix in UNREAD:
            self.found.left_out[suffix] += 1
        return False


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()
