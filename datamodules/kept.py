"""Small data sets are read once: what was decoded stays in memory."""

from torch import Tensor

from datamodules.source import Source, read_checked


class Kept:
    """Reads samples, and keeps them while there is room: first come, first kept.

    Whoever gets one writes into none of its tensors, which the next one gets, too. Nothing is thrown out again:
    of a set that is larger than the room, drawn in random order, what is kept stays as useful as anything that could
    take its place. Every loading process has its own.

    Args:
        source: that is read.
        megabytes: to keep at most, in this process; 0 keeps nothing.
    """

    def __init__(self, source: Source, megabytes: float = 0.0):
        self.source = source
        self._room = megabytes * 2**20
        self._samples: dict[int, dict[str, Tensor]] = {}

    def read(self, index: int) -> dict[str, Tensor]:
        """A sample of the source, checked.

        Raises:
            UnreadableSample, InvalidLabel: as ``read_checked``, at every call.
        """
        if index not in self._samples:
            sample = read_checked(self.source, index)
            size = sum(value.numel() * value.element_size() for value in sample.values())
            if size > self._room:
                return sample
            self._room -= size
            self._samples[index] = sample
        return dict(self._samples[index])
