"""A training step on cores that others use: a part of the record ``speed``.

python -m benchmarks.busy_machine OTHERS      seconds of a step alone, and with so many busy processes beside it
"""

import json
import statistics
import subprocess
import sys
import time

STEPS = 15


def main(others: int) -> None:
    """Set the process up as our commands are, and measure."""
    from launch.process import prepare

    prepare()
    import torch

    from benchmarks.training_step import ARCHITECTURES, bare_step
    from models.codecs.compressai import CompressAICodec
    from models.transforms.fast import bf16_instructions

    torch.manual_seed(0)
    architecture, arguments = ARCHITECTURES["hyperprior"]
    codec = CompressAICodec(architecture, arguments, quantise="noise")
    step = bare_step(codec, bf16=bf16_instructions() is not None)
    x = torch.rand(8, 3, 128, 128)

    def seconds() -> float:
        times = []
        for _ in range(STEPS):
            start = time.perf_counter()
            step(x)
            times.append(time.perf_counter() - start)
        return statistics.median(times)

    for _ in range(3):
        step(x)
    quiet = seconds()
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(others)]
    try:
        time.sleep(1)
        loud = seconds()
    finally:
        for process in busy:
            process.kill()
    print(json.dumps({"quiet": quiet, "busy": loud}))


if __name__ == "__main__":
    main(int(sys.argv[1]))
