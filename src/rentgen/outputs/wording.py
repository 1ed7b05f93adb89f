"""A result in words, in English and Ukrainian: short, and doubts first.

The words are data, in `words.json`; the physician's page reads the same file, so that report and screen say the same.
Placeholders are `{name}`. What a classifier's card calls a class and what the gate says of a film is English; the file
has translations of both, and what it does not know is shown as it is.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from importlib.resources import files
from typing import Any

from rentgen.records import Status
from rentgen.records.studies import Feedback, Point, StoredPrediction

NO_BREAK = "\N{NO-BREAK SPACE}"
THIN = "\N{THIN SPACE}"


class Language(StrEnum):
    """Of a report."""

    EN = "en"
    """English."""
    UK = "uk"
    """Ukrainian."""


@dataclass(frozen=True, slots=True)
class ResultWords:
    """A result, in the order in which it is to be read.

    Attributes:
        status: in two or three words.
        doubt: why there is no result; empty where there is one.
        reasons: for the doubt.
        sentences: what the model says; for a film in doubt, its scores and no more.
    """

    status: str
    doubt: str
    reasons: tuple[str, ...]
    sentences: tuple[str, ...]

    def lines(self) -> tuple[str, ...]:
        """Return all of it, a sentence a line; doubts come before any class."""
        return (*((self.doubt,) if self.doubt else ()), *self.reasons, *self.sentences)


@cache
def _table() -> Mapping[str, Any]:
    text = files("rentgen.outputs").joinpath("words.json").read_text(encoding="utf-8")
    table: Mapping[str, Any] = json.loads(text)
    return table


def words(language: str) -> Mapping[str, Any]:
    """Return the words of a language, as `words.json` has them.

    Raises:
        ValueError: a language that is not there.
    """
    return _table()[str(Language(language))]  # type: ignore[no-any-return]


def fill(text: str, **values: str) -> str:
    """Return a text with its placeholders filled, in one pass: a value with braces is no placeholder.

    Example:
        >>> fill("{label}: {share}", label="{share}", share="5")
        '{share}: 5'
    """
    return re.sub(r"\{(\w+)\}", lambda found: values.get(found[1], found[0]), text)


def percent(share: float, language: str, digits: int = 0) -> str:
    r"""Return a share in percent; never "100 %" or "0 %" of what is not quite so.

    Args:
        share: in [0, 1].
        language: its decimal mark is used.
        digits: after the mark.

    Example:
        >>> [percent(share, "en") for share in (0.87, 0.999, 0.001, 1.0)]
        ['87\xa0%', '>\u200999\xa0%', '<\u20091\xa0%', '100\xa0%']
    """
    step = 10.0**-digits
    sign, number = "", share * 100
    if share < 1 and number >= 100 - step / 2:
        sign, number = f">{THIN}", 100 - step
    elif share > 0 and number <= step / 2:
        sign, number = f"<{THIN}", step
    text = f"{number:.{digits}f}"
    return f"{sign}{text.replace('.', ',') if language == Language.UK else text}{NO_BREAK}%"


def class_name(label: str, language: str) -> str:
    """Return a class as a person would write it.

    Example:
        >>> class_name("PNEUMONIA", "uk"), class_name("lung_opacity", "en")
        ('Пневмонія', 'Lung opacity')
    """
    plain = label.replace("_", " ").strip()
    known: Mapping[str, str] = words(language)["classes"]
    return known.get(plain.lower(), plain[:1].upper() + plain[1:])


def point_name(name: str, language: str) -> str:
    """Return an operating point's name in words; one that is not known as it is."""
    known: Mapping[str, str] = words(language)["points"]
    return known.get(name, name)


def reason_words(reason: str, language: str) -> str:
    """Return a reason for doubt in a language; in English where there is no translation."""
    for pattern, text in words(language)["reasons"]:
        found = re.search(pattern, reason)
        if found is not None:
            return fill(text, **{str(number): part for number, part in enumerate(found.groups(), 1)})
    return reason


def deciding_point(prediction: StoredPrediction) -> Point | None:
    """Return the operating point that a result speaks of; None where there is none.

    It is, of the points set to find the named class, the one with the lowest threshold. Where the named class is
    nothing to find, it is that of the finding that came nearest to its own. The page chooses alike.
    """
    table, points = _table(), prediction.points
    able = [point for point in points if point.name in table["deciding_points"] and _is_finding(point.label)]
    own = [point for point in able if point.label == prediction.label]
    if not own and able:
        nearest = max(able, key=lambda point: prediction.probabilities.get(point.label, 0.0) / point.threshold)
        own = [point for point in able if point.label == nearest.label]
    return min(own, key=lambda point: point.threshold, default=points[0] if points else None)


def _is_finding(label: str) -> bool:
    return label.replace("_", " ").strip().lower() not in _table()["unremarkable"]


