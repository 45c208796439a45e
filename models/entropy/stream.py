"""A batch's symbols on their way into strings or out of them: one code for both directions.

A latent codec walks through its latents once, in the order they are decoded, and hands each to ``code``. A ``Writer``
quantises what it is given; a ``Reader`` is given nothing and gets the same from the strings. Encoder and decoder cannot
disagree about the order, the tables or the parameters, for there is only one description of them.
"""

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from models.entropy.coder import Decoder, Encoder, Tables

A, B = TypeVar("A"), TypeVar("B")


class Stream(Protocol):
    """The strings of a batch, one an image.

    Attributes:
        count: of images.
    """

    count: int

    def code(self, y: Tensor | None, mean: Tensor, rows: Tensor, tables: Tables) -> Tensor:
        """Code one latent, or one part of it, of all images.

        Args:
            y: float32 (B, ...) when writing; ``None`` when reading.
            mean: centre of each symbol's distribution, float32, of a shape that broadcasts to that of ``rows``.
            rows: row of the table for every symbol, integers (B, ...).
            tables: of the entropy model.

        Returns:
            y_hat = round(y - mean) + mean, float32, the shape of ``rows`` and the device of ``mean``.
        """
        ...


class Writer:
    """Symbols into strings.

    Args:
        count: of images.
    """

    def __init__(self, count: int):
        self.count = count
        self._encoders = [Encoder() for _ in range(count)]

    def code(self, y: Tensor | None, mean: Tensor, rows: Tensor, tables: Tables) -> Tensor:
        """See ``Stream``.

        Raises:
            ValueError: NaN, infinite or absurdly large latents.
        """
        distance = (y - mean).round()
        if distance.numel() and not distance.abs().amax() < 2**31:
            raise ValueError(
                "a latent is NaN, infinite or beyond 2**31: check the picture and the codec's weights"
            )
        symbols = distance.to("cpu", torch.int32).numpy()
        for encoder, image, image_rows in zip(self._encoders, symbols, _numpy(rows), strict=True):
            encoder.push(image, image_rows, tables)
        return distance + mean

    def finish(self) -> list[bytes]:
        """The string of each image."""
        return in_threads(Encoder.finish, self._encoders)


class Reader:
    """Strings into symbols.

    Args:
        strings: one an image.
    """

    def __init__(self, strings: Sequence[bytes]):
        self.count = len(strings)
        self._decoders = [Decoder(string) for string in strings]

    def code(self, y: Tensor | None, mean: Tensor, rows: Tensor, tables: Tables) -> Tensor:
        """See ``Stream``.

        Raises:
            BitstreamError: a string that is damaged or too short.
        """
        pairs = zip(self._decoders, _numpy(rows), strict=True)
        symbols = in_threads(lambda pair: pair[0].pop(pair[1], tables), pairs)
        stacked = symbols[0][None] if len(symbols) == 1 else np.stack(symbols)
        return torch.from_numpy(stacked).to(mean.device, mean.dtype) + mean

    def finish(self) -> None:
        """Check that every string ends here and held the encoder's symbols.

        Raises:
            BitstreamError: it did not.
        """
        for decoder in self._decoders:
            decoder.finish()


class Expected:
    """No strings at all: what is read is every symbol's centre, nearest to what a decoder cannot know.

    Args:
        count: of images.
    """

    def __init__(self, count: int):
        self.count = count

    def code(self, y: Tensor | None, mean: Tensor, rows: Tensor, tables: Tables) -> Tensor:
        """See ``Stream``."""
        return mean.expand(rows.shape)


def in_threads(function: Callable[[A], B], items: Iterable[A]) -> list[B]:
    """``[function(item) for item in items]`` on as many threads as torch may use; for functions without the GIL."""
    items = list(items)
    workers = min(len(items), torch.get_num_threads())
    if workers < 2:
        return [function(item) for item in items]
    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(function, items))


def _numpy(rows: Tensor) -> np.ndarray:
    return rows.to("cpu", torch.int16).numpy().view(np.uint16)
