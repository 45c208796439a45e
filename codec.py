"""Use a trained codec, or a standard one, on files: compress, decompress, analyze, info.

python codec.py compress MODEL IMAGE... -o DIR       pictures to small files
python codec.py decompress MODEL FILE... -o DIR      and back, to PNG
python codec.py analyze MODEL FILE...                what the model's tasks read in them: JSON lines
python codec.py info FILE.bif...                     what a file says of itself
"""

import argparse
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from files.arguments import parser

if TYPE_CHECKING:
    from models.codecs.base import Codec
    from models.pretrained import Pretrained


def run(options: argparse.Namespace) -> int:
    """Do what the command line says.

    Returns:
        Exit status: 0, or 2 if a file failed.

    Raises:
        ValueError, ImportError, OSError: a mistake that concerns all files, in one line.
    """
    # Not before the command line is known to be right: `--help` does not wait for torch.
    from files import inputs

    for name in ("workers", "tile", "max_pixels"):
        if (value := getattr(options, name, None)) is not None and value < 1:
            raise ValueError(f"--{name.replace('_', '-')} {value} must be at least 1")
    if options.command == "info":
        return _info(options)

    from PIL import Image

    from files.coding import Options, compress, decompress
    from files.model import open_model
    from pictures.finding import SUFFIXES

    # Sizes are checked against --max-pixels instead.
    Image.MAX_IMAGE_PIXELS = None
    analyzes = options.command == "analyze"
    chosen = None if not analyzes or options.tasks is None else [t for t in options.tasks.split(",") if t]
    model = open_model(options.model, tasks=chosen if analyzes else ())
    if analyzes and not model.tasks:
        raise ValueError(
            f"{options.model} has no tasks to analyze files with: give a model that was trained with tasks"
        )
    suffixes = SUFFIXES if options.command == "compress" else {model.codec.file_suffix}
    apart = options.save_maps if analyzes else options.out
    found, mistakes = inputs.find(options.inputs, suffixes, apart=apart, tell=_note)
    _tell(mistakes)
    codec = _to_device(model, options.device).accelerate(bf16=options.bf16)
    if analyzes:
        # Here, for what tasks measure themselves with loads longer than torch.
        from files.analysing import analyse

        count = analyse(
            codec,
            model.tasks,
            found,
            maps=options.save_maps,
            workers=options.workers,
            max_pixels=options.max_pixels,
        )
    else:
        settings = Options(
            overwrite=options.overwrite,
            workers=options.workers,
            tile=options.tile,
            max_pixels=options.max_pixels,
        )
        if options.command == "compress":
            count = compress(
                codec,
                found,
                options.out,
                rate=options.rate,
                target_bpp=options.target_bpp,
                background=_colour(options.background),
                options=settings,
            )
        else:
            count = decompress(codec, found, options.out, upto=options.upto, options=settings)
    print(count, file=sys.stderr)
    return 2 if mistakes else count.status


def _info(options: argparse.Namespace) -> int:
    from files import inputs
    from files.batch import reason_of
    from files.describing import describe
    from pictures.names import shown

    layers, model_id = None, None
    if options.model is not None:
        from files.model import open_model

        codec = open_model(options.model).codec
        layers, model_id = codec.layers, codec.model_id()
    found, mistakes = inputs.find(options.inputs, {".bif"}, tell=_note)
    _tell(mistakes)
    status = 2 if mistakes else 0
    for source in found:
        try:
            text, sound = describe(source.path, layers, model_id)
            print(text)
        except (ValueError, OSError) as error:
            print(f"{shown(source.path)}: error: {reason_of(error, source.path)}", file=sys.stderr)
            sound = False
        status = status if sound else 2
    return status


def _note(line: str) -> None:
    print(line, file=sys.stderr)


def _tell(mistakes: Sequence[str]) -> None:
    for mistake in mistakes:
        print(f"error: {mistake}", file=sys.stderr)


def _to_device(model: "Pretrained", device: str) -> "Codec":
    import torch

    try:
        for task in model.tasks.values():
            task.to(device)
        return model.codec.to(torch.device(device))
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"--device {device}: {str(error).splitlines()[0]}") from error


def _colour(name: str) -> tuple[float, float, float]:
    from PIL import ImageColor

    try:
        red, green, blue = ImageColor.getrgb(name)[:3]
    except ValueError:
        raise ValueError(
            f"--background {name} is no colour: give a name such as white, or '#rrggbb'"
        ) from None
    return red / 255, green / 255, blue / 255


def main(arguments: Sequence[str]) -> int:
    """The command: mistakes become one line and status 2.

    Args:
        arguments: what follows ``codec.py``.
    """
    options = parser().parse_args(arguments)
    try:
        return run(options)
    except (ValueError, TypeError, ImportError, OSError) as error:
        if isinstance(error, BrokenPipeError):
            # Whoever read our output has gone, as `head` does; Python would complain once more at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 2
        print(f"codec.py {options.command}: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130


if __name__ == "__main__":
    # What the terminal has no letters for ends no batch.
    sys.stdout.reconfigure(errors="backslashreplace")
    sys.exit(main(sys.argv[1:]))
