"""The report: one self-contained HTML page, the same in Markdown, and strict JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rentgen.evaluate import plots, trust, wording
from rentgen.evaluate.explain import HeatMapGrade
from rentgen.evaluate.rendering import environment, strict, template, to_toml, write_whole
from rentgen.evaluate.shortcuts import Shortcuts
from rentgen.evaluate.stress import Robustness
from rentgen.records import DISCLAIMER, Audit, Card, Curve, Evaluation, Interval, Mistake, OperatingPoint

if TYPE_CHECKING:
    pass

FAILED_SHOWN = 50
"""Unreadable files named in the page; the JSON names all."""


@dataclass(frozen=True, slots=True, eq=False)
class Report:
    """What there is to say of a model on a set.

    Attributes:
        card: of the bundle.
        evaluation: of the set asked about; without it the page falls back on the card's test part, then on its
            validation part, and says so.
        title: of the page.
        data_path: the set asked about.
        command: that made this report.
        created: when, ISO 8601, UTC.
        audit: of the set asked about; without it the card's own is shown.
        mistakes: films it got wrong, worst first.
        examples: films it got right, to compare.
        robustness: measured anew; without it the card's own is shown.
        shortcuts: likewise.
        heat_maps: likewise.
    """

    card: Card
    evaluation: Evaluation | None
    title: str
    data_path: str
    command: str
    created: str
    audit: Audit | None = None
    mistakes: tuple[Mistake, ...] = ()
    examples: tuple[Mistake, ...] = ()
    robustness: Robustness | None = None
    shortcuts: Shortcuts | None = None
    heat_maps: HeatMapGrade | None = None

    def probed(self) -> tuple[Mapping[str, Any], Mapping[str, Any], Mapping[str, Any]]:
        """Return robustness, shortcuts and heat maps as plain values; empty where nobody measured them."""
        return (
            self.card.robustness if self.robustness is None else self.robustness.to_dict(),
            self.card.shortcuts if self.shortcuts is None else self.shortcuts.to_dict(),
            self.card.heat_maps if self.heat_maps is None else self.heat_maps.to_dict(),
        )


def render_html(report: Report) -> str:
    """Return one page that needs nothing else: no script, no font, no request; pictures and figures are inside it."""
    page = environment(autoescape=True).get_template("report.html")
    return page.render(_view(report), style=template("report.css"), figures=_figures(report))


def render_markdown(report: Report) -> str:
    """Return the page's text and tables as Markdown, without figures and films."""
    text = environment(autoescape=False).get_template("report.md").render(_view(report))
    return text.replace(wording.NO_BREAK, " ").strip() + "\n"


def render_json(report: Report) -> str:
    """Return everything as strict JSON: what could not be measured is null."""
    values = {
        "title": report.title,
        "created": report.created,
        "disclaimer": DISCLAIMER,
        "data": report.data_path,
        "command": report.command,
        "leaky": None if report.evaluation is None else report.evaluation.to_dict()["leaky"],
        "evaluation": None if report.evaluation is None else report.evaluation.to_dict(),
        "audit": None if report.audit is None else report.audit.to_dict(),
        "card": report.card.to_dict(),
        **dict(zip(("robustness", "shortcuts", "heat_maps"), report.probed(), strict=True)),
        **{
            name: [
                {"path": m.path, "label": m.label, "predicted": m.predicted, "probability": m.probability}
                for m in mistakes
            ]
            for name, mistakes in (("mistakes", report.mistakes), ("examples", report.examples))
        },
    }
    return json.dumps(strict(values), allow_nan=False, ensure_ascii=False, indent=1) + "\n"


def write(directory: Path, report: Report) -> tuple[Path, ...]:
    """Write report.html, report.md and report.json, and return their paths; each appears whole or not at all.

    Args:
        directory: made if it is not there.
        report: what to say.
    """
    texts = {
        "report.html": render_html(report),
        "report.md": render_markdown(report),
        "report.json": render_json(report),
    }
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        write_whole(directory / name, text)
    return tuple(directory / name for name in texts)


def _subject(report: Report) -> tuple[dict[str, Any], str]:
    """Return the measurement to show, as plain values, and what it is: `asked`, `test` or `validation`."""
    if report.evaluation is not None:
        return report.evaluation.to_dict(), "asked"
    if report.card.test:
        return dict(report.card.test), "test"
    return dict(report.card.validation), "validation"


