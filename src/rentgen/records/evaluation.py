"""The nouns of judging: measured values, curves, leaks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np

from rentgen.records.films import PatientSource, Task


@dataclass(frozen=True, slots=True)
class Interval:
    """A measured value and its 95 % interval; nan where it cannot be measured.

    Attributes:
        value: on the whole set.
        low: lower end.
        high: upper end.
    """

    value: float
    low: float
    high: float

    def to_dict(self) -> dict[str, float | None]:
        """Return value, low and high; None for nan, which JSON does not know."""
        return {
            name: None if np.isnan(number) else float(number)
            for name, number in (("value", self.value), ("low", self.low), ("high", self.high))
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, float | None]) -> Self:
        """Return the interval that `to_dict` wrote."""
        return cls(**{name: np.nan if number is None else number for name, number in values.items()})

    def __str__(self) -> str:
        return f"{self.value:.3f} ({self.low:.3f}-{self.high:.3f})"


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """A threshold with a name, for one class against the rest.

    Attributes:
        name: `youden`, `sensitivity_0.95` or `specificity_0.95`.
        label: the class whose probability is compared with the threshold.
        threshold: positive when the probability is at least this.
        sensitivity: measured where the threshold was chosen, or on the set under evaluation.
        specificity: likewise.
    """

    name: str
    label: str
    threshold: float
    sensitivity: Interval
    specificity: Interval

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "name": self.name,
            "label": self.label,
            "threshold": self.threshold,
            "sensitivity": self.sensitivity.to_dict(),
            "specificity": self.specificity.to_dict(),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Return the operating point that `to_dict` wrote."""
        return cls(
            name=values["name"],
            label=values["label"],
            threshold=values["threshold"],
            sensitivity=Interval.from_dict(values["sensitivity"]),
            specificity=Interval.from_dict(values["specificity"]),
        )


@dataclass(frozen=True, slots=True)
class Curve:
    """Points of a plot.

    Attributes:
        x: abscissae.
        y: ordinates.
        count: how many cases stand behind each point (reliability curve), or empty.
    """

    x: tuple[float, ...]
    y: tuple[float, ...]
    count: tuple[int, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {"x": list(self.x), "y": list(self.y)} | ({"count": list(self.count)} if self.count else {})


@dataclass(frozen=True, slots=True)
class Leak:
    """What a set under evaluation shares with the making of the model.

    Attributes:
        images: how many of its images trained or chose the model (the same bytes, or the same pixels).
        patients: how many of its patients did.
        patient_source: how the patients became known; names of files are weak evidence across sources.
    """

    images: int
    patients: int
    patient_source: PatientSource

    @property
    def leaky(self) -> bool:
        """Whether the figures must be stamped LEAKY."""
        named = self.patient_source in (PatientSource.CSV, PatientSource.DICOM)
        return self.images > 0 or (named and self.patients > 0)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "leaky": self.leaky,
            "images": self.images,
            "patients": self.patients,
            "patient_source": str(self.patient_source),
        }


