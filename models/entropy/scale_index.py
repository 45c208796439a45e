"""Which row of a scale table codes a symbol of a given scale."""

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from models.entropy import rans

Rounding = Literal["nearest", "up"]


class ScaleIndex:
    """Rounds scales to a table.

    Args:
        rounding: ``"nearest"`` in log scale, the cheapest in bits; ``"up"`` to the next larger scale of the table, as
            CompressAI does, for streams that CompressAI reads or wrote.

    Borders are geometric means of the table's float32 entries: one multiplication and one square root, which IEEE 754
    rounds alike on every machine.
    """

    def __init__(self, rounding: Rounding = "nearest"):
        if rounding not in ("nearest", "up"):
            raise ValueError(f"rounding={rounding!r} must be 'nearest' or 'up'")
        self.rounding = rounding
        self._known: tuple[Tensor, int, np.ndarray, np.ndarray, int] | None = None

    def __call__(self, scale: Tensor, table: Tensor) -> Tensor:
        """Rows of the table.

        Args:
            scale: float64, any shape; what lies outside the table gets its first or last row.
            table: ascending scales, (rows,), 32767 at most.

        Returns:
            int16, shape and device of ``scale``.
        """
        borders, cells, lowest = self._search(table)
        values = scale.detach().cpu().contiguous().numpy().reshape(-1)
        rows = np.empty(values.size, np.int16)
        rans.find_rows(values, borders, cells, lowest, rows.view(np.uint16))
        return torch.from_numpy(rows).to(scale.device).reshape(scale.shape)

    def _search(self, table: Tensor) -> tuple[np.ndarray, np.ndarray, int]:
        if self._known is None or self._known[0] is not table or self._known[1] != table._version:
            scales = table.detach().cpu().numpy().astype(np.float64)
            inner = scales[:-1] if self.rounding == "up" else np.sqrt(scales[:-1] * scales[1:])
            ends = inner[[0, -1]].view(np.int64) >> rans.CELL_SHIFT if inner.size else np.zeros(2, np.int64)
            lower_ends = (np.arange(ends[0], ends[1] + 1) << rans.CELL_SHIFT).view(np.float64)
            cells = np.searchsorted(inner, lower_ends).astype(np.uint16)
            self._known = table, table._version, np.append(inner, np.inf), cells, int(ends[0])
        return self._known[2:]

    def __deepcopy__(self, memo: dict) -> "ScaleIndex":
        return ScaleIndex(self.rounding)

    def __reduce__(self) -> tuple:
        return ScaleIndex, (self.rounding,)
