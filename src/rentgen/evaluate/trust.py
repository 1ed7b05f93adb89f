"""What a report says of trust, in plain values and words: stress, shortcuts, heat maps, calibration, known failures.

All functions take the plain values that a card holds, so that a card and a fresh measurement read the same. A card of
another version may lack any of it: what is not there is not shown.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rentgen.evaluate import trust_plots
from rentgen.evaluate.wording import NO_BREAK, plural, range_text, value_text
from rentgen.records import Card, Task

GRADES = {
    "passed": "The heat maps passed: hot regions carry the answer, and training put them there.",
    "weak": "The heat maps are weak: better than chance, but not shown to be more. Regions are not to be relied on.",
    "failed": "The heat maps failed: they show nothing of how the model decides. Do not read anything into them.",
}
CALIBRATED = {
    "ece": "Calibration error (ECE)",
    "brier": "Brier score",
    "loss": "Log loss",
    "slope": "Slope (1 is right)",
    "intercept": "Intercept (0 is right)",
}
METHODS = {
    "none": "no correction",
    "temperature": "one temperature for all classes",
    "vector": "a scale and a shift for each class",
}
NOT_DONE = "Not measured for this model."
_UNKNOWN: Mapping[str, float | None] = {"value": None, "low": None, "high": None}

Cell = tuple[str, str]


def cell(name: str, found: Mapping[str, Any] | None) -> Cell:
    """Return a metric's value and interval as text."""
    values = found or _UNKNOWN
    return value_text(name, values.get("value")), range_text(
        name, {"low": values.get("low"), "high": values.get("high")}
    )


