"""What a bundle says of itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from rentgen.records.evaluation import OperatingPoint
from rentgen.records.films import Preprocessing, Task
from rentgen.records.training import History


@dataclass(frozen=True, slots=True)
class Calibration:
    """From logits to probabilities that mean what they say: `softmax(logits * scale + bias)`, a sigmoid for findings.

    Attributes:
        method: `none`, `temperature` (one scale, no bias) or `vector` (one of each for each class; Guo et al. 2017).
        scale: one for each class, positive.
        bias: one for each class.
        fitted_on: which films, in words.
        n: how many.
        before: `ece`, `brier`, `loss`, `slope` and `intercept` of these films without it, as `Interval.to_dict` gives
            them.
        after: the same with it.
    """

    method: str
    scale: tuple[float, ...]
    bias: tuple[float, ...]
    fitted_on: str
    n: int
    before: Mapping[str, Mapping[str, float | None]] = field(default_factory=dict)
    after: Mapping[str, Mapping[str, float | None]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(self.scale) != len(self.bias) or not all(value > 0 for value in self.scale):
            raise ValueError(f"Expected a positive scale and a bias for each class, but got {self.scale}, {self.bias}.")

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self) | {"scale": list(self.scale), "bias": list(self.bias)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Return the calibration that `to_dict` wrote."""
        return cls(**{**values, "scale": tuple(values["scale"]), "bias": tuple(values["bias"])})


@dataclass(frozen=True, slots=True)
class Conformal:
    """Prediction sets that hold the true class as often as was asked for (split conformal prediction).

    Attributes:
        coverage: asked for, in (0, 1).
        threshold: a class is in the set when its calibrated probability is at least this.
        n: films that decided it.
        measured: share of the test part's films whose set held the true class, as `Interval.to_dict` gives it; None
            where there was no such part.
        single: share of the test part's films with exactly one class in the set; likewise.
    """

    coverage: float
    threshold: float
    n: int
    measured: Mapping[str, float | None] | None = None
    single: Mapping[str, float | None] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Return what `to_dict` wrote."""
        return cls(**values)


@dataclass(frozen=True, slots=True)
class FindingSet:
    """When one of several findings can be neither ruled out nor confirmed: split conformal, for each truth on its own.

    Of films with the finding, a share of `coverage` has a probability of at least `present`; of films without it, the
    same share has a probability of at most `1 - absent`. A film between the two may be either.

    Attributes:
        label: of the finding.
        coverage: asked for, in (0, 1), of films with and of films without.
        present: the finding cannot be ruled out from this probability on.
        absent: its absence cannot be ruled out while 1 minus the probability is at least this.
        n_present: films that decided `present`.
        n_absent: films that decided `absent`.
        measured: share of the test part's films whose set held the truth, as `Interval.to_dict` gives it; None where
            there was no such part.
        single: share of the test part's films with exactly one answer left; likewise.
    """

    label: str
    coverage: float
    present: float
    absent: float
    n_present: int
    n_absent: int
    measured: Mapping[str, float | None] | None = None
    single: Mapping[str, float | None] | None = None

    def may_be(self, probability: float) -> tuple[bool, bool]:
        """Return whether a film of this probability may have the finding, and whether it may be without."""
        return probability >= self.present, 1 - probability >= self.absent

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Return what `to_dict` wrote."""
        return cls(**values)


@dataclass(frozen=True, slots=True)
class Scope:
    """The films that a model is meant for, as a DICOM header can tell; an empty tuple or None does not limit.

    Attributes:
        modalities: DICOM Modality, such as `CR` and `DX`.
        body_parts: DICOM BodyPartExamined.
        views: DICOM ViewPosition.
        min_age_years: of the patient.
        max_age_years: of the patient.
    """

    modalities: tuple[str, ...] = ()
    body_parts: tuple[str, ...] = ()
    views: tuple[str, ...] = ()
    min_age_years: float | None = None
    max_age_years: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Return the scope that `to_dict` wrote."""
        lists = {name: tuple(values.get(name, ())) for name in ("modalities", "body_parts", "views")}
        return cls(**lists, min_age_years=values.get("min_age_years"), max_age_years=values.get("max_age_years"))


@dataclass(frozen=True, slots=True)
class Domain:
    """How far from the films that taught it a film may lie; the graph's `distance` is compared with it.

    Attributes:
        threshold: the largest distance that is still inside.
        kept: share of the validation films that it keeps, as it was asked for.
        n: validation films that decided it.
    """

    threshold: float
    kept: float
    n: int

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Return the domain that `to_dict` wrote."""
        return cls(**values)


