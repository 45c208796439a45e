"""Decode mutated .bif files by the hundred thousand: a clear error or the very same picture, nothing else.

    python -m benchmarks.fuzz --files 100000 --seconds 600

Every codec is fuzzed in a process of its own, which is watched: a crash, a file that takes longer than ``HANG_SECONDS``
or memory beyond ``MEMORY_BOUND`` is seen, blamed on its file, and the rest goes on in a new process. A file depends on
its seed and number alone: ``--codec NAME --first NUMBER --files 1`` repeats one. The trained codec that ships is
fuzzed on pictures of a photo's size; small untrained ones, on small pictures, have other entropy models and layers.
"""

import argparse
import json
import mmap
import os
import resource
import struct
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.mutations import FORGERIES, mutate
from benchmarks.three_layers import ThreeLayers
from models.bitstream import BitstreamError
from models.codecs.base import Codec
from models.codecs.compressai import CompressAICodec
from models.codecs.hyperprior import MeanScaleHyperprior
from models.outputs import CodecOutput
from models.pretrained import load

HANG_SECONDS = 20.0
"""Of the processor, for one file: a decode takes milliseconds, of a photo some hundred."""
PATIENCE = 15 * HANG_SECONDS
"""Of the clock, for one file: on a machine that does other things too, a process may have to wait."""
MEMORY_BOUND = 256 << 20
"""That the process may grow by once it has decoded whole files."""
ROOM = 8
"""Pictures that a forged header announces are decoded up to so many times the pixels of the largest real one."""
SHIPPED = Path(__file__).parent / "weights" / "scenes6_codec"

Sizes = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Subject:
    """A codec that is fuzzed.

    Attributes:
        make: the codec.
        sizes: (H, W) of the pictures; two alike, so that their files can be mixed.
        trained: it has a training behind it.
    """

    make: Callable[[], Codec]
    sizes: Sizes = ((40, 56), (40, 56), (16, 24))
    trained: bool = False


def untrained(codec: Codec) -> Codec:
    """As in a trained codec, most latents are not zero."""
    *_, last = (m for m in codec.transforms()["g_a"].modules() if isinstance(m, nn.Conv2d))
    last.weight.data.mul_(30)
    return codec


CODECS = {
    SHIPPED.name: Subject(
        lambda: load(SHIPPED, tasks=()).codec, sizes=((256, 384), (256, 384), (512, 768)), trained=True
    ),
    "hyperprior": Subject(lambda: untrained(MeanScaleHyperprior(8, 12, num_stages=3))),
    "compressai_mean_scale": Subject(lambda: untrained(CompressAICodec("mbt2018-mean", {"N": 8, "M": 12}))),
    "compressai_autoregressive": Subject(lambda: untrained(CompressAICodec("mbt2018", {"N": 8, "M": 12}))),
    "three_layers": Subject(ThreeLayers),
}
"""{name: what is fuzzed}"""


class Fuzzer:
    """One codec, some whole files of it, and what they decode to.

    Args:
        name: of the codec, a key of ``CODECS``.
        seed: of untrained weights, pictures and mutations.
        sizes: of the pictures; default: the codec's own.
    """

    def __init__(self, name: str, seed: int = 0, *, sizes: Sizes | None = None):
        torch.manual_seed(seed)
        subject = CODECS[name]
        sizes = subject.sizes if sizes is None else sizes
        self.codec, self.seed = subject.make().eval(), seed
        self.max_pixels = ROOM * max(height * width for height, width in sizes)
        pictures = [picture(*size) for size in sizes]
        self.files = [self.codec.serialise(self.codec.compress(picture)[0]) for picture in pictures]
        self.decoded = [self._decode(data) for data in self.files]

    def try_file(self, number: int) -> tuple[str, str, str]:
        """Decode one mutated file.

        Returns:
            Name of the mutation; ``"error"``, ``"same"``, ``"other"`` (a forgery that is a file of another picture) or
            ``"failure"``; and details.
        """
        mutation, data = mutate(np.random.default_rng((self.seed, number)), self.files)
        try:
            output = self._decode(data)
        except BitstreamError as error:
            clear = str(error) and "\n" not in str(error)
            return mutation.__name__, "error" if clear else "failure", f"unclear message {error!s:.80}"
        except Exception as error:
            return (
                mutation.__name__,
                "failure",
                f"{type(error).__name__} instead of BitstreamError: {error!s:.200}",
            )
        if any(_same(output, whole) for whole in self.decoded):
            return mutation.__name__, "same", ""
        forged = mutation in FORGERIES
        return mutation.__name__, "other" if forged else "failure", "a picture from a damaged file"

    def _decode(self, data: bytes) -> CodecOutput:
        return self.codec.decompress([self.codec.parse(data, max_pixels=self.max_pixels)])


