"""Several findings, from a table of drawn films to a bundle, its answers, its documents and a set that was left out."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import hl7
import numpy as np
import pydicom
import pytest
from answers import AT, MODEL, of, phantom, stored
from PIL import Image
from sklearn.metrics import recall_score, roc_auc_score
from validators import fhir_resources, fhirkit, hl7apy

from rentgen import bundle as bundles
from rentgen.cli import main
from rentgen.data.listing import list_images
from rentgen.data.merge import merge, write_table
from rentgen.engine.predictor import Predictor, heat_map
from rentgen.errors import DataError, SettingError
from rentgen.evaluate.judge import judge
from rentgen.evaluate.report import Report, render_html, render_json, render_markdown
from rentgen.images.phantom import write_table as draw_table
from rentgen.learn.calibrate import calibrate
from rentgen.learn.recipe import Recipe, load
from rentgen.learn.sources import leave_one_out
from rentgen.learn.training import Training, TrainingPlan, train
from rentgen.outputs.fhir import fhir_bundle
from rentgen.outputs.findings import Presence, findings, sentences
from rentgen.outputs.hl7 import hl7_message
from rentgen.outputs.structured_report import structured_report
from rentgen.outputs.wording import result_words
from rentgen.records import Card, EngineName, Precision, Prediction, Split, Status, Task, deciding_thresholds, truth_of
from rentgen.records.evaluation import Interval, OperatingPoint
from rentgen.records.results import FilmResult, StudyResult
from rentgen.records.studies import Point, StoredPrediction, Urgency
from rentgen.workflow import describe, judge_urgency

NAMES = ("Consolidation", "Effusion", "Nodule", "No Finding")
MEASURED = {"value": 0.9, "low": 0.8, "high": 0.95}


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a table of 100 small drawn films, two of each patient, with a tenth of the findings unknown."""
    folder = tmp_path_factory.mktemp("several")
    path = draw_table(folder, films=100, rng=np.random.default_rng(5))
    for film in (folder / "films").iterdir():
        Image.open(film).reduce(3).save(film)
    return path


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    """Return the recipe for findings on a tiny random network: seconds, not minutes."""
    small = load("findings").change("backbone", name="test_resnet", precision="f32")
    small = small.change("preprocessing", height=96, width=96).change("augment", views=0)
    return small.change("head", epochs=30, learning_rate=0.003).change("data", validation=0.3, test=0.3)


@pytest.fixture(scope="module")
def made(table: Path, recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Training:
    folder = tmp_path_factory.mktemp("trained")
    plan = TrainingPlan(table, folder / "several.rentgen", recipe, folder / "cache", weights="random", probed=False)
    return train(plan)


@pytest.fixture(scope="module")
def predictor(made: Training) -> Predictor:
    return Predictor(made.bundle, precision=Precision.F32, batch_size=4)


def rows_of(table: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(table.read_text(encoding="utf-8"))))


def test_table_of_drawn_films(table: Path) -> None:
    rows = rows_of(table)
    assert list(rows[0]) == ["path", "patient", *NAMES]
    assert len({row["patient"] for row in rows}) == 50
    assert {row[name] for row in rows for name in NAMES} == {"0", "1", ""}
    assert np.mean([row["Effusion"] == "" for row in rows]) == pytest.approx(0.1, abs=0.08)
    assert any(row["Effusion"] == row["Nodule"] == "1" for row in rows)
    assert not any(row["No Finding"] == "1" and "1" in (row[name] for name in NAMES[:3]) for row in rows)


def test_card_says_what_it_is(made: Training) -> None:
    card = made.bundle.card
    assert (card.task, card.positive, card.classes) == (Task.MULTILABEL, None, NAMES)
    assert card.conformal is None
    assert {point.label for point in card.operating_points} == set(NAMES)
    assert card.calibration is not None
    assert len(card.calibration.scale) == 4
    assert {item.label for item in card.finding_sets} <= set(NAMES)
    assert all(item.measured is not None for item in card.finding_sets)
    assert sum(card.audit["films"].values()) == 100
    assert card.test is not None
    assert card.test["task"] == "multilabel"
    again = (
        bundles.read(Path(made.bundle.card.name)) if False else Card.from_dict(json.loads(json.dumps(card.to_dict())))
    )
    assert again == card


