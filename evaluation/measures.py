"""What one pass over a split measures: rates and picture quality per image, task metrics over the set."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.functional.image import multiscale_structural_similarity_index_measure

from losses.distortion import MS_SSIM_MIN_SIDE
from models.outputs import CodecOutput
from tasks.base import Task, TaskOutput


def to_8bit(x: Tensor) -> Tensor:
    """The picture as a file would hold it: clamped to [0, 1] and rounded to 255ths."""
    return (x.clamp(0, 1) * 255).round() / 255


def psnr(x_hat: Tensor, x: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each image in dB over all RGB values, (B,); 100 dB where they are equal.

    Args:
        x_hat: decoded pictures (B, 3, H, W) in [0, 1].
        x: originals, same shape.
    """
    mse = (x_hat.double() - x.double()).square().flatten(1).mean(1)
    return -10 * mse.clamp(min=1e-10).log10()


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
    """

    names = ("loss", "bpp", "bpp_real", "bpp_payload", "header_bytes", "psnr", "ms_ssim")

    def __init__(self, tasks: Mapping[str, Task], layers: Sequence[str] = ()):
        super().__init__()
        of_layers = [f"bpp_of_{layer}" for layer in layers]
        self.images = ImageMeans([*self.names, *of_layers, *(f"{name}/bpp" for name in tasks)])
        self.tasks = nn.ModuleDict({name: task.metrics() for name, task in tasks.items()})

    def add(self, name: str, values: Tensor) -> None:
        """Add one value an image, (B,), to one of ``names``, ``"bpp_of_<layer>"`` or ``"<task>/bpp"``."""
        self.images.update(name, values)

    def add_pictures(self, output: CodecOutput, x: Tensor) -> None:
        """Add PSNR and, where the image is large enough, MS-SSIM, both of the picture rounded to 8 bits."""
        if output.x_hat is None:
            return
        x_hat = to_8bit(output.x_hat.float())
        self.add("psnr", psnr(x_hat, x))
        if min(output.size) >= MS_SSIM_MIN_SIDE:
            values = multiscale_structural_similarity_index_measure(
                x_hat, x, data_range=1.0, reduction="none"
            )
            self.add("ms_ssim", values.reshape(-1))

    def add_tasks(self, outputs: Mapping[str, TaskOutput], targets: Mapping[str, Tensor]) -> None:
        """Add each task's predictions; ``targets`` are by task name."""
        for name, output in outputs.items():
            self.tasks[name].update(output.preds.float(), targets[name])

    def compute(self) -> dict[str, float]:
        """{"psnr": ..., "<task>/<metric>": ...}, without what nothing was added to. Synchronises over ranks."""
        values = self.images.compute()
        for name, metrics in self.tasks.items():
            values |= {f"{name}/{key}": float(value) for key, value in metrics.compute().items()}
        return values

    def reset(self) -> None:
        """Forget everything."""
        for metric in (self.images, *self.tasks.values()):
            metric.reset()