def picture(height: int, width: int) -> Tensor:
    """Smooth colours with as much texture as gives a trained codec a photo's bits, from torch's generator."""
    coarse = torch.rand(1, 3, height // 32 + 1, width // 32 + 1)
    smooth = F.interpolate(coarse, (height, width), mode="bicubic")
    return (smooth + 8 / 255 * torch.randn_like(smooth)).clamp(0, 1)


def _same(output: CodecOutput, whole: CodecOutput) -> bool:
    """Whether all that was decoded is what the whole file gives; later layers and parts of the border may lack."""

    def symbols(decoded: CodecOutput) -> dict[str, Tensor]:
        return decoded.latents | {k: v for k, v in decoded.extras.items() if isinstance(v, Tensor)}

    ours, theirs = symbols(output), symbols(whole)
    return bool(ours) and all(k in theirs and torch.equal(v, theirs[k]) for k, v in ours.items())


def fuzz(name: str, *, first: int = 0, files: int, seconds: float = 600.0, seed: int = 0) -> dict[str, Any]:
    """Fuzz one codec in processes that are watched.

    Args:
        name: a key of ``CODECS``.
        first: number of the first file.
        files: how many.
        seconds: stop after so many, whatever is left.
        seed: of everything.

    Returns:
        ``{"codec", "trained", "pictures", "bytes", "seed", "files", "error", "same", "other", "failure", "by_mutation",
        "failures": [...], "seconds", "peak_growth_mb"}``: ``pictures`` are the (H, W) of the whole files and ``bytes``
        what these take, ``files`` is how many mutated ones were really tried.
    """
    start, end, number = time.monotonic(), first + files, first
    counts: Counter[str] = Counter()
    failures: list[dict[str, Any]] = []
    growth, whole = 0, []
    while number < end and time.monotonic() - start < seconds:
        left = seconds - (time.monotonic() - start)
        with tempfile.TemporaryDirectory() as folder:
            part = _watched(name, number, end - number, left, seed, Path(folder))
        counts.update(part["counts"])
        failures += part["failures"]
        growth, whole = max(growth, part["growth"]), part["bytes"] or whole
        number = part["next"]
    tried = number - first
    outcomes = {
        key: sum(n for k, n in counts.items() if k.endswith(f"/{key}"))
        for key in ("error", "same", "other", "failure")
    }
    return {
        "codec": name,
        "trained": CODECS[name].trained,
        "pictures": CODECS[name].sizes,
        "bytes": whole,
        "seed": seed,
        "files": tried,
        **outcomes,
        "by_mutation": dict(sorted(counts.items())),
        "failures": failures[:20],
        "seconds": round(time.monotonic() - start, 1),
        "peak_growth_mb": round(growth / 2**20, 1),
    }


def _watched(name: str, first: int, files: int, seconds: float, seed: int, folder: Path) -> dict[str, Any]:
    """One process; ends with its files, its time, or the file that broke it."""
    (folder / "at").write_bytes(bytes(8))
    arguments = ["--worker", str(folder), "--codec", name, "--first", str(first), "--files", str(files)]
    command = [
        sys.executable,
        "-m",
        "benchmarks.fuzz",
        *arguments,
        "--seed",
        str(seed),
        "--seconds",
        str(seconds),
    ]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    seen, since, busy = -1, time.monotonic(), 0.0
    while process.poll() is None:
        time.sleep(0.1)
        (at,) = struct.unpack("<q", (folder / "at").read_bytes())
        if at != seen:
            seen, since, busy = at, time.monotonic(), _processor_seconds(process.pid)
        elif at and (
            _processor_seconds(process.pid) - busy > HANG_SECONDS or time.monotonic() - since > PATIENCE
        ):
            # Before the first file (0), it is still importing and building tables.
            process.kill()
            break
    stderr = process.communicate()[1]
    if process.returncode == 0:
        return json.loads((folder / "result").read_text())
    (at,) = struct.unpack("<q", (folder / "at").read_bytes())
    if not at:
        raise RuntimeError(f"the fuzzed process failed before its first file: {stderr[-500:]}")
    what = "hang" if process.returncode == -9 else f"crash (status {process.returncode})"
    broken = {"codec": name, "number": at - 1, "what": what, "details": stderr[-300:]}
    before: dict[str, Any] = {"counts": {}, "failures": [], "growth": 0, "bytes": []}
    if at - 1 > first:
        # The broken process took its counts with it: the files before go through another one.
        with tempfile.TemporaryDirectory() as again:
            before = _watched(name, first, at - 1 - first, seconds, seed, Path(again))
    counts = Counter(before["counts"]) + Counter({"process/failure": 1})
    return {**before, "counts": counts, "failures": [*before["failures"], broken], "next": at}


def _work(name: str, first: int, files: int, seconds: float, seed: int, folder: Path) -> None:
    """Inside the process: number of the file at work, plus 1, in ``at``; what came out, in ``result``."""
    torch.set_num_threads(1)
    start = time.monotonic()
    fuzzer = Fuzzer(name, seed)
    before = _peak_memory()
    _limit_memory(MEMORY_BOUND)
    counts: Counter[str] = Counter()
    failures: list[dict[str, Any]] = []
    number = first
    with open(folder / "at", "r+b") as file, mmap.mmap(file.fileno(), 8) as at:
        while number < first + files and time.monotonic() - start < seconds:
            at[:] = struct.pack("<q", number + 1)
            mutation, outcome, details = fuzzer.try_file(number)
            counts[f"{mutation}/{outcome}"] += 1
            if outcome == "failure":
                failures.append({"codec": name, "number": number, "what": mutation, "details": details})
            number += 1
    result = {
        "counts": counts,
        "failures": failures,
        "growth": _peak_memory() - before,
        "bytes": [len(data) for data in fuzzer.files],
        "next": number,
    }
    (folder / "result").write_text(json.dumps(result))


def _processor_seconds(pid: int) -> float:
    """That a process has used; where that is not known, by the clock."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return time.monotonic()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _limit_memory(more: int) -> None:
    """Let this process grow by so many bytes; what asks for more fails, and is seen as another error than expected."""
    if sys.platform == "linux":
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + more
        resource.setrlimit(resource.RLIMIT_AS, (limit, resource.getrlimit(resource.RLIMIT_AS)[1]))


def _peak_memory() -> int:
    """Return what this process holds now, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def run(
    files: int, seconds: float, *, first: int = 0, seed: int = 0, codecs: Sequence[str] = tuple(CODECS)
) -> list[dict[str, Any]]:
    """Rows for the record: all codecs, the files divided among them.

    Args:
        files: in all.
        seconds: in all; what one codec leaves goes to the next.
        first: number of each codec's first file.
        seed: of everything.
        codecs: which.
    """
    start, rows = time.monotonic(), []
    for position, name in enumerate(codecs):
        left = len(codecs) - position
        share = -(-(files - sum(row["files"] for row in rows)) // left)
        rows.append(
            fuzz(
                name,
                first=first,
                files=share,
                seconds=(seconds - (time.monotonic() - start)) / left,
                seed=seed,
            )
        )
    return rows


def figures(rows: Sequence[dict[str, Any]]) -> dict[str, int]:
    """The record's figures: ``fuzz_codecs``, ``fuzz_files``, of trained codecs among them, and ``fuzz_failures``."""
    return {
        "fuzz_codecs": len(rows),
        "fuzz_files": sum(row["files"] for row in rows),
        "fuzz_files_trained": sum(row["files"] for row in rows if row["trained"]),
        "fuzz_failures": sum(row["failure"] for row in rows),
    }


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--codec", choices=list(CODECS))
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker is not None:
        _work(options.codec, options.first, options.files, options.seconds, options.seed, options.worker)
        return
    codecs = tuple(CODECS) if options.codec is None else (options.codec,)
    rows = run(options.files, options.seconds, first=options.first, seed=options.seed, codecs=codecs)
    for row in rows:
        print(json.dumps(row))
    print(json.dumps(figures(rows)))
    sys.exit(2 if figures(rows)["fuzz_failures"] else 0)


if __name__ == "__main__":
    main()
