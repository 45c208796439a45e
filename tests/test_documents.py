"""What docs/ marks as runnable runs, and the files it names are there."""

import re
from pathlib import Path

import pytest

from tests.documents import ROOT, Block, blocks, copy_project, run

DOCUMENTS = sorted(path.name for path in (ROOT / "docs").glob("*.md"))
PYTHON = [
    pytest.param(block, id=f"{name}-{number}")
    for name in DOCUMENTS
    for number, block in enumerate(blocks(name))
    if block.runnable and block.language == "python"
]
COMMANDS = [
    command
    for block in blocks("concepts.md")
    if block.runnable and block.language == "bash"
    for command in block.commands
]
PLACES = re.compile(r"`((?:\w+/)+\w+\.(?:py|yaml|md))`|\]\(\.\./([^)#]+)\)")


@pytest.mark.parametrize("block", PYTHON)
def test_python_runs(block: Block) -> None:
    exec(compile(block.text, "docs", "exec"), {"__name__": "docs"})


@pytest.mark.parametrize("name", DOCUMENTS)
def test_files_that_are_named_exist(name: str) -> None:
    shown = {block.file for block in blocks(name)}
    named = {a or b for a, b in PLACES.findall((ROOT / "docs" / name).read_text())} - shown
    assert named
    assert not sorted(place for place in named if not (ROOT / place).exists())


@pytest.mark.slow
@pytest.mark.timeout(1800)  # eight runs, mostly their start
def test_the_commands_of_concepts_run_one_after_another(tmp_path: Path) -> None:
    """In one folder and in their order: some go on from what others wrote."""
    project = copy_project(tmp_path / "project")
    for command in COMMANDS:
        assert "Test split, real bytes:" in run(command, project), command
