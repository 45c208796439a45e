"""Entropy coding beside CompressAI's: the measurements of the record ``coding`` that concern bits becoming bytes.

Every function measures both sides in turn, in one process and on the same weights, and returns medians in seconds, so
that ratios hold on a busy machine too. ``python -m benchmarks.entropy_coder PICTURE`` prints them all.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from compressai.models import MeanScaleHyperprior, ScaleHyperprior
from PIL import Image
from torch import Tensor, nn

from models.codecs.compressai import CompressAICodec
from models.entropy.stream import Reader, Writer
from models.threads import threads

Row = dict[str, Any]


def picture_of(path: str | Path) -> Tensor:
    """(1, 3, H, W) in [0, 1]."""
    pixels = np.asarray(Image.open(path).convert("RGB"))
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 255


def in_turn(
    calls: dict[str, Callable[[], Any]], repeats: int, before: Mapping[str, Callable[[], Any]] | None = None
) -> dict[str, float]:
    """Median seconds of each call, one of each in every round; the first round only warms up.

    Args:
        calls: by name.
        repeats: rounds that count.
        before: {name: what that call finds set}; each call is then made twice in a round, and the second is timed.
    """
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(repeats + 1):
        for name, call in calls.items():
            if before is not None:
                before[name]()
                call()
            start = time.perf_counter()
            call()
            if turn:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def briefly_trained(
    codec: CompressAICodec, folder: str | Path, *, steps: int = 300, lmbda: float = 0.0067
) -> None:
    """Train a codec in place on crops of a folder's pictures, so that its statistics are a codec's.

    Enough to measure speed on; figures on bits want weights that were trained for long.

    Args:
        codec: to train; left in evaluation mode.
        folder: of pictures, searched recursively.
        steps: batches of 4 crops of 128 pixels.
        lmbda: weight of 255^2 MSE against bits per pixel.
    """
    torch.manual_seed(0)
    paths = sorted(p for p in Path(folder).rglob("*") if p.suffix.lower() in (".jpg", ".png"))
    rng = np.random.default_rng(0)
    optimiser = torch.optim.Adam(codec.parameters(), lr=5e-4)
    codec.train()
    for _ in range(steps):
        crops = []
        for index in rng.integers(0, len(paths), 4):
            picture = picture_of(paths[index])[0]
            top, left = (rng.integers(0, side - 127) for side in picture.shape[1:])
            crops.append(picture[:, top : top + 128, left : left + 128])
        x = torch.stack(crops)
        output = codec(x)
        rate = output.bits["base"].mean() / 128**2
        loss = rate + lmbda * 255**2 * (output.x_hat - x).square().mean() + codec.auxiliary_loss() * 1e-3
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(codec.parameters(), 1.0)
        optimiser.step()
    codec.eval()


def coding_of_y(codec: CompressAICodec, picture: Tensor, *, repeats: int = 15) -> Row:
    """Scale indexes and coder, y alone, one core: from what h_s tells to bytes, and back to y_hat.

    CompressAI's side is ``build_indexes`` and ``compress`` / ``decompress`` of its GaussianConditional, with its own
    tables; ours is what the codec does between the same two points.

    Args:
        codec: bmshj2018-hyperprior or mbt2018-mean, in evaluation mode.
        picture: (1, 3, H, W), sides multiples of 64.
        repeats: of each measurement.

    Returns:
        ``seconds``, ``speedup`` (encode, decode), ``bytes`` of y and of whole strings (compressai, ours), ``symbols``.
    """
    own, walk = codec.model, codec.walk
    theirs = compressai_of(codec)
    with threads(1), torch.no_grad():
        (bitstream,) = codec.compress(picture)
        y = own.g_a(picture)
        z = own.h_a(y if isinstance(own, MeanScaleHyperprior) else y.abs())
        z_strings = theirs.entropy_bottleneck.compress(z)
        z_hat = theirs.entropy_bottleneck.decompress(z_strings, z.shape[-2:])
        parameters = own.h_s(z_hat)
        exact = walk.exact(own.h_s, z_hat)
        if isinstance(own, MeanScaleHyperprior):
            (their_scale, their_mean), (scale, mean) = parameters.chunk(2, 1), exact.chunk(2, 1)
        else:
            their_scale, their_mean, scale, mean = parameters, None, exact, torch.zeros_like(exact)
        gaussian, coarse = own.gaussian_conditional, theirs.gaussian_conditional

        def their_encode() -> list[bytes]:
            return coarse.compress(y, coarse.build_indexes(their_scale), their_mean)

        def their_decode() -> Tensor:
            return coarse.decompress(their_strings, coarse.build_indexes(their_scale), means=their_mean)

        def encode() -> list[bytes]:
            stream = Writer(1)
            walk.gaussian(gaussian, stream, y, scale, mean)
            return stream.finish()

        def decode() -> Tensor:
            stream = Reader(strings)
            y_hat = walk.gaussian(gaussian, stream, None, scale, mean)
            stream.finish()
            return y_hat

        their_strings, strings = their_encode(), encode()
        # The means of the two sides differ by 1e-5: a latent that lies that close to a border may round either way.
        assert ((decode() - their_decode()).abs() > 1e-3).float().mean() < 1e-3
        calls = {
            "compressai_encode": their_encode,
            "encode": encode,
            "compressai_decode": their_decode,
            "decode": decode,
        }
        seconds = in_turn(calls, repeats)
    return {
        "symbols": y.numel(),
        "seconds": seconds,
        "speedup": {
            "encode": seconds["compressai_encode"] / seconds["encode"],
            "decode": seconds["compressai_decode"] / seconds["decode"],
        },
        "bytes": {
            "compressai_y": len(their_strings[0]),
            "y": len(strings[0]),
            "compressai": len(their_strings[0]) + len(z_strings[0]),
            "ours": len(bitstream.strings["base"]),
        },
    }


def over_ideal(codec: CompressAICodec, picture: Tensor) -> Row:
    """Real bits of a whole string beside the code length of its symbols under exact scales and the exact prior of z.

    Args:
        codec: bmshj2018-hyperprior or mbt2018-mean, in evaluation mode.
        picture: (1, 3, H, W), sides multiples of 64.

    Returns:
        ``bits``, ``ideal_bits`` and ``over_percent`` = 100 (bits - 64) / ideal_bits - 100.
    """
    model: ScaleHyperprior = codec.model
    with torch.no_grad():
        (bitstream,) = codec.compress(picture)
        y = model.g_a(picture)
        z = model.h_a(y if isinstance(model, MeanScaleHyperprior) else y.abs())
        prior = model.entropy_bottleneck
        medians = prior.quantiles[:, 0, 1][None, :, None, None]
        z_hat = (z - medians).round() + medians
        lower, upper = (
            prior._logits_cumulative(
                z_hat.transpose(0, 1).flatten(1)[:, None] + half, stop_gradient=True
            ).double()
            for half in (-0.5, 0.5)
        )
        # On the side of each symbol where both cumulatives are small, so that their difference keeps its digits.
        side = -(lower + upper).sign()
        ideal = -((side * upper).sigmoid() - (side * lower).sigmoid()).abs().clamp(min=1e-12).log2().sum()
        parameters = codec.walk.exact(model.h_s, z_hat)
        two = isinstance(model, MeanScaleHyperprior)
        scale, mean = parameters.chunk(2, 1) if two else (parameters, torch.zeros_like(parameters))
        distance = (y - mean.float()).round().double().abs()
        root = scale.clamp(min=0.11) * 2**0.5
        mass = (torch.erfc((distance - 0.5) / root) - torch.erfc((distance + 0.5) / root)) / 2
        ideal = float(ideal - mass.clamp(min=1e-12).log2().sum())
    bits = 8 * len(bitstream.strings["base"])
    return {"bits": bits, "ideal_bits": ideal, "over_percent": 100 * (bits - 64) / ideal - 100}


def compressai_of(codec: CompressAICodec) -> nn.Module:
    """CompressAI's own model with the same weights, its own tables, and its own coding."""
    model = type(codec.model)(**arguments_of(codec)).eval()
    for mine, other in zip(model.parameters(), codec.model.parameters(), strict=True):
        mine.data.copy_(other)
    model.update()
    return model