@dataclass(frozen=True, slots=True)
class Card:
    """What a bundle says of itself.

    Attributes:
        name: of the model.
        created: when, ISO 8601, UTC.
        classes: in the order of the graph's logits.
        positive: the class that two-class metrics speak of; None with three or more.
        preprocessing: how films become inputs.
        backbone: `name`, `weights` (where they came from), `weights_sha256`, `licence`, `features` (their number).
        recipe: the training recipe, as TOML tables.
        history: how training went.
        operating_points: chosen on the validation part.
        validation: `Evaluation.to_dict()` of the validation part: it chose, so it flatters.
        test: `Evaluation.to_dict()` of the test part, or None where there was none.
        counts: part to class to number of images.
        audit: `Audit.summary()`.
        intended_use: in words.
        licences: of the data and the starting weights, in words.
        software: package to version.
        command: that repeats the training.
        calibration: of the logits; None where the bare softmax is the answer.
        conformal: when the model says that it does not know; None where it never does.
        scope: films it is meant for; None where any film is.
        domain: how far from its training films it still answers; None where it does not ask.
        robustness: how it bears worse films: `evaluate.stress`'s plain values, or empty.
        shortcuts: whether it looks where it should: `evaluate.shortcuts`'s plain values, or empty.
        heat_maps: what its heat maps are worth: `evaluate.explain`'s plain values, or empty.
        known_failures: in words.
        parent: id of the bundle it was calibrated from; None for one that was trained.
        tolerances: precision to output to how far it may stand from the golden one, relative to its largest value (or
            1): measured where the bundle was made, and only where answers stay what they are. What is not named has the
            engine's own.
        task: whether a film has one class, or several findings of which each has a logit and a sigmoid of its own.
        finding_sets: of several findings, when each can be neither ruled out nor confirmed; empty elsewhere.
    """

    name: str
    created: str
    classes: tuple[str, ...]
    positive: str | None
    preprocessing: Preprocessing
    backbone: Mapping[str, Any]
    recipe: Mapping[str, Any]
    history: History
    operating_points: tuple[OperatingPoint, ...]
    validation: Mapping[str, Any]
    test: Mapping[str, Any] | None
    counts: Mapping[str, Mapping[str, int]]
    audit: Mapping[str, Any]
    intended_use: str
    licences: tuple[str, ...]
    software: Mapping[str, str]
    command: str
    calibration: Calibration | None = None
    conformal: Conformal | None = None
    scope: Scope | None = None
    domain: Domain | None = None
    robustness: Mapping[str, Any] = field(default_factory=dict)
    shortcuts: Mapping[str, Any] = field(default_factory=dict)
    heat_maps: Mapping[str, Any] = field(default_factory=dict)
    known_failures: tuple[str, ...] = ()
    parent: str | None = None
    tolerances: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    task: Task = Task.MULTICLASS
    finding_sets: tuple[FindingSet, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "name": self.name,
            "created": self.created,
            "classes": list(self.classes),
            "positive": self.positive,
            "preprocessing": self.preprocessing.to_dict(),
            "backbone": dict(self.backbone),
            "recipe": dict(self.recipe),
            "history": self.history.to_dict(),
            "operating_points": [point.to_dict() for point in self.operating_points],
            "validation": dict(self.validation),
            "test": None if self.test is None else dict(self.test),
            "counts": {part: dict(classes) for part, classes in self.counts.items()},
            "audit": dict(self.audit),
            "intended_use": self.intended_use,
            "licences": list(self.licences),
            "software": dict(self.software),
            "command": self.command,
            **{
                name: None if (part := getattr(self, name)) is None else part.to_dict()
                for name in ("calibration", "conformal", "scope", "domain")
            },
            "robustness": dict(self.robustness),
            "shortcuts": dict(self.shortcuts),
            "heat_maps": dict(self.heat_maps),
            "known_failures": list(self.known_failures),
            "parent": self.parent,
            "tolerances": {precision: dict(limits) for precision, limits in self.tolerances.items()},
            "task": str(self.task),
            "finding_sets": [item.to_dict() for item in self.finding_sets],
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Return the card that `to_dict` wrote; what a card of an earlier version does not say keeps its default."""
        fields = dict(values)
        fields["classes"] = tuple(values["classes"])
        fields["preprocessing"] = Preprocessing.from_dict(values["preprocessing"])
        fields["history"] = History.from_dict(values["history"])
        fields["operating_points"] = tuple(OperatingPoint.from_dict(point) for point in values["operating_points"])
        fields["licences"] = tuple(values["licences"])
        fields["task"] = Task(values.get("task", Task.MULTICLASS))
        fields["finding_sets"] = tuple(FindingSet.from_dict(item) for item in values.get("finding_sets", ()))
        fields["known_failures"] = tuple(values.get("known_failures", ()))
        for name, build in (
            ("calibration", Calibration.from_dict),
            ("conformal", Conformal.from_dict),
            ("scope", Scope.from_dict),
            ("domain", Domain.from_dict),
        ):
            if values.get(name) is not None:
                fields[name] = build(values[name])
        return cls(**fields)
