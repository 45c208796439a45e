"""What one pass over a split measures: rates and picture quality per image, task metrics over the set."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.functional.image import multiscale_structural_similarity_index_measure

from evaluation.gmsd import MIN_SIDE as GMSD_MIN_SIDE
from evaluation.gmsd import gmsd
from evaluation.set_metrics import single_numbers
from losses.distortion import MS_SSIM_MIN_SIDE
from models.outputs import CodecOutput
from tasks.base import Task


def levels(x: Tensor) -> Tensor:
    """The picture as a file would hold it, in 255ths: clamped to [0, 1], times 255, rounded; float."""
    return x.float().mul(255).round_().clamp_(0, 255)


def psnr(x_hat: Tensor, x: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each image in dB over all RGB values, (B,); 100 dB where they are equal.

    Args:
        x_hat: decoded pictures (B, 3, H, W) in [0, 1].
        x: originals, same shape.
    """
    return _decibels(x_hat - x)


ROW = 256
"""Values summed in float32, exactly so for the squares of 8-bit differences: 256 * 255^2 is below 2^24."""


def _decibels(errors: Tensor, peak: float = 1.0) -> Tensor:
    # In the order of memory, whichever that is, and without a copy in float64: pictures are large.
    interleaved = errors.is_contiguous(memory_format=torch.channels_last)
    values = (errors.permute(0, 2, 3, 1) if interleaved else errors).flatten(1).float()
    whole = values.shape[1] // ROW * ROW
    rows, rest = values[:, :whole].unflatten(1, (-1, ROW)), values[:, whole:]
    sums = torch.linalg.vecdot(rows, rows).sum(1, dtype=torch.float64) + rest.double().square().sum(1)
    mse = sums / values.shape[1] / peak**2
    return -10 * mse.clamp(min=1e-10).log10()


PICTURE_METRICS = ("psnr", "ms_ssim", "gmsd")
"""Measures of the decoded picture; MS-SSIM takes longer than many a codec."""


def picture_quality(
    output: CodecOutput, x: Tensor, names: Collection[str] = PICTURE_METRICS
) -> dict[str, Tensor]:
    """PSNR (dB), MS-SSIM ([0, 1]) and GMSD ([0, 0.5], 0 is best) of each image, (B,), of the picture in 8 bits.

    Args:
        output: a decode; without a picture there is nothing to measure.
        x: originals (B, 3, H, W) in [0, 1].
        names: which of ``PICTURE_METRICS``; MS-SSIM is left out where the image is too small for its five scales, GMSD
            below 4 pixels a side.
    """
    if output.x_hat is None:
        return {}
    decoded = levels(output.x_hat)
    values = {}
    if "ms_ssim" in names and min(output.size) >= MS_SSIM_MIN_SIDE:
        values["ms_ssim"] = multiscale_structural_similarity_index_measure(
            decoded, 255 * x, data_range=255.0, reduction="none"
        ).reshape(-1)
    if "gmsd" in names and min(output.size) >= GMSD_MIN_SIDE:
        values["gmsd"] = gmsd(decoded, 255 * x)
    if "psnr" in names:
        # In place: at the speed of a JPEG, each new picture in memory counts.
        values["psnr"] = _decibels(decoded.sub_(x, alpha=255), peak=255.0)
    return values


class ImageMeans(Metric):
    """Means over images of any of ``names``, correct over ranks whoever saw which image."""

    full_state_update = False

    def __init__(self, names: Sequence[str]):
        super().__init__()
        self.names = list(names)
        self.add_state("total", torch.zeros(len(names), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros(len(names), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, name: str, values: Tensor) -> None:
        """Add one value an image, (B,)."""
        position = self.names.index(name)
        self.total[position] += values.sum().to(self.total)
        self.count[position] += len(values)

    def compute(self) -> dict[str, float]:
        """{name: mean} of the names that got values."""
        means = zip(self.names, self.total.tolist(), self.count.tolist(), strict=True)
        return {name: total / count for name, total, count in means if count}


class Measures(nn.Module):
    """Running measures of one split.

    Image measures are computed for each image and then averaged; task metrics are computed over the set.

    Args:
        tasks: {name: Task}, those that are judged.
        layers: names of the codec's layers.
        others: names of whatever else is measured of each image (losses, terms of an objective).
    """

    names = ("loss", "bpp", "bpp_real", "bpp_payload", "header_bytes", "psnr", "ms_ssim", "gmsd")

    def __init__(self, tasks: Mapping[str, Task], layers: Sequence[str] = (), others: Sequence[str] = ()):
        super().__init__()
        of_layers = [f"bpp_of_{layer}" for layer in layers]
        names = [*self.names, *of_layers, *(f"{name}/bpp" for name in tasks), *others]
        self.images = ImageMeans(list(dict.fromkeys(names)))
        self.tasks = nn.ModuleDict({name: task.metrics() for name, task in tasks.items()})

    def add(self, name: str, values: Tensor) -> None:
        """Add one value an image, (B,), to ``names``, ``"bpp_of_<layer>"``, ``"<task>/bpp"`` or ``others``."""
        self.images.update(name, values)

    def add_pictures(self, output: CodecOutput, x: Tensor) -> None:
        """Add what ``picture_quality`` gives."""
        for name, values in picture_quality(output, x).items():
            self.add(name, values)

    def add_task(self, name: str, decided: Any, target: Any) -> None:
        """Add a task's predictions.

        Args:
            name: of the task.
            decided: what its ``decide`` gives.
            target: what its ``target_of`` gives.
        """
        self.tasks[name].update(decided, target)

    def compute(self) -> dict[str, float]:
        """{"psnr": ..., "<task>/<metric>": ...}, without what nothing was added to. Synchronises over ranks."""
        values = self.images.compute()
        for name, metrics in self.tasks.items():
            values |= {f"{name}/{key}": value for key, value in single_numbers(metrics.compute()).items()}
        return values

    def reset(self) -> None:
        """Forget everything."""
        for metric in (self.images, *self.tasks.values()):
            metric.reset()
