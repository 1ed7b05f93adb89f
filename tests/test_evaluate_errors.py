"""Errors of several findings and what the films show beside: counted by hand and by scikit-learn; in every report."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import numpy as np
from sklearn.metrics import multilabel_confusion_matrix

from rentgen import bundle as bundles
from rentgen.evaluate import plots
from rentgen.evaluate.measure import evaluate
from rentgen.evaluate.report import Report, render_html, render_json, render_markdown
from rentgen.evaluate.several import count_errors
from rentgen.records import UNKNOWN, Evaluation, Interval, OperatingPoint, Task

NAMES = ("Effusion", "Nodule", "No Finding")
THRESHOLDS = np.array([0.5, 0.3, 0.6])
#           said: E, N and none               truth
FILMS = (
    ((0.9, 0.1, 0.1), (1, 1, 0)),  # the nodule is missed beside an effusion
    ((0.9, 0.2, 0.1), (1, 1, 0)),  # and again
    ((0.9, 0.4, 0.1), (1, 1, 0)),  # here it is found
    ((0.2, 0.4, 0.1), (0, 1, 0)),
    ((0.5, 0.9, 0.1), (0, 1, 0)),  # an effusion is said beside a nodule
    ((0.1, 0.3, 0.9), (0, 0, 1)),  # a nodule is said on a film without anything, at the very threshold
    ((0.1, 0.1, 0.9), (0, 0, 1)),
    ((0.4, 0.1, 0.7), (1, UNKNOWN, 0)),  # the effusion is missed, and "nothing" said
)
TOLD = np.array([told for told, _ in FILMS])
TRUTH = np.array([truth for _, truth in FILMS])
POINT = OperatingPoint("youden", "", 0.5, Interval(0.9, 0.8, 1.0), Interval(0.9, 0.8, 1.0))
POINTS = tuple(replace(POINT, label=name, threshold=at) for name, at in zip(NAMES, THRESHOLDS.tolist(), strict=True))


def measured() -> Evaluation:
    return evaluate(
        TOLD,
        TRUTH,
        [str(number) for number in range(len(FILMS))],
        NAMES,
        rng=np.random.default_rng(0),
        operating_points=POINTS,
        resamples=10,
    )


def report() -> Report:
    card = replace(bundles.read("pneumonia").card, classes=NAMES, task=Task.MULTILABEL, positive=None, test=None,
                   operating_points=POINTS, validation={}, counts={})  # fmt: skip
    return Report(card, measured(), "Findings", "data", "rentgen", "2026")


def test_counted_by_hand() -> None:
    found = measured().errors
    nodule, effusion = found["Nodule"], found["Effusion"]
    assert (nodule.found, nodule.missed, nodule.false_alarms, nodule.passed, nodule.unknown) == (3, 2, 1, 1, 1)
    assert nodule.missed_beside == {"Effusion": (2, 3), "No Finding": (0, 0)}
    assert nodule.false_alarms_beside == {"Effusion": (0, 0), "No Finding": (1, 2)}
    assert (effusion.found, effusion.missed, effusion.false_alarms, effusion.passed) == (3, 1, 1, 3)
    assert effusion.missed_beside == {"Nodule": (0, 3), "No Finding": (0, 0)}
    assert effusion.false_alarms_beside == {"Nodule": (1, 2), "No Finding": (0, 2)}
    assert found["No Finding"].false_alarms_beside == {"Effusion": (1, 4), "Nodule": (0, 5)}


def test_counts_are_scikit_learns() -> None:
    rng = np.random.default_rng(4)
    truth = (rng.random((300, 5)) < 0.3).astype(np.int64)
    told = np.clip(0.5 * truth + 0.6 * rng.random(truth.shape), 0, 1)
    names, at = tuple("abcde"), np.full(5, 0.5)
    found = count_errors(told, truth, at, names)
    called = told >= at
    for column, ((passed, alarms), (missed, right)) in enumerate(multilabel_confusion_matrix(truth, called)):
        one = found[names[column]]
        assert (one.passed, one.false_alarms, one.missed, one.found) == (passed, alarms, missed, right)
    # Beside another: the same, of the films that show it.
    for other in range(5):
        shown = truth[:, other] == 1
        matrices = multilabel_confusion_matrix(truth[shown], called[shown], labels=range(5))
        for column, ((passed, alarms), (missed, right)) in enumerate(matrices):
            if column != other:
                assert found[names[column]].missed_beside[names[other]] == (missed, missed + right)
                assert found[names[column]].false_alarms_beside[names[other]] == (alarms, alarms + passed)
    # What is unknown is no error, and shows nothing.
    hidden = truth.copy()
    hidden[:150] = UNKNOWN
    half, rest = count_errors(told, hidden, at, names), count_errors(told[150:], truth[150:], at, names)
    assert {name: replace(one, unknown=0) for name, one in half.items()} == rest
    assert {one.unknown for one in half.values()} == {150}


def test_report_json_and_text_have_them() -> None:
    found = report()
    told = json.loads(render_json(found))["evaluation"]["errors"]
    assert told["Nodule"]["missed_beside"]["Effusion"] == {"n": 2, "of": 3}
    assert told["Nodule"]["unknown"] == 1
    page, text = render_html(found), render_markdown(found)
    assert "What is confused with what" in page
    figure = re.search(r'<svg[^>]*aria-label="Errors beside other findings\. ([^"]*)"', page)
    assert figure is not None
    assert "Nodule, missed on 2 of 3 films with Effusion" in figure[1]
    assert "| Nodule, missed | 2 | 2 of 3 |  |  |" in text
    assert "| Nodule | 3 | 2 | 1 | 1 | 1 |" in text
    # One class a film has a confusion matrix, and nothing of this.
    plain = evaluate([[0.9, 0.1], [0.2, 0.8]], [0, 1], "ab", ("a", "b"), rng=np.random.default_rng(0), resamples=0)
    assert plain.to_dict()["errors"] == {}


def test_findings_that_nobody_knows_are_left_out_and_old_figures_have_none() -> None:
    found = report()
    blind = TRUTH.copy()
    blind[:, 1] = UNKNOWN
    told = evaluate(TOLD, blind, "abcdefgh", NAMES, rng=np.random.default_rng(0), resamples=0)
    text = render_markdown(replace(found, evaluation=told))
    assert "Effusion, wrongly said" in text
    assert "Nodule, missed" not in text
    old = {key: value for key, value in measured().to_dict().items() if key != "errors"}
    page = render_html(replace(found, evaluation=None, card=replace(found.card, validation=old)))
    assert "confused with" not in page


def test_fourteen_findings_can_be_drawn() -> None:
    names = [f"Finding of a long name {number}" for number in range(14)]
    beside = {name: {other: {"n": 1, "of": 3} for other in names if other != name} for name in names}
    errors = {name: {"missed_beside": beside[name], "false_alarms_beside": beside[name]} for name in names}
    drawn = plots.errors_figure(errors)
    assert drawn.count(">1<") == 14 * 13 * 2
    assert plots.errors_figure(errors) == drawn
