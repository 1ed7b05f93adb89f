"""95 % intervals by resampling patients, not images: films of one patient are not independent witnesses.

The percentile bootstrap over clusters; see Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 13,
and Field and Welsh, Bootstrapping clustered data, J. R. Statist. Soc. B 69 (2007), 369-390.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from rentgen.errors import DataError
from rentgen.records import Float64, Interval

RESAMPLES = 1000
"""Resamples unless told otherwise."""
LEVEL = 0.95
"""Share of the resamples inside the interval."""
BLOCK_WEIGHTS = 500_000
"""Weights held at a time; 4 MB, which stays near a core's cache and bounds the memory whatever the set's size."""


def resample_patients(patients: Sequence[str], rng: np.random.Generator, resamples: int) -> Iterator[Float64]:
    """Yield blocks of weights: how often each image's patient was drawn.

    Each resample draws as many patients as there are, with replacement; all images of a drawn patient come along.

    Args:
        patients: (n,) whom each image shows.
        rng: the only source of randomness.
        resamples: how many in all; 0 yields nothing.

    Yields:
        (rows, n) float64; the rows of all blocks together are `resamples`.
    """
    names, members = np.unique(np.array(list(patients), dtype=str), return_inverse=True)
    drawn = len(names)
    rows = max(1, BLOCK_WEIGHTS // len(patients))
    for start in range(0, resamples, rows):
        block = min(rows, resamples - start)
        picks = rng.integers(drawn, size=(block, drawn)) + np.arange(block)[:, np.newaxis] * drawn
        counts = np.bincount(picks.ravel(), minlength=block * drawn).reshape(block, drawn)
        yield counts.astype(np.float64)[:, members]


def percentile_interval(value: float, draws: Float64) -> Interval:
    """Return `value` with the middle 95 % of `draws` (resamples,); undefined draws (nan) are left out.

    Resampling pushes some figures one way (a calibration error always up); the interval is stretched to hold the value.
    Where the value or every draw is undefined, the ends are nan.
    """
    known = draws[~np.isnan(draws)]
    if np.isnan(value) or not len(known):
        return Interval(value, np.nan, np.nan)
    low, high = np.quantile(known, ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    return Interval(value, min(value, float(low)), max(value, float(high)))


def bootstrap(
    statistic: Callable[[Float64], Float64],
    patients: Sequence[str],
    *,
    rng: np.random.Generator,
    resamples: int = RESAMPLES,
) -> tuple[Interval, ...]:
    """Return each statistic's value on the whole set and its 95 % interval over resampled patients.

    Args:
        statistic: from weights (rows, n) to values (rows, m); nan where undefined.
        patients: (n,) whom each image shows; unique names make it the ordinary bootstrap over images.
        rng: the only source of randomness.
        resamples: how many; 0 leaves the ends nan.

    Raises:
        DataError: `patients` is empty.

    Example:
        >>> heights = np.array([1.0, 2.0, 3.0, 6.0])
        >>> mean = lambda weights: (weights @ heights / weights.sum(axis=1))[:, np.newaxis]
        >>> (interval,) = bootstrap(mean, ["a", "a", "b", "c"], rng=np.random.default_rng(0))
        >>> print(interval)
        3.000 (1.500-6.000)
    """
    if not len(patients):
        raise DataError("Expected at least one image to measure, but got none.")
    if resamples < 0:
        raise ValueError(f"Expected resamples to be at least 0, but got {resamples}.")
    values = statistic(np.ones((1, len(patients))))[0]
    blocks = [statistic(weights) for weights in resample_patients(patients, rng, resamples)]
    draws = np.concatenate(blocks) if blocks else np.empty((0, len(values)))
    return tuple(percentile_interval(float(value), draws[:, i]) for i, value in enumerate(values))
