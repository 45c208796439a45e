"""Trains tests/doubles in a copy of the project that holds them: ``python tests/run_doubles.py HOW OUT``.

HOW is a trainer (``cpu``, ``ddp_cpu``), or ``killed``: each run is then killed, with SIGKILL, somewhere after its first
checkpoint, and taken up again. A script of its own, because Lightning starts the other processes of DDP by running the
same script again.
"""

import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from train import train

ROOT = Path(__file__).parents[1]
NAMES = sorted(path.stem for path in (ROOT / "configs" / "experiment").glob("double_*.yaml"))
TINY = (
    "data={size: 32, batch_size: 4, num_train: 24, num_val: 5, num_test: 5, num_workers: 0}",
    "callbacks={training_log: {every: 3}, latent_statistics: null}",
    # For two processes beside one: in bfloat16 sums in another order differ in the third digit.
    "trainer.precision=32-true",
)


def run(name: str, trainer: str, folder: Path, *, pictured: bool = False) -> None:
    """Train one double; what the folder has is gone on from."""
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        # Pictures once: they change nothing else.
        pictures = "{num_images: 1}" if pictured else "null"
        overrides = [f"experiment={name}", f"trainer={trainer}", f"callbacks={{reconstructions: {pictures}}}"]
        cfg = compose("train", overrides=[*overrides, *TINY])
    OmegaConf.resolve(cfg)
    # As the command does: the run's own folder is part of its config.
    train(cfg, folder)


def apart(name: str, folder: Path) -> int:
    """Train in a process of its own, which shares what is imported here; its id."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            run(name, "cpu", folder)
            status = 0
        finally:
            os._exit(status)
    return pid


def killed(name: str, folder: Path, moment: random.Random) -> None:
    """Kill a training at a moment after its first checkpoint, then let another process finish it."""
    patience = 0.3
    while True:
        pid = apart(name, folder)
        while not any(folder.glob("stages/*/checkpoints/last.ckpt")):
            assert os.waitpid(pid, os.WNOHANG) == (0, 0), f"{name} ended before its first checkpoint"
            time.sleep(0.01)
        time.sleep(moment.uniform(0, patience))
        os.kill(pid, signal.SIGKILL)
        if os.WIFSIGNALED(os.waitpid(pid, 0)[1]):
            break
        # It was quicker.
        shutil.rmtree(folder)
        patience /= 2
    print(f"{name}: killed", flush=True)
    assert os.waitstatus_to_exitcode(os.waitpid(apart(name, folder), 0)[1]) == 0, f"{name}: see above"


def main(how: str, out: str) -> None:
    """All doubles, each into ``out/<name>``."""
    moment = random.Random(0)
    for name in NAMES:
        folder = Path(out) / name
        if how == "killed":
            killed(name, folder, moment)
        else:
            run(name, how, folder, pictured=how == "cpu")


if __name__ == "__main__":
    main(*sys.argv[1:])
