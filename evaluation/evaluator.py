"""Evaluator: codecs x heads x images, in real bytes: every image is coded to a file and decoded from it alone."""

import hashlib
import os
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from evaluation import real_bytes
from evaluation.cache import Cache, Entry
from evaluation.devices import moved
from evaluation.environment import processor
from evaluation.failures import FAILURES, Failures, reason_of
from evaluation.measures import PICTURE_METRICS, levels, picture_quality
from evaluation.points import Head, Point, identity
from evaluation.set_metrics import states_of, to_json
from models.counted import counted
from models.threads import threads

Batch = Mapping[str, Any]


class Images(Protocol):
    """What is coded: any number of images, read one by one."""

    def __len__(self) -> int:
        """Return the number of images."""

    def name(self, index: int) -> str:
        """Return what image ``index`` is called; no two are called alike."""

    def read(self, index: int) -> Batch:
        """A batch of that image alone: ``image`` float (1, 3, H, W) in [0, 1] and labels.

        One that cannot be read holds ``skipped``, a list with the reason, and no ``image``.
        """


@dataclass
class Evaluation:
    """What was measured.

    Attributes:
        images: names of the images that count, the same for every point.
        excluded: {image: reason} of those that could not be read, or that a codec failed on: no point is judged on
            them (evaluation/failures.py).
        points: those of which every image was measured.
        entries: for each of ``points``, one entry an image, in the order of ``images``.
        seconds: for each of ``points``, ``{"encode": ..., "decode": ...}`` an image, or nothing where not timed.
        skipped: [(point, reason)]: what could not be measured, or only on too few images.
    """

    images: list[str]
    excluded: dict[str, str]
    points: list[Point] = field(default_factory=list)
    entries: list[list[Entry]] = field(default_factory=list)
    seconds: list[dict[str, float]] = field(default_factory=list)
    skipped: list[tuple[Point, str]] = field(default_factory=list)


def evaluate(
    points: Sequence[Point],
    images: Images,
    *,
    cache: Path,
    metrics: Collection[str] = PICTURE_METRICS,
    workers: int | None = None,
    timed_images: int = 3,
    device: str | torch.device = "cpu",
    progress: bool = True,
) -> Evaluation:
    """Measure every point on every image.

    Args:
        points: codecs at rates, with their heads.
        images: at full size.
        cache: folder of what was measured before.
        metrics: of the picture, out of ``PICTURE_METRICS``.
        workers: images in work at once, each on one thread. Default: the processor's cores, 1 on a GPU.
        timed_images: how many images, evenly spaced, are coded again one after the other for the seconds.
        device: where learned codecs and heads run.
        progress: show bars.

    Raises:
        ValueError: none of the images can be read.
        KeyboardInterrupt: what was measured so far is in the cache.
    """
    workers = workers or (1 if torch.device(device).type != "cpu" else os.cpu_count() or 1)
    for point in points:
        point.codec.to(device)
        for head in point.heads:
            head.task.to(device)
            head.reader.to(device) if head.reader is not None else None
    work = _Work(points, images, cache, metrics, torch.device(device))
    with threads(1 if workers > 1 else torch.get_num_threads()):
        work.run(workers, progress)
    if not work.digests:
        first = next(iter(work.excluded.values()))
        raise ValueError(f"none of {counted(len(images), 'image')} can be read, first: {first}")
    seconds = work.time(timed_images, progress)
    names = [images.name(i) for i in sorted(work.digests)]
    result = Evaluation(names, {images.name(i): work.excluded[i] for i in sorted(work.excluded)})
    for position, point in enumerate(points):
        if position in work.failed:
            result.skipped.append((point, work.failed[position]))
            continue
        result.points.append(point)
        result.entries.append([work.caches[position].entries[name] for name in names])
        result.seconds.append(seconds.get(position, {}))
    return result


