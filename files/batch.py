"""Many files, one job each: threads, a progress bar, a line for each file, and a count at the end."""

import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from tqdm import tqdm

from models.counted import counted
from models.threads import threads
from pictures.names import printable, shown


class Skipped(Exception):
    """A job that had nothing to do; the message says why. No mistake."""


@dataclass
class Count:
    """How a batch went."""

    done: int = 0
    skipped: int = 0
    failed: int = 0

    @property
    def total(self) -> int:
        """Files that were looked at."""
        return self.done + self.skipped + self.failed

    @property
    def status(self) -> int:
        """Exit status: 0, or 2 if a file failed."""
        return 2 if self.failed else 0

    def __str__(self) -> str:
        total = self.total
        parts = [f"{self.done} done"] + [
            f"{n} {what}" for n, what in ((self.skipped, "skipped"), (self.failed, "failed")) if n
        ]
        return f"{counted(total, 'file')}: {', '.join(parts)}"


def run(
    paths: Sequence[Path],
    work: Callable[[int], str],
    *,
    workers: int | None = None,
    failed: Callable[[int, str], str | None] = lambda index, reason: None,
) -> Count:
    """Do the job of every file; one that fails does not keep the others from being done.

    Lines of what was done go to stdout, in the order of ``paths``; errors, skips and the bar to stderr.

    Args:
        paths: of the files, for messages.
        work: does the job of a position in ``paths``; returns its line.
        workers: threads, one file each; default: one for each core. Each gets its share of torch's threads.
        failed: gives the line to print on stdout, if any, for a file that failed for a reason.

    Raises:
        KeyboardInterrupt: after the files at work have been finished.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    workers = max(1, min(workers or cores, len(paths)))
    count = Count()
    futures: list[Future[str]] = []
    pool = ThreadPoolExecutor(workers)
    # No bar where nobody looks, nor for a single file.
    bar = tqdm(total=len(paths), unit="file", disable=True if len(paths) < 2 else None, leave=False)
    with threads(max(1, torch.get_num_threads() // workers)), bar:
        try:
            for index in range(len(paths)):
                futures.append(pool.submit(work, index))
                futures[-1].add_done_callback(lambda _: bar.update())
            for index, (path, future) in enumerate(zip(paths, futures, strict=True)):
                _report(count, path, future, partial(failed, index))
        except BaseException:
            tqdm.write("stopped: finishing the files at work", file=sys.stderr)
            pool.shutdown(cancel_futures=True)
            told = count.total
            for index in range(told, len(futures)):
                future = futures[index]
                if not future.cancelled() and not isinstance(future.exception(), KeyboardInterrupt):
                    _report(count, paths[index], future, partial(failed, index))
            print(f"{count}; {len(paths) - count.total} not begun", file=sys.stderr)
            raise
    pool.shutdown()
    return count


def reason_of(error: BaseException, path: Path) -> str:
    """What went wrong with a file, in one line; other files are named in it, this one is not."""
    if isinstance(error, OSError) and error.strerror:
        here = error.filename is None or str(error.filename) == str(path)
        text = error.strerror if here else f"{shown(error.filename)}: {error.strerror}"
    else:
        text = str(error)
    text = printable(" ".join(text.split()))
    if isinstance(error, (ValueError, OSError, ImportError)):
        return text or type(error).__name__
    return f"{type(error).__name__}: {text}"


def _report(count: Count, path: Path, future: "Future[str]", failed: Callable[[str], str | None]) -> None:
    try:
        line: str | None = future.result()
        count.done += 1
    except Skipped as error:
        count.skipped += 1
        tqdm.write(f"{shown(path)}: skipped: {error}", file=sys.stderr)
        return
    except Exception as error:  # whatever one file does, the others are done
        count.failed += 1
        tqdm.write(f"{shown(path)}: error: {reason_of(error, path)}", file=sys.stderr)
        line = failed(reason_of(error, path))
    if line is not None:
        tqdm.write(line, file=sys.stdout)
        sys.stdout.flush()
