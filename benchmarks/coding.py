"""The record ``coding``: deterministic, fast, robust. Beside CompressAI on the same weights, in turn in one process.

python -m benchmarks.coding --photos DIR --model MODEL      writes benchmarks/results/coding.json

DIR holds photos of which at least 12 have one size (Kodak's); MODEL is a trained mean-scale codec of four stages with a
task on latents and one of the same kind on pixels. Run it on a quiet machine: half an hour on two cores.
"""

import argparse
import copy
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from benchmarks import fuzz
from benchmarks.determinism import Way, photos_of, star, ways
from benchmarks.entropy_coder import Row, briefly_trained, coding_of_y, over_ideal
from benchmarks.eval_tool import beside_eval_tool
from benchmarks.record import Figures, Rows, write
from benchmarks.whole_codecs import analysing, beside_compressai, bytes_of, overhead
from models.codecs.base import Codec
from models.codecs.compressai import CompressAICodec
from models.codecs.compressai_weights import FILE
from models.pretrained import Pretrained, load
from models.threads import threads

NAME = "coding"
CROP = 256


@dataclass(frozen=True)
class Architecture:
    """A model of CompressAI that is measured on weights from a short training.

    Attributes:
        name: CompressAI's.
        arguments: CompressAI's for its higher rates.
        steps: of training; enough for speed, not for figures on bits.
    """

    name: str
    arguments: dict[str, Any]
    steps: int


HYPERPRIOR = Architecture("bmshj2018-hyperprior", {"N": 128, "M": 192}, 300)
SERIAL = Architecture("mbt2018", {"N": 128, "M": 192}, 100)
ELIC = Architecture("elic2022-official", {"N": 192, "M": 320, "groups": [16, 16, 32, 64, 192]}, 60)


@dataclass(frozen=True)
class Effort:
    """How much is measured.

    Attributes:
        photos: of the star and of the bytes.
        repeats: of each timed call.
        ways: of the star.
        fuzz_files: how many.
        fuzz_seconds: at most.
        threads: of everything but the coding of y.
    """

    photos: int
    repeats: int
    ways: Sequence[Way]
    fuzz_files: int
    fuzz_seconds: float
    threads: int


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure everything and write the record."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.coding", description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=Path, required=True, help="folder; at least 12 photos of one size")
    parser.add_argument(
        "--model", type=Path, required=True, help="trained model with tasks on latents and on pixels"
    )
    parser.add_argument(
        "--weights", type=Path, help="folder that keeps the briefly trained codecs for the next run"
    )
    parser.add_argument(
        "--minutes", type=float, default=20.0, help="at most, for mutated files (default: 20)"
    )
    parser.add_argument("--threads", type=int, default=2, help="of whole codecs and tasks (default: 2)")
    parser.add_argument(
        "--trial", action="store_true", help="a little of everything; prints figures, writes nothing"
    )
    options = parser.parse_args(arguments)
    if options.trial:
        effort = Effort(2, 1, ways(compiled=False), 400, 60.0, options.threads)
    else:
        effort = Effort(12, 7, ways(), 100_000, 60 * options.minutes, options.threads)
    rows = []
    for row in measure(options.photos, load(options.model), effort, weights=options.weights):
        print(json.dumps(row), flush=True)
        rows.append(row)
    if options.trial:
        print(json.dumps(figures(rows), indent=2))
        return
    path = write(
        NAME,
        commands=["python -m benchmarks.coding --photos DIR --model MODEL"],
        rows=rows,
        figures=figures,
        notes="DIR: the Kodak images; MODEL: the codec that ships. wrong_photos: photos with any wrong integer, over "
        "all codecs and ways of computing (rows of kind 'star'; ELIC and the serial context on crops of 256 pixels). "
        "Times: medians, CompressAI's model with the same weights and its own tables in turn; the coding of y on one "
        "thread, the rest on as many as the rows say, transforms accelerated, everything from picture to file and "
        "back. bf16 only where the processor has instructions, which the rows name; null elsewhere. "
        "bytes_vs_compressai_percent and over_ideal_percent (beyond 64 bits, MODEL) are the worst of all photos. "
        "Codecs other than MODEL were trained for some hundred batches on crops of the photos: enough for speed, not "
        "for rates. analyze_time_ratio: file to the task's result from latents, over decompress and the same kind of "
        "task on pixels, accelerated, which is the harder comparison. bif_overhead_bytes: a file less its string.",
    )
    print(path)


