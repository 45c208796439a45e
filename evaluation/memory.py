"""How much memory something takes, measured in a process of its own."""

import gc
import pickle
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the new process imports this file first, and only what the job needs after it
    from torch import Tensor

    from models.codecs.base import Codec


def peak_memory_mb(job: Callable[..., object], *arguments: object, device: str = "cpu") -> float:
    """Most memory that ``job(*arguments)`` holds at once, measured in a fresh process.

    On the CPU: highest resident size of the process while the arguments are unpickled and the job runs, less its
    resident size before, when all modules that they need are imported. So weights among the arguments count, libraries
    do not, except what they allocate at first use. Programs that the job starts do not count. On a GPU: the most that
    torch had allocated there.

    Args:
        job: a function at a module's top level, so that the new process can import it, e.g. ``code_and_decode``.
        arguments: anything that can be pickled.
        device: ``"cpu"`` or ``"cuda"``.

    Returns:
        Megabytes (10^6 bytes).

    Raises:
        RuntimeError: the process was killed (out of memory, most likely), or this system does not tell memory.
    """
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        try:
            return pool.submit(_measured, job, pickle.dumps(arguments), device).result()
        except BrokenProcessPool as error:
            raise RuntimeError(
                f"the process that ran {job.__qualname__} was killed: it may need more memory than there is"
            ) from error


def code_and_decode(codec: "Codec", x: "Tensor", rate: float | None = None) -> None:
    """A job for ``peak_memory_mb``: images (B, 3, H, W) to files and back to pixels, one after the other."""
    codec.eval()
    for image in x:
        (bitstream,) = codec.compress(image[None], rate)
        codec.decompress([codec.parse(codec.serialise(bitstream))], want=("pixels",))


def _measured(job: Callable[..., object], pickled: bytes, device: str) -> float:
    # Once for the imports alone.
    pickle.loads(pickled)
    gc.collect()
    if device != "cpu":
        import torch

        torch.cuda.reset_peak_memory_stats(device)
        job(*pickle.loads(pickled))
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) / 1e6
    try:
        # Linux: the high-water mark starts anew, so that what the imports held for a moment does not count.
        Path("/proc/self/clear_refs").write_text("5")
        before = _status_bytes("VmRSS")
    except OSError as error:
        raise RuntimeError("peak memory on the CPU is read from /proc, which this system lacks") from error
    job(*pickle.loads(pickled))
    return max(_status_bytes("VmHWM") - before, 0) / 1e6


def _status_bytes(key: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {key}")
