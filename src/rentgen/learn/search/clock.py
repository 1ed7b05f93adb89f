"""The time of a search, and what of it each stage may use."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

SHARES: Mapping[str, float] = {"features": 0.30, "heads": 0.45, "joining": 0.55}
"""Of the minutes, by when a stage is over; fine-tuning has what is left but for the closing."""


class Clock:
    """What was used of a search's time, in this run and in those before it.

    Attributes:
        seconds: that were given.
        stages: stage to seconds that it took in this run.
    """

    def __init__(self, minutes: float, now: Callable[[], float] = time.monotonic) -> None:
        """Start it.

        Args:
            minutes: given.
            now: tells the time in seconds.
        """
        self.seconds = 60.0 * minutes
        self.stages: dict[str, float] = {}
        self._now = now
        self._start = now()
        self._stage_start = now()

    @property
    def elapsed(self) -> float:
        """Return the seconds that were used."""
        return self._now() - self._start

    def add(self, seconds: float) -> None:
        """Count what an earlier run took."""
        self._start -= seconds

    def left(self, stage: str) -> float:
        """Return the seconds until a stage must be over; negative where it should be."""
        return self.seconds * SHARES.get(stage, 1.0) - self.elapsed

    def end(self, stage: str) -> None:
        """Note that a stage is over."""
        now = self._now()
        self.stages[stage] = self.stages.get(stage, 0.0) + now - self._stage_start
        self._stage_start = now
