"""The report: self-contained, honest about leaks and gaps, safe with hostile names."""

from __future__ import annotations

import dataclasses
import json
import re
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from reports import (
    HISTORY,
    HOSTILE,
    PIXEL,
    Page,
    make_card,
    make_evaluation,
    make_report,
    refuse,
    with_evaluation,
)

from rentgen.errors import MissingExtraError
from rentgen.evaluate import plots, wording
from rentgen.evaluate.measure import evaluate
from rentgen.evaluate.report import FAILED_SHOWN, render_html, render_json, render_markdown, write
from rentgen.records import (
    DISCLAIMER,
    Card,
    Curve,
    History,
    Leak,
    Mistake,
    PatientSource,
)


@pytest.mark.parametrize("count", [2, 3])
def test_page_asks_for_nothing_and_is_well_formed(count: int) -> None:
    page = Page(render_html(make_report(count, card=make_card(count, history=HISTORY))))
    assert page.stack == []
    names = {tag for tag, _ in page.tags}
    assert names.isdisjoint({"script", "link", "iframe", "object", "embed", "base", "form"})
    assert {"header", "nav", "main", "footer", "h1", "figure"} <= names
    links = [value for _, attributes in page.tags for key, value in attributes.items() if key in ("src", "href")]
    assert links
    assert all(link is not None and link.startswith(("data:image/png;base64,", "#")) for link in links)
    assert "@import" not in page.text
    identifiers = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(identifiers) == len(set(identifiers))
    targets = {f"#{identifier}" for identifier in identifiers}
    used = {value for _, a in page.tags for key, value in a.items() if key.endswith("href") and value}
    assert {value for value in used if value.startswith("#")} <= targets
    for tag, attributes in page.tags:
        if tag == "img":
            assert attributes["alt"]
        if tag == "svg":
            assert attributes["role"] == "img"
            assert attributes["aria-label"]
        if tag == "th":
            assert attributes["scope"] in ("row", "col")


def test_page_tells_everything() -> None:
    good = Mistake("films/good.png", "covid", "covid", 0.99, PIXEL, PIXEL)
    report = make_report(card=make_card(history=HISTORY), examples=(good,))
    text = " ".join(Page(render_html(report)).text.split()).replace("\N{NO-BREAK SPACE}", " ")
    assert text.count(DISCLAIMER) >= 2
    for expected in (
        "On 150 films of 75 patients it had not seen, the model was right in",
        "95 % interval",
        "Balanced accuracy",
        "Youden",
        "of 100 without, it raises a false alarm in",
        "films/a.png",
        "films/good.png",
        "Width alone tells the classes apart.",
        "No patient stands in more than one part.",
        "Patients are known from the CSV.",
        "resnet50, 2048 features",
        "224 by 224 pixels",
        "5 epochs in 12 s. The weights of epoch 5 were kept",
        "hidden = 256",
        "rentgen train films --out little.rentgen",
        "rentgen evaluate little.rentgen films/test",
        "rentgen 0.1.0",
        "Research on chest films.",
        "Images: CC BY 4.0",
        "its figures flatter",
        "every file was read",
    ):
        assert expected in text
    assert "LEAKY" not in text


@pytest.mark.parametrize("render", [render_html, render_markdown])
def test_leak_is_stamped(render: Any) -> None:  # noqa: ANN401
    text = render(with_evaluation(leak=Leak(12, 1, PatientSource.CSV)))
    assert "LEAKY" in text
    assert "12 films and 1 patient of this set had also trained or chosen the model" in text
    assert "some of which had made or chosen the model" in text
    assert "it had not seen" not in text


def test_leak_is_stamped_in_json() -> None:
    values = json.loads(render_json(with_evaluation(leak=Leak(12, 1, PatientSource.CSV))))
    assert values["leaky"] is True
    assert values["evaluation"]["leaky"] is True


