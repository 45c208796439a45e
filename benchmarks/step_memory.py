"""Memory of a training step, in a process of its own: a part of the record ``speed``.

python -m benchmarks.step_memory SIDE SIZE      peak beyond what was there before the first step, in MiB

SIDE: ours, ours_giving_back (freed memory goes back to the system, as glibc has it by default), compressai.
"""

import re
import sys
from pathlib import Path

import torch
from compressai.registry import MODELS

from benchmarks.training_step import ARCHITECTURES, bare_step, compressai_step
from launch.process import prepare
from models.codecs.compressai import CompressAICodec
from models.transforms.fast import bf16_instructions


def main(side: str, size: int) -> None:
    """Take five steps of the hyperprior on batches of 8, and print what they needed at their peak."""
    torch.manual_seed(0)
    architecture, arguments = ARCHITECTURES["hyperprior"]
    if side == "ours":
        prepare()
    if side == "compressai":
        step = compressai_step(MODELS[architecture](**arguments))
    else:
        codec = CompressAICodec(architecture, arguments, quantise="noise")
        step = bare_step(codec, bf16=bf16_instructions() is not None)
    step(torch.rand(1, 3, 64, 64))  # libraries, optimiser
    before = _peak()
    x = torch.rand(8, 3, size, size)
    for _ in range(5):
        step(x)
    print(_peak() - before)


def _peak() -> float:
    # Not getrusage's, which begins with what the process that started this one had.
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 2**10


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
