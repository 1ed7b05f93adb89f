"""Drift: are the films that come now answered like those that the bundle was measured on?

The last answers are held against the bundle's card. Nothing here knows what a film really shows, so nothing here says
that a model is wrong; it says that the figures on its card may no longer be about these films.

::

    confidence       population stability index of the top class's probability, over the card's reliability histogram
    beyond_distance  share of films farther from the training films than the card's threshold; expected: 1 - kept
    class:NAME       share of films with this most probable class; expected: that of the validation part
    distance         mean distance; the card has none to compare it with

Limits, all of them of this module: fewer than `MIN_FILMS` answers are `too few`. A share has `moved` where an exact
binomial test finds p < `ALPHA` (over the number of classes, for classes) and the difference is at least `MIN_SHIFT` (a
class: `MIN_CLASS_SHIFT`). The index has `moved` at `MIN_INDEX` or more, where chance alone would exceed it with a
probability below `ALPHA`. `ALPHA` is small because the question is asked again with every film.

Films of one patient are alike, so p is smaller than it should be where one patient has many films in the window.

Sources: Clopper and Pearson, The use of confidence or fiducial limits, Biometrika 26 (1934), 404-413; Yurdakul,
Statistical properties of population stability index (2018): under no drift the index times nm/(n + m) is near a
chi-square variable with one degree of freedom less than bins.
"""

from __future__ import annotations

import math
import threading
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, NamedTuple

from rentgen.evaluate.weighted import BINS
from rentgen.records import Card, Prediction
from rentgen.records.studies import StoredPrediction
from rentgen.service.chance import binomial_interval, binomial_p, chi_square_quantile

WINDOW = 500
"""Answers that are held against the card: the last ones."""
MIN_FILMS = 100
"""Fewer tell nothing."""
ALPHA = 0.001
MIN_SHIFT = 0.03
MIN_CLASS_SHIFT = 0.10
MIN_INDEX = 0.10
MIN_BIN = 0.02
"""Share of the reference films that a bin of the index holds at least; smaller ones join their neighbours."""


class Verdict(StrEnum):
    """What a measure says."""

    TOO_FEW = "too few"
    """Answers, to say anything."""
    AS_EXPECTED = "as expected"
    """Within what the card and chance explain."""
    MOVED = "moved"
    """Beyond it."""
    NO_REFERENCE = "no reference"
    """The card has nothing to compare with."""


@dataclass(frozen=True, slots=True)
class Measure:
    """One comparison.

    Attributes:
        name: as in the module's table.
        n: answers it rests on.
        value: now; None without answers.
        expected: by the card; None where it has no such figure.
        low: lower end of the value's exact 95 % interval, of shares.
        high: upper end, likewise.
        p: how probable so much or more is without drift, of shares.
        limit: from which value on it has moved, of the index.
        verdict: what follows.
    """

    name: str
    n: int
    value: float | None
    expected: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None
    limit: float | None = None
    verdict: Verdict = Verdict.NO_REFERENCE

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        names = ("name", "n", "value", "expected", "low", "high", "p", "limit")
        return {name: getattr(self, name) for name in names} | {"verdict": str(self.verdict)}


@dataclass(frozen=True, slots=True)
class Report:
    """The last answers of one bundle against its card.

    Attributes:
        n: answers in the window.
        window: how many it holds.
        first: when the oldest of them was given, UTC; None without any.
        last: when the newest was.
        measures: what was compared.
        verdict: `moved` where one has; else `as expected` where one is; else the first measure's.
    """

    n: int
    window: int
    first: datetime | None
    last: datetime | None
    measures: tuple[Measure, ...]
    verdict: Verdict

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "verdict": str(self.verdict),
            "n": self.n,
            "window": self.window,
            "first": None if self.first is None else self.first.isoformat(),
            "last": None if self.last is None else self.last.isoformat(),
            "measures": [measure.to_dict() for measure in self.measures],
        }


class Answer(NamedTuple):
    """What drift keeps of an answer: nothing that tells whose film it was.

    Attributes:
        confidence: of the most probable class, in [0, 1].
        label: that class.
        distance: from the training films; None where the bundle does not measure it.
        at: when, UTC.
    """

    confidence: float
    label: str
    distance: float | None
    at: datetime