def arguments_of(codec: CompressAICodec) -> dict[str, Any]:
    """What CompressAI's class of model was constructed with."""
    return {name: getattr(codec.model, name) for name in ("N", "M", "groups") if hasattr(codec.model, name)}


FIRST_CALL = """
import time, torch
from models.entropy import tables
from models.entropy.factorized import Factorized
from models.entropy.scale_index import ScaleIndex

codec = Factorized(2).eval()
tables.build(codec)
start = time.perf_counter()
ScaleIndex()(torch.ones(4, dtype=torch.float64), torch.tensor([1.0, 2.0]))
codec.decompress(codec.compress(torch.zeros(1, 2, 4, 4)), (4, 4))
print(time.perf_counter() - start)
"""


def compile_seconds() -> Row:
    """Seconds of the first coding in a fresh process: with an empty cache of compiled code, and with a filled one."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "NUMBA_CACHE_DIR": folder}
        command = [sys.executable, "-c", FIRST_CALL]
        runs = [
            subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
            for _ in range(2)
        ]
    return {"first_seconds": float(runs[0].stdout), "cached_seconds": float(runs[1].stdout)}


def main(picture_path: str, folder: str | None = None) -> None:
    """Print all measurements on one picture; ``folder`` holds pictures to train the hyperprior on for a while."""
    picture = picture_of(picture_path)
    print("compile", compile_seconds())
    hyperprior = CompressAICodec("bmshj2018-hyperprior", {"N": 128, "M": 192}).eval()
    if folder:
        briefly_trained(hyperprior, folder)
    print("y", coding_of_y(hyperprior, picture))
    print("over ideal", over_ideal(hyperprior, picture))


if __name__ == "__main__":
    main(*sys.argv[1:])
