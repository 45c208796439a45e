"""Integer symbols to bytes and back: the one place that touches the range coder."""

import torch
from compressai import ans
from compressai.entropy_models import EntropyModel
from torch import Tensor


def encode(model: EntropyModel, symbols: Tensor, indexes: Tensor) -> bytes:
    """Code one image's symbols.

    Args:
        model: holds the CDF tables (``tables.build`` made them).
        symbols: integers, any shape.
        indexes: row of the table for every symbol, same shape.
    """
    return ans.RansEncoder().encode_with_indexes(*_guard(symbols, indexes), *_tables(model))


def decode(model: EntropyModel, string: bytes, indexes: Tensor) -> Tensor:
    """The symbols ``encode`` was given: int32, the shape and device of ``indexes``."""
    rows = indexes.flatten().tolist()
    values = ans.RansDecoder().decode_with_indexes(
        string, rows * 2 if len(rows) == 1 else rows, *_tables(model)
    )
    values = torch.tensor(values[: len(rows)], dtype=torch.int32, device=indexes.device)
    return values.reshape(indexes.shape)


def _guard(symbols: Tensor, indexes: Tensor) -> tuple[list[int], list[int]]:
    values, rows = symbols.flatten().tolist(), indexes.flatten().tolist()
    # CompressAI 1.2.8's encoder corrupts the heap on a stream of one symbol: write it twice.
    return (values * 2, rows * 2) if len(values) == 1 else (values, rows)


def _tables(model: EntropyModel) -> tuple[list[list[int]], list[int], list[int]]:
    lengths = model.cdf_length.tolist()
    # Rows without their padding: an eighth of the integers to hand over.
    return (
        [row[:n] for row, n in zip(model.quantized_cdf.tolist(), lengths, strict=True)],
        lengths,
        model.offset.tolist(),
    )