@dataclass(frozen=True, slots=True)
class Reference:
    """What a card lets expect.

    Attributes:
        bins: upper ends of bins of confidence, rising, the last is 1; empty where the card has no histogram.
        counts: validation films in each.
        shares: class to its share among the validation part's answers; empty where the card does not say.
        threshold: largest distance that is inside; None where the bundle does not measure it.
        kept: share of the validation films within it.
    """

    bins: tuple[float, ...] = ()
    counts: tuple[int, ...] = ()
    shares: Mapping[str, float] | None = None
    threshold: float | None = None
    kept: float = 1.0

    @classmethod
    def of(cls, card: Card) -> Reference:
        """Return what a card says of the validation part; what it does not say stays empty."""
        bins, counts = merge_bins(card.validation.get("reliability") or {})
        domain = card.domain
        return cls(
            bins=bins,
            counts=counts,
            shares=_answered_shares(card.validation, card.classes),
            threshold=None if domain is None else domain.threshold,
            kept=1.0 if domain is None else domain.kept,
        )


def merge_bins(reliability: Mapping[str, Sequence[float]]) -> tuple[tuple[float, ...], tuple[int, ...]]:
    """Return upper ends and counts of a reliability curve's bins, none with less than `MIN_BIN` of the films.

    Example:
        >>> merge_bins({"x": [0.51, 0.7, 0.9, 0.99], "count": [1, 1, 40, 158]})
        ((0.9333333333333333, 1.0), (42, 158))
    """
    counts = [int(count) for count in reliability.get("count", ())]
    if not counts:
        return (), ()
    # The mean confidence of a bin lies in it, and so tells which of the equal bins it is.
    ends = [math.ceil(x * BINS) / BINS for x in reliability["x"]]
    least = MIN_BIN * sum(counts)
    merged: list[tuple[float, int]] = []
    gathered = 0
    for end, count in zip(ends, counts, strict=True):
        gathered += count
        if gathered >= least:
            merged.append((end, gathered))
            gathered = 0
    if gathered and merged:
        merged[-1] = (1.0, merged[-1][1] + gathered)
    merged[-1] = (1.0, merged[-1][1])
    return tuple(end for end, _ in merged), tuple(count for _, count in merged)


def _answered_shares(validation: Mapping[str, Any], classes: Sequence[str]) -> dict[str, float] | None:
    """Return how often each class was the answer on the validation part: columns of the confusion matrix."""
    confusion = validation.get("confusion")
    if not confusion:
        return None
    answered = [sum(column) for column in zip(*confusion, strict=True)]
    total = sum(answered)
    return {label: count / total for label, count in zip(classes, answered, strict=True)} if total else None


def stability_index(now: Sequence[int], reference: Sequence[int]) -> float:
    """Return the population stability index of two histograms over the same bins; 0 for equal shares.

    Half a film is added to each bin of both, so that an empty one has a logarithm.
    """
    bins = len(reference)
    total_now, total_reference = sum(now) + bins / 2, sum(reference) + bins / 2
    shares = (
        ((count + 0.5) / total_now, (held + 0.5) / total_reference) for count, held in zip(now, reference, strict=True)
    )
    return sum((share - expected) * math.log(share / expected) for share, expected in shares)


def compare(answers: Sequence[Answer], reference: Reference) -> tuple[Measure, ...]:
    """Return the measures of these answers against a card's reference."""
    return (
        _confidence(answers, reference),
        _beyond(answers, reference),
        *_classes(answers, reference),
        _distance(answers),
    )


def _confidence(answers: Sequence[Answer], reference: Reference) -> Measure:
    n = len(answers)
    if len(reference.counts) < 2:
        return Measure("confidence", n, None)
    below = [sum(answer.confidence <= end for answer in answers) for end in (*reference.bins[:-1], math.inf)]
    counts = [upper - lower for lower, upper in zip((0, *below), below, strict=False)]
    if not n:
        return Measure("confidence", 0, None, expected=0.0, verdict=Verdict.TOO_FEW)
    index = stability_index(counts, reference.counts)
    chance = chi_square_quantile(1 - ALPHA, len(counts) - 1) * (1 / n + 1 / sum(reference.counts))
    limit = max(MIN_INDEX, chance)
    return Measure("confidence", n, index, expected=0.0, limit=limit, verdict=_verdict(n, index >= limit))


def _beyond(answers: Sequence[Answer], reference: Reference) -> Measure:
    measured = [answer.distance for answer in answers if answer.distance is not None]
    threshold = reference.threshold
    if threshold is None:
        return Measure("beyond_distance", len(measured), None)
    beyond = sum(distance > threshold for distance in measured)
    return _share("beyond_distance", beyond, len(measured), 1 - reference.kept, ALPHA, MIN_SHIFT)


