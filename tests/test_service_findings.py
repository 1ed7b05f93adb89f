"""Feedback on several findings: each present, absent or not to be told; through REST, the report and the export."""

from __future__ import annotations

import base64
import csv
import io
import re
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from asked import add, problem
from made import film8, png
from pypdf import PdfReader
from serving import FINDINGS, Serving, serving, several_bundle, tiny_bundle

from rentgen.cli import main
from rentgen.data.findings import FINDINGS as KNOWN
from rentgen.data.listing import list_images
from rentgen.images.phantom import Finding, draw, to_png
from rentgen.learn.recipe import load
from rentgen.learn.training import TrainingPlan, train
from rentgen.outputs import wording
from rentgen.records import Task

KEY = base64.b64encode(bytes(range(32))).decode()
TOLD = {"Consolidation": True, "Nodule": False, "No Finding": False}
"""What the bundle says for sure."""
SAID: tuple[dict[str, bool], ...] = (
    {"Consolidation": True, "Nodule": True, "Effusion": False, "No Finding": False},
    {"Consolidation": False, "No Finding": True, "Effusion": False, "Nodule": False},
    {"Nodule": True, "No Finding": False},
    {"Effusion": True, "No Finding": False, "Consolidation": False},
)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    folder = tmp_path_factory.mktemp("findings")
    models = (str(several_bundle(folder / "several.rentgen")), str(tiny_bundle(folder / "one.rentgen")))
    with serving(folder, models=models, key=KEY, keep_files=True) as running:
        yield running


@pytest.fixture(scope="module")
def client(served: Serving) -> Iterator[httpx.Client]:
    with served.client() as found:
        yield found


def film(seed: int) -> bytes:
    return to_png(draw(Finding.NORMAL, np.random.default_rng(seed), height=220, width=240))


def say(client: httpx.Client, study: dict[str, Any], **body: object) -> httpx.Response:
    return client.post(f"/v1/images/{study['images'][0]['id']}/feedback", json=body)


def test_each_finding_is_kept_as_it_was_said(client: httpx.Client) -> None:
    study = add(client, film(1))
    shown = study["predictions"][0]
    assert list(shown["probabilities"]) == list(FINDINGS)
    corrected = say(client, study, agree=False, findings=SAID[0], comment="two of them")
    assert corrected.status_code == 201
    assert (corrected.json()["label"], corrected.json()["findings"]) == (None, SAID[0])
    # Who agrees says what the model says for sure, and nothing of the finding that it leaves open.
    agreed = say(client, study, agree=True, prediction_id=shown["prediction_id"]).json()
    assert (agreed["agree"], agreed["label"], agreed["findings"]) == (True, None, TOLD)
    assert say(client, study, agree=True, findings=TOLD | {"Effusion": True}).status_code == 201
    assert say(client, study, agree=False).json()["findings"] is None
    assert say(client, study, agree=False, findings={}).json()["findings"] == {}
    found = client.get(f"/v1/studies/{study['id']}").json()
    assert found["read_at"] is not None
    assert [one["findings"] for one in found["feedback"]] == [{}, None, TOLD | {"Effusion": True}, TOLD, SAID[0]]
    # To an answer that does not stand there is nothing to agree.
    noise = add(client, png(film8(seed=1)))
    assert noise["predictions"][0]["status"] == "out_of_scope"
    assert say(client, noise, agree=True).json()["findings"] == {}


def test_what_does_not_fit_the_model_is_refused(client: httpx.Client) -> None:
    study = add(client, film(2))
    for body, told in (
        ({"agree": False, "label": "Nodule"}, "findings and no label"),
        ({"agree": False, "label": "Nodule", "findings": {"Nodule": True}}, "got both"),
        ({"agree": False, "findings": {"Hernia": True, "DOE JANE": True}}, "Consolidation, Nodule, .* got 2 others"),
        ({"agree": False, "findings": {"No Finding": True, "Effusion": True}}, "'No Finding' or another"),
        ({"agree": True, "findings": TOLD | {"Nodule": True}}, "no other findings than the model's"),
        ({"agree": False, "findings": {"Nodule": None}}, None),
        ({"agree": False, "findings": {"Nodule": 1}}, None),
        ({"agree": False, "findings": {"Nodule": "yes"}}, None),
        ({"agree": False, "findings": ["Nodule"]}, None),
    ):
        answer = say(client, study, **body)
        problem(answer, 422, "invalid_request")
        assert "DOE" not in answer.text
        if told is not None:
            assert re.search(told, answer.json()["detail"]), answer.json()["detail"]
    one = client.post("/v1/studies?model=one", files={"films": ("a.png", film(3))}).json()["studies"][0]
    refused = say(client, one, agree=False, findings={"PNEUMONIA": True})
    problem(refused, 422, "invalid_request")
    assert "a label and no findings" in refused.json()["detail"]
    assert say(client, one, agree=False, label="NORMAL").json()["findings"] is None