def view(
    card: Card, robustness: Mapping[str, Any], shortcuts: Mapping[str, Any], heat_maps: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what the templates show of trust."""
    return {
        "stress": _stress(robustness),
        "probing": _probing(shortcuts),
        "heat": _heat(heat_maps),
        "calibrated": _calibrated(card),
        "knowing": _knowing(card),
        "known_failures": list(card.known_failures),
        "not_done": NOT_DONE,
    }


def figures(robustness: Mapping[str, Any], heat_maps: Mapping[str, Any]) -> dict[str, str]:
    """Return name to SVG; a figure for which there is nothing to draw is left out."""
    drawn = {}
    rows = robustness.get("rows", [])
    for metric, title in (("auroc", "AUROC"), ("accuracy", "Accuracy")):
        if rows and rows[0].get(metric, _UNKNOWN)["value"] is not None:
            drawn[f"stress_{metric}"] = trust_plots.stress_figure(rows, metric, title)
    for kind, lines in heat_maps.get("curves", {}).items():
        drawn[f"follow_{kind}"] = trust_plots.follow_figure(kind, heat_maps["steps"], lines)
    return drawn


def _row(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "name": "as they are" if row["name"] == "none" else row["name"],
        "n": row["n"],
        "patients": row["patients"],
        "cells": [cell(name, row.get(name)) for name in ("accuracy", "auroc", "ece")],
    }


def _stress(found: Mapping[str, Any]) -> dict[str, Any]:
    rows = found.get("rows", [])
    if not rows:
        return {}
    plain, mean = rows[0], found["mean"]
    worst = next((row for row in rows if row["name"] == found["worst"]), plain)
    measure = "auroc" if plain["auroc"]["value"] is not None else "accuracy"
    name = {"auroc": "AUROC", "accuracy": "accuracy"}[measure]
    before, after, least = (value_text(measure, one[measure]["value"]) for one in (plain, mean, worst))
    return {
        "words": [
            f"The same {plural(found['n'], 'film')} of {plural(found['patients'], 'patient')}, each made worse in "
            f"{len(rows) - 1} ways that archives hold and a radiologist would still read.",
            f"As they are, {name} is {before}; on average over the corruptions {after}; at worst {least} "
            f"({worst['name']}).",
        ],
        "rows": [_row(row) for row in rows],
        "mean": [cell(one, mean.get(one)) for one in ("accuracy", "auroc", "ece")],
        "worst": found["worst"],
        "groups": [_row(row) for row in found.get("groups", [])],
    }


def _probing(found: Mapping[str, Any]) -> dict[str, Any]:
    probes = found.get("probes", [])
    if not probes:
        return {}
    passed = found["passed"]
    failed = [probe["name"] for probe in probes if probe["about"] == "model" and probe["passes"] is False]
    if passed:
        verdict = "The model passes: with the thorax it knows what it knew, without it little."
    elif passed is None:
        verdict = "No verdict: on these films the model knows too little for hiding to tell anything."
    else:
        verdict = f"The model fails: {'; '.join(failed)}. It uses what is not disease."
    notes = []
    if any(probe["about"] == "set" and probe["passes"] is False for probe in probes):
        notes.append(
            "Size and grey levels alone tell the classes of this set apart: high figures on it prove little. Measure "
            "on films from elsewhere."
        )
    if found["thorax_found"] < 0.8:
        notes.append(
            f"Both lungs were seen in only {_percent(found['thorax_found'], 0)} of the films; elsewhere the thorax was "
            "assumed in its usual place."
        )
    words = (
        f"{plural(found['n'], 'film')} of {plural(found['patients'], 'patient')}, parts of them hidden behind a smooth "
        f"continuation of the rest. Both lungs were seen in {_percent(found['thorax_found'], 0)}; "
        f"{plural(found['maps'], 'film')} had a heat map."
    )
    return {
        "words": words,
        "verdict": verdict,
        "passed": passed,
        "notes": notes,
        "rows": [
            {
                "name": probe["name"],
                "about": "the films" if probe["about"] == "set" else "the model",
                "measure": "share" if probe["measure"] == "share" else "AUROC",
                "cell": cell("auroc", probe),
                "limit": probe["limit"],
                "passes": _passes(probe["passes"]),
                "meaning": probe["meaning"],
            }
            for probe in probes
        ],
    }


def _passes(value: bool | None) -> str:
    return "" if value is None else "passes" if value else "fails"


def _heat(found: Mapping[str, Any]) -> dict[str, Any]:
    if not found:
        return {}
    scores = found.get("scores", {})
    return {
        "grade": found["grade"],
        "verdict": GRADES.get(found["grade"], found["grade"]),
        "reasons": list(found["reasons"]),
        "words": f"{plural(found['n'], 'film')} graded."
        + (
            f" {found['empty']} more had an empty map, as films that are named normal mostly have."
            if found["empty"]
            else ""
        ),
        "rows": [
            {
                "name": trust_plots.MAP_NAMES.get(name, name),
                "cells": [cell("auroc", values.get(kind)) if kind in values else ("", "") for kind in
                          ("deletion", "insertion", "ahead")],
            }
            for name, values in scores.items()
        ],
    }  # fmt: skip


def _calibrated(card: Card) -> dict[str, Any]:
    calibration = card.calibration
    if calibration is None:
        return {}
    return {
        "words": f"Probabilities are corrected with {METHODS.get(calibration.method, calibration.method)}, fitted on "
        f"{calibration.fitted_on} ({plural(calibration.n, 'film')}).",
        "rows": [
            (name, cell(key, calibration.before.get(key)), cell(key, calibration.after.get(key)))
            for key, name in CALIBRATED.items()
            if key in calibration.before or key in calibration.after
        ],
    }


def _knowing(card: Card) -> list[str]:
    """Return what the model does where it does not know, where it asks, and where it comes from."""
    sentences = []
    if card.conformal is not None:
        found = card.conformal
        sentences.append(
            "With each film comes a set of classes that holds the true one in "
            f"{_percent(found.coverage, 0)} of films like those it was fitted on ({plural(found.n, 'film')}). Where "
            "the set holds exactly one class, that is the answer; where it holds more, or none, the status is abstain: "
            "the model does not know, and a person should look."
        )
        if found.measured is not None:
            value, spread = cell("accuracy", found.measured)
            sentences.append(f"On the test part the set held the true class in {value}{_in_brackets(spread)}.")
        if found.single is not None:
            value, spread = cell("accuracy", found.single)
            sentences.append(f"It gave exactly one class in {value}{_in_brackets(spread)} of the films.")
    elif card.finding_sets:
        sentences += _finding_sets(card)
    elif card.task is Task.MULTILABEL:
        sentences.append("The model is never in doubt: it calls each finding present or absent, however unsure it is.")
    else:
        sentences.append("The model never abstains: it names a class for every film, however unsure it is.")
    if card.domain is not None:
        sentences.append(
            f"A film farther than {card.domain.threshold:.4g} from the films that taught it is called out of scope; "
            f"{_percent(card.domain.kept, 1)} of {plural(card.domain.n, 'validation film')} lie nearer."
        )
    else:
        sentences.append("The model does not ask how far a film lies from those that taught it.")
    if card.parent:
        sentences.append(
            f"It was calibrated anew for a site, from the bundle {card.parent[:12]}; its weights are the same."
        )
    return sentences


def _finding_sets(card: Card) -> list[str]:
    """Return when findings are in doubt, and how often that was right."""
    sets = card.finding_sets
    sentences = [
        f"A finding is undetermined where it can be neither ruled out nor confirmed: of films with it, and of films "
        f"without, the answer holds the truth in {_percent(sets[0].coverage, 0)} of films like those it was fitted on."
    ]
    measured = []
    for item in sets:
        if item.measured is not None and item.single is not None:
            held, single = (cell("accuracy", found)[0] for found in (item.measured, item.single))
            measured.append(f"{item.label} {held} (a single answer in {single})")
    if measured:
        sentences.append(f"On the test part the answer held the truth: {', '.join(measured)}.")
    without = [label for label in card.classes if label not in {item.label for item in sets}]
    if without:
        sentences.append(f"Too few films for that promise: {', '.join(without)}.")
    return sentences


def _percent(share: float, digits: int) -> str:
    return f"{share * 100:.{digits}f}{NO_BREAK}%"


def _in_brackets(spread: str) -> str:
    return f" (95{NO_BREAK}% interval {spread})" if spread else ""