def test_card_of_an_earlier_version_has_one_class_a_film(made: Training) -> None:
    values = made.bundle.card.to_dict()
    for name in ("task", "finding_sets"):
        del values[name]
    assert Card.from_dict(values).task is Task.MULTICLASS
    assert bundles.read("pneumonia").card.task is Task.MULTICLASS


def test_figures_are_scikit_learns(made: Training) -> None:
    assert made.test is not None
    card, records = made.bundle.card, made.test.records
    truth = truth_of(records, card.classes, card.task)
    told = np.array([list(item.probabilities.values()) for item in made.test.predictions])
    thresholds = deciding_thresholds(card.operating_points, card.classes)
    for column, name in enumerate(NAMES):
        known = truth[:, column] >= 0
        there, scores = truth[known, column], told[known, column]
        found = made.test.evaluation.per_class[name]
        assert found["auroc"].value == pytest.approx(roc_auc_score(there, scores))
        assert found["recall"].value == pytest.approx(recall_score(there, scores >= thresholds[column]))
        assert found["auroc"].low <= found["auroc"].value <= found["auroc"].high


def test_probabilities_are_sigmoids_of_each_ones_own_scale(predictor: Predictor, table: Path) -> None:
    said = predictor.predict(sorted((table.parent / "films").iterdir())[0], maps=True)
    calibration = predictor.card.calibration
    assert calibration is not None
    assert said.logits is not None
    values = np.array(said.logits) * calibration.scale + np.array(calibration.bias)
    np.testing.assert_allclose(list(said.probabilities.values()), 1 / (1 + np.exp(-values)), atol=1e-9)
    for name in NAMES:
        assert heat_map(said, name).shape == np.asarray(Image.open(said.path)).shape
    assert set(said.to_dict()) >= {"findings", "undetermined"}


def test_onnx_runtime_agrees(made: Training, predictor: Predictor, table: Path) -> None:
    pytest.importorskip("onnxruntime")
    other = Predictor(made.bundle, engine=EngineName.ONNXRUNTIME, precision=Precision.F32)
    for film in sorted((table.parent / "films").iterdir())[:3]:
        one, two = predictor.predict(film), other.predict(film)
        assert list(one.probabilities.values()) == pytest.approx(list(two.probabilities.values()), abs=1e-4)
        assert one.findings == two.findings


def test_set_with_other_columns_is_measured_on_those_it_has(predictor: Predictor, table: Path, tmp_path: Path) -> None:
    rows = rows_of(table)[:40]
    with (tmp_path / "t.csv").open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["path", "patient", "pleural effusion", "Hernia"])
        writer.writerows([table.parent / row["path"], row["patient"], row["Effusion"], "0"] for row in rows)
    found = judge(predictor, list_images(tmp_path / "t.csv"), resamples=0, gallery=0).evaluation
    assert found.known == {"Consolidation": 0, "Effusion": sum(row["Effusion"] != "" for row in rows), "Nodule": 0,
                           "No Finding": 0}  # fmt: skip
    assert found.metrics["auroc"].value == found.per_class["Effusion"]["auroc"].value
    (tmp_path / "u.csv").write_text("path,Hernia\n" + f"{table.parent / rows[0]['path']},1\n", encoding="utf-8")
    with pytest.raises(DataError, match="has none of the findings Consolidation"):
        judge(predictor, list_images(tmp_path / "u.csv"))


def test_report_tells_of_findings(made: Training) -> None:
    assert made.test is not None
    report = Report(made.bundle.card, made.test.evaluation, "Findings", "data", "rentgen", "2026", made.audit)
    page, text = render_html(report), render_markdown(report)
    for words in (page, text):
        assert "the model told 4 findings with a mean AUROC of" in words
        assert "Confusion" not in words
        assert "at each finding" in words.lower()
    assert json.loads(render_json(report))["evaluation"]["known"]["Nodule"] > 20