def _classes(answers: Sequence[Answer], reference: Reference) -> tuple[Measure, ...]:
    counted = Counter(answer.label for answer in answers)
    n = len(answers)
    if reference.shares is None:
        return tuple(Measure(f"class:{label}", n, count / n) for label, count in sorted(counted.items()))
    alpha = ALPHA / len(reference.shares)
    return tuple(
        _share(f"class:{label}", counted[label], n, share, alpha, MIN_CLASS_SHIFT)
        for label, share in reference.shares.items()
    )


def _distance(answers: Sequence[Answer]) -> Measure:
    measured = [answer.distance for answer in answers if answer.distance is not None]
    return Measure("distance", len(measured), math.fsum(measured) / len(measured) if measured else None)


def _share(name: str, count: int, n: int, expected: float, alpha: float, shift: float) -> Measure:
    if not n:
        return Measure(name, 0, None, expected=expected, verdict=Verdict.TOO_FEW)
    low, high = binomial_interval(count, n)
    p = binomial_p(count, n, expected)
    moved = p < alpha and abs(count / n - expected) >= shift
    return Measure(name, n, count / n, expected, low, high, p, verdict=_verdict(n, moved))


def _verdict(n: int, moved: bool) -> Verdict:
    if n < MIN_FILMS:
        return Verdict.TOO_FEW
    return Verdict.MOVED if moved else Verdict.AS_EXPECTED


def _together(measures: Sequence[Measure]) -> Verdict:
    found = [measure.verdict for measure in measures]
    order = (Verdict.MOVED, Verdict.AS_EXPECTED, Verdict.TOO_FEW)
    return next((verdict for verdict in order if verdict in found), Verdict.NO_REFERENCE)


class Drift:
    """The last answers of one bundle, and how they compare. Safe from any thread; memory is bounded by the window."""

    def __init__(
        self, reference: Reference, *, window: int = WINDOW, now: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self.reference = reference
        self._answers: deque[Answer] = deque(maxlen=window)
        self._lock = threading.Lock()
        self._now = now
        self._window = window
        self._known: Report | None = None

    def observe(self, prediction: Prediction | StoredPrediction) -> None:
        """Take an answer in; one without scores (a file that could not be read) is passed over."""
        if prediction.label is None:
            return
        confidence = prediction.probabilities[prediction.label]
        answer = Answer(confidence, prediction.label, prediction.distance, self._now())
        with self._lock:
            self._answers.append(answer)
            self._known = None

    def report(self) -> Report:
        """Return the comparison of the answers in the window."""
        with self._lock:
            known, answers = self._known, tuple(self._answers)
        if known is None:
            # Milliseconds, during which films go on being answered.
            known = self._compare(answers)
            with self._lock:
                if self._answers and answers and self._answers[-1] is answers[-1]:
                    self._known = known
        return known

    def _compare(self, answers: tuple[Answer, ...]) -> Report:
        measures = compare(answers, self.reference)
        first, last = (answers[0].at, answers[-1].at) if answers else (None, None)
        return Report(len(answers), self._window, first, last, measures, _together(measures))


class Drifts:
    """The drift of every model of a service. A model whose bundle is replaced begins anew. Safe from any thread."""

    def __init__(self, window: int = WINDOW) -> None:
        self._window = window
        self._lock = threading.Lock()
        self._of: dict[str, tuple[str, Drift]] = {}

    def observe(self, model: str, card: Card, prediction: StoredPrediction) -> None:
        """Take in what a model's bundle answered.

        Args:
            model: its name in the service.
            card: of the bundle that answered.
            prediction: its answer, which names the bundle.
        """
        self.of(model, card, prediction.bundle_id).observe(prediction)

    def of(self, model: str, card: Card, bundle_id: str) -> Drift:
        """Return a model's drift; a new one where another bundle has taken its place."""
        with self._lock:
            found = self._of.get(model)
            if found is None or found[0] != bundle_id:
                found = (bundle_id, Drift(Reference.of(card), window=self._window))
                self._of[model] = found
            return found[1]

    def reports(self) -> dict[str, Report]:
        """Return each model's report, by its name."""
        with self._lock:
            drifts = {model: drift for model, (_, drift) in self._of.items()}
        return {model: drift.report() for model, drift in drifts.items()}
