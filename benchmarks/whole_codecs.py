"""From picture to file and back, transforms included: beside CompressAI, in bytes, and up to a task's result.

Parts of the record ``coding``; the entropy coder alone is measured in benchmarks/entropy_coder.py.
"""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.entropy_coder import Row, compressai_of, in_turn
from benchmarks.floor import floor_seconds
from launch.process import give_freed_memory_back, keep_freed_memory
from models.codecs.base import Codec
from models.codecs.compressai import CompressAICodec
from models.threads import threads
from models.transforms.fast import bf16_instructions


def beside_compressai(codec: CompressAICodec, picture: Tensor, *, repeats: int, num_threads: int) -> Row:
    """Picture to file and file to picture, accelerated, beside CompressAI's ``compress`` and ``decompress``.

    CompressAI has memory as glibc handles it by default, ours keeps what was freed.

    Args:
        codec: in evaluation mode.
        picture: (1, 3, H, W), sides multiples of 64.
        repeats: of each call.
        num_threads: torch's.

    Returns:
        ``threads``, ``bf16`` (the processor's instructions, or ``None``), median ``seconds`` of every call, ``speedup``
        {"fp32", "bf16" where there is: {"encode", "decode", "both"}}, ``share_of_floor`` (the same but "both"; see
        benchmarks/floor.py), ``bytes`` of all strings (compressai, ours), ``file_bytes`` by precision, and whether
        every precision reads every file to the same symbols (``same_symbols``).
    """
    theirs = compressai_of(codec)
    ours = {"fp32": copy.deepcopy(codec).accelerate()}
    if bf16_instructions() is not None:
        ours["bf16"] = copy.deepcopy(codec).accelerate(bf16=True)
    with threads(num_threads), torch.no_grad():
        result = theirs.compress(picture)
        (bitstream,) = codec.compress(picture)
        file = codec.serialise(bitstream)
        calls: dict[str, Callable[[], Any]] = {
            "compressai_encode": lambda: theirs.compress(picture),
            "compressai_decode": lambda: theirs.decompress(result["strings"], result["shape"]),
        }
        for precision, fast in ours.items():
            calls[f"{precision}_encode"] = lambda fast=fast: fast.serialise(fast.compress(picture)[0])
            calls[f"{precision}_decode"] = lambda fast=fast: fast.decompress([fast.parse(file)])
        memory = {
            n: give_freed_memory_back if n.startswith("compressai") else keep_freed_memory for n in calls
        }
        seconds = in_turn(calls, repeats, memory)
        y_hat = codec.decompress([bitstream]).latents["y_hat"]
        floors = {
            precision: {
                "encode": floor_seconds(fast.model.g_a, picture),
                "decode": floor_seconds(fast.model.g_s, y_hat),
            }
            for precision, fast in ours.items()
        }
        written = {precision: fast.serialise(fast.compress(picture)[0]) for precision, fast in ours.items()}
        read = {
            data: [fast.decompress([fast.parse(data)]).latents["y_hat"] for fast in (codec, *ours.values())]
            for data in (file, *written.values())
        }
    for side in ("compressai", *ours):
        seconds[f"{side}_both"] = seconds[f"{side}_encode"] + seconds[f"{side}_decode"]
    return {
        "threads": num_threads,
        "bf16": bf16_instructions(),
        "seconds": seconds,
        "speedup": {
            precision: {
                side: seconds[f"compressai_{side}"] / seconds[f"{precision}_{side}"]
                for side in ("encode", "decode", "both")
            }
            for precision in ours
        },
        "share_of_floor": {
            precision: {side: floor / seconds[f"{precision}_{side}"] for side, floor in of_sides.items()}
            for precision, of_sides in floors.items()
        },
        "bytes": {
            "compressai": sum(len(strings[0]) for strings in result["strings"]),
            "ours": len(bitstream.strings["base"]),
        },
        "file_bytes": {precision: len(data) for precision, data in written.items()},
        "same_symbols": all(torch.equal(found[0], other) for found in read.values() for other in found[1:]),
    }


def bytes_of(codec: CompressAICodec, picture: Tensor) -> Row:
    """Bytes of all strings: CompressAI's and ours."""
    with torch.no_grad():
        result = compressai_of(codec).compress(picture)
    (bitstream,) = codec.compress(picture)
    theirs = sum(len(strings[0]) for strings in result["strings"])
    return {"bytes": {"compressai": theirs, "ours": len(bitstream.strings["base"])}}


def overhead(codec: Codec, picture: Tensor) -> Row:
    """Bytes of a file, and those beyond its layers' strings."""
    (bitstream,) = codec.compress(picture)
    size = len(codec.serialise(bitstream))
    return {
        "layers": len(bitstream.strings),
        "file_bytes": size,
        "overhead": size - sum(map(len, bitstream.strings.values())),
    }


def analysing(
    codec: Codec,
    on_latents: nn.Module,
    on_pixels: nn.Module,
    picture: Tensor,
    *,
    repeats: int,
    accelerated: bool,
    num_threads: int,
) -> Row:
    """A task's result from a file: from latents alone, and from the decoded picture.

    Returns:
        ``tasks`` (labels and what they read), median ``seconds`` and their ``ratio``, latents over pixels.
    """
    codec = copy.deepcopy(codec)
    (bitstream,) = codec.compress(picture)
    file = codec.serialise(bitstream)
    if accelerated:
        codec.accelerate()

    def result(task: nn.Module, want: tuple[str, ...]) -> dict[str, Any]:
        output = codec.decompress([codec.parse(file)], want=want)
        return task.describe(task.decide(task.predict(output), output.size)[0])

    with threads(num_threads), torch.no_grad():
        seconds = in_turn(
            {
                "analyze": lambda: result(on_latents, ("latents",)),
                "decompress_and_analyze": lambda: result(on_pixels, ("pixels",)),
            },
            repeats,
        )
    return {
        "tasks": [{"target": task.target, "reads": list(task.reads)} for task in (on_latents, on_pixels)],
        "threads": num_threads,
        "seconds": seconds,
        "ratio": seconds["analyze"] / seconds["decompress_and_analyze"],
    }
