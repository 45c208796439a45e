"""What a process of ours sets before it computes: how it keeps memory, and how its threads wait."""

import ctypes
import os
import platform

TRIM_THRESHOLD, MMAP_THRESHOLD, MMAP_MAX = -1, -3, -4
"""Parameters of glibc's mallopt."""

SPINS = "10000"
"""Looks that an idle thread takes for work before it sleeps: some tens of microseconds."""


def prepare() -> None:
    """Set everything; before torch is imported, which reads some of it once. What the environment says already, stays.

    Idle threads of GNU's OpenMP, which torch computes with, look for work for milliseconds: on cores that others use,
    too, that is time taken from the thread that they wait for.
    """
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
        os.environ["GOMP_SPINCOUNT"] = SPINS
    if not any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ):
        keep_freed_memory()


def keep_freed_memory() -> bool:
    """From here on this process keeps up to 2 GiB that it has freed, for the next of the same.

    A network frees its activations after every call, and glibc by default hands large ones back to the system, which
    then zeroes every page of the next ones: on a virtual machine that can take as long as the convolutions.

    Returns:
        Whether there is anything to set: glibc, which is Linux.
    """
    return _set_malloc(trim_threshold=2**31 - 1, mmap_max=0)


def give_freed_memory_back(largest: int = 2**25) -> bool:
    """As glibc does by default, once it has adapted to the blocks that it met.

    Args:
        largest: of those blocks, in bytes: up to so many, 32 MiB at most, blocks come from the heap, which is trimmed
            when twice as many lie free at its end; larger ones are mapped one by one.
    """
    # A block that is mapped takes whole pages and its own head, and as much becomes the limit.
    largest = min(largest + 2**13, 2**25)
    return _set_malloc(trim_threshold=2 * largest, mmap_max=2**16, mmap_threshold=largest)


def _set_malloc(*, trim_threshold: int, mmap_max: int, mmap_threshold: int = 2**25) -> bool:
    if platform.libc_ver()[0] != "glibc":
        return False
    library = ctypes.CDLL(None)
    library.mallopt(MMAP_THRESHOLD, mmap_threshold)
    library.mallopt(MMAP_MAX, mmap_max)
    library.mallopt(TRIM_THRESHOLD, trim_threshold)
    return True
