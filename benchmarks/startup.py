"""How long commands take that have next to nothing to do: how long they take to start.

python -m benchmarks.startup [ROUNDS]      writes benchmarks/results/startup.json

Three minutes on a quiet machine.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image

from benchmarks.record import Figures, Rows, write

NAME = "startup"
ROOT = Path(__file__).parents[1]
ROUNDS = 7
MODEL = "benchmarks/weights/scenes6_codec"
TORCH = 'python -c "import torch"'
HELP = [
    *([script, "--help"] for script in ("train.py", "evaluate.py", "export.py", "codec.py")),
    *(["codec.py", command, "--help"] for command in ("compress", "decompress", "analyze", "info")),
]
COMPRESS = {
    "startup_ratio_jpeg": ["codec.py", "compress", "jpeg", "X.png", "-o", "DIR"],
    "startup_ratio_learned": ["codec.py", "compress", MODEL, "X.png", "-o", "DIR"],
}


def main(rounds: int = ROUNDS) -> None:
    """Measure everything in turn and write the record."""
    turn = [arguments for command in COMPRESS.values() for arguments in (["-c", "import torch"], command)]
    turn += [["-c", "import torch"], *HELP]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        Image.linear_gradient("L").resize((64, 64)).convert("RGB").save(Path(folder) / "X.png")
        # The first round compiles what Python and numba keep, and fills the disk's cache.
        for number in range(rounds + 1):
            for arguments in turn:
                seconds = _seconds(arguments, Path(folder))
                name = TORCH if arguments[0] == "-c" else " ".join(arguments)
                if number:
                    rows.append({"command": name, "round": number, "seconds": seconds})
    path = write(
        NAME,
        commands=["python -m benchmarks.startup"],
        rows=rows,
        figures=figures,
        notes="Wall time of whole commands, in turn, beside that of importing torch alone; X.png has 64 x 64 pixels. "
        "Figures are medians over the rounds, as multiples of the median of importing torch; that of --help is the "
        "largest of all commands.",
    )
    print(path)


def figures(rows: Rows) -> Figures:
    """The quoted figures."""

    def median(command: str) -> float:
        return statistics.median(row["seconds"] for row in rows if row["command"] == command)

    torch = median(TORCH)
    helps = dict.fromkeys(row["command"] for row in rows if row["command"].endswith("--help"))
    return {
        **{key: median(" ".join(command)) / torch for key, command in COMPRESS.items()},
        "startup_ratio_help": max(median(command) for command in helps) / torch,
    }


def _seconds(arguments: list[str], folder: Path) -> float:
    """Wall time of ``python ARGUMENTS``; results of the round before are written over."""
    places = {"X.png": str(folder / "X.png"), "DIR": str(folder)}
    given = [places.get(argument, argument) for argument in arguments]
    overwrite = ["--overwrite"] if "-o" in given else []
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": ""}
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, *given, *overwrite], cwd=ROOT, env=environment, capture_output=True, check=True
    )
    return time.perf_counter() - start


if __name__ == "__main__":
    if len(sys.argv) > 2 or not all(argument.isdecimal() for argument in sys.argv[1:]):
        print("usage: python -m benchmarks.startup [ROUNDS]", file=sys.stderr)
        sys.exit(2)
    main(*map(int, sys.argv[1:]))