def test_site_calibrates_what_its_films_tell(made: Training, table: Path, tmp_path: Path) -> None:
    held = {record.path.name for record in made.listing.records if record.split is not Split.TRAIN}
    rows = [row for row in rows_of(table) if Path(row["path"]).name in held]
    with (tmp_path / "site.csv").open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["path", "patient", "Effusion", "Consolidation"])
        writer.writerows(
            [table.parent / row["path"], row["patient"], row["Effusion"], row["Consolidation"]] for row in rows
        )
    listing = list_images(tmp_path / "site.csv")
    result, told = calibrate(made.bundle, listing, coverage=0.8, resamples=10)
    assert told["unchanged"] == ["Nodule", "No Finding"]
    assert told["support"]["Effusion"] == sum(row["Effusion"] == "1" for row in rows)
    old, new = made.bundle.card, result.card
    for name in NAMES:
        points = [[point for point in card.operating_points if point.label == name] for card in (old, new)]
        assert (points[0] == points[1]) == (name in told["unchanged"])
    assert {item.label: item.coverage for item in new.finding_sets if item.label not in told["unchanged"]} == {
        "Consolidation": 0.8, "Effusion": 0.8,
    }  # fmt: skip
    assert (
        judge(Predictor(result, precision=Precision.F32), listing, resamples=0, gallery=0).evaluation.leak is not None
    )
    with pytest.raises(SettingError, match=r"findings among Consolidation, .* but got Hernia"):
        calibrate(made.bundle, listing, prevalence={"Hernia": 0.1})
    with pytest.raises(DataError, match="fewer of Nodule"):
        calibrate(made.bundle, listing, prevalence={"Effusion": 0.1, "Nodule": 0.1}, coverage=0.8)


def test_fine_tuning_learns_findings(table: Path, tmp_path: Path) -> None:
    small = load("fine-tune").change("backbone", name="test_efficientnet", precision="f32")
    small = small.change("preprocessing", height=64, width=64).change("head", epochs=2).change("augment", views=0)
    small = small.change("finetune", epochs=1, precision="f32").change("shift", mixup=0.2)
    small = small.change("data", validation=0.4, test=0.0)
    plan = TrainingPlan(table, tmp_path / "tuned.rentgen", small, tmp_path / "cache", weights="random", probed=False)
    card = train(plan).bundle.card
    assert card.task is Task.MULTILABEL
    assert card.domain is not None
    assert np.isfinite(card.history.parts["validation"][0].loss)


# ---- what is said of a film


def answered(**told: float) -> tuple[Card, Prediction]:
    """Return a card with an operating point at one half for each finding, and an answer."""
    unmeasured = Interval(0.9, 0.8, 0.95)
    names = [name.replace("_", " ") for name in told]
    points = tuple(OperatingPoint("youden", name, 0.5, unmeasured, unmeasured) for name in names)
    card = replace(bundles.read("pneumonia").card, classes=tuple(names), operating_points=points, positive=None)
    probabilities = dict(zip(names, told.values(), strict=True))
    present = tuple(name for name in names[:-1] if probabilities[name] >= 0.5)
    found = present or (("No Finding",) if probabilities["No Finding"] >= 0.5 else ())
    return card, Prediction("film", Status.OK, names[0], probabilities, findings=found)


def kept(card: Card, said: Prediction) -> StoredPrediction:
    return describe(said, card, bundle_id="ab" * 32, model="several", precision="f32")


def test_each_finding_is_held_against_its_own_point_and_nothing_beside_one() -> None:
    card, said = answered(Effusion=0.8, Nodule=0.6, Hernia=0.1, No_Finding=0.7)
    found = kept(card, said)
    assert {point.label: point.positive for point in found.points} == {
        "Effusion": True, "Nodule": True, "Hernia": False, "No Finding": False,
    }  # fmt: skip
    assert found.urgency is Urgency.URGENT
    assert found.several
    nothing = kept(*answered(Effusion=0.2, Nodule=0.1, Hernia=0.1, No_Finding=0.7))
    assert [point.label for point in nothing.points if point.positive] == ["No Finding"]
    assert nothing.urgency is Urgency.ROUTINE


