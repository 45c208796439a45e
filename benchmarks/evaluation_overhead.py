"""What evaluate.py costs beyond the measuring itself: a part of the record ``speed``.

python -m benchmarks.evaluation_overhead DIR [keep]      the bare loop alone: JPEG over a folder, on all cores
"""

import io
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torchmetrics.functional.image import multiscale_structural_similarity_index_measure

from benchmarks.record import ROOT
from launch.overrides import quoted
from launch.process import keep_freed_memory

QUALITIES = (5, 10, 20, 35, 50, 70, 85, 95)


def bare_loop(photos: Path) -> dict[int, tuple[float, float, float]]:
    """What anybody would write: every photo at every quality through Pillow, PSNR and MS-SSIM, an image a thread.

    Returns:
        {quality: mean bpp, PSNR in dB, MS-SSIM}.
    """
    torch.set_num_threads(1)

    def measured(path: Path) -> list[tuple[float, float, float]]:
        with Image.open(path) as file:
            image = np.asarray(file.convert("RGB"))
        x = torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float()
        found = []
        for quality in QUALITIES:
            buffer = io.BytesIO()
            Image.fromarray(image).save(buffer, "JPEG", quality=quality, optimize=True)
            decoded = np.asarray(Image.open(buffer).convert("RGB"))
            mse = np.mean((decoded.astype(np.float32) - image) ** 2)
            x_hat = torch.from_numpy(decoded.copy()).permute(2, 0, 1)[None].float()
            ms_ssim = multiscale_structural_similarity_index_measure(x_hat, x, data_range=255.0)
            bpp = 8 * buffer.tell() / (image.shape[0] * image.shape[1])
            found.append((bpp, float(10 * np.log10(255**2 / mse)), float(ms_ssim)))
        return found

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        every = np.array(list(pool.map(measured, sorted(photos.iterdir()))))
    return dict(zip(QUALITIES, map(tuple, every.mean(0).tolist()), strict=True))


def overhead(photos: Path, *, repeats: int = 2) -> dict[str, Any]:
    """Whole commands in turn: evaluate.py with everything at its defaults, and the bare loop.

    Returns:
        ``seconds`` of all turns, and the ratio of medians: to the loop as it stands, and to the loop with freed memory
        kept as our commands keep it.
    """
    rates = f"rates={{jpeg: {list(QUALITIES)}}}"
    seconds: dict[str, list[float]] = {"evaluate": [], "bare": [], "bare_keeping_memory": []}
    bare = ["-m", "benchmarks.evaluation_overhead", str(photos)]
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as out:
            evaluate = [
                "evaluate.py",
                "codecs=[jpeg]",
                f"data.root={quoted(photos)}",
                rates,
                f"out={quoted(out)}",
            ]
            seconds["evaluate"].append(_seconds(evaluate))
        seconds["bare"].append(_seconds(bare))
        seconds["bare_keeping_memory"].append(_seconds([*bare, "keep"]))
    evaluated, plain, keeping = (statistics.median(values) for values in seconds.values())
    return {
        "kind": "evaluate",
        "seconds": seconds,
        "ratio": evaluated / plain,
        "ratio_at_equal_memory": evaluated / keeping,
    }


def _seconds(arguments: Sequence[str]) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, *arguments], cwd=ROOT, check=True, capture_output=True)
    return time.perf_counter() - start


if __name__ == "__main__":
    if sys.argv[2:] == ["keep"]:
        keep_freed_memory()
    for quality, (bpp, psnr, ms_ssim) in bare_loop(Path(sys.argv[1])).items():
        print(f"{quality:3d} {bpp:.4f} bpp {psnr:.2f} dB {ms_ssim:.4f}")
