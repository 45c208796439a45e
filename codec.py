"""Use a trained codec, or a standard one, on files: compress, decompress, analyze, info.

python codec.py compress MODEL IMAGE... -o DIR       pictures to small files
python codec.py decompress MODEL FILE... -o DIR      and back, to PNG
python codec.py analyze MODEL FILE...                what the model's tasks read in them: JSON lines
python codec.py info FILE.bif...                     what a file says of itself
"""

import argparse
import io
import os
import sys
import warnings
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from files.arguments import parser
from launch.process import prepare

if TYPE_CHECKING:
    from pathlib import Path

    from files.batch import Count
    from files.coding import Options
    from files.inputs import InputFile
    from models.codecs.base import Codec
    from models.pretrained import Pretrained


def run(options: argparse.Namespace) -> int:
    """Do what the command line says.

    Returns:
        Exit status: 0, or 2 if a file failed.

    Raises:
        ValueError, ImportError, OSError: a mistake that concerns all files, in one line.
    """
    for name in ("workers", "tile", "max_pixels", "size"):
        if (value := getattr(options, name, None)) is not None and value < 1:
            raise ValueError(f"--{name.replace('_', '-')} {value} must be at least 1")
    return COMMANDS[options.command](options)


# Nothing is imported before the command line is known to be right, and then no more than its command needs.


def _compress(options: argparse.Namespace) -> int:
    from files.coding import compress
    from pictures.finding import SUFFIXES

    tasks: Collection[str] | None = ()
    if options.refine is not None:
        tasks = None if options.teacher is None else [options.teacher]
    # An encoder may ask a network that nobody else needs.
    model = _model(options, tasks=tasks, frozen=True)
    codec = _codec(model, options)
    found, status = _find(options.inputs, SUFFIXES, apart=options.out)
    with _refining(codec, model, options, len(found)) as used:
        count = compress(
            used,
            found,
            options.out,
            rate=options.rate,
            target_bpp=options.target_bpp,
            background=_colour(options.background),
            options=_settings(options),
        )
    return _done(count, status)


def _decompress(options: argparse.Namespace) -> int:
    from files.coding import decompress

    codec = _codec(_model(options), options)
    found, status = _find(options.inputs, {codec.file_suffix}, apart=options.out)
    settings = _settings(options)
    count = decompress(codec, found, options.out, upto=options.upto, size=options.size, options=settings)
    return _done(count, status)


def _analyze(options: argparse.Namespace) -> int:
    from files.analysing import analyse

    chosen = None if options.tasks is None else [t for t in options.tasks.split(",") if t]
    model = _model(options, tasks=chosen, frozen=True)
    if not model.tasks:
        raise ValueError(
            f"{options.model} has no tasks to analyze files with: give a model that was trained with tasks"
        )
    codec = _codec(model, options)
    found, status = _find(options.inputs, {codec.file_suffix}, apart=options.save_maps)
    count = analyse(
        codec,
        model.tasks,
        found,
        maps=options.save_maps,
        workers=options.workers,
        max_pixels=options.max_pixels,
    )
    return _done(count, status)


def _info(options: argparse.Namespace) -> int:
    from files.batch import reason_of
    from files.describing import describe
    from pictures.names import shown

    layers, model_id = None, None
    if options.model is not None:
        from files.model import open_model

        codec = open_model(options.model).codec
        layers, model_id = codec.layers, codec.model_id()
    found, status = _find(options.inputs, {".bif"})
    for source in found:
        try:
            text, sound = describe(source.path, layers, model_id)
            print(text)
        except (ValueError, OSError) as error:
            print(f"{shown(source.path)}: error: {reason_of(error, source.path)}", file=sys.stderr)
            sound = False
        status = status if sound else 2
    return status


COMMANDS = {"compress": _compress, "decompress": _decompress, "analyze": _analyze, "info": _info}


def _model(
    options: argparse.Namespace, tasks: Collection[str] | None = (), *, frozen: bool = False
) -> "Pretrained":
    from PIL import Image

    from files.model import open_model

    # Sizes are checked against --max-pixels instead.
    Image.MAX_IMAGE_PIXELS = None
    return open_model(options.model, tasks=tasks, frozen=frozen)


def _codec(model: "Pretrained", options: argparse.Namespace) -> "Codec":
    """The model's codec where it shall run, with its tasks."""
    import torch

    try:
        for task in model.tasks.values():
            task.to(options.device)
        codec = model.codec.to(torch.device(options.device))
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"--device {options.device}: {str(error).splitlines()[0]}") from error
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        codec.accelerate(bf16=options.bf16)
    for warning in told:
        print(f"codec.py {options.command}: {warning.message}", file=sys.stderr)
    return codec


@contextmanager
def _refining(
    codec: "Codec", model: "Pretrained", options: argparse.Namespace, count: int
) -> "Iterator[Codec]":
    """The codec, or the same with --refine: then with a bar of all steps, and what they cost in the end."""
    if options.refine is None:
        if options.teacher is not None:
            raise ValueError("--teacher says what --refine works for: give --refine N too")
        yield codec
        return
    from tqdm import tqdm

    from models.codecs.refined import refined
    from models.counted import counted

    names = sorted(model.tasks)
    name = names[0] if options.teacher is None and len(names) == 1 else options.teacher
    if name not in names:
        raise ValueError(
            f"--refine needs a task of the model as its --teacher; it has {', '.join(names) or 'none'}"
        )
    with tqdm(total=count * options.refine, unit="step", disable=None, leave=False) as bar:
        changed = refined(codec, options.refine, model.tasks[name].compared_with, on_step=bar.update)
        yield changed
    if changed.seconds:
        mean = sum(changed.seconds) / len(changed.seconds)
        _note(f"refined for {name} by {counted(options.refine, 'step')}: {mean:.2f} s a picture")


def _find(
    arguments: Sequence[str], suffixes: Collection[str], apart: "Path | None" = None
) -> "tuple[list[InputFile], int]":
    """The files that a command line names, and the exit status so far: 2 where part of it names none."""
    from files import inputs

    found, mistakes = inputs.find(arguments, suffixes, apart=apart, tell=_note)
    for mistake in mistakes:
        _note(f"error: {mistake}")
    return found, 2 if mistakes else 0


def _settings(options: argparse.Namespace) -> "Options":
    from files.coding import Options

    return Options(
        overwrite=options.overwrite,
        workers=options.workers,
        tile=options.tile,
        max_pixels=options.max_pixels,
    )


def _done(count: "Count", status: int) -> int:
    _note(str(count))
    return status or count.status


def _note(line: str) -> None:
    print(line, file=sys.stderr)


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
    """The command: errors become one line and status 2.

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
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    prepare()
    sys.exit(main(sys.argv[1:]))
