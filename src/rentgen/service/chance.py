"""Exact binomial intervals and tests, and the chi-square quantile, with the standard library only."""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import NormalDist

_STEPS = 300
_TINY = 1e-300


def binomial_interval(count: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Return the exact interval of a share (Clopper and Pearson, 1934).

    Args:
        count: of successes, from 0 to n.
        n: trials, at least 1.
        level: of confidence, in (0, 1).

    Raises:
        ValueError: a count or level that cannot be.
    """
    _check(count, n)
    if not 0 < level < 1:
        raise ValueError(f"Expected `level` to lie between 0 and 1, but got {level}.")
    tail = (1 - level) / 2
    # P(X >= count | p) = I_p(count, n - count + 1).
    low = 0.0 if count == 0 else _solve(lambda p: _beta_share(count, n - count + 1, p), tail)
    high = 1.0 if count == n else _solve(lambda p: _beta_share(count + 1, n - count, p), 1 - tail)
    return low, high


def binomial_p(count: int, n: int, share: float) -> float:
    """Return how probable a count as improbable as this one, or more so, is where `share` is true (two-sided, exact).

    Raises:
        ValueError: a count or share that cannot be.
    """
    _check(count, n)
    if not 0 <= share <= 1:
        raise ValueError(f"Expected `share` to lie in [0, 1], but got {share}.")
    if share in (0.0, 1.0):
        return float(count == n * share)
    inside, outside = math.log(share), math.log1p(-share)
    whole = math.lgamma(n + 1)
    logs = [whole - math.lgamma(k + 1) - math.lgamma(n - k + 1) + k * inside + (n - k) * outside for k in range(n + 1)]
    # Counts that are as probable but for rounding belong in.
    bound = logs[count] + 1e-7
    return min(1.0, math.fsum(math.exp(value) for value in logs if value <= bound))


def chi_square_quantile(level: float, degrees: int) -> float:
    """Return the chi-square quantile, within 2 % for levels from 0.9 to 0.999 (Wilson and Hilferty, 1931).

    One and two degrees of freedom are exact.

    Raises:
        ValueError: less than one degree of freedom.
    """
    if degrees < 1:
        raise ValueError(f"Expected `degrees` to be at least 1, but got {degrees}.")
    if degrees == 1:
        return NormalDist().inv_cdf((1 + level) / 2) ** 2
    if degrees == 2:
        return -2 * math.log(1 - level)
    part = 2 / (9 * degrees)
    return float(degrees * (1 - part + NormalDist().inv_cdf(level) * math.sqrt(part)) ** 3)


def _check(count: int, n: int) -> None:
    if n < 1 or not 0 <= count <= n:
        raise ValueError(f"Expected a count of 0 to n and n of at least 1, but got {count} of {n}.")


def _solve(rising: Callable[[float], float], target: float) -> float:
    """Return where a rising function of [0, 1] reaches the target."""
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        if rising(middle) < target:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def _beta_share(a: float, b: float, x: float) -> float:
    """Return the regularised incomplete beta function I_x(a, b)."""
    if x <= 0 or x >= 1:
        return float(x >= 1)
    # The fraction converges fast on this side only; the other follows by symmetry.
    if x > (a + 1) / (a + b + 2):
        return 1 - _beta_share(b, a, 1 - x)
    scale = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    return math.exp(scale) * _beta_fraction(a, b, x) / a


def _beta_fraction(a: float, b: float, x: float) -> float:
    """Return the continued fraction of DLMF 8.17.22, by Lentz's method."""
    above, below = 1.0, 1.0 / _off_zero(1 - (a + b) * x / (a + 1))
    result = below
    for m in range(1, _STEPS):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for term in (even, odd):
            below = 1.0 / _off_zero(1 + term * below)
            above = _off_zero(1 + term / above)
            result *= above * below
        if abs(above * below - 1) < 1e-14:
            break
    return result


def _off_zero(value: float) -> float:
    return value if abs(value) > _TINY else _TINY
