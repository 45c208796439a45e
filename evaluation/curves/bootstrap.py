"""Bootstrap over images: how much a number would move had other images of the same kind been chosen."""

import numpy as np

MAX_UNDEFINED = 0.1
"""Share of resamples in which a statistic may be undefined; beyond it, the rest is a selection and no sample."""


def resamples(num_images: int, *, num: int = 1000, seed: int = 0) -> np.ndarray:
    """How often each image is drawn in each resample of a set, with replacement.

    One matrix for all codecs pairs them: what an easy image adds to one, it adds to the other.

    Args:
        num_images: N, size of the set.
        num: B, number of resamples.
        seed: the same numbers give the same matrix, on every machine.

    Returns:
        Counts, int64 (B, N); rows sum to N.

    Raises:
        ValueError: no images or no resamples.

    Reference: Efron and Tibshirani, An Introduction to the Bootstrap, Chapman & Hall 1993, chapter 6.
    """
    for name, value in (("num_images", num_images), ("num", num)):
        if value < 1:
            raise ValueError(f"{name}={value} must be at least 1")
    drawn = np.random.default_rng(seed).integers(num_images, size=(num, num_images))
    cells = drawn + num_images * np.arange(num)[:, None]
    return np.bincount(cells.ravel(), minlength=num * num_images).reshape(num, num_images)


def means(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Means of per-image values in every resample.

    Args:
        values: (N,) or (N, K); images whose value is NaN (not measured) are left out of the mean.
        counts: from ``resamples``, (B, N).

    Returns:
        (B,) or (B, K); NaN where a resample holds no measured image.

    Raises:
        ValueError: the numbers of images differ.
    """
    values = np.asarray(values, np.float64)
    if len(values) != counts.shape[1]:
        raise ValueError(f"`values` has {len(values)} images, `counts` {counts.shape[1]}: they must match")
    measured = ~np.isnan(values)
    totals = counts @ np.where(measured, values, 0.0)
    with np.errstate(invalid="ignore"):
        return totals / (counts @ measured.astype(np.float64))


def interval(values: np.ndarray, level: float = 0.95) -> list[float] | None:
    """Percentile interval of a statistic over resamples.

    Args:
        values: (B,); NaN where a resample leaves the statistic undefined.
        level: share of the resamples inside, in (0, 1).

    Returns:
        [low, high]; ``None`` where more than ``MAX_UNDEFINED`` of the resamples are undefined.

    Raises:
        ValueError: ``level`` is out of range.
    """
    if not 0 < level < 1:
        raise ValueError(f"level={level} must lie between 0 and 1")
    values = np.asarray(values, np.float64)
    defined = values[~np.isnan(values)]
    if not len(defined) or len(defined) < (1 - MAX_UNDEFINED) * len(values):
        return None
    tail = (1 - level) / 2
    return [float(v) for v in np.quantile(defined, [tail, 1 - tail])]
