"""One operating point of an old bundle, and whether a new bundle's point of the same name holds what it promised."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from rentgen.evaluate.paired import wilson_low
from rentgen.records import Interval, OperatingPoint


class Verdict(StrEnum):
    """What becomes of an operating point."""

    HOLDS = "holds"
    """Neither sensitivity nor specificity falls below the old interval; rising above it is no fault."""
    LEAVES = "leaves its interval"
    """One of them does."""
    MISSING = "missing"
    """The new bundle has no point of this name for this class."""
    UNMEASURED = "not measured"
    """The films leave it undefined, or there were no resamples."""


@dataclass(frozen=True, slots=True)
class PointChange:
    """One operating point of the old bundle, and what the new one makes of it.

    Attributes:
        promised: the point with the figures of the old card.
        old: the same point on these films; the lower ends of its intervals are what the new one is held to.
        new: the new bundle's point of the same name and class, on these films; None where it has none.
        verdict: whether it holds.
        reasons: why not, in words.
    """

    promised: OperatingPoint
    old: OperatingPoint
    new: OperatingPoint | None
    verdict: Verdict
    reasons: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "name": self.old.name,
            "label": self.old.label,
            "promised": self.promised.to_dict(),
            "old": self.old.to_dict(),
            "new": None if self.new is None else self.new.to_dict(),
            "verdict": str(self.verdict),
            "reasons": list(self.reasons),
        }


def judge_point(
    promised: OperatingPoint, old: OperatingPoint, new: OperatingPoint | None, trials: tuple[int, int]
) -> PointChange:
    """Return whether the new point holds what the old one reached on the same films.

    The bootstrap knows of no mistake where there was none, so that a perfect rate has no interval; Wilson's lower end,
    counted in patients, is taken where it is lower.

    Args:
        promised: the point with the figures of the old card.
        old: on these films.
        new: on these films; None where the new bundle has none.
        trials: patients with the class, and patients without.
    """
    held: dict[str, Interval] = {}
    for (name, interval), count in zip(
        (("sensitivity", old.sensitivity), ("specificity", old.specificity)), trials, strict=True
    ):
        low = min(interval.low, wilson_low(interval.value, count)) if count else math.nan
        held[name] = Interval(interval.value, low, interval.high)
    old = replace(old, sensitivity=held["sensitivity"], specificity=held["specificity"])
    if new is None:
        reason = f"the new bundle has no operating point {old.name} of {old.label}"
        return PointChange(promised, old, None, Verdict.MISSING, (reason,))
    came = {"sensitivity": new.sensitivity, "specificity": new.specificity}
    open_ones = [name for name in held if math.isnan(held[name].low) or math.isnan(came[name].value)]
    if open_ones:
        reason = f"{' and '.join(open_ones)} cannot be measured on these films"
        return PointChange(promised, old, new, Verdict.UNMEASURED, (reason,))
    fallen = tuple(
        f"{name} {came[name].value:.3f} is below the old interval {held[name]}"
        for name in held
        if came[name].value < held[name].low
    )
    return PointChange(promised, old, new, Verdict.LEAVES if fallen else Verdict.HOLDS, fallen)