def _view(report: Report) -> dict[str, Any]:
    """Return what both templates show, in plain values and words."""
    card = report.card
    found, basis = _subject(report)
    audit = dict(card.audit) if report.audit is None else report.audit.summary()
    return {
        "report": report,
        "card": card,
        "disclaimer": DISCLAIMER,
        "found": found,
        "basis": basis,
        "leaky": bool(found and found["leaky"]),
        **(_measured(report, found, basis) if found else {}),
        "headline": wording.headline(found, wording.seen_before(found, basis)) if found else wording.NOTHING,
        "detail": wording.detail(found) if found else [],
        "cautions": wording.cautions(found, basis, audit.get("patient_source")),
        "status_words": wording.status_words(found) if found else "",
        "audit": audit,
        "audit_of": "the training data" if report.audit is None else report.data_path,
        "audit_words": wording.audit_words(audit),
        "parts": _part_rows(card),
        "shortcuts": [wording.shortcut(*item) for item in sorted(audit.get("shortcuts", {}).items(), key=_falling)],
        "failed": list(found["failed"].items())[:FAILED_SHOWN] if found else [],
        "model_words": wording.model_words(card),
        "training_words": wording.training_words(card),
        "epochs": max((len(epochs) for epochs in card.history.parts.values()), default=0),
        "recipe": to_toml(card.recipe),
        "commands": list(dict.fromkeys(command for command in (card.command, report.command) if command)),
        "limits": wording.LIMITS,
        "trust": trust.view(card, *report.probed()),
        "probed_films": () if report.shortcuts is None else report.shortcuts.examples,
    }


def _measured(report: Report, found: Mapping[str, Any], basis: str) -> dict[str, Any]:
    """Return what the templates show of a measurement."""
    rows = _metric_rows(found)
    points = found["operating_points"]
    return {
        "leak_words": wording.leak_words(found),
        "interval_words": wording.interval_words(found),
        "metrics": rows,
        "tiles": [row for row in rows if row["key"] in ("accuracy", "recall", "specificity", "auroc")],
        "classes": _class_rows(found),
        "several": wording.is_several(found),
        "errors": (errors := _errors(found)),
        "error_rows": _error_rows(errors),
        "class_columns": [wording.CLASS_COLUMNS[name] for name in next(iter(found["per_class"].values()), {})],
        "comparison": _comparison(report),
        "points": [
            wording.operating_point(point, found["positive"], several=wording.is_several(found))
            for point in points or [point.to_dict() for point in report.card.operating_points]
        ],
        # Measured on the validation part is where they were chosen.
        "points_measured_here": bool(points) and basis != "validation",
        "prevalences": [f"{share:.0%}".replace("%", "") for share in wording.PREVALENCES],
    }


def _part_rows(card: Card) -> dict[str, Any]:
    """Return the table of films per part and class, with patients where the audit knows them."""
    patients = card.audit.get("patients", {})
    films = card.audit.get("films", {})
    return {
        "classes": list(card.classes),
        "patients": bool(patients),
        "rows": [
            {
                "part": part,
                "numbers": [numbers.get(label, 0) for label in card.classes],
                "total": films.get(part, sum(numbers.values())),
                "patients": patients.get(part, ""),
            }
            for part, numbers in card.counts.items()
        ],
    }


def _falling(item: tuple[str, float]) -> float:
    return -item[1]


