"""Sections of the report on calibration, stress, shortcuts and heat maps."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from reports import (
    HOSTILE,
    PIXEL,
    Page,
    make_card,
    make_report,
    refuse,
)

from rentgen.evaluate.explain import Grade, HeatMapGrade
from rentgen.evaluate.report import render_html, render_json, render_markdown
from rentgen.evaluate.shortcuts import Example, Probe, Shortcuts
from rentgen.evaluate.stress import Robustness, Row
from rentgen.records import (
    Calibration,
    Card,
    Conformal,
    Domain,
    Interval,
)


def interval(value: float | None) -> dict[str, float | None]:
    spread = None if value is None else 0.02
    return {
        "value": value,
        "low": None if value is None or spread is None else value - spread,
        "high": None if value is None or spread is None else value + spread,
    }


def stress_values(area: float | None = 0.9) -> dict[str, Any]:
    rows = [
        {"name": name, "n": 40, "patients": 20}
        | {metric: interval(value) for metric, value in (("accuracy", 0.8), ("auroc", area), ("ece", 0.05))}
        for name in ("none", "darker", "noise")
    ]
    return {
        "n": 40,
        "patients": 20,
        "resamples": 10,
        "rows": rows,
        "mean": {metric: rows[1][metric] for metric in ("accuracy", "auroc", "ece")},
        "worst": "noise",
        "groups": [rows[0] | {"name": "A: darker, soft"}],
    }


def shortcut_values(passed: bool | None, found: float = 0.95) -> dict[str, Any]:
    def probe(name: str, about: str, passes: bool | None) -> dict[str, Any]:
        row = {"name": name, "about": about, "measure": "auroc", "limit": "below 0.75", "passes": passes}
        return row | interval(0.9) | {"meaning": "What it means."}

    probes = [probe("thorax hidden", "model", passed), probe("grey levels", "set", passed)]
    return {"n": 40, "patients": 20, "resamples": 10, "thorax_found": found, "maps": 30, "passed": passed} | {
        "probes": probes
    }


def heat_values(grade: str = "passed") -> dict[str, Any]:
    names = ("map", "random", "centre")
    return {
        "grade": grade,
        "reasons": ["A reason."],
        "n": 30,
        "empty": 10,
        "patients": 20,
        "scores": {
            name: {"deletion": interval(0.4), "insertion": interval(0.6)}
            | ({} if name == "map" else {"ahead": interval(0.1)})
            for name in names
        },
        "curves": {kind: {name: [0.9, 0.5, 0.1] for name in names} for kind in ("deletion", "insertion")},
        "steps": [0.0, 0.5, 1.0],
        "similarity": {"spearman": interval(0.1)},
    }


def trusted_card(**changes: Any) -> Card:  # noqa: ANN401
    calibration = Calibration("temperature", (0.5, 0.5), (0.0, 0.0), "the validation part", 60,
                              {"ece": interval(0.12)}, {"ece": interval(0.03), "slope": interval(1.01)})  # fmt: skip
    told: dict[str, Any] = {
        "calibration": calibration,
        "conformal": Conformal(0.95, 0.2, 60, interval(0.94), interval(0.88)),
        "domain": Domain(12.5, 0.99, 60),
        "robustness": stress_values(),
        "shortcuts": shortcut_values(True),
        "heat_maps": heat_values(),
        "known_failures": ("Misses films taken lying down.",),
        "parent": "abcdef0123456789",
    }
    return make_card(**(told | changes))


def test_trust_is_told_from_the_card() -> None:
    report = make_report(card=trusted_card())
    html = render_html(report)
    page = Page(html)
    assert page.stack == []
    identifiers = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(identifiers) == len(set(identifiers))
    text = " ".join(page.text.split()).replace("\N{NO-BREAK SPACE}", " ")
    words = render_markdown(report).replace("\\", "")
    for expected in (
        "corrected with one temperature for all classes, fitted on the validation part (60 films)",
        "holds the true one in 95 % of films like those",
        "the status is abstain: the model does not know",
        "the set held the true class in 94.0 %",
        "farther than 12.5 from the films that taught it is called out of scope",
        "from the bundle abcdef012345;",
        "As they are, AUROC is 0.900; on average over the corruptions 0.900; at worst 0.900 (noise).",
        "A: darker, soft",
        "The model passes",
        "The heat maps passed",
        "30 films graded. 10 more had an empty map",
        "A reason.",
        "Misses films taken lying down.",
    ):
        assert expected in text
        assert expected in words
    for figure in ("stress-auroc", "stress-accuracy", "follow-deletion", "follow-insertion"):
        assert f'id="{figure}-' in html
    assert json.loads(render_json(report))["heat_maps"]["grade"] == "passed"


def test_trust_that_nobody_measured_is_told_as_such() -> None:
    text = " ".join(Page(render_html(make_report())).text.split())
    assert text.count("Not measured for this model.") == 3
    assert "no correction was fitted" in text
    assert "The model never abstains" in text
    assert "None were noted when the model was made" in text


@pytest.mark.parametrize(("passed", "verdict"), [(False, "The model fails: thorax hidden."), (None, "No verdict")])
def test_shortcuts_that_are_not_passed_are_told(passed: bool | None, verdict: str) -> None:
    card = trusted_card(shortcuts=shortcut_values(passed, found=0.5), heat_maps=heat_values("failed"))
    text = " ".join(Page(render_html(make_report(card=card))).text.split()).replace("\N{NO-BREAK SPACE}", " ")
    assert verdict in text
    assert "Both lungs were seen in only 50 % of the films" in text
    assert "The heat maps failed" in text
    assert ("high figures on it prove little" in text) == (passed is False)


def test_what_is_measured_anew_stands_before_the_card() -> None:
    row = Row("none", 5, 5, dict.fromkeys(("accuracy", "auroc", "ece"), Interval(0.777, 0.7, 0.8)))
    robustness = Robustness(5, 5, 10, (row, dataclasses.replace(row, name="fog")), row.metrics, "fog", ())
    probe = Probe("thorax hidden", "model", "auroc", Interval(0.99, 0.9, 1.0), "below 0.75", False, "Meaning.")
    example = Example("covid", (0.9, 0.8, 0.1), PIXEL, PIXEL, PIXEL)
    shortcuts = Shortcuts(5, 5, 10, 1.0, 5, (probe,), False, (example,))
    heat_maps = HeatMapGrade(Grade.FAILED, ("All empty.",), 0, 5, 0, {}, {}, (), {})
    report = make_report(card=trusted_card(), robustness=robustness, shortcuts=shortcuts, heat_maps=heat_maps)
    page = Page(render_html(report))
    text = " ".join(page.text.split())
    assert "(fog)" in text
    assert "The model fails: thorax hidden." in text
    assert "thorax hidden 0.80, only the thorax 0.10" in text
    assert "All empty." in text
    assert [attributes["alt"] for tag, attributes in page.tags if tag == "img"].count("The film as it is.") == 1
    values = json.loads(render_json(report), parse_constant=refuse)
    assert values["robustness"]["worst"] == "fog"
    assert values["shortcuts"]["passed"] is False


def test_trust_reads_where_there_is_one_class_and_where_names_are_hostile() -> None:
    hostile = stress_values(None)
    hostile["groups"][0]["name"] = HOSTILE
    card = trusted_card(robustness=hostile, known_failures=(HOSTILE,), heat_maps=heat_values(HOSTILE))
    html = render_html(make_report(card=card))
    assert "<script>" not in html
    assert 'id="stress-auroc-' not in html
    assert "accuracy is 80.0" in " ".join(Page(html).text.split())
    assert "<script>" not in render_markdown(make_report(card=card))
