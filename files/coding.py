"""Picture files to a codec's files, and back."""

import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch

from files import batch
from files.inputs import InputFile
from files.writing import targets
from models.bitstream import MAX_PIXELS, MAX_SIDE
from models.codecs.base import Codec
from models.codecs.target_rate import rate_for_bpp
from models.outputs import Bitstream
from models.pretrained.whole_file import write_whole
from models.tiling import tiled
from pictures.names import shown
from pictures.reading import WHITE, read_picture
from pictures.writing import to_png, to_uint8


@dataclass(frozen=True)
class Options:
    """What both directions share.

    Attributes:
        overwrite: replace outputs that exist; else their inputs are skipped.
        workers: see ``batch.run``.
        tile: side of the tiles that the transforms run in, in pixels; ``None`` for the whole picture at once.
        max_pixels: of a picture.
    """

    overwrite: bool = False
    workers: int | None = None
    tile: int | None = None
    max_pixels: int = MAX_PIXELS


def compress(
    codec: Codec,
    sources: Sequence[InputFile],
    folder: Path,
    *,
    rate: float | None = None,
    target_bpp: float | None = None,
    background: tuple[float, float, float] = WHITE,
    options: Options,
) -> batch.Count:
    """Write one file of the codec's own kind for each picture.

    Args:
        codec: in evaluation mode.
        sources: pictures.
        folder: output.
        rate: native rate of the codec; default: its own.
        target_bpp: instead of ``rate``: for each picture, the best rate whose file keeps this many bits per pixel.
        background: behind transparent pixels, RGB in [0, 1].
        options: see there.

    Raises:
        ValueError: a rate or a tile that this codec does not have, or no folder for the results.
    """
    _check_rate(codec, rate, target_bpp)
    paths, refused = targets(sources, folder, codec.file_suffix)
    device, width = _device(codec), _width(sources)

    @torch.inference_mode()
    def work(index: int) -> str:
        target = _free(paths[index], refused.get(index), options)
        start = time.perf_counter()
        x = read_picture(
            sources[index].path, background=background, max_pixels=options.max_pixels, max_side=MAX_SIDE
        ).to(device)
        if target_bpp is None:
            (bitstream,) = codec.compress(x, rate)
        else:
            _, (bitstream,) = rate_for_bpp(codec, x, target_bpp)
        data = codec.serialise(bitstream)
        write_whole(target, data)
        seconds = time.perf_counter() - start
        cells = [f"{shown(sources[index].name):<{width}}", *_measures(bitstream, data)]
        return "  ".join([*cells, f"{seconds:7.2f} s", f"-> {shown(target)}"])

    with _tiles(codec, options):
        _warm_up(codec)
        return batch.run([s.path for s in sources], work, workers=options.workers)


def decompress(
    codec: Codec,
    sources: Sequence[InputFile],
    folder: Path,
    *,
    upto: str | None = None,
    size: int | None = None,
    options: Options,
) -> batch.Count:
    """Write one PNG for each of the codec's files.

    Args:
        codec: in evaluation mode.
        sources: files of this codec.
        folder: output.
        upto: decode this layer and what it needs, and nothing else.
        size: pixels of the pictures' longer side; default: their own.
        options: see there.

    Raises:
        ValueError: a layer or a tile that this codec does not have, or no folder for the results.
    """
    names = [layer.name for layer in codec.layers]
    if upto is not None and upto not in names:
        raise ValueError(f"--upto {upto}: this codec has the layers {', '.join(names)}")
    if size is not None and size**2 > options.max_pixels:
        raise ValueError(f"--size {size}: such pictures may have more than --max-pixels {options.max_pixels}")
    (paths, refused), width = targets(sources, folder, ".png"), _width(sources)

    @torch.inference_mode()
    def work(index: int) -> str:
        target = _free(paths[index], refused.get(index), options)
        start = time.perf_counter()
        data = sources[index].path.read_bytes()
        bitstream = codec.parse(data, max_pixels=options.max_pixels)
        bitstream = bitstream if size is None else codec.resized(bitstream, size)
        output = codec.decompress([bitstream], upto, want=("pixels",))
        picture = output.x_hat if output.x_hat is not None else output.pixels_by_layer.get(upto or names[-1])
        if picture is None:
            raise ValueError(f"the layers {', '.join(output.bits)} alone give no picture")
        write_whole(target, to_png(to_uint8(picture[0])))
        seconds = time.perf_counter() - start
        cells = [f"{shown(sources[index].name):<{width}}", *_measures(bitstream, data), f"{seconds:7.2f} s"]
        missing = [name for name in names if name not in bitstream.strings]
        more = [f"(cut off: without {', '.join(missing)})"] if missing else []
        return "  ".join([*cells, f"-> {shown(target)}", *more])

    with _tiles(codec, options):
        _warm_up(codec)
        return batch.run([s.path for s in sources], work, workers=options.workers)


def _free(target: Path, refused: str | None, options: Options) -> Path:
    if refused is not None:
        raise ValueError(refused)
    if target.exists() and not options.overwrite:
        raise batch.Skipped(f"{shown(target)} exists (--overwrite replaces it)")
    return target


def _check_rate(codec: Codec, rate: float | None, target_bpp: float | None) -> None:
    if (rate is not None or target_bpp is not None) and not codec.rates:
        raise ValueError("this codec has one rate: leave --rate and --target-bpp out, or take another model")
    if rate is not None and not min(codec.rates) <= rate <= max(codec.rates):
        raise ValueError(
            f"--rate {rate:g} is outside this codec's {min(codec.rates):g}..{max(codec.rates):g}"
        )
    if target_bpp is not None and not target_bpp > 0:
        raise ValueError(f"--target-bpp {target_bpp:g} must be above zero")


def _tiles(codec: Codec, options: Options) -> AbstractContextManager[None]:
    return nullcontext() if options.tile is None else tiled(codec, options.tile)


def _warm_up(codec: Codec) -> None:
    """Build tables before threads begin, that would all build them at once."""
    if codec.file_suffix == ".bif":
        codec.model_id()


def _measures(bitstream: Bitstream, data: bytes) -> list[str]:
    height, width = bitstream.size
    return [
        f"{width:>5} x {height:<5}",
        f"{len(data):>9} bytes",
        f"{8 * len(data) / (height * width):8.4f} bpp",
    ]


def _width(sources: Sequence[InputFile]) -> int:
    return max(len(shown(source.name)) for source in sources)


def _device(codec: Codec) -> torch.device:
    return next((p.device for p in codec.parameters()), torch.device("cpu"))
