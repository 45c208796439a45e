"""Pictures resized as they are read, so that large ones are kept and cut at the size they are used at."""

from torch import Tensor

from datamodules.source import Source, read_checked
from datamodules.transforms import View


class Resized:
    """A Source whose pictures have a given shorter side; labels move along.

    Args:
        source: that is read.
        size: the shorter side, in pixels.
    """

    def __init__(self, source: Source, size: int):
        self.source, self.size = source, size
        self.labels = source.labels

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.source)

    def name(self, index: int) -> str:
        """As in the source."""
        return self.source.name(index)

    def read(self, index: int) -> dict[str, Tensor]:
        """The sample, resized.

        Raises:
            UnreadableSample, InvalidLabel: as ``read_checked``, which sees the sample as it is stored.
        """
        sample = read_checked(self.source, index)
        height, width = sample["image"].shape[1:]
        scale = self.size / min(height, width)
        size = max(1, round(scale * height)), max(1, round(scale * width))
        return View(0, 0, height, width, size)(sample, self.labels)
