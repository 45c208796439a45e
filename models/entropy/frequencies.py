"""Probabilities as the range coder has them: whole numbers."""

import numpy as np

PRECISION = 16
"""Bits of a probability."""


def frequencies(probabilities: np.ndarray) -> np.ndarray:
    """Whole numbers of at least 1 with the sum 65536, as close to ``probabilities`` as such numbers come.

    Symbols below 1/65536 get 1; the others share the rest in proportion, the largest remainders rounded up.

    Args:
        probabilities: (n,), not negative, n at most 65536; they need not sum to 1.

    Returns:
        int64 (n,).
    """
    whole, least = 1 << PRECISION, np.zeros(len(probabilities), bool)
    while True:
        share = (whole - least.sum()) / probabilities[~least].sum()
        below = ~least & (probabilities * share < 1)
        if not below.any():
            break
        least |= below
    exact = np.where(least, 1.0, probabilities * share)
    found = np.floor(exact).astype(np.int64)
    # Equal remainders (a symmetrical density has them) go by position.
    order = np.argsort(found - exact, kind="stable")
    found[order[: whole - found.sum()]] += 1
    return found