@dataclass
class _Image:
    """One image, read once for all points, on the device."""

    index: int
    name: str
    digest: str
    batch: Batch
    x: Tensor
    interleaved: Tensor
    """The same pixels in the layout of what standard codecs read: to change it costs as much as a JPEG."""
    targets: dict[Head, Any] = field(default_factory=dict)
    """What heads are judged by, once for all points: some ask a network for it."""


class _Work:
    def __init__(
        self,
        points: Sequence[Point],
        images: Images,
        cache: Path,
        metrics: Collection[str],
        device: torch.device,
    ):
        self.points, self.images, self.device = points, images, device
        self.metrics = tuple(metrics)
        self.folder = cache
        self.caches = [Cache(cache, point.key) for point in points]
        self.digests: dict[int, str] = {}
        self.excluded: dict[int, str] = {}
        self.failed: dict[int, str] = {}
        self.headers: dict[tuple[str, tuple[int, int]], int | None] = {}
        self.failures = Failures(points, len(images))
        self.fresh = {head: head.task.metrics() for point in points for head in point.heads}
        self.stop = threading.Event()

    def run(self, workers: int, progress: bool) -> None:
        """Every point on every image, but for what is known already."""
        total = len(self.images) * len(self.points)
        with (
            tqdm(total=total, desc="coding", unit="file", disable=not progress) as bar,
            ThreadPoolExecutor(workers) as pool,
        ):
            running: set[Future] = set()
            try:
                for job in self._jobs(workers, bar):
                    running.add(pool.submit(job))
                    if len(running) > 2 * workers:
                        done, running = wait(running, return_when=FIRST_COMPLETED)
                        for future in done:
                            future.result()
                for future in running:
                    future.result()
            except BaseException:
                self.stop.set()
                raise
        names = {index: self.images.name(index) for index in self.digests}
        self.failed, images = self.failures.settle(names)
        self.excluded |= images
        self.digests = {index: d for index, d in self.digests.items() if index not in images}

    def _jobs(self, workers: int, bar: tqdm) -> Iterator[Callable[[], None]]:
        everything = range(len(self.points))
        for index in range(len(self.images)):
            if len(self.images) >= 4 * workers:
                yield partial(self._whole_image, index, bar)
            elif image := self._read(index, bar):
                # With few images a single slow point would leave cores idle at the end: a job is one point.
                yield from (partial(self._points, image, [position], bar) for position in everything)

    def _whole_image(self, index: int, bar: tqdm) -> None:
        if not self.stop.is_set() and (image := self._read(index, bar)):
            self._points(image, range(len(self.points)), bar)

    def _read(self, index: int, bar: tqdm) -> _Image | None:
        batch = self.images.read(index)
        if "image" not in batch:
            self.excluded[index] = "; ".join(batch["skipped"])
            bar.update(len(self.points))
            return None
        self.digests[index] = _digest(batch)
        # Whole, for targets may be computed from the image.
        batch = moved(batch, self.device)
        x = batch["image"]
        interleaved = x.contiguous(memory_format=torch.channels_last)
        return _Image(index, self.images.name(index), self.digests[index], batch, x, interleaved)

    def _points(self, image: _Image, positions: Iterable[int], bar: tqdm) -> None:
        for position in positions:
            if self.stop.is_set():
                return
            if self._missing(position, image):
                bar.set_postfix_str(self.points[position].title, refresh=False)
                try:
                    content = self._measure(self.points[position], image)
                except FAILURES as error:
                    self.failures.add(position, image.index, error)
                else:
                    self.caches[position].add(image.name, image.digest, content)
            bar.update()

    def _missing(self, position: int, image: _Image) -> bool:
        if self.failures.out(position):
            return False
        entry = self.caches[position].get(image.name, image.digest)
        return entry is None or not (
            set(self.metrics) <= entry["values"].keys()
            and {head.key for head in self.points[position].heads} <= entry["heads"].keys()
        )

    @torch.no_grad()
    def _measure(self, point: Point, image: _Image) -> dict[str, Any]:
        want = frozenset({"pixels"}).union(*(head.want for head in point.heads))
        x = image.interleaved if point.codec.exact else image.x
        coded = real_bytes.code(point.codec, x, point.rate, want=want)
        output = coded.output
        values = {k: float(v) for k, v in coded.rates(self._header(point, output.size)).items()}
        values |= dict.fromkeys(self.metrics)  # None: the image is too small for it
        values |= {k: float(v) for k, v in picture_quality(output, x, self.metrics).items()}
        pixels = output.size[0] * output.size[1]
        heads = {}
        for head in point.heads:
            if not head.task.has_target(image.batch):
                raise ValueError(f"nothing to judge {head.name!r} by: {head.task.misfit({})}")
            decided = moved(head.task.decide(head.predict(output), output.size), "cpu")
            if head not in image.targets:
                image.targets[head] = moved(head.task.target_of(image.batch), "cpu")
            heads[head.key] = {
                "bpp": float(coded.bits_for(head.paid_layers(point.codec))) / pixels,
                "states": to_json(states_of(self.fresh[head], decided, image.targets[head])),
            }
        return {"values": values, "heads": heads}

    def _header(self, point: Point, size: tuple[int, int]) -> int | None:
        key = point.key, tuple(size)
        if key not in self.headers:
            self.headers[key] = real_bytes.grey_bytes(point.codec, size, point.rate)
        return self.headers[key]

    def time(self, count: int, progress: bool) -> dict[int, dict[str, float]]:
        """{position: mean seconds per image to encode and to decode}, one image after the other on all threads."""
        order = sorted(self.digests)
        chosen = sorted(
            {order[i] for i in np.linspace(0, len(order) - 1, min(count, len(order))).astype(int)}
        )
        if not chosen:
            return {}
        machine = identity(os.uname().machine, processor(), torch.get_num_threads(), str(self.device))
        store = Cache(self.folder, f"seconds-{machine}")
        digest = identity([self.digests[i] for i in chosen])
        seconds: dict[int, dict[str, float]] = {}
        positions = [p for p in range(len(self.points)) if p not in self.failed]
        todo = [p for p in positions if store.get(self.points[p].key, digest) is None]
        xs = [self.images.read(i)["image"].to(self.device) for i in chosen] if todo else []
        for position in tqdm(todo, desc="timing", unit="point", disable=not progress or not todo):
            point = self.points[position]
            try:
                if point.codec.learned:
                    _seconds(point, xs[0])  # the first call of a network plans its memory
                pairs = [_seconds(point, x) for x in xs]
            except FAILURES as error:
                self.failed[position] = f"timing: {reason_of(error)}"
                continue
            encode, decode = (sum(times) / len(pairs) for times in zip(*pairs, strict=True))
            store.add(point.key, digest, {"encode": encode, "decode": decode})
        for position in positions:
            if entry := store.get(self.points[position].key, digest):
                seconds[position] = {"encode": entry["encode"], "decode": entry["decode"]}
        return seconds


def _seconds(point: Point, x: Tensor) -> tuple[float, float]:
    synchronise: Callable[[], None] = torch.cuda.synchronize if x.is_cuda else lambda: None
    start = time.perf_counter()
    data = point.codec.serialise(point.codec.compress(x, point.rate)[0])
    synchronise()
    middle = time.perf_counter()
    point.codec.decompress([point.codec.parse(data)], want=("pixels",))
    synchronise()
    return middle - start, time.perf_counter() - middle


def _digest(batch: Batch) -> str:
    """Hash an image with its labels, so that a changed one is measured again."""
    digest = hashlib.blake2b(digest_size=16)
    for key, value in sorted(batch.items()):
        if key == "draw":
            continue  # where it stands in the set, which is nothing of the image's own
        for part in value if isinstance(value, list) else [value]:
            if isinstance(part, Tensor):
                plain = levels(part).byte() if key == "image" else part
                digest.update(f"{key} {tuple(plain.shape)}".encode())
                digest.update(np.ascontiguousarray(plain.numpy()).tobytes())
    return digest.hexdigest()
