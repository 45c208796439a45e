"""The examples of docs/extending.md, written into a copy of the project, pass its tests and train."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests import conftest
from tests.conftest import names_in
from tests.documents import ROOT, blocks, copy_project, run

BLOCKS = blocks("extending.md")
FILES = {block.file: block.text for block in BLOCKS if block.file}
COMMANDS = [command for block in BLOCKS if block.runnable for command in block.commands]
CODECS = ["factorized_prior", "palette_png"]
CONTRACT = "tests/test_codec_contract.py tests/test_tasks.py tests/test_configs.py tests/test_imports.py"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project with the files that the document shows."""
    folder = copy_project(tmp_path_factory.mktemp("extending") / "project")
    for name, text in FILES.items():
        (folder / name).write_text(text)
    rng, arrays = np.random.default_rng(0), {}
    for split in ("train", "val", "test"):
        arrays[f"{split}_images"] = rng.integers(0, 256, (8, 64, 64, 3), dtype=np.uint8)
        arrays[f"{split}_labels"] = rng.integers(0, 9, (8, 1), dtype=np.uint8)
    (folder / "data/medmnist").mkdir(parents=True)
    np.savez(folder / "data/medmnist/pathmnist_64.npz", **arrays)
    return folder


def test_the_examples_are_not_in_the_tree() -> None:
    assert len(FILES) == 9
    assert not [name for name in FILES if (ROOT / name).exists()]


def test_one_file_and_one_yaml_each() -> None:
    """What the document promises; the data set brings a test, for its files have to come from somewhere."""
    kinds = [name.partition("/")[0] for name in FILES]
    assert kinds.count("configs") == len(kinds) - kinds.count("configs") - kinds.count("tests") == 4


@pytest.mark.slow
def test_the_contracts_find_the_examples_and_hold(project: Path) -> None:
    names = " or ".join((*CODECS, "presence_latents", "path_mnist", "import"))
    output = run(
        f'python -m pytest {CONTRACT} tests/test_path_mnist.py -k "{names}" -v -p no:cacheprovider', project
    )
    passed = {line.split("::")[1].split()[0] for line in output.splitlines() if " PASSED" in line}
    for name in CODECS:
        assert f"test_evaluation_is_what_is_decoded[{name}]" in passed
        assert f"test_components_compose_and_bind[codec/{name}.yaml]" in passed
    assert "test_a_nested_reload_after_coding_gives_the_same_bytes[factorized_prior]" in passed
    assert "test_missing_labels_do_not_count[presence_latents]" in passed
    assert "test_components_compose_and_bind[data/path_mnist.yaml]" in passed
    assert "test_path_mnist_is_read_as_written" in passed
    assert "test_packages_import_only_what_lies_below_them[tasks]" in passed


def test_the_examples_keep_the_style(project: Path) -> None:
    shown = " ".join(name for name in FILES if name.endswith(".py"))
    run(f"python -m ruff check {shown} && python -m ruff format --check {shown}", project)


@pytest.mark.parametrize("group", ["codec", "task"])
def test_every_yaml_is_under_its_contract(group: str) -> None:
    """The rule that the examples rely on, in the tree itself."""
    assert set(names_in(group)) <= set({"codec": conftest.CODECS, "task": conftest.TASKS}[group])


def analysed(project: Path) -> dict[str, Any]:
    """What the tasks of the latest run say of a picture, by the commands that the document shows."""
    run_dir = max(project.glob("runs/*/*"), key=lambda path: path.stat().st_mtime)
    Image.effect_noise((48, 40), 50).convert("RGB").save(project / "photo.png")
    run(f"python codec.py compress {run_dir} photo.png -o analysed", project)
    lines = run(
        f"python codec.py analyze {run_dir} analysed/photo.bif --tasks presence", project
    ).splitlines()
    return json.loads(next(line for line in lines if line.startswith("{")))["tasks"]


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_the_commands_run(command: str, project: Path) -> None:
    output = run(command, project)
    assert "Test split, real bytes:" in output
    if "presence" in command:
        assert analysed(project)["presence"].keys() == {"holds"}
    for name in ("presence", "palette_png"):
        assert (name in command) <= (name in output.rpartition("Test split")[2])
