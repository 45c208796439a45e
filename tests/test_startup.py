"""Commands load what they use, and no more: what is loaded is what they wait for."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from benchmarks import startup
from tests.drawn_pictures import drawn

ROOT = Path(__file__).parents[1]
LATE = (
    *("torch", "torch._dynamo", "torch._inductor", "torchvision", "torch_geometric", "torchmetrics", "timm"),
    *("lightning", "compressai", "numba", "scipy", "sympy", "pandas", "matplotlib", "hydra", "PIL"),
)
"""What takes long to load."""

CHILD = f"""
import contextlib, io, json, runpy, sys
commands, loaded = json.loads(sys.argv[1]), []
for command in commands:
    sys.argv = command
    with contextlib.redirect_stdout(io.StringIO()) as text:
        try:
            runpy.run_path(command[0], run_name="__main__")
            status = 0
        except SystemExit as end:
            status = end.code or 0
    loaded.append([status, len(text.getvalue()), [name for name in {LATE} if name in sys.modules]])
print(json.dumps(loaded))
"""


def loaded_after(*commands: list[str]) -> list[set[str]]:
    """What of ``LATE`` is loaded after each of some commands, which run behind one another in one process."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD, json.dumps(commands)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    for command, (status, length, _) in zip(commands, found, strict=True):
        assert status == 0, (command, done.stderr)
        assert length > 0, command
    return [set(names) for *_, names in found]


def test_help_loads_no_torch() -> None:
    for command, loaded in zip(startup.HELP, loaded_after(*startup.HELP), strict=True):
        assert loaded <= {"hydra"}, command


def test_codecs_load_what_they_compute_with(tmp_path: Path) -> None:
    picture, model = tmp_path / "x.png", "benchmarks/weights/scenes6_codec"
    Image.fromarray(drawn(64, 64)).save(picture)
    plain, learned, back, told = loaded_after(
        ["codec.py", "compress", "jpeg", str(picture), "-o", str(tmp_path)],
        ["codec.py", "compress", model, str(picture), "-o", str(tmp_path)],
        ["codec.py", "decompress", model, str(tmp_path / "x.bif"), "-o", str(tmp_path / "back")],
        ["codec.py", "info", str(tmp_path / "x.bif"), "--model", model],
    )
    assert plain == {"torch", "PIL"}
    # numba loads scipy by itself.
    assert {"torch", "PIL", "numba"} <= learned <= {"torch", "PIL", "numba", "scipy"}
    assert back == told == learned
    assert (tmp_path / "back" / "x.png").is_file()


def test_figures_are_ratios_of_medians_over_the_same_rounds() -> None:
    rows = [{"command": startup.TORCH, "seconds": s} for s in (2.0, 1.0, 9.0)]
    rows += [{"command": "codec.py compress jpeg X.png -o DIR", "seconds": s} for s in (2.5, 8.0, 2.4)]
    rows += [{"command": f"codec.py compress {startup.MODEL} X.png -o DIR", "seconds": s} for s in (3.0, 5.0)]
    rows += [{"command": "train.py --help", "seconds": s} for s in (0.5, 0.5)]
    rows += [{"command": "codec.py info --help", "seconds": s} for s in (0.2, 0.3)]
    assert startup.figures(rows) == pytest.approx(
        {"startup_ratio_jpeg": 1.25, "startup_ratio_learned": 2.0, "startup_ratio_help": 0.25}
    )
