"""Pictures of the same images by every codec at about the same bits, for people to flip between."""

import math
from contextlib import suppress

import numpy as np
import torch
from tqdm import tqdm

from evaluation.devices import moved
from evaluation.evaluator import Batch, Evaluation, Images
from evaluation.failures import FAILURES
from evaluation.measures import picture_quality
from evaluation.points import Point, by_codec
from evaluation.report.bits_map import bits_per_pixel
from evaluation.report.gallery import GalleryImage, View
from models.codecs.target_rate import rate_for_bpp
from pictures.writing import to_uint8

FILTERED = "extras.filtered"
"""What a codec gives that filters pictures before it codes them."""
AMPLIFIED = 8
"""So often is a filter's change shown."""


def matched_pictures(
    evaluation: Evaluation, images: Images, count: int, *, progress: bool = True
) -> list[GalleryImage]:
    """A few images, evenly spaced, decoded by every codec.

    The middle point of the first learned codec sets the bits of each image, or without one that of the first codec.
    Standard codecs search the quality that comes closest from below, for others the nearest point is shown.
    Uncompressed ones are left out: they are the original.

    Args:
        evaluation: what was measured.
        images: that it measured.
        count: how many images to show.
        progress: show a bar.
    """
    groups = by_codec(evaluation.points)
    groups = {n: g for n, g in groups.items() if not evaluation.points[g[0]].codec.uncompressed}
    if not groups or not count:
        return []
    places = {images.name(i): i for i in range(len(images))}
    total = len(evaluation.images)
    chosen = sorted(set(np.linspace(0, total - 1, min(count, total)).round().astype(int).tolist()))
    gallery = []
    for number in tqdm(chosen, desc="gallery", unit="image", disable=not progress):
        name = evaluation.images[number]
        batch = images.read(places[name])
        bpps = {p: evaluation.entries[p][number]["values"]["bpp_real"] for g in groups.values() for p in g}
        # Standard codecs can follow; a codec of few points cannot.
        learned = [g for g in groups.values() if evaluation.points[g[0]].codec.learned]
        reference = sorted((learned or list(groups.values()))[0], key=bpps.__getitem__)
        target = bpps[reference[len(reference) // 2]]
        views = []
        for group in groups.values():
            nearest = min(group, key=lambda p: abs(math.log(bpps[p] / target)))
            views.append(_view(evaluation.points[nearest], batch, target))
        gallery.append(GalleryImage(name, to_uint8(batch["image"][0]), views))
    return gallery


@torch.no_grad()
def _view(point: Point, batch: Batch, target: float) -> View:
    codec = point.codec
    parts = (codec, *(head.task for head in point.heads))
    parameter = next((p for part in parts for p in part.parameters()), batch["image"])
    batch = moved(batch, parameter.device)
    x = batch["image"]
    rate, bitstream = point.rate, None
    if codec.exact and codec.rates:
        # Where not even its lowest quality is as small, the nearest point stands.
        with suppress(*FAILURES):
            rate, (bitstream,) = rate_for_bpp(codec, x, target)
    bitstream = bitstream or codec.compress(x, rate)[0]
    data = codec.serialise(bitstream)
    output = moved(codec.decompress([codec.parse(data)]), x.device)
    overlays = {}
    for head in point.heads:
        decided = moved(head.task.decide(head.predict(output), output.size)[0], "cpu")
        of_image = moved(head.task.target_of(batch)[0], "cpu")
        drawn = head.task.illustrate(to_uint8(output.x_hat[0]), decided, of_image)
        overlays[f"{head.name} ({head.source})"] = drawn
    if FILTERED in codec.gives:
        change = codec(x, rate).extras["filtered"] - x
        overlays["the filter's change"] = (
            to_uint8((0.5 + AMPLIFIED * change)[0]),
            f"{AMPLIFIED} times, on grey",
        )
    return View(
        codec=point.name,
        rate=rate if rate is not None else point.shown_rate,
        bpp=8 * len(data) / (x.shape[-2] * x.shape[-1]),
        psnr=float(picture_quality(output, batch["image"])["psnr"]),
        picture=to_uint8(output.x_hat[0]),
        overlays=overlays,
        bits_map=None if codec.exact else bits_per_pixel(codec(x, point.rate), codec.stride),
    )