def test_finding_in_doubt_is_one_to_look_at_and_leaves_nothing_sure() -> None:
    card, said = answered(Effusion=0.8, Nodule=0.1, Hernia=0.1, No_Finding=0.7)
    found = kept(card, replace(said, undetermined=("Effusion",)))
    assert {point.label for point in found.points if point.undetermined} == {"Effusion", "No Finding"}
    assert found.urgency is Urgency.DOUBT
    assert judge_urgency(Status.OK, found.points) is Urgency.DOUBT


@pytest.fixture
def result() -> StudyResult:
    """Return a study of a film with two findings, one that is absent and one in doubt."""
    film, source = of(phantom())
    told = {"Effusion": 0.81, "Nodule": 0.66, "Pneumothorax": 0.03, "Cardiomegaly": 0.5, "No Finding": 0.2}
    points = tuple(
        Point(
            "youden",
            name,
            0.4,
            name in ("Effusion", "Nodule", "Cardiomegaly"),
            MEASURED,
            MEASURED,
            name == "Cardiomegaly",
        )
        for name in told
    )
    answer = replace(
        stored(film), label="Effusion", probabilities=told, points=points, maps=np.ones((5, 7, 7), np.uint8),
        prediction_set=("Effusion", "Nodule", "Cardiomegaly"),
    )  # fmt: skip
    return StudyResult((FilmResult(source, answer),), MODEL, AT, "0.1.0")


def test_presence_of_several(result: StudyResult) -> None:
    found = {item.label: item.presence for item in findings(result.films[0], MODEL)}
    assert found == {
        "Effusion": Presence.PRESENT, "Nodule": Presence.PRESENT, "Pneumothorax": Presence.ABSENT,
        "Cardiomegaly": Presence.UNDETERMINED, "No Finding": Presence.ABSENT,
    }  # fmt: skip
    assert any(
        line.startswith("Cardiomegaly: undetermined (probability 50.0 %)") for line in sentences(result.films[0], MODEL)
    )


def test_structured_report_has_a_group_for_each(result: StudyResult) -> None:
    ds = pydicom.dcmread(io.BytesIO(structured_report(result).content))
    text = str(ds)
    for code in ("60046008", "786838002", "36118008", "8186001"):
        assert code in text
    meanings = [item.ConceptCodeSequence[0].CodeMeaning for item in codes(ds)]
    assert [meanings.count(word) for word in ("Present", "Absent", "Undetermined")] == [2, 2, 1]


def codes(ds: pydicom.Dataset) -> list[pydicom.Dataset]:
    """Return all coded items of a report that say present, absent or undetermined."""
    found = []
    for item in ds.get("ContentSequence", []):
        if item.get("ValueType") == "CODE" and item.ConceptCodeSequence[0].CodeMeaning in (
            "Present",
            "Absent",
            "Undetermined",
        ):
            found.append(item)
        found += codes(item)
    return found


def test_fhir_has_an_observation_for_each(result: StudyResult) -> None:
    bundle = fhir_bundle(result)
    fhir_resources(bundle)
    fhirkit(bundle)
    said: dict[str, str] = {}
    for entry in bundle["entry"]:
        one: dict[str, Any] = entry["resource"]
        if one["resourceType"] == "Observation" and "valueCodeableConcept" in one:
            said[one["code"]["coding"][0]["display"]] = one["valueCodeableConcept"]["coding"][0]["display"]
    assert said["Pleural effusion"] == said["Nodule of lung"] == "Present"
    assert said["Pneumothorax"] == "Absent"
    assert said["Cardiomegaly"] == "Undetermined"


def test_oru_has_an_observation_for_each(result: StudyResult) -> None:
    content = hl7_message(result).content
    hl7apy(content)
    message = hl7.parse(content.decode())
    lines = [str(segment) for segment in message["OBX"]]
    for name, flag in (
        ("Pleural effusion", "Present"),
        ("Nodule of lung", "Present"),
        ("Cardiomegaly", "Undetermined"),
    ):
        assert any(name in line and flag in line for line in lines)


@pytest.mark.parametrize("language", ["en", "uk"])
def test_words_name_them_all(result: StudyResult, language: str) -> None:
    answer = result.films[0].prediction
    assert answer is not None
    said = result_words(answer, language).sentences
    if language == "en":
        assert said[0] == "Present at its own operating point: Effusion, Nodule."
        assert said[1] == "Neither ruled out nor confirmed; a person should look: Cardiomegaly."
    assert len(said) == 2 + 5


