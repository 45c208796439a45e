"""Views of a sample: a window, resized and perhaps flipped, in which all labels move along with the image.

Legend: H, W image as read; h, w size of the view. Points lie at pixel centres (the first pixel is 0), boxes
have edges (the first pixel spans 0..1), so that the same view moves them by slightly different formulas.
torchvision moves keypoints by the edge rule when resizing and by the centre rule when flipping, and some
versions clamp them to the crop; hence points and boxes are moved here, and torchvision moves pixels.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import torch
import torchvision.transforms.v2.functional as F
from torch import Tensor
from torchvision.transforms import InterpolationMode

from datamodules.samples import Label

MIN_VISIBLE = 0.25
"""Share of a box's area that must be inside the view: boxes with less are removed, others are cut."""


@dataclass(frozen=True)
class View:
    """The window [top, top + height) x [left, left + width) of an image, resized to ``size`` and perhaps
    flipped.

    Args:
        top: first row of the window, in pixels.
        left: first column.
        height: of the window.
        width: of the window.
        size: (h, w) of the result.
        flip: mirror left and right after that.
    """

    top: int
    left: int
    height: int
    width: int
    size: tuple[int, int]
    flip: bool = False

    def image(self, x: Tensor) -> Tensor:
        """Pixels (C, H, W) -> (C, h, w): bilinear with antialiasing."""
        window = (self.top, self.left, self.height, self.width)
        x = F.resized_crop(x, *window, list(self.size), InterpolationMode.BILINEAR, antialias=True)
        return F.horizontal_flip(x) if self.flip else x

    def mask(self, x: Tensor) -> Tensor:
        """Classes int64 (H, W) -> (h, w), by the nearest pixel; a window never leaves the image."""
        window = (self.top, self.left, self.height, self.width)
        # uint8 holds every class and IGNORE, and resizes without a detour over float.
        x = F.resized_crop(x[None].to(torch.uint8), *window, list(self.size), InterpolationMode.NEAREST_EXACT)
        return (F.horizontal_flip(x) if self.flip else x)[0].long()

    def points(self, x: Tensor) -> Tensor:
        """Points (P, 2) x, y -> (P, 2); those that leave the view keep their coordinates, outside of it."""
        scale, origin = self._scale_and_origin(1)
        x = (x + 0.5 - origin) * scale - 0.5
        return torch.stack((self.size[1] - 1 - x[:, 0], x[:, 1]), dim=1) if self.flip else x

    def boxes(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Boxes (N, 4) x0, y0, x1, y1 -> those still visible (M, 4), cut at the border, and which they are,
        bool (N,).

        A row of NaN, a missing label, stays.
        """
        scale, origin = self._scale_and_origin(2)
        x = (x - origin) * scale
        h, w = self.size
        if self.flip:
            x = torch.stack((w - x[:, 2], x[:, 1], w - x[:, 0], x[:, 3]), dim=1)
        cut = torch.minimum(x.clamp(min=0), torch.tensor([w, h, w, h]))
        visible = (cut[:, 2:] - cut[:, :2]).clamp(min=0).prod(1)
        keep = (visible >= MIN_VISIBLE * (x[:, 2:] - x[:, :2]).prod(1)) | x.isnan().any(1)
        return cut[keep], keep

    def _scale_and_origin(self, num_points: int) -> tuple[Tensor, Tensor]:
        """For rows of ``num_points`` pairs x, y."""
        h, w = self.size
        scale = torch.tensor([w / self.width, h / self.height] * num_points)
        return scale, torch.tensor([float(self.left), float(self.top)] * num_points)

    def __call__(self, sample: dict[str, Tensor], labels: dict[str, Label]) -> dict[str, Tensor]:
        """Moves the image and all labels; a flip also exchanges what ``Label.mirror`` pairs."""
        moved = sample | {"image": self.image(sample["image"])}
        for key, label in labels.items():
            value = sample[key]
            if label.kind == "mask":
                moved[key] = self._mirror_values(self.mask(value), label)
            elif label.kind == "landmarks":
                moved[key] = self._mirror_order(self.points(value), label)
            elif label.kind == "attributes":
                moved[key] = self._mirror_order(value, label)
            elif label.kind == "class":
                moved[key] = self._mirror_values(value, label)
            elif label.kind == "boxes":
                moved[key], keep = self.boxes(value)
                moved["box_class"] = self._mirror_values(sample["box_class"][keep], label)
        return moved

    def _mirror_order(self, x: Tensor, label: Label) -> Tensor:
        """Exchanges the entries (rows) of paired names."""
        return x[_partners(label)] if self.flip and label.mirror else x

    def _mirror_values(self, x: Tensor, label: Label) -> Tensor:
        """Exchanges paired class indices; MISSING and IGNORE are no indices and stay."""
        if not (self.flip and label.mirror):
            return x
        known = (x >= 0) & (x < len(label.names))
        return torch.where(known, _partners(label)[torch.where(known, x, 0)], x)


@cache
def _partners(label: Label) -> Tensor:
    """For each name the index it becomes in a mirror, int64 (len(names),)."""
    partners = torch.arange(len(label.names))
    for left, right in label.mirror:
        partners[left], partners[right] = right, left
    return partners


class RandomView:
    """What training sees: a random window, flip and colours, drawn from the global torch generator.

    Args: see ``ImageDataModule``.

    Raises:
        ValueError: an argument out of its range, or ``scale`` without ``crop``.
    """

    def __init__(
        self,
        *,
        crop: int | None = None,
        flip: float = 0.5,
        scale: Sequence[float] | None = None,
        colour_jitter: float = 0.0,
    ):
        if crop is not None and crop < 1:
            raise ValueError(f"crop is {crop}, must be at least 1 pixel, or null for whole images")
        if not 0 <= flip <= 1:
            raise ValueError(f"flip is {flip}, a probability: must be within 0..1")
        if not 0 <= colour_jitter <= 1:
            raise ValueError(f"colour_jitter is {colour_jitter}, must be within 0..1")
        if scale is not None:
            if crop is None:
                raise ValueError(
                    f"scale is {tuple(scale)} but crop is not set: say how large the window becomes"
                )
            if len(scale) != 2 or not 0 < scale[0] <= scale[1] <= 1:
                raise ValueError(f"scale is {tuple(scale)}, must be (low, high) with 0 < low <= high <= 1")
        self.crop = crop
        self.flip = flip
        self.scale = None if scale is None else (float(scale[0]), float(scale[1]))
        self.colour_jitter = colour_jitter

    def __call__(self, sample: dict[str, Tensor], labels: dict[str, Label]) -> dict[str, Tensor]:
        """A random view of the sample."""
        sample = self._window(*sample["image"].shape[1:])(sample, labels)
        if self.colour_jitter:
            sample["image"] = self._recoloured(sample["image"])
        return sample

    def _window(self, height: int, width: int) -> View:
        flip = bool(torch.rand(()) < self.flip)
        if self.crop is None:
            return View(0, 0, height, width, (height, width), flip)
        if self.scale is None:
            h = w = min(self.crop, height, width)
        else:
            area = height * width * _uniform(*self.scale)
            ratio = math.exp(_uniform(math.log(3 / 4), math.log(4 / 3)))
            w, h = math.sqrt(area * ratio), math.sqrt(area / ratio)
            # A long image cannot hold a large window: the window shrinks and keeps its aspect ratio.
            shrink = min(1.0, width / w, height / h)
            w, h = max(1, math.floor(w * shrink)), max(1, math.floor(h * shrink))
        top = int(torch.randint(height - h + 1, ()))
        left = int(torch.randint(width - w + 1, ()))
        return View(top, left, h, w, (self.crop, self.crop), flip)

    def _recoloured(self, image: Tensor) -> Tensor:
        for adjust in (F.adjust_brightness, F.adjust_contrast, F.adjust_saturation):
            image = adjust(image, _uniform(1 - self.colour_jitter, 1 + self.colour_jitter))
        return image


class CentreView:
    """What evaluation sees: the sample untouched, or a centred square of it, resized to ``size``.

    Args:
        size: side of the result in pixels; ``None``: that of ``crop``, or untouched.
        crop: side of the square in pixels, or, up to 1, as a share of the largest that there is; ``None``: the largest.

    Attributes:
        size: side of all results, or ``None`` where they have none in common.

    Raises:
        ValueError: ``size`` below 1, ``crop`` not positive, or a share alone.
    """

    def __init__(self, *, size: int | None = None, crop: float | None = None):
        if size is not None and size < 1:
            raise ValueError(f"eval_size is {size}, must be at least 1 pixel, or null for whole images")
        if crop is not None and (crop <= 0 or (crop > 1 and crop != int(crop))):
            raise ValueError(f"eval_crop is {crop}, must be whole pixels, or a share of the picture up to 1")
        if size is None and crop is not None and crop <= 1:
            raise ValueError(f"eval_crop is {crop}, a share: say in eval_size how many pixels it becomes")
        self.size = int(crop) if size is None and crop is not None else size
        self.crop = 1.0 if crop is None else crop

    def __call__(self, sample: dict[str, Tensor], labels: dict[str, Label]) -> dict[str, Tensor]:
        """The view of the sample."""
        if self.size is None:
            return sample
        height, width = sample["image"].shape[1:]
        side = min(height, width)
        # A picture that is smaller than the crop is enlarged.
        side = max(1, round(self.crop * side)) if self.crop <= 1 else min(int(self.crop), side)
        view = View((height - side) // 2, (width - side) // 2, side, side, (self.size, self.size))
        return view(sample, labels)


def _uniform(low: float, high: float) -> float:
    return low + (high - low) * float(torch.rand(()))
