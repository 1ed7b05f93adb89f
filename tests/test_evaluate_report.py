"""The report: self-contained, honest about leaks and gaps, safe with hostile names."""

from __future__ import annotations

import dataclasses
import json
import re
import sys
import tomllib
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from rentgen.errors import MissingExtraError
from rentgen.evaluate import plots, wording
from rentgen.evaluate.explain import Grade, HeatMapGrade
from rentgen.evaluate.measure import evaluate
from rentgen.evaluate.metrics import choose_operating_points
from rentgen.evaluate.rendering import escape_markdown, fence_markdown, to_toml
from rentgen.evaluate.report import FAILED_SHOWN, Report, render_html, render_json, render_markdown, write
from rentgen.evaluate.shortcuts import Example, Probe, Shortcuts
from rentgen.evaluate.stress import Robustness, Row
from rentgen.records import (
    DISCLAIMER,
    Audit,
    Calibration,
    Card,
    Conformal,
    Curve,
    Domain,
    Epoch,
    Evaluation,
    History,
    Interval,
    Leak,
    Mistake,
    PatientSource,
    Preprocessing,
)

HOSTILE = '<script>alert("x")</script>|`**a**`\n# b.png'
EPOCHS = tuple(Epoch(1 / i, 1 - 0.3 / i, 1 - 0.4 / i, 1 - 0.35 / i) for i in range(1, 6))
HISTORY = History(dict.fromkeys(("train", "validation", "test"), EPOCHS), 4, 12.5)
PIXEL = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108000000003a7e9b550000000a49444154789c6360000000020001e221bc33"
    "0000000049454e44ae426082"
)


@cache
def make_evaluation(count: int = 2, n: int = 150) -> Evaluation:
    rng = np.random.default_rng(count)
    classes = ("normal", "covid", "tuberculosis")[:count]
    labels = rng.integers(count, size=n)
    odds = np.exp(rng.normal(size=(n, count)) + 2 * np.eye(count)[labels])
    scores = odds / odds.sum(axis=1, keepdims=True)
    patients = [str(i // 2) for i in range(n)]
    points = choose_operating_points(scores, labels, classes, rng=rng, patients=patients, resamples=50)
    leak = Leak(0, 0, PatientSource.CSV)
    return evaluate(scores, labels, patients, classes, rng=rng, operating_points=points, resamples=50, leak=leak)


def make_card(count: int = 2, **changes: Any) -> Card:  # noqa: ANN401
    found = make_evaluation(count)
    counts = {part: dict.fromkeys(found.classes, 40) for part in ("train", "validation", "test")}
    card = Card(
        name="little-model",
        created="2025-06-01T10:00:00Z",
        classes=found.classes,
        positive=found.positive,
        preprocessing=Preprocessing(),
        backbone={"name": "resnet50", "weights": "ImageNet", "features": 2048},
        recipe={"seed": 7, "head": {"hidden": 256, "dropout": 0.5}},
        history=History({}, 0, 0.0),
        operating_points=found.operating_points,
        validation=found.to_dict(),
        test=found.to_dict(),
        counts=counts,
        audit=make_audit().summary(),
        intended_use="Research on chest films.",
        licences=("Images: CC BY 4.0",),
        software={"rentgen": "0.1.0"},
        command="rentgen train films --out little.rentgen",
    )
    return dataclasses.replace(card, **changes)


def make_audit() -> Audit:
    counts = {"all": {"normal": 80, "covid": 70}}
    return Audit(
        n=150,
        unreadable={},
        pairs=(),
        counts=counts,
        patients={"all": 75},
        patient_source=PatientSource.CSV,
        shared_patients=0,
        heights=(100, 200, 300),
        widths=(110, 210, 310),
        formats={"png": 150},
        shortcuts={"width": 0.91, "mean": 0.55, "height": 0.7},
        findings=("Width alone tells the classes apart.",),
    )


def make_report(count: int = 2, **changes: Any) -> Report:  # noqa: ANN401
    mistake = Mistake("films/a.png", "normal", "covid", 0.987, PIXEL, PIXEL)
    report = Report(
        card=make_card(count),
        evaluation=make_evaluation(count),
        title="Little report",
        data_path="films/test",
        command="rentgen evaluate little.rentgen films/test",
        created="2025-06-02T08:00:00Z",
        audit=make_audit(),
        mistakes=(mistake,),
    )
    return dataclasses.replace(report, **changes)


def with_evaluation(count: int = 2, **changes: Any) -> Report:  # noqa: ANN401
    return make_report(count, evaluation=dataclasses.replace(make_evaluation(count), **changes))


class Page(HTMLParser):
    """Collects tags, identifiers, links and text, and checks that tags close."""

    VOID = frozenset({"meta", "link", "img", "br", "hr", "input"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.stack: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is not JSON")


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


def test_markdown_is_escaped_and_fenced() -> None:
    assert escape_markdown("a|b\n<c>*") == "a\\|b \\<c\\>\\*"
    assert fence_markdown("x ``` y") == "````\nx ``` y\n````"


def test_toml_reads_back() -> None:
    recipe = {
        "seed": 7,
        "name": 'a "quoted" name',
        "odd key": True,
        "none": None,
        "rates": [0.1, 1e-05],
        "head": {"hidden": 256, "deep": {"x": [{"y": 1}]}},
        "empty": {},
        "path": Path("x"),
        "endless": float("inf"),
    }
    expected = {key: value for key, value in recipe.items() if value is not None} | {"path": "x"}
    assert tomllib.loads(to_toml(recipe)) == expected


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
