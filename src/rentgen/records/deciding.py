"""Which findings an answer calls present: each at its own operating point, and none beside `No Finding`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from rentgen.records.common import Float64
from rentgen.records.evaluation import OperatingPoint
from rentgen.records.results import DECIDING_POINTS, is_finding

HALF = 0.5
"""Threshold of a class without an operating point, where figures need one."""


def deciding_threshold(points: Sequence[OperatingPoint], label: str) -> float | None:
    """Return the lower threshold of a class's operating points for finding disease; None where it has none."""
    own = [point.threshold for point in points if point.label == label and point.name in DECIDING_POINTS]
    return min(own, default=None)


def deciding_thresholds(points: Sequence[OperatingPoint], classes: Sequence[str]) -> Float64:
    """Return (k,) the threshold of each class, `HALF` where it has no operating point."""
    found = [deciding_threshold(points, label) for label in classes]
    return np.array([HALF if threshold is None else threshold for threshold in found])


def present_findings(points: Sequence[OperatingPoint], probabilities: Mapping[str, float]) -> tuple[str, ...]:
    """Return the classes at or above their own operating point, in the model's order.

    A class that says that there is nothing to find is among them only where no finding is. A class without an operating
    point never is: it has a probability and no more.
    """
    thresholds = {label: deciding_threshold(points, label) for label in probabilities}
    called = [label for label, value in thresholds.items() if value is not None and probabilities[label] >= value]
    findings = tuple(label for label in called if is_finding(label))
    return findings or tuple(called)