def test_weak_evidence_of_a_leak_is_told_but_not_stamped() -> None:
    text = render_markdown(with_evaluation(leak=Leak(0, 3, PatientSource.NAME)))
    assert "LEAKY" not in text
    assert "On 150 films it had not seen, of 75 patients, the model was right in" in text
    assert "3 patients may also have made the model" in text


def test_unknown_leak_is_told() -> None:
    assert "whether it had seen them is not known" in render_markdown(with_evaluation(leak=None))


@pytest.mark.parametrize("field", ["mistake", "failed", "title", "class"])
def test_hostile_names_are_harmless(field: str) -> None:
    if field == "mistake":
        report = make_report(mistakes=(Mistake(HOSTILE, HOSTILE, "covid", 0.9, PIXEL, PIXEL),))
    elif field == "failed":
        report = with_evaluation(failed={HOSTILE: HOSTILE})
    elif field == "title":
        report = make_report(title=HOSTILE, data_path=HOSTILE, command=HOSTILE, created=HOSTILE)
    else:
        labels = (HOSTILE, '"><img src=x>$')
        scores = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]])
        found = evaluate(scores, [0, 1, 1], "abc", labels, rng=np.random.default_rng(0), resamples=10)
        card = make_card(classes=labels, positive=found.positive, validation=found.to_dict(), test=None)
        report = make_report(card=card, evaluation=found)
    page = Page(render_html(report))
    assert page.stack == []
    assert "script" not in {tag for tag, _ in page.tags}
    assert all(value != "x" for _, attributes in page.tags for value in attributes.values())
    assert "alert" in page.text
    outside = re.sub(r"(`{3,})\n.*?\n\1", "", render_markdown(report), flags=re.DOTALL)
    assert "<script>" not in outside
    assert "\n# b.png" not in outside
    assert json.loads(render_json(report))


def test_json_is_strict_and_whole() -> None:
    single = evaluate([[0.9, 0.1]], [0], ["p"], ("normal", "covid"), rng=np.random.default_rng(0), resamples=5)
    values = json.loads(render_json(make_report(evaluation=single)), parse_constant=refuse)
    assert values["evaluation"]["auroc"] == {"value": None, "low": None, "high": None}
    assert values["disclaimer"] == DISCLAIMER
    assert values["mistakes"] == [
        {"path": "films/a.png", "label": "normal", "predicted": "covid", "probability": 0.987}
    ]
    assert Card.from_dict(values["card"]).counts == make_card().counts
    odd = make_card(recipe={"rate": float("inf"), "path": Path("x"), "list": (1, None, True)})
    recipe = json.loads(render_json(make_report(card=odd)), parse_constant=refuse)["card"]["recipe"]
    assert recipe == {"rate": None, "path": "x", "list": [1, None, True]}


def test_report_of_a_set_of_one_class_reads() -> None:
    scores = np.tile([[0.9, 0.1], [0.4, 0.6]], (5, 1))
    found = evaluate(scores, [0] * 10, list("abcdefghij"), ("normal", "covid"), rng=np.random.default_rng(0))
    found = dataclasses.replace(found, operating_points=make_evaluation().operating_points)
    text = render_html(make_report(evaluation=found))
    assert "No ROC curve can be drawn" in text
    assert "The set has no film of covid" in text
    assert "With 10 films, chance is large" in text
    assert wording.UNKNOWN in text


def test_report_without_a_measured_set_falls_back_and_says_so() -> None:
    from_test = render_markdown(make_report(evaluation=None))
    assert "these are the figures of the test part" in from_test
    assert "as measured when it was made" in from_test
    card = make_card(test=None)
    from_validation = render_markdown(make_report(card=card, evaluation=None))
    assert "of the validation part, which had chosen the model" in from_validation
    assert "these figures flatter" in from_validation
    assert "No test part was set aside" in from_validation
    assert "figures are from there, and flatter" in from_validation