def _metric_rows(found: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return the metrics table; macro rows are left out where the headline already is the macro average."""
    macro = found["positive"] is None
    meanings = dict(wording.METRICS) | (dict(wording.SEVERAL) if wording.is_several(found) else {})
    return [
        {
            "key": name,
            "name": f"{title}, macro" if macro and name in ("recall", "specificity", "precision", "f1") else title,
            "meaning": meaning,
            "value": wording.value_text(name, found[name]["value"]),
            "range": wording.range_text(name, found[name]),
        }
        for name, (title, meaning) in meanings.items()
        if not (macro and name.startswith("macro_"))
    ]


def _class_rows(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [
        {
            "label": label,
            "support": found["support"][label],
            "known": found.get("known", {}).get(label, 0),
            "cells": [
                (wording.value_text(name, interval["value"]), wording.range_text(name, interval))
                for name, interval in found["per_class"][label].items()
            ],
        }
        for label in found["classes"]
    ]


def _errors(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return the errors of the findings that some film is known for; nothing of a bundle of an earlier version."""
    known = found.get("known", {})
    kept = {label: told for label, told in found.get("errors", {}).items() if known.get(label)}
    beside = ("missed_beside", "false_alarms_beside")
    return {
        label: told | {key: {other: cell for other, cell in told[key].items() if other in kept} for key in beside}
        for label, told in kept.items()
    }


def _error_rows(errors: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return two rows a finding: what the films of its misses show, and those of its false alarms."""
    kinds = (("missed", "missed", "missed_beside"), ("wrongly said", "false_alarms", "false_alarms_beside"))
    return [
        {
            "name": f"{label}, {kind}",
            "total": told[total],
            "cells": [told[key].get(other) for other in errors],
        }
        for label, told in errors.items()
        for kind, total, key in kinds
    ]


def _comparison(report: Report) -> dict[str, Any]:
    """Return headline metrics of the validation part, the test part and this set, side by side."""
    sets: dict[str, Mapping[str, Any]] = {}
    if report.card.validation:
        sets["Validation"] = report.card.validation
    if report.card.test:
        sets["Test"] = report.card.test
    if report.evaluation is not None:
        asked = report.evaluation.to_dict()
        if not report.card.test or any(asked[name] != report.card.test[name] for name in ("n", "accuracy", "loss")):
            sets["This set"] = asked
    names = ("accuracy", "recall", "specificity", "f1", "auroc", "loss", "ece")
    return {
        "sets": [
            (f"{title} LEAKY" if values.get("leaky") and title != "Validation" else title, values["n"])
            for title, values in sets.items()
        ],
        "rows": [
            (
                wording.METRICS[name][0],
                [
                    (wording.value_text(name, v[name]["value"]), wording.range_text(name, v[name]))
                    for v in sets.values()
                ],
            )
            for name in names
        ],
    }


def _figures(report: Report) -> dict[str, str]:
    """Return name to SVG; a figure for which there is nothing to draw is left out."""
    found, _ = _subject(report)
    figures = _measured_figures(found) if found else {}
    robustness, _, heat_maps = report.probed()
    figures |= trust.figures(robustness, heat_maps)
    if any(sum(part.values()) for part in report.card.counts.values()):
        figures["counts"] = plots.counts_figure(report.card.counts)
    if any(report.card.history.parts.values()):
        for metric in ("loss", "accuracy", "recall", "f1"):
            figures[f"history_{metric}"] = plots.history_figure(report.card.history, metric)
    return figures


def _measured_figures(found: Mapping[str, Any]) -> dict[str, str]:
    shown = found["classes"] if found["positive"] is None else [found["positive"]]
    areas = {
        name: {label: Interval.from_dict(found["per_class"][label][name]) for label in shown}
        for name in ("auroc", "average_precision")
    }
    figures = {"reliability": plots.reliability_figure(_curve(found["reliability"]))}
    if not wording.is_several(found):
        figures["confusion"] = plots.confusion_figure(found["confusion"], found["classes"])
    elif errors := _errors(found):
        figures["errors"] = plots.errors_figure(errors)
    roc, precise = (_curves(found[name], shown) for name in ("roc", "precision_recall"))
    if roc:
        points = [OperatingPoint.from_dict(point) for point in found["operating_points"]]
        measured = [p for p in points if not math.isnan(p.sensitivity.value + p.specificity.value)]
        figures["roc"] = plots.roc_figure(roc, areas["auroc"], measured)
    if precise:
        films = found.get("known") or dict.fromkeys(found["classes"], found["n"])
        shares = {label: number / max(1, films[label]) for label, number in found["support"].items()}
        figures["precision_recall"] = plots.precision_recall_figure(precise, areas["average_precision"], shares)
    return figures


def _curves(curves: Mapping[str, Any], labels: list[str]) -> dict[str, Curve]:
    return {label: _curve(curves[label]) for label in labels if label in curves}


def _curve(values: Mapping[str, Any]) -> Curve:
    return Curve(tuple(values["x"]), tuple(values["y"]), tuple(values.get("count", ())))
