"""The fenced blocks of docs/, and a copy of the project in which they can be tried without harm."""

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"^```(\w+)( runnable)?\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """One fenced block: its language, its text, and whether it is marked ``runnable``."""

    language: str
    runnable: bool
    text: str

    @property
    def file(self) -> str | None:
        """The file it shows, named in its first line: ``# tasks/presence.py``."""
        found = re.match(r"# (\S+/\S+\.(?:py|yaml))\n", self.text)
        return found[1] if found else None

    @property
    def commands(self) -> list[str]:
        """Lines of a bash block without comments and continuations."""
        lines = self.text.replace("\\\n", " ").splitlines()
        return [line for line in lines if line and not line.startswith("#")]


def blocks(document: str) -> list[Block]:
    """All fenced blocks of ``docs/<document>``."""
    found = BLOCK.finditer((ROOT / "docs" / document).read_text())
    return [Block(match[1], bool(match[2]), match[3]) for match in found]


def copy_project(folder: Path) -> Path:
    """Code, configs and tests, where every stage takes two batches and every split has eight portraits.

    So the commands of the documents run word for word, in seconds.
    """
    folder.mkdir()
    for path in ROOT.iterdir():
        if path.suffix == ".py" or path.name == "pyproject.toml":
            shutil.copy2(path, folder)
        elif path.name == "configs" or (path.is_dir() and any(path.glob("*.py"))):
            # What is compiled comes along: it holds for files of the same age.
            shutil.copytree(path, folder / path.name, ignore=shutil.ignore_patterns("weights"))
    for path in (folder / "configs").rglob("*.yaml"):
        text = re.sub(r"\bnum_batches: \d+", "num_batches: 2", path.read_text())
        text = re.sub(r"\bnum_(train|val|test): \d+", r"num_\1: 8", text)
        path.write_text(re.sub(r"\bnum_workers: (\d+|null)", "num_workers: 0", text))
    return folder


def add_doubles(folder: Path) -> dict[str, str]:
    """Put tests/doubles into a copy of the project; {file: the double that brings it}."""
    files: dict[str, str] = {}
    for double in sorted(path for path in (ROOT / "tests" / "doubles").iterdir() if path.is_dir()):
        for source in double.rglob("*"):
            if source.suffix in (".py", ".yaml"):
                name = source.relative_to(double)
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(source, folder / name)
                files[str(name)] = double.name
    return files


def run(command: str, folder: Path) -> str:
    """Run a command line in ``folder`` with this Python; returns what it printed.

    Raises:
        AssertionError: it failed.
    """
    # Every one of the line, for commands may be chained.
    command = re.sub(r"\bpython\b", sys.executable, command)
    inherited = {
        key: value for key, value in os.environ.items() if not key.startswith(("PYTEST_", "BIFOCAL_"))
    }
    done = subprocess.run(
        command, shell=True, cwd=folder, env=inherited, capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    return done.stdout + done.stderr