@pytest.mark.parametrize("render", [render_html, render_markdown, render_json])
def test_report_with_nothing_in_it_reads(render: Any) -> None:  # noqa: ANN401
    card = make_card(
        validation={},
        test=None,
        history=History({}, 0, 0.0),
        operating_points=(),
        counts={},
        audit={},
        recipe={},
        software={},
        licences=(),
        intended_use="",
        command="",
        backbone={},
    )
    text = render(make_report(card=card, evaluation=None, audit=None, mistakes=(), command=""))
    assert DISCLAIMER in text
    if render is not render_json:
        assert wording.NOTHING in text
        assert "The data were not audited." in text
        assert "Not stated" in text


def test_many_unreadable_files_are_cut_short_in_the_page() -> None:
    report = with_evaluation(failed={f"films/{i:04}.png": "truncated" for i in range(FAILED_SHOWN + 5)})
    page = render_html(report)
    assert f"films/{FAILED_SHOWN - 1:04}.png" in page
    assert f"films/{FAILED_SHOWN:04}.png" not in page
    assert "all in report.json" in page
    assert len(json.loads(render_json(report))["evaluation"]["failed"]) == FAILED_SHOWN + 5


def test_statuses_are_told() -> None:
    text = render_markdown(with_evaluation(statuses={"ok": 140, "out_of_scope": 8, "abstain": 2}))
    assert "8 out of the model's scope, 2 undecided" in text


def test_write_is_whole_and_repeats(tmp_path: Path) -> None:
    target = tmp_path / "new" / "report"
    paths = write(target, make_report())
    assert [path.name for path in paths] == ["report.html", "report.md", "report.json"]
    assert sorted(path.name for path in target.iterdir()) == ["report.html", "report.json", "report.md"]
    before = [path.read_bytes() for path in paths]
    write(target, make_report())
    assert [path.read_bytes() for path in paths] == before
    strange = make_report(data_path="films/\udcff")
    assert b"\\udcff" in write(target, strange)[0].read_bytes()


def test_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write(tmp_path, make_report())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("module", "hidden"), [("matplotlib", "matplotlib"), ("jinja2", "jinja2")])
def test_missing_extra_names_the_cure(module: str, hidden: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, hidden, None)
    with pytest.raises(MissingExtraError, match=rf"the report needs {module}.*rentgen\[report\]"):
        render_html(make_report())


def test_figures_are_deterministic_sound_and_follow_the_page() -> None:
    first, second = (plots.confusion_figure([[3, 1], [2, 5]], ["a", "肺炎 $x"]) for _ in range(2))
    assert first == second
    root = ElementTree.fromstring(first)  # noqa: S314 - our own text
    assert root.tag.endswith("svg")
    assert "width" not in root.attrib
    assert "viewBox" in root.attrib
    assert "肺炎 $x" in "".join(root.itertext())
    assert "var(--series-0, #0b66a8)" in first
    assert all(i.startswith("confusion-") for i in re.findall(r'\bid="([^"]*)"', first))
    assert "<style" not in first
    assert "<metadata" not in first


def test_drawing_leaves_global_settings_alone() -> None:
    import matplotlib as mpl

    before = dict(mpl.rcParams)
    plots.reliability_figure(Curve((0.6, 0.9), (0.5, 1.0), (4, 20)))
    assert dict(mpl.rcParams) == before
    assert plots.counts_figure({"all": {"a": 3}}).startswith("<svg")


@pytest.mark.parametrize(
    ("share", "text"),
    [(0.954, "95"), (0.999, "99.9"), (1.0, "100"), (0.0, "0"), (0.001, "0.1"), (None, "not measurable")],
)
def test_of_hundred_never_claims_all_or_none(share: float | None, text: str) -> None:
    assert wording.of_hundred(share) == text


def test_worth_of_a_positive_answer() -> None:
    assert wording.predictive_value(0.9, 0.9, 0.1) == "50"
    assert wording.predictive_value(0.0, 1.0, 0.1) == wording.UNKNOWN
    assert wording.predictive_value(None, 1.0, 0.1) == wording.UNKNOWN