# ---- several sets


@pytest.fixture(scope="module")
def two(table: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return one table of two sets that spell their findings each in its own way."""
    folder = tmp_path_factory.mktemp("two")
    rows = rows_of(table)
    spelled = {
        "north": {"Effusion": "Pleural effusion", "No Finding": "normal"},
        "south": {"Effusion": "effusion", "No Finding": "No_Finding", "Consolidation": "lung consolidation"},
    }
    sets = {}
    for (name, columns), part in zip(spelled.items(), (rows[:50], rows[50:]), strict=True):
        with (folder / f"{name}.csv").open("w", encoding="utf-8", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow(["path", "patient", *columns.values()])
            for number, row in enumerate(part):
                writer.writerow([table.parent / row["path"], number // 2, *(row[own] for own in columns)])
        sets[name] = list_images(folder / f"{name}.csv")
    write_table(merge(sets), folder / "both.csv")
    return folder / "both.csv"


def test_merged_sets_are_aligned_and_their_patients_are_their_own(two: Path) -> None:
    found = list_images(two)
    assert found.classes == ("No Finding", "Consolidation", "Effusion")
    assert {record.source for record in found.records} == {"north", "south"}
    # The north says nothing of consolidation, but where there is nothing there is none.
    north = [record.findings for record in found.records if record.source == "north"]
    assert {(nothing is True, filled) for nothing, filled, _ in north} == {(True, False), (False, None)}
    assert len({record.patient for record in found.records}) == 50
    with pytest.raises(DataError, match="a film of a and of b"):
        merge({"a": found, "b": found})
    with pytest.raises(DataError, match="at least two sets"):
        merge({"a": found})


def test_each_set_is_left_out_once(two: Path, recipe: Recipe, tmp_path: Path) -> None:
    plan = TrainingPlan(
        two, tmp_path / "out", recipe, tmp_path / "cache", weights="random", findings=("Effusion", "No Finding")
    )
    found = list(leave_one_out(plan))
    assert [(one.source, one.films) for one in found] == [("north", 50), ("south", 50)]
    for one in found:
        bundle = bundles.read(tmp_path / "out" / f"without-{one.source}.rentgen")
        assert one.outside.leak is not None
        assert not one.outside.leak.leaky
        assert sum(len(bundle.split.images[part]) for part in Split) == 100
        assert len(bundle.split.images[Split.TEST]) == 50
        assert one.to_dict()["outside"]["classes"] == ["Effusion", "No Finding"]


def test_one_set_cannot_be_left_out(table: Path, recipe: Recipe, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="two sets or more in its column 'source'"):
        list(leave_one_out(TrainingPlan(table, tmp_path, recipe, tmp_path, weights="random")))


# ---- commands


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    def call(*arguments: str | Path) -> str:
        monkeypatch.setattr(sys, "argv", ["rentgen", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            main()
        shown = capsys.readouterr()
        assert stop.value.code in (0, None), shown.err
        return shown.out

    return call


def test_commands(run: Callable[..., str], made: Training, table: Path, two: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "several.rentgen"
    bundles.write(bundle, made.bundle)
    run("evaluate", bundle, table, "--part", "test", "--resamples", "20", "--json", tmp_path / "e.json")
    found = json.loads((tmp_path / "e.json").read_text(encoding="utf-8"))
    assert found["task"] == "multilabel"
    assert found["per_class"]["Effusion"]["auroc"]["value"] is not None
    film = sorted((table.parent / "films").iterdir())[0]
    said = json.loads(run("predict", bundle, film, "--json", "-").splitlines()[0])
    assert set(said["findings"]) <= set(NAMES)
    assert "present:" in run("predict", bundle, film)
    assert "Findings" in run("inspect", bundle, "--verify")
    assert "Consolidation" in run("data", "audit", table)
    north = two.parent / "north.csv"
    told = run("data", "merge", f"n={north}", f"s={two.parent / 'south.csv'}", "--out", tmp_path / "m.csv")
    assert "Effusion" in told
    assert list_images(tmp_path / "m.csv").classes == ("No Finding", "Consolidation", "Effusion")
