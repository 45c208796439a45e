"""Which pictures a folder holds, and what their names look like where they are printed."""

import json
import os
from pathlib import Path

import pytest

from pictures.finding import CLOSED, LINKS, ODD_FILES, SUFFIXES, below, said
from pictures.names import printable, shown


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def link(path: Path, target: str | Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(target)


def test_suffixes_hidden_files_and_order(tmp_path: Path) -> None:
    touch(tmp_path, "b.png", "a.JPG", "sub/c.heic", "sub/d.gif", ".e.png", ".git/f.png", "notes.txt", "png")
    touch(tmp_path, "g.jxl", "sub/h.jxl", "i.PSD")
    found = below(tmp_path)
    assert found.names == ["a.JPG", "b.png", "sub/c.heic", "sub/d.gif"]
    assert found.left_out == {".jxl": 2, ".psd": 1}
    assert said(tmp_path, found.left_out) == f"{tmp_path}: left out: 2 .jxl, 1 .psd"
    assert below(tmp_path, {".jxl"}).names == ["g.jxl", "sub/h.jxl"]
    assert said(tmp_path, below(tmp_path / "sub", {*SUFFIXES, ".jxl"}).left_out) == ""


def test_a_loop_of_links_counts_every_picture_once(tmp_path: Path) -> None:
    touch(tmp_path, "D/a.png", "D/sub/b.png", "other.png")
    link(tmp_path / "D/sub/up", "..")
    assert below(tmp_path / "D").names == ["a.png", "sub/b.png"]
    # Two of them once multiplied without end. One that leads out of the folder, to what holds it, brings nothing in.
    link(tmp_path / "D/sub/here", ".")
    link(tmp_path / "D/out", "../..")
    found = below(tmp_path / "D")
    assert found.names == ["a.png", "sub/b.png"]
    assert found.left_out == {LINKS: 3}


def test_links_name_nothing_twice_and_rename_nothing(tmp_path: Path) -> None:
    touch(tmp_path, "pool/x.png", "pool/deep/y.png", "D/b/z.png", "D/b/.hidden.png")
    link(tmp_path / "D/a", "b")  # sorts before what it leads to, which keeps its name all the same
    link(tmp_path / "D/a.png", "b/z.png")
    link(tmp_path / "D/pool", "../pool")
    link(tmp_path / "D/pool2", "../pool/deep")
    link(tmp_path / "D/x.png", "../pool/x.png")
    link(tmp_path / "D/w.png", "b/.hidden.png")
    link(tmp_path / "D/gone.png", "nowhere")
    link(tmp_path / "D/self.png", "self.png")
    assert below(tmp_path / "D").names == [
        "b/z.png",
        "gone.png",
        "pool/deep/y.png",
        "pool/x.png",
        "self.png",
        "w.png",
    ]
    assert below(tmp_path / "D").left_out == {LINKS: 4}
    link(tmp_path / "L", "D")
    assert below(tmp_path / "L").names == below(tmp_path / "D").names


def test_files_outside_are_taken_through_links(tmp_path: Path) -> None:
    """Subsets are made of links to files, or to folders of a larger set; blobs have names without suffixes."""
    touch(tmp_path, "blobs/0f3a", "pool/x.png")
    for name in ("1.png", "2.jpg"):
        link(tmp_path / "D" / name, "../blobs/0f3a" if name == "1.png" else "../pool/x.png")
    assert below(tmp_path / "D").names == ["1.png", "2.jpg"]
    link(tmp_path / "D/3.png", "../pool/x.png")
    assert below(tmp_path / "D").names == ["1.png", "2.jpg"]
    (tmp_path / "D/2.jpg").rename(tmp_path / "D/2.txt")
    assert below(tmp_path / "D").names == ["1.png", "3.png"]


def test_pipes_closed_folders_and_the_output_are_not_entered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path, "a.png", "out/b.png", "shut/c.png")
    os.mkfifo(tmp_path / "pipe.png")
    link(tmp_path / "again", "out")
    scandir = os.scandir

    def refuse(path: str) -> object:
        if Path(path).name == "shut":
            raise PermissionError
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    found = below(tmp_path, apart=tmp_path / "out")
    assert found.names == ["a.png"]
    assert found.left_out == {ODD_FILES: 1, CLOSED: 1}
    # Results may go among what they come from.
    assert below(tmp_path, apart=tmp_path).names == ["a.png", "out/b.png"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (b"plain name.png", "plain name.png"),
        ("café \U0001f600 图.png".encode(), "café \U0001f600 图.png"),
        (b"caf\xe9.png", r"caf\xe9.png"),
        (rb"caf\xe9.png", r"caf\\xe9.png"),
        (b"two\nlines\t.png", r"two\nlines\t.png"),
        (b"\x1b[31m.png", r"\x1b[31m.png"),
        ("\u2028\x85.png".encode(), r"\u2028\x85.png"),
    ],
)
def test_names_are_shown_on_one_line_and_no_two_alike(name: bytes, expected: str) -> None:
    text = shown(os.fsdecode(name))
    assert text == expected
    assert text.encode() == printable(text).encode()
    assert text.splitlines() == [text]
    assert json.loads(json.dumps(text)) == text
