"""What each codec costs: operations, parameters, seconds, memory."""

from pathlib import Path
from typing import Any

from tqdm import tqdm

from evaluation.cache import Cache
from evaluation.complexity import complexity
from evaluation.environment import processor
from evaluation.evaluator import Evaluation, Images
from evaluation.memory import code_and_decode, peak_memory_mb
from evaluation.points import by_codec, identity


def costs(
    evaluation: Evaluation, images: Images, *, cache: Path, device: str = "cpu", progress: bool = True
) -> list[dict[str, Any]]:
    """One row for each codec, of its middle point: points of one codec differ in weights or quality alone.

    Args:
        evaluation: what was measured.
        images: that it measured; operations a pixel and peak memory are of the first one's size.
        cache: folder of what was measured before.
        device: where memory is measured.
        progress: show a bar.

    Returns:
        Rows of ``complexity`` in ``results.json``: ``codec``, ``size``, ``parameters`` and ``macs_per_pixel`` (see
        ``complexity``), ``encode_seconds`` and ``decode_seconds`` an image, ``peak_memory_mb``; ``None`` where it
        cannot be known.
    """
    places = {images.name(i): i for i in range(len(images))}
    x = images.read(places[evaluation.images[0]])["image"]
    store = Cache(cache, f"costs-{identity(processor(), device)}")
    groups = by_codec(evaluation.points)
    rows = []
    for name, positions in tqdm(groups.items(), desc="costs", unit="codec", disable=not progress):
        middle = positions[len(positions) // 2]
        point = evaluation.points[middle]
        heads = {f"{head.name} ({head.source})": head for head in point.heads}
        digest = identity(list(x.shape), {key: head.key for key, head in heads.items()})
        known = store.get(point.key, digest)
        if known is None:
            tasks = {
                key: head.task for key, head in heads.items() if head.reader is None or head.reads_pixels
            }
            size = tuple(x.shape[-2:])
            try:
                memory = peak_memory_mb(code_and_decode, point.codec, x, point.rate, device=device)
            except RuntimeError:
                memory = None
            measured = complexity(point.codec, tasks, size=size, rate=point.rate)
            known = store.add(point.key, digest, {"costs": {**measured, "peak_memory_mb": memory}})
        seconds = evaluation.seconds[middle]
        rows.append(
            {
                "codec": name,
                **known["costs"],
                "encode_seconds": seconds.get("encode"),
                "decode_seconds": seconds.get("decode"),
            }
        )
    return rows