def measure(photos: Path, model: Pretrained, effort: Effort, *, weights: Path | None = None) -> Iterator[Row]:
    """All rows.

    Args:
        photos: folder.
        model: trained, see the head of the file.
        effort: how much.
        weights: folder of briefly trained codecs; made where they lack.

    Raises:
        ValueError: too few photos, or a model that lacks what is needed.
    """
    pictures = photos_of(photos, count=effort.photos)
    crops = photos_of(photos, count=effort.photos, crop=CROP)
    exported, analysis = for_compressai(model.codec), tasks_of_one_kind(model)
    num_threads = effort.threads
    hyperprior, serial, elic = (
        trained(architecture, photos, weights, num_threads=num_threads)
        for architecture in (HYPERPRIOR, SERIAL, ELIC)
    )
    codecs = {HYPERPRIOR.name: hyperprior, "mbt2018-mean from MODEL": exported}
    repeats, photo = effort.repeats, pictures[0]
    for name, codec in codecs.items():
        yield {"kind": "y", "codec": name, **coding_of_y(codec, photo, repeats=2 * repeats)}
        row = beside_compressai(codec, photo, repeats=repeats, num_threads=num_threads)
        yield {"kind": "whole", "codec": name, **row}
        for number, picture in enumerate(pictures):
            yield {"kind": "bytes", "codec": name, "photo": number, **bytes_of(codec, picture)}
    for number, picture in enumerate(pictures):
        yield {
            "kind": "ideal",
            "codec": "mbt2018-mean from MODEL",
            "photo": number,
            **over_ideal(exported, picture),
        }
        yield {"kind": "file", "codec": "MODEL", "photo": number, **overhead(model.codec, picture)}
    for name, codec in codecs.items():
        with threads(num_threads):
            for row in beside_eval_tool(codec, photos):
                yield {"kind": "tool", "codec": name, **row}
    for architecture, codec in ((SERIAL, serial), (ELIC, elic)):
        row = beside_compressai(codec, photo, repeats=max(1, repeats // 2), num_threads=num_threads)
        yield {"kind": "whole", "codec": architecture.name, **row}
    for accelerated in (False, True):
        row = analysing(
            model.codec, *analysis, photo, repeats=repeats, accelerated=accelerated, num_threads=num_threads
        )
        yield {"kind": "analyze", "accelerated": accelerated, **row}
    subjects = [
        (HYPERPRIOR.name, hyperprior, pictures),
        ("MODEL", model.codec, pictures),
        (ELIC.name, elic, crops),
        (SERIAL.name, serial, crops),
    ]
    for name, codec, shown in subjects:
        with threads(1):
            for row in star(lambda codec=codec: copy.deepcopy(codec), shown, among=effort.ways, name=name):
                yield {"kind": "star", "size": list(shown[0].shape[-2:]), **row}
    for row in fuzz.run(effort.fuzz_files, effort.fuzz_seconds):
        yield {"kind": "fuzz", **row}


def figures(rows: Rows) -> Figures:
    """The quoted figures."""

    def of(kind: str, **wanted: Any) -> list[Any]:
        return [
            r for r in rows if r["kind"] == kind and all(r[key] == value for key, value in wanted.items())
        ]

    (y,) = of("y", codec=HYPERPRIOR.name)
    (whole,) = of("whole", codec=HYPERPRIOR.name)
    (serial,) = of("whole", codec=SERIAL.name)
    (elic,) = of("whole", codec=ELIC.name)
    (analysis,) = of("analyze", accelerated=True)
    bytes_ = [r["bytes"] for r in (*of("bytes"), *of("whole"))]
    speedups = {
        f"{side}_speedup_{precision}": whole["speedup"].get(precision, {}).get(side)
        for precision in ("fp32", "bf16")
        for side in ("encode", "decode")
    }
    return {
        "wrong_photos": sum(row["wrong"] for row in of("star")),
        "coder_encode_speedup": y["speedup"]["encode"],
        "coder_decode_speedup": y["speedup"]["decode"],
        "bytes_vs_compressai_percent": max(100 * b["ours"] / b["compressai"] - 100 for b in bytes_),
        "over_ideal_percent": max(row["over_percent"] for row in of("ideal")),
        **speedups,
        "elic_time_ratio": 1 / elic["speedup"]["fp32"]["both"],
        "ar_decode_speedup": serial["speedup"]["fp32"]["decode"],
        **fuzz.figures(of("fuzz")),
        "analyze_time_ratio": analysis["ratio"],
        "bif_overhead_bytes": max(row["overhead"] for row in of("file")),
        **{
            f"max_{key}_difference_to_compressai": max(
                abs(r["ours"][key] - r["compressai"][key]) for r in of("tool")
            )
            for key in ("psnr", "estimated_bpp", "bpp")
        },
    }


# -- what is measured --------------------------------------------------------------------------------------------------


def trained(
    architecture: Architecture, photos: Path, weights: Path | None, *, num_threads: int
) -> CompressAICodec:
    """A codec with weights from a short training on crops of the photos, or from an earlier one.

    Args:
        architecture: which.
        photos: folder.
        weights: folder of ``<name>.safetensors``, read where it is there and written where not.
        num_threads: torch's.
    """
    codec = CompressAICodec(architecture.name, architecture.arguments).eval()
    path = None if weights is None else weights / f"{architecture.name}.safetensors"
    if path is not None and path.is_file():
        codec.load_state_dict(load_file(path))
        return codec
    with threads(num_threads):
        briefly_trained(codec, photos, steps=architecture.steps)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({key: value.contiguous() for key, value in codec.state_dict().items()}, path)
    return codec


def for_compressai(codec: Codec) -> CompressAICodec:
    """A trained mean-scale codec as CompressAI's ``mbt2018-mean``, coded by us.

    Raises:
        ValueError: CompressAI has no such architecture.
    """
    state = codec.foreign_weights().get(FILE)
    if state is None:
        raise ValueError(
            f"--model holds a {type(codec).__name__} unknown to CompressAI: give a mean-scale codec of four stages"
        )
    latent_channels, width = state["g_a.6.weight"].shape[:2]
    with tempfile.TemporaryDirectory() as folder:
        torch.save(state, Path(folder) / FILE)
        arguments = {"N": width, "M": latent_channels}
        return CompressAICodec("mbt2018-mean", arguments, weights=Path(folder) / FILE).eval()


def tasks_of_one_kind(model: Pretrained) -> tuple[nn.Module, nn.Module]:
    """Two trained tasks of a model with one target: one reads latents alone, one reads pixels alone.

    Raises:
        ValueError: it has no such pair.
    """
    for on_pixels in model.tasks.values():
        for on_latents in model.tasks.values():
            same = on_latents.target == on_pixels.target and type(on_latents) is type(on_pixels)
            if same and on_pixels.reads == ("pixels",) and set(on_latents.reads) <= set(model.codec.latents):
                return on_latents, on_pixels
    raise ValueError(
        f"--model {model.source} needs two tasks with one target, one on latents and one on pixels; it has "
        f"{ {name: list(task.reads) for name, task in model.tasks.items()} }"
    )


if __name__ == "__main__":
    try:
        main()
    except ValueError as error:
        print(f"benchmarks.coding: error: {error}", file=sys.stderr)
        sys.exit(2)