def result_words(prediction: StoredPrediction, language: str = "en", *, calibrated: bool = True) -> ResultWords:
    """Return what a model says of a film, in words.

    A film in doubt gets its scores for the record, and nothing of an operating point: figures of films that are like
    those of the card do not hold for it.

    Args:
        prediction: as it is kept.
        language: `en` or `uk`.
        calibrated: whether the bundle's numbers are probabilities.
    """
    table = words(language)
    status = table["status"][prediction.status]
    if prediction.status is not Status.OK:
        scores = (_scores(prediction, language),) if prediction.probabilities else ()
        reasons = tuple(reason_words(reason, language) for reason in prediction.reasons)
        left = _set_words(prediction.prediction_set, language) if prediction.status is Status.ABSTAIN else ()
        return ResultWords(status, table["doubt"][prediction.status], reasons, (*scores, *left))
    if prediction.several:
        return ResultWords(status, "", (), _findings_words(prediction, language, calibrated))
    label = prediction.label or ""
    told = fill(
        table["probability" if calibrated else "score"],
        label=class_name(label, language),
        probability=percent(prediction.probabilities.get(label, 0.0), language),
    )
    point = deciding_point(prediction)
    sentences = (told, *_point_words(point, language)) if point is not None else (told,)
    return ResultWords(status, "", (), (*sentences, *_set_words(prediction.prediction_set, language)))


def _findings_words(prediction: StoredPrediction, language: str, calibrated: bool) -> tuple[str, ...]:
    """Return what is said of several findings: which are present, which are in doubt, and each one's probability."""
    table = words(language)
    presence = {label: finding_presence(prediction, label) for label in prediction.probabilities}
    told = []
    for state, text in (("present", "present_list"), ("undetermined", "undetermined_list")):
        labels = [class_name(label, language) for label, found in presence.items() if found == state]
        told += [fill(table[text], labels=", ".join(labels))] if labels else []
    if not any(found == "present" and _is_finding(label) for label, found in presence.items()):
        told.append(table["none_present"])
    each = (
        fill(
            table["probability" if calibrated else "score"],
            label=class_name(label, language),
            probability=percent(share, language),
        )
        for label, share in prediction.probabilities.items()
    )
    return (*told, *each)


def finding_presence(prediction: StoredPrediction, label: str) -> str:
    """Return `present`, `absent`, `undetermined` or `unjudged`: what an answer says of one of several findings."""
    points = [
        point for point in prediction.points if point.label == label and point.name in _table()["deciding_points"]
    ]
    point = min(points, key=lambda point: point.threshold, default=None)
    if point is None:
        return "unjudged"
    if point.undetermined:
        return "undetermined"
    return "present" if point.positive else "absent"


def _scores(prediction: StoredPrediction, language: str) -> str:
    table = words(language)
    ranked = sorted(prediction.probabilities.items(), key=lambda item: -item[1])
    told = (
        fill(table["label_score"], label=class_name(label, language), probability=percent(share, language))
        for label, share in ranked
    )
    return fill(table["scores"], scores=", ".join(told))


def _point_words(point: Point, language: str) -> tuple[str, ...]:
    """Return which side of a point the film is on, and what the point is worth; the latter where it was measured."""
    table = words(language)
    side = fill(
        table["positive" if point.positive else "negative"],
        point=point_name(point.name, language),
        threshold=percent(point.threshold, language, 1),
        label=class_name(point.label, language),
    )
    found, passed = point.sensitivity, point.specificity
    if any(figure.get(end) is None for figure in (found, passed) for end in ("value", "low", "high")):
        return (side,)
    missed = {"value": _rest(passed, "value"), "low": _rest(passed, "high"), "high": _rest(passed, "low")}
    # An interval of resampled films is empty where all were right: to print it would claim certainty.
    right = "found_all" if found["value"] == found["low"] == 1 else "found"
    wrong = "false_none" if missed["value"] == missed["high"] == 0 else "false"
    label = class_name(point.label, language)
    worth = f"{_shares(table[right], found, language, label)} {_shares(table[wrong], missed, language, label)}"
    return side, worth, table["where_measured"]


def _rest(figure: Mapping[str, float | None], end: str) -> float:
    # 1 - 0.9850746 shall not carry noise into a comparison with 0.
    return round(1 - (figure[end] or 0.0), 12)


def _shares(text: str, figure: Mapping[str, float | None], language: str, label: str) -> str:
    low, high = (percent(figure[end] or 0.0, language) for end in ("low", "high"))
    return fill(
        text,
        share=percent(figure["value"] or 0.0, language),
        # 93-97 %, not 93 %-97 %.
        low=low.removesuffix(f"{NO_BREAK}%"),
        high=high,
        label=label,
    )


def _set_words(members: Sequence[str], language: str) -> tuple[str, ...]:
    if not members:
        return ()
    table = words(language)
    *others, last = (class_name(label, language) for label in members)
    listed = f"{', '.join(others)}{table['and']}{last}" if others else last
    return (fill(table["set_many" if others else "set_one"], labels=listed),)


def feedback_words(feedback: Feedback, language: str, prediction: StoredPrediction | None = None) -> str:
    """Return what a physician said of a result, without the comment.

    Args:
        feedback: as it is kept.
        language: `en` or `uk`.
        prediction: where it is the one that is judged, its findings of which nothing is said are told of, too.
    """
    table = words(language)
    if feedback.findings is None:
        kind = "agree" if feedback.agree else "correct" if feedback.label else "disagree"
        return fill(table[kind], actor=feedback.actor, label=class_name(feedback.label or "", language))
    said = feedback.findings
    judged = prediction is not None and prediction.prediction_id == feedback.prediction_id
    names = dict.fromkeys((*(prediction.probabilities if judged and prediction else ()), *said))
    told = [fill(table["agree" if feedback.agree else "disagree_findings"], actor=feedback.actor)]
    for text, wanted in (("said_present", True), ("said_absent", False), ("said_unknown", None)):
        labels = [class_name(name, language) for name in names if said.get(name) is wanted]
        told += [fill(table[text], labels=", ".join(labels))] if labels else []
    return " ".join(told)