def test_models_say_which_of_them_finds_several(client: httpx.Client) -> None:
    tasks = {model["name"]: model["task"] for model in client.get("/v1/models").json()["models"]}
    assert tasks == {"several": "multilabel", "one": "multiclass"}


@pytest.mark.parametrize(
    ("language", "told"),
    [
        ("en", "local does not agree. Present: Nodule. Absent: No finding. Cannot tell: Consolidation, Effusion."),
        (
            "uk",
            "local не погоджується. Є: Вогнище. Немає: Без знахідок. Важко сказати: Консолідація, Плевральний випіт.",
        ),
    ],
)
def test_the_report_tells_each_finding(client: httpx.Client, language: str, told: str) -> None:
    study = add(client, film(4))
    assert say(client, study, agree=False, findings=SAID[2]).status_code == 201
    pdf = client.get(f"/v1/studies/{study['id']}/report.pdf", params={"language": language})
    text = " ".join(PdfReader(io.BytesIO(pdf.content)).pages[0].extract_text().split())
    assert told in text


def test_devices_may_stand_beside_nothing_on_the_page_as_in_training() -> None:
    """The page has a list of its own; it is the table's."""
    devices = {name.lower() for known in KNOWN if not known.disease for name in (known.name, *known.aliases)}
    assert set(wording._table()["no_diseases"]) == devices


# -- the export --------------------------------------------------------------------------------------------------------


def unpacked(client: httpx.Client, folder: Path) -> Path:
    answer = client.get("/v1/feedback/export")
    assert answer.status_code == 200
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        archive.extractall(folder)
    return folder


def test_what_was_said_is_what_training_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = str(several_bundle(tmp_path / "several.rentgen"))
    with serving(tmp_path, models=(model,), key=KEY, keep_files=True) as running, running.client() as client:
        for seed, said in enumerate(SAID):
            study = add(client, film(seed))
            assert say(client, study, agree=False, findings={"Effusion": True}).status_code == 201
            assert say(client, study, agree=False, findings=said).status_code == 201
        for body in ({"agree": False}, {"agree": False, "findings": {}}):
            assert say(client, add(client, film(50 + len(body))), **body).status_code == 201
        folder = unpacked(client, tmp_path / "out")
    with (folder / "feedback.csv").open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert list(rows[0])[: 2 + len(FINDINGS)] == ["path", "patient", *FINDINGS]
    assert [rows[2][name] for name in FINDINGS] == ["", "1", "", "0"]
    assert {row["model_findings"] for row in rows} == {"Consolidation"}
    listing = list_images(folder / "feedback.csv")
    assert (listing.task, listing.classes) == (Task.MULTILABEL, FINDINGS)
    read = [
        {name: value for name, value in zip(FINDINGS, record.findings, strict=True) if value is not None}
        for record in listing.records
    ]
    assert read == list(SAID)
    # A film of which nothing was said is told of, and not taught.
    assert (folder / "without-films.csv").read_text().count("\n") == 2
    assert (folder / "without-films-findings.csv").read_text().count("\n") == 2
    monkeypatch.setattr(sys, "argv", ["rentgen", "data", "audit", str(folder / "feedback.csv")])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code


def test_rentgen_trains_on_it(tmp_path: Path) -> None:
    model = str(several_bundle(tmp_path / "several.rentgen"))
    rng = np.random.default_rng(3)
    with serving(tmp_path, models=(model,), key=KEY, keep_files=True) as running, running.client() as client:
        for seed in range(40):
            said = {name: bool(rng.random() < 0.5) for name in FINDINGS[:3] if rng.random() < 0.95}
            assert say(client, add(client, png(film8(64, 64, seed=seed))), agree=False, findings=said).is_success
        folder = unpacked(client, tmp_path / "out")
    small = load("findings").change("backbone", name="test_resnet", precision="f32").change("augment", views=0)
    small = small.change("preprocessing", height=64, width=64).change("head", epochs=2)
    small = small.change("data", validation=0.4, test=0.0)
    table = folder / "feedback.csv"
    plan = TrainingPlan(table, tmp_path / "new.rentgen", small, tmp_path / "cache", weights="random", probed=False)
    card = train(plan).bundle.card
    assert (card.task, card.classes) == (Task.MULTILABEL, FINDINGS[:3])


def test_classes_and_findings_have_tables_of_their_own(client: httpx.Client, tmp_path: Path) -> None:
    several = add(client, film(5))
    assert say(client, several, agree=True).status_code == 201
    one = client.post("/v1/studies?model=one", files={"films": ("b.png", film(6))})
    assert say(client, one.json()["studies"][0], agree=False, label="NORMAL").status_code == 201
    folder = unpacked(client, tmp_path)
    classes, findings = (list_images(folder / name) for name in ("feedback.csv", "feedback-findings.csv"))
    assert (classes.task, findings.task) == (Task.MULTICLASS, Task.MULTILABEL)
    assert "NORMAL" in classes.classes
    # A finding of which nobody said anything is none to learn.
    assert set(findings.classes) <= set(FINDINGS)
    assert not {record.path.name for record in classes.records} & {record.path.name for record in findings.records}
