"""The command line of ``codec.py``. Imports nothing heavy: ``--help`` does not wait for torch."""

import argparse
from pathlib import Path
from typing import NoReturn

MAX_PIXELS = 1 << 27
"""Default of ``--max-pixels``, the container's own."""

ABOUT = """Use a trained codec, or a standard one, on files.

  python codec.py compress MODEL IMAGE... -o DIR       pictures to small files
  python codec.py decompress MODEL FILE... -o DIR      and back, to PNG
  python codec.py analyze MODEL FILE...                what the model's tasks read in them: JSON lines
  python codec.py info FILE.bif...                     what a file says of itself

MODEL is an exported model folder, a run folder, a checkpoint, a model on the Hugging Face hub (owner/name), or the name
of a standard codec (jpeg, webp, avif, hevc, vvc, ...), which writes plain files of its own kind.
IMAGE and FILE are files, folders (searched at any depth) or quoted patterns such as 'photos/*.jpg'.
Exit status: 0 if all went well, 2 if anything failed; what could be done has been done then."""

COMPRESS = """Write one file for each picture: PNG, JPEG, WebP, AVIF, HEIC, TIFF, BMP, GIF... of any size and kind.

a.png becomes DIR/a.bif; a.png and a.jpg together become DIR/a.png.bif and DIR/a.jpg.bif; what lies in a folder keeps
its place below DIR. Results that exist are left alone unless --overwrite is given."""

DECOMPRESS = """Write one 8-bit PNG for each file that `compress` wrote with the same model.

A damaged file gives an error and no picture; one of several layers that was cut off behind a whole layer gives the
picture of the layers that are there."""

ANALYZE = """Print a line of JSON for each file: what the model's tasks read in it.

Only the layers and latents that the tasks read are decoded; tasks on latents need no picture."""

INFO = """Print model id, size, rate, and each layer with its bytes and whether it is unharmed. Needs no model."""


class Parser(argparse.ArgumentParser):
    """Mistakes in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message} (--help explains)\n")


def parser() -> Parser:
    """Build the parser of the whole command line."""
    top = Parser(prog="codec.py", description=ABOUT, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True)

    compress = _command(commands, "compress", "pictures to small files", COMPRESS)
    _inputs(compress, "IMAGE", "picture files, folders or patterns")
    rates = compress.add_mutually_exclusive_group()
    rates.add_argument("--rate", type=float, help="the codec's own measure of quality, e.g. 1..95 for jpeg")
    rates.add_argument(
        "--target-bpp", type=float, metavar="BPP", help="best quality within so many bits a pixel"
    )
    compress.add_argument(
        "--background",
        default="white",
        metavar="COLOUR",
        help="behind transparent pixels: a name or '#rrggbb' (default: white)",
    )
    compress.add_argument(
        "--refine",
        type=int,
        metavar="N",
        help="N gradient steps on each picture before it is coded, for a task of the model (10: seconds a picture)",
    )
    compress.add_argument(
        "--teacher", metavar="TASK", help="the task that --refine works for (default: the model's only one)"
    )
    _coding(compress)

    decompress = _command(commands, "decompress", "files back to PNG", DECOMPRESS)
    _inputs(decompress, "FILE", "compressed files, folders or patterns")
    decompress.add_argument(
        "--upto", metavar="LAYER", help="decode this layer and what it needs, and nothing else"
    )
    decompress.add_argument(
        "--size",
        type=int,
        metavar="PX",
        help="the longer side of the pictures, of models that generate them (default: their own)",
    )
    _coding(decompress)

    analyze = _command(commands, "analyze", "task results from files, as JSON lines", ANALYZE)
    _inputs(analyze, "FILE", "compressed files, folders or patterns")
    analyze.add_argument("--tasks", metavar="A,B", help="only these tasks (default: all that the model has)")
    analyze.add_argument(
        "--save-maps",
        type=Path,
        metavar="DIR",
        help="write the maps of segmentation tasks as PNG, pixel values being class indices",
    )
    _running(analyze)

    info = _command(commands, "info", "what a .bif file says of itself", INFO, model=False)
    _inputs(info, "FILE", ".bif files, folders or patterns")
    info.add_argument(
        "--model", metavar="MODEL", help="names the layers, and says whether the file is its own"
    )
    return top


def _command(
    commands: argparse._SubParsersAction, name: str, short: str, text: str, *, model: bool = True
) -> argparse.ArgumentParser:
    formatter = argparse.RawDescriptionHelpFormatter
    command = commands.add_parser(name, help=short, description=text, formatter_class=formatter)
    if model:
        command.add_argument(
            "model",
            metavar="MODEL",
            help="a model's folder or checkpoint (@NAME: those adapters), a hub id, or a standard codec's name",
        )
    return command


def _inputs(command: argparse.ArgumentParser, name: str, text: str) -> None:
    command.add_argument("inputs", nargs="+", metavar=name, help=text)


def _coding(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "-o", "--out", type=Path, required=True, metavar="DIR", help="folder for the results"
    )
    command.add_argument(
        "--overwrite", action="store_true", help="replace results that exist (default: skip their inputs)"
    )
    command.add_argument(
        "--tile",
        type=int,
        metavar="PIXELS",
        help="run the networks in tiles of this side, e.g. 1024, for pictures beyond the memory; same files",
    )
    _running(command)


def _running(command: argparse.ArgumentParser) -> None:
    command.add_argument("--workers", type=int, metavar="N", help="files at a time (default: one a core)")
    command.add_argument(
        "--device", default="cpu", help="where the networks run, e.g. cuda (default: cpu); same files"
    )
    command.add_argument(
        "--bf16",
        action="store_true",
        help="compute pictures in bfloat16: up to twice as fast, about one grey level off; the files stay readable",
    )
    command.add_argument(
        "--max-pixels",
        type=int,
        default=MAX_PIXELS,
        metavar="N",
        help=f"refuse larger pictures (default: {MAX_PIXELS})",
    )
