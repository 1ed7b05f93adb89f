"""When a failed delivery is tried again, and when a destination is left alone for a while."""

from __future__ import annotations

import random
from dataclasses import dataclass
from datetime import datetime, timedelta

SHORTEST_S, LONGEST_S = 1.0, 900.0
TROUBLE = 5
"""Failures in a row, after which a destination is left alone."""
REST_S = 30.0


def next_try(attempts: int, now: datetime, rng: random.Random, *, after_s: float | None = None) -> datetime:
    """Return when to try again: exponential with full jitter, from 1 s to 15 min, never before the peer asked to.

    Args:
        attempts: that failed so far, at least 1.
        now: the time.
        rng: of the jitter, so that many deliveries do not come back together.
        after_s: how long the peer asked to wait; more than 15 min is not honoured.
    """
    # Beyond 2^10 s it is the longest anyway; a large power would not fit a float.
    most = min(LONGEST_S, SHORTEST_S * 2.0 ** min(attempts, 10))
    wait = max(SHORTEST_S, rng.uniform(0.0, most))
    return now + timedelta(seconds=max(wait, min(max(after_s or 0.0, 0.0), LONGEST_S)))


@dataclass(frozen=True, slots=True)
class Circuit:
    """A destination's circuit breaker; each change is a new one.

    Attributes:
        failures: in a row.
        open_until: when one delivery is tried again; None where nothing is held back.
    """

    failures: int = 0
    open_until: datetime | None = None

    def lets_through(self, now: datetime) -> bool:
        """Return whether a delivery may be tried."""
        return self.open_until is None or now >= self.open_until

    def succeeded(self) -> Circuit:
        """Return it after the peer answered."""
        return Circuit()

    def failed(self, now: datetime) -> Circuit:
        """Return it after a failure that is the peer's; it opens after some in a row, and anew after each more."""
        failures = self.failures + 1
        return Circuit(failures, now + timedelta(seconds=REST_S) if failures >= TROUBLE else None)