@dataclass(frozen=True, slots=True)
class FindingErrors:
    """How one of several findings was called at its own operating point, and what else the films showed.

    Attributes:
        found: films with it that were called (true positives).
        missed: films with it that were not (false negatives).
        false_alarms: films without it that were called (false positives).
        passed: films without it that were not (true negatives).
        unknown: films of which nobody knows.
        missed_beside: other finding to films that show both and of which this one was missed, and films that show both.
        false_alarms_beside: other finding to films that show it without this one, which was called, and films that show
            it without this one.
    """

    found: int
    missed: int
    false_alarms: int
    passed: int
    unknown: int
    missed_beside: Mapping[str, tuple[int, int]]
    false_alarms_beside: Mapping[str, tuple[int, int]]

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        beside = {"missed_beside": self.missed_beside, "false_alarms_beside": self.false_alarms_beside}
        counts = {name: getattr(self, name) for name in ("found", "missed", "false_alarms", "passed", "unknown")}
        return counts | {
            name: {other: {"n": n, "of": of} for other, (n, of) in pairs.items()} for name, pairs in beside.items()
        }


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """What was measured on one set.

    Attributes:
        classes: in the model's order.
        positive: the class that recall, precision, F1 and specificity speak of; None where they are macro averages
            (three or more classes).
        n: images measured.
        patients: distinct patients among them.
        metrics: `accuracy`, `balanced_accuracy`, `recall`, `precision`, `specificity`, `f1`, `macro_recall`,
            `macro_precision`, `macro_specificity`, `macro_f1`, `auroc`, `average_precision`, `loss`, `brier`, `ece`.
        per_class: class to `recall`, `precision`, `specificity`, `f1`, `auroc`, `average_precision`.
        support: class to number of images.
        confusion: rows are the true classes, columns the predicted ones.
        roc: class to curve of sensitivity (y) over 1 - specificity (x).
        precision_recall: class to curve of precision (y) over recall (x).
        reliability: mean confidence (x), share that was right (y), cases.
        operating_points: measured on this set at thresholds chosen elsewhere.
        resamples: bootstrap resamples of patients.
        leak: what the set shares with the making of the model; None where that is unknown.
        failed: path to reason of the files that could not be read; they are not in `n`.
        statuses: status to number of images.
        task: whether a film has one class or several findings. Of findings, `accuracy`, `loss` and `brier` are over all
            known pairs of film and finding, everything else is the mean over findings, each at its own operating point;
            `per_class` has `ece` and `brier`, too; `support` says in how many films each is present; there is no
            confusion matrix.
        known: finding to number of films of which it is known; empty elsewhere.
        errors: finding to how it was called, and beside which others; empty elsewhere.
    """

    classes: tuple[str, ...]
    positive: str | None
    n: int
    patients: int
    metrics: Mapping[str, Interval]
    per_class: Mapping[str, Mapping[str, Interval]]
    support: Mapping[str, int]
    confusion: tuple[tuple[int, ...], ...]
    roc: Mapping[str, Curve]
    precision_recall: Mapping[str, Curve]
    reliability: Curve
    operating_points: tuple[OperatingPoint, ...] = ()
    resamples: int = 0
    leak: Leak | None = None
    failed: Mapping[str, str] = field(default_factory=dict)
    statuses: Mapping[str, int] = field(default_factory=dict)
    task: Task = Task.MULTICLASS
    known: Mapping[str, int] = field(default_factory=dict)
    errors: Mapping[str, FindingErrors] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return the documented JSON object: each metric with value, low and high, `n`, and all else above."""
        return {name: interval.to_dict() for name, interval in self.metrics.items()} | {
            "n": self.n,
            "patients": self.patients,
            "classes": list(self.classes),
            "positive": self.positive,
            "per_class": {
                label: {name: interval.to_dict() for name, interval in values.items()}
                for label, values in self.per_class.items()
            },
            "support": dict(self.support),
            "confusion": [list(row) for row in self.confusion],
            "roc": {label: curve.to_dict() for label, curve in self.roc.items()},
            "precision_recall": {label: curve.to_dict() for label, curve in self.precision_recall.items()},
            "reliability": self.reliability.to_dict(),
            "operating_points": [point.to_dict() for point in self.operating_points],
            "resamples": self.resamples,
            "leak": None if self.leak is None else self.leak.to_dict(),
            "leaky": None if self.leak is None else self.leak.leaky,
            "failed": dict(self.failed),
            "statuses": dict(self.statuses),
            "task": str(self.task),
            "known": dict(self.known),
            "errors": {label: errors.to_dict() for label, errors in self.errors.items()},
        }


@dataclass(frozen=True, slots=True, eq=False)
class Mistake:
    """An image that the model got wrong, to be looked at.

    Attributes:
        path: the file.
        label: the true class.
        predicted: the model's class.
        probability: of the predicted class.
        film_png: the film, small, as PNG.
        overlay_png: the same with the predicted class's heat map, as PNG.
    """

    path: str
    label: str
    predicted: str
    probability: float
    film_png: bytes = field(repr=False)
    overlay_png: bytes = field(repr=False)
