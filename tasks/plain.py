"""Predictions as plain JSON, and in a few words."""

import math
from collections.abc import Mapping
from typing import Any

DIGITS = 6
"""Decimals that are kept of a number."""

CAPTION = 60
"""Letters of the longest caption that a picture has room for."""


def plain(value: Any) -> Any:
    """Tensors, arrays, and mappings and lists of them, as JSON holds them.

    Numbers are rounded to ``DIGITS`` decimals; what is no number (NaN, infinity) becomes ``None``.

    Example:
        >>> plain({"boxes": torch.zeros(1, 4), "scores": torch.tensor([1 / 3])})
        {'boxes': [[0.0, 0.0, 0.0, 0.0]], 'scores': [0.333333]}
    """
    if isinstance(value, Mapping):
        return {str(key): plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(part) for part in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, float):
        return round(value, DIGITS) if math.isfinite(value) else None
    return value


def in_short(described: Mapping[str, Any]) -> str:
    """The texts and single numbers of a description as one line, ``class cat, probability 0.93``; empty without any."""
    words = [
        f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}"
        for key, value in described.items()
        if isinstance(value, (str, int, float))
    ]
    text = " ".join(", ".join(words).split())
    return text if len(text) <= CAPTION else f"{text[: CAPTION - 3]}..."
