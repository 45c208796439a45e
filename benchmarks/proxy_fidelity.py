"""How faithful a proxy is to the codec that it imitates: its pictures and its bits, a quality and a kind of picture.

python -m benchmarks.proxy_fidelity DIR                  of the differentiable JPEG, on the photos in DIR
python -m benchmarks.proxy_fidelity DIR --model RUN      of the proxy of a trained codec behind a filter
python -m benchmarks.proxy_fidelity DIR --fit            fits the bits of the differentiable JPEG to the photos in DIR

PSNR is to the real codec's picture, mean over images; the error of bits is the mean of |proxy / real - 1|; the rank
correlation is Spearman's over images of one quality. Kinds of picture: as they are; altered at random as filters alter
them (models/codecs/proxies/altered.py); and, of a trained codec, by its own filter.
"""

import argparse
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor

from evaluation.measures import psnr
from models.codecs.proxies import jpeg_bits
from models.codecs.proxies.altered import altered
from models.codecs.proxies.jpeg import DifferentiableJPEG
from models.codecs.proxies.proxy import Proxy
from models.codecs.proxies.real import Coding
from models.codecs.standard.pillow import JPEG
from models.entropy.noise import sample_keys
from models.pretrained import load
from models.pretrained.whole_file import write_whole
from pictures.finding import below
from pictures.reading import read_picture

FITTED = (1, 3, 5, 8, 12, 18, 27, 40, 60, 80, 90, 95)
SIDES = (64, 128, 224, 320)
"""Of the pictures that bits are fitted to: headers and blocks are told apart by pictures of several sizes."""


def measure(proxy: Proxy, pictures: Sequence[Tensor], rate: float) -> dict[str, float]:
    """Fidelity at one rate.

    Args:
        proxy: in evaluation mode.
        pictures: (1, 3, H, W) each.
        rate: of the codec.

    Returns:
        ``psnr`` in dB, ``bits_error_percent``, ``bits_bias_percent`` (mean of proxy / real - 1), ``rank_correlation``,
        and ``bpp`` of the real codec.
    """
    codings = [Coding(proxy.codec, x, rate) for x in pictures]
    quality, bits, real_bits, pixels = [], [], [], 0
    with torch.no_grad():
        for x, coding in zip(pictures, codings, strict=True):
            answer, real = proxy.imitate(x, rate, None), coding.result()
            quality.append(float(psnr(answer.x_hat, real.x_hat)))
            bits.append(float(answer.bits["base"]))
            real_bits.append(float(real.bits))
            pixels += x.shape[-2] * x.shape[-1]
    ratio = np.array(bits) / np.array(real_bits) - 1
    return {
        "psnr": float(np.mean(quality)),
        "bits_error_percent": 100 * float(np.abs(ratio).mean()),
        "bits_bias_percent": 100 * float(ratio.mean()),
        "rank_correlation": float(spearmanr(bits, real_bits).statistic),
        "bpp": sum(real_bits) / pixels,
    }


def rows(
    proxy: Proxy, pictures: Sequence[Tensor], more: Mapping[str, Callable[[Tensor, float], Tensor]]
) -> Iterator[dict[str, Any]]:
    """Fidelity of every kind of picture at every rate.

    Args:
        proxy: in evaluation mode.
        pictures: (1, 3, H, W) each.
        more: {kind: (picture, rate) -> filtered picture}, besides plain and altered ones.
    """
    changed = [altered(x, _altering(i)) for i, x in enumerate(pictures)]
    for rate in proxy.rates:
        kinds = {"plain": pictures, "altered": changed}
        kinds |= {name: [made(x, rate) for x in pictures] for name, made in more.items()}
        for kind, chosen in kinds.items():
            yield {"rate": rate, "pictures": kind, **measure(proxy, chosen, rate)}


def fit(pictures: Sequence[Tensor]) -> dict[str, Any]:
    """Bits a feature at every quality, from plain and altered pictures, half of each."""
    proxy = DifferentiableJPEG(JPEG())
    views = []
    for i, x in enumerate(pictures):
        side = SIDES[i % len(SIDES)]
        view = x[..., : side + i % 7, : side + i % 5]
        views.append(altered(view, _altering(i)) if i % 2 else view)
    weights = []
    for quality in FITTED:
        codings = [Coding(proxy.codec, x, quality) for x in views]
        with torch.no_grad():
            features = [jpeg_bits.features(*proxy.quantised(x, quality))[0] for x in views]
        found = jpeg_bits.fitted(features, [float(coding.result().bits) for coding in codings])
        weights.append([round(value, 4) for value in found.tolist()])
    return {"qualities": [float(q) for q in FITTED], "bits_a_feature": weights}


def _altering(index: int) -> Tensor:
    return sample_keys(0, torch.tensor([index]))


def main() -> None:
    """Print a line a row."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("root", type=Path, metavar="DIR")
    parser.add_argument("--model", type=Path, help="a run folder or exported model")
    parser.add_argument("--fit", action="store_true", help=f"writes {jpeg_bits.FILE.name}")
    parser.add_argument("--images", type=int, default=100, metavar="N", help="evenly spaced (default: 100)")
    parser.add_argument("--rates", type=float, nargs="+", help="instead of the codec's own")
    options = parser.parse_args()
    paths = [options.root / name for name in below(options.root).names]
    chosen = [paths[round(i)] for i in np.linspace(0, len(paths) - 1, min(options.images, len(paths)))]
    pictures = [read_picture(path) for path in chosen]
    if options.fit:
        found = fit(pictures)
        lines = ",\n    ".join(json.dumps(row) for row in found["bits_a_feature"])
        text = f'{{\n  "qualities": {found["qualities"]},\n  "bits_a_feature": [\n    {lines}\n  ]\n}}\n'
        write_whole(jpeg_bits.FILE, text)
        print(text)
        return
    more: dict[str, Callable[[Tensor, float], Tensor]] = {}
    if options.model is None:
        proxy: Proxy = DifferentiableJPEG(JPEG(), options.rates or (5, 8, 12, 18, 27, 40, 60, 95))
    else:
        codec = load(options.model).codec
        proxy, more = codec.proxy, {"filtered": codec.filtered}
    print("rate  pictures    bpp   PSNR  error of bits    bias   rank")
    for row in rows(proxy.eval(), pictures, more):
        print(
            f"{row['rate']:4g}  {row['pictures']:<8} {row['bpp']:6.3f} {row['psnr']:6.2f} "
            f"{row['bits_error_percent']:12.2f} % {row['bits_bias_percent']:+6.2f} % {row['rank_correlation']:6.4f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
