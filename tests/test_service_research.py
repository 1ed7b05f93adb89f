"""For the researcher: feedback as a set to train on, two models compared, reports shown."""

from __future__ import annotations

import base64
import csv
import io
import json
import shutil
import time
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from made import dicom, film, film8, png
from PIL import Image, ImageDraw, ImageFont
from serving import Serving, serving, tiny_bundle

from rentgen import bundle as bundles
from rentgen.data.listing import list_images
from rentgen.engine.predictor import Predictor
from rentgen.evaluate.compare import compare
from rentgen.images.phantom import Finding, draw, to_png, write_set
from rentgen.images.read import read
from rentgen.learn.training import TrainingPlan, train
from rentgen.records import PatientSource
from rentgen.service.headers import REPORT_POLICY

CLASSES = ("NORMAL", "PNEUMONIA")
KEY = base64.b64encode(bytes(range(32))).decode()
DICOMS = [
    dicom(
        film(64, 64, seed=seed),
        PatientID=f"MADE-{seed // 2}",
        PatientName=f"Nobody^{seed}",
        SOPInstanceUID=f"1.2.826.0.1.3680043.10.2.{seed}",
        StudyInstanceUID=f"1.2.826.0.1.3680043.10.2.{100 + seed // 2}",
    )
    for seed in range(6)
]
PNGS = [png(film8(64, 64, seed=100 + seed)) for seed in range(14)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("research")


@pytest.fixture(scope="module")
def served(folder: Path) -> Iterator[Serving]:
    models = [_salted(folder / "old.rentgen", seed=0), _salted(folder / "new.rentgen", seed=3)]
    models.append(tiny_bundle(folder / "other.rentgen", classes=("a", "b", "c")))
    drawn = folder / "drawn"
    write_set(drawn, films=6, rng=np.random.default_rng(7))
    rows = [("path", "label", "patient")]
    for place, path in enumerate(sorted(path for path in drawn.rglob("*") if path.is_file())):
        rows.append((str(path.relative_to(folder)), CLASSES[place % 2], f"p{place}"))
    with (folder / "set.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    (folder / "bad.csv").write_text("path,label\n/DOE_JANE.png,NORMAL\n")
    reports = folder / "reports"
    for name, content in (
        ("first", '{"card": {"name": "First", "test": {"accuracy": 0.9, "auroc": 0.95}}}'),
        ("odd", "["),
    ):
        (reports / name).mkdir(parents=True)
        (reports / name / "report.html").write_text("<!doctype html><style>p{color:red}</style><p>Ґ report")
        (reports / name / "report.json").write_text(content)
    (reports / "empty").mkdir()
    with serving(
        folder,
        models=tuple(map(str, models)),
        sets=(f"drawn={folder / 'set.csv'}", f"bad={folder / 'bad.csv'}"),
        reports=reports,
        keep_files=True,
        key=KEY,
    ) as running:
        yield running


def _salted(path: Path, *, seed: int) -> Path:
    """Write the tiny bundle with a certificate under which sets can be looked up."""
    made = bundles.read(tiny_bundle(path, seed=seed))
    bundles.write(path, replace(made, split=replace(made.split, salt="5a" * 16)))
    return path


@pytest.fixture(scope="module")
def exported(client: httpx.Client, folder: Path) -> Path:
    """Return the export, unpacked: each film judged, the last of them twice."""
    for place, data in enumerate((*DICOMS, *PNGS)):
        answer = client.post("/v1/studies", files={"films": (f"DOE_{place}.dcm", data)}).json()
        study = answer["studies"][0]
        image = study["predictions"][0]["image_id"]
        assert _say(client, image, agree=False, label=CLASSES[place % 2], comment="DOE^JANE").status_code == 201
    # The newest word counts, and one without a class is no row to train on.
    assert _say(client, image, agree=False, label="OTHER").status_code == 201
    unsure = client.post("/v1/studies", files={"films": ("u.png", png(film8(seed=99)))}).json()["studies"][0]
    assert _say(client, unsure["images"][0]["id"], agree=False).status_code == 201
    answer = client.get("/v1/feedback/export")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/zip")
    assert "feedback.zip" in answer.headers["content-disposition"]
    target = folder / "exported"
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        assert archive.testzip() is None
        archive.extractall(target)
    return target


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def _say(client: httpx.Client, image: str, **body: object) -> httpx.Response:
    return client.post(f"/v1/images/{image}/feedback", json=body)


# -- the closed loop ---------------------------------------------------------------------------------------------------


def test_feedback_is_a_set_with_patients(exported: Path) -> None:
    listing = list_images(exported / "feedback.csv")
    assert len(listing.records) == 20
    assert listing.patient_source is PatientSource.CSV
    labels = [item.label for item in listing.records]
    assert labels == [CLASSES[place % 2] for place in range(19)] + ["OTHER"]
    patients = [item.patient for item in listing.records]
    # Two films of each patient; a film without a patient is one of its own.
    assert len(set(patients[:6])) == 3
    assert patients[0] == patients[1] != patients[2]
    assert len(set(patients[6:])) == 14


def test_the_films_are_the_films_and_nobody_is_named(exported: Path) -> None:
    items = list_images(exported / "feedback.csv").records
    for item, data in zip(items, (*DICOMS, *PNGS), strict=True):
        assert np.array_equal(read(item.path).pixels, read(data).pixels)
        with Image.open(item.path) as picture:
            assert not picture.info
    for path in exported.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert not any(name in content for name in (b"MADE-", b"Nobody", b"DOE", b"1.2.826"))
            assert not any(name in str(path.relative_to(exported)) for name in ("MADE", "DOE"))
    left = _rows(exported / "without-films.csv")
    assert [row["label"] for row in left] == [""]


@pytest.mark.skipif(shutil.which("tesseract") is None, reason="tesseract is not installed")
def test_a_film_with_words_in_its_picture_is_held_back(tmp_path: Path) -> None:
    drawn = to_png(draw(Finding.NORMAL, np.random.default_rng(3)))
    picture = Image.open(io.BytesIO(drawn)).copy()
    font = ImageFont.load_default(picture.height / 20)
    ImageDraw.Draw(picture).text((picture.width // 8, picture.height // 20), "DOE JANE 1940", 255, font)
    films = {"words": png(picture), "marked": dicom(film(90, 80), BurnedInAnnotation="YES"), "clean": PNGS[0]}
    with serving(tmp_path, key=KEY, keep_files=True) as running, running.client() as client:
        images = {}
        for name, data in films.items():
            study = client.post("/v1/studies", files={"films": (f"{name}.png", data)}).json()["studies"][0]
            images[name] = study["images"][0]["id"]
            assert _say(client, images[name], agree=False, label=CLASSES[0]).status_code == 201
        answer = client.get("/v1/feedback/export")
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        held = list(csv.DictReader(io.StringIO(archive.read("held-back.csv").decode())))
        given = [name for name in archive.namelist() if name.endswith(".png")]
    assert [row["path"] for row in held] == [images["words"], images["marked"]]
    assert given == [f"films/{images['clean']}.png"]


def test_rentgen_trains_on_it(exported: Path, small_recipe: Any, tmp_path: Path) -> None:  # noqa: ANN401
    rows = _rows(exported / "feedback.csv")
    assert rows[-1]["label"] == "OTHER"
    chosen = exported / "two.csv"
    with chosen.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows[:-1])
    plan = TrainingPlan(
        data=chosen,
        out=tmp_path / "again.rentgen",
        recipe=small_recipe.change("head", epochs=2),
        cache=tmp_path / "cache",
        weights="random",
        command="rentgen train two.csv",
    )
    train(plan)
    assert set(bundles.read(plan.out).card.classes) == set(CLASSES)


def test_without_kept_films_the_words_remain(tmp_path: Path) -> None:
    with serving(tmp_path) as running, running.client() as client:
        study = client.post("/v1/studies", files={"films": ("a.png", PNGS[0])}).json()["studies"][0]
        assert _say(client, study["images"][0]["id"], agree=True).status_code == 201
        answer = client.get("/v1/feedback/export")
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        assert set(archive.namelist()) == {"feedback.csv", "without-films.csv", "held-back.csv"}
        (row,) = csv.DictReader(io.StringIO(archive.read("without-films.csv").decode()))
    assert row["label"] == row["model_label"] == study["predictions"][0]["label"]
    assert row["agree"] == "True"


# -- comparisons -------------------------------------------------------------------------------------------------------


def _wait(client: httpx.Client, number: str) -> dict[str, Any]:
    for _ in range(600):
        found: dict[str, Any] = client.get(f"/v1/comparisons/{number}").json()
        if found["state"] in ("done", "failed"):
            return found
        time.sleep(0.05)
    raise TimeoutError("the comparison did not end")


def test_two_models_are_compared_as_the_command_line_does(client: httpx.Client, served: Serving, folder: Path) -> None:
    assert client.get("/v1/sets").json() == {"sets": [{"name": "drawn"}, {"name": "bad"}]}
    begun = client.post("/v1/comparisons", json={"old": "old", "new": "new", "set": "drawn"})
    assert begun.status_code == 202
    assert begun.json()["state"] in ("waiting", "running")
    done = _wait(client, begun.json()["id"])
    assert done["state"] == "done", done["error"]
    assert done["done"] == done["total"] > 0
    old, new = (Predictor.load(served.desk.models.entry(name).source) for name in ("old", "new"))
    own = json.loads(json.dumps(compare(old, new, list_images(folder / "set.csv")).to_dict()))
    shown = done["result"]
    assert set(shown) == set(own)
    for name in ("old", "new"):
        for figure in ("accuracy", "auroc"):
            if isinstance(own.get(name), dict) and figure in own[name]:
                assert shown[name][figure] == own[name][figure]
    assert str(folder) not in json.dumps(done)


def test_comparisons_that_cannot_be(client: httpx.Client) -> None:
    def begin(**body: object) -> httpx.Response:
        return client.post("/v1/comparisons", json={"old": "old", "new": "new", "set": "drawn"} | body)

    for body, status in (
        ({"set": "none"}, 404),
        ({"new": "none"}, 404),
        ({"new": "other"}, 422),
        ({"set": 3}, 422),
        ({"more": 1}, 422),
    ):
        assert begin(**body).status_code == status
    failed = _wait(client, begin(set="bad").json()["id"])
    assert failed["state"] == "failed"
    assert "DOE" not in failed["error"]
    for number in ("0", "99", "-1", "x", "9" * 50, "\u0661"):
        assert client.get(f"/v1/comparisons/{number}").status_code == 404


def test_only_three_comparisons_at_once(client: httpx.Client) -> None:
    begun = [client.post("/v1/comparisons", json={"old": "old", "new": "new", "set": "drawn"}) for _ in range(5)]
    codes = [answer.status_code for answer in begun]
    assert codes[:2] == [202, 202]
    assert codes[-1] == 429
    assert int(begun[-1].headers["retry-after"]) >= 1
    for answer in begun:
        if answer.status_code == 202:
            assert _wait(client, answer.json()["id"])["state"] == "done"


# -- reports -----------------------------------------------------------------------------------------------------------


def test_reports_are_listed_and_shown_in_a_cage(client: httpx.Client) -> None:
    listed = {each["name"]: each for each in client.get("/v1/reports").json()["reports"]}
    assert set(listed) == {"first", "odd"}
    assert (listed["first"]["title"], listed["first"]["accuracy"], listed["first"]["auroc"]) == ("First", 0.9, 0.95)
    assert listed["odd"]["accuracy"] is None
    page = client.get("/v1/reports/first")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert page.headers["content-security-policy"] == REPORT_POLICY
    assert "sandbox" in REPORT_POLICY
    assert "script-src" not in REPORT_POLICY
    assert page.text.endswith("Ґ report")
    for name in ("none", "empty", "..", "..%2fold.rentgen", "%2e%2e"):
        assert client.get(f"/v1/reports/{name}").status_code in (404, 405)


def test_a_service_without_reports_or_sets(tmp_path: Path) -> None:
    with serving(tmp_path, store=False) as running, running.client() as client:
        assert client.get("/v1/reports").json() == {"reports": []}
        assert client.get("/v1/sets").json() == {"sets": []}
        assert client.get("/v1/reports/any").status_code == 404
