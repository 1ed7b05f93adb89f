"""Ranks and their correlation."""

from __future__ import annotations

import math

import numpy as np

from rentgen.records import Float32, Float64


def rank(values: Float32 | Float64) -> Float64:
    """Return ranks (n,) from 1, ties at their mean."""
    _, group, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    result: Float64 = (ends - (counts - 1) / 2)[group.ravel()]
    return result


def spearman(first: Float32 | Float64, second: Float32 | Float64) -> float:
    """Return the rank correlation of two arrays of one size, ties at their mean rank; nan where one is constant."""
    ranks = [rank(values.ravel()) for values in (first, second)]
    spread = [float(values.std()) for values in ranks]
    if not all(spread):
        return math.nan
    centred = [values - values.mean() for values in ranks]
    return float((centred[0] * centred[1]).mean() / (spread[0] * spread[1]))
