"""What a model's tasks read out of its files, decoding no more than they read."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from files import batch
from files.inputs import InputFile
from files.writing import refused
from models.bitstream import MAX_PIXELS, BitstreamError
from models.codecs.base import Codec
from models.outputs import Bitstream, CodecOutput
from models.pretrained.whole_file import write_whole
from pictures.names import shown
from pictures.writing import to_palette_png
from tasks.base import Task


def analyse(
    codec: Codec,
    tasks: Mapping[str, Task],
    sources: Sequence[InputFile],
    *,
    maps: Path | None = None,
    workers: int | None = None,
    max_pixels: int = MAX_PIXELS,
) -> batch.Count:
    """Print a line of JSON for each file: what each task says, or the error.

    Args:
        codec: in evaluation mode.
        tasks: {name: task}, at least one.
        sources: files of this codec.
        maps: folder for the maps of tasks that have one: ``<file>.<task>.png``, pixel values are class indices.
        workers: see ``batch.run``.
        max_pixels: of a picture.
    """

    # Of one name, their maps would have one name too.
    collisions = {} if maps is None else refused(sources, [maps / source.name for source in sources])

    @torch.inference_mode()
    def work(index: int) -> str:
        source = sources[index]
        if index in collisions:
            raise ValueError(collisions[index])
        data = source.path.read_bytes()
        bitstream = codec.parse(data, max_pixels=max_pixels)
        output = decode_for(codec, tasks.values(), bitstream)
        found: dict[str, Any] = {}
        for name, task in tasks.items():
            decided = task.decide(task.predict(output), output.size)[0]
            found[name] = task.describe(decided)
            if maps is not None and (drawn := task.label_map(decided)) is not None:
                path = maps / source.name.with_name(f"{source.name.name}.{name}.png")
                write_whole(path, to_palette_png(*drawn))
                found[name]["map"] = shown(path)
        height, width = bitstream.size
        read = {name: len(bitstream.strings[name]) for name in output.bits}
        about = {"file": shown(source.path), "size": {"width": width, "height": height}}
        return json.dumps({**about, "bytes": len(data), "bytes_read": read, "tasks": found})

    def failed(index: int, reason: str) -> str:
        return json.dumps({"file": shown(sources[index].path), "error": reason})

    codec.model_id()
    return batch.run([s.path for s in sources], work, workers=workers, failed=failed)


def decode_for(codec: Codec, tasks: Sequence[Task], bitstream: Bitstream) -> CodecOutput:
    """Decode once, and only the layers, latents or pixels that some of the tasks read.

    Raises:
        BitstreamError: the file is cut off before a layer that they need.
    """
    names = codec.layers_of({name for task in tasks for name in task.reads})
    if missing := [name for name in names if name not in bitstream.strings]:
        raise BitstreamError(
            f"the file is cut off: it lacks the layers {', '.join(missing)}, which the tasks read"
        )
    want = frozenset().union(*(task.want for task in tasks))
    strings = {name: bitstream.strings[name] for name in names}
    return codec.decompress([Bitstream(strings, bitstream.size, bitstream.rate)], want=want)
