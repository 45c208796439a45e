"""CompressAI's own evaluation tool beside ours, on one checkpoint that both load: bpp and PSNR of every photo.

A part of the record ``coding``.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from compressai.registry import MODELS

from benchmarks.entropy_coder import Row, arguments_of, compressai_of
from datamodules.image_folder import ImageFolder
from evaluation.evaluator import evaluate
from evaluation.points import Point
from evaluation.sources import SplitImages
from models.codecs.compressai import CompressAICodec

TOOL = "compressai.utils.eval_model"


def beside_eval_tool(codec: CompressAICodec, photos: Path) -> Iterator[Row]:
    """Save the weights as CompressAI's training does, and let both sides load and evaluate that file.

    Ours codes with scales rounded as CompressAI's coder rounds them.

    Args:
        codec: whose weights these are; an architecture that CompressAI's tool knows.
        photos: folder of pictures, sides multiples of 64: CompressAI's estimates are of padded pictures else.

    Yields:
        One row a photo: ``photo``, and for ``compressai`` and ``ours`` each ``psnr`` in dB, ``bpp`` of the coded
        strings, ``estimated_bpp`` of ``forward``.
    """
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder) / "checkpoint.pth.tar"
        theirs = compressai_of(codec)
        torch.save({"epoch": 0, "state_dict": theirs.state_dict()}, checkpoint)
        architecture = next(name for name, kind in MODELS.items() if kind is type(theirs))
        coded = _tool(architecture, checkpoint, photos, Path(folder) / "coded")
        estimated = _tool(
            architecture, checkpoint, photos, Path(folder) / "estimated", "--entropy-estimation"
        )
        imported = CompressAICodec(
            architecture, arguments_of(codec), weights=checkpoint, rounding="up"
        ).eval()
        data = ImageFolder(photos, split_fractions=(0, 0, 1), batch_size=1)
        ours = evaluate(
            [Point(architecture, imported)],
            SplitImages(data, "test"),
            cache=Path(folder) / "ours",
            metrics=["psnr"],
            timed_images=0,
            progress=False,
        )
    for name, entry in zip(ours.images, ours.entries[0], strict=True):
        stem, values = Path(name).stem, entry["values"]
        yield {
            "photo": stem,
            "compressai": {
                "psnr": coded[stem]["psnr-rgb"],
                "bpp": coded[stem]["bpp"],
                "estimated_bpp": estimated[stem]["bpp"],
            },
            "ours": {
                "psnr": values["psnr"],
                "bpp": values["bpp_of_base"],
                "estimated_bpp": values["bpp"],
            },
        }


def _tool(
    architecture: str, checkpoint: Path, photos: Path, out: Path, *more: str
) -> dict[str, dict[str, float]]:
    """{photo: its results} of CompressAI's tool."""
    arguments = ["checkpoint", str(photos), "-a", architecture, "-p", str(checkpoint), "-d", str(out)]
    subprocess.run(
        [sys.executable, "-m", TOOL, *arguments, "--per-image", *more], check=True, capture_output=True
    )
    return {
        content["source"]: content["results"]
        for content in (json.loads(path.read_text()) for path in out.rglob("*.json"))
        if "source" in content
    }
