"""Films with made-up answers, for the documents: a real chest, and a drawn one."""

from __future__ import annotations

import io
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from functools import cache
from pathlib import Path

import numpy as np
import pydicom
import pytest

from rentgen.images.phantom import Finding, draw
from rentgen.images.phantom_dicom import DxHeader, dx_file
from rentgen.images.prepare import prepare
from rentgen.images.read import read
from rentgen.outputs.dicom_common import source_of
from rentgen.records import Preprocessing, Radiograph, Status
from rentgen.records.results import FilmResult, ModelIdentity, SourceImage, StudyResult
from rentgen.records.studies import Point, StoredPrediction, Urgency

MODEL = ModelIdentity("pneumonia", "2026-11-24-abababababab", "ab" * 32, "passed")
AT = datetime(2026, 12, 1, 9, 30, 15, tzinfo=timezone(timedelta(hours=2)))
SIDE = 224


@cache
def rg1() -> Path:
    """Return a real PA chest CR of an adult (NEMA's WG04 set): MONOCHROME1, 15 of 16 bits."""
    store = pytest.importorskip("data_store", reason="pydicom-data is not installed")
    return Path(store.__file__).parent / "data" / "RG1_UNCR.dcm"


@cache
def phantom() -> bytes:
    """Return a drawn DX."""
    drawn = draw(Finding.NORMAL, np.random.default_rng(1), height=384, width=320)
    return dx_file(drawn.pixels, DxHeader(patient_id="PHANTOM-1", age=4, spacing_mm=0.9))


@cache
def of(file: bytes | Path) -> tuple[Radiograph, SourceImage]:
    """Return a film and what results need of it."""
    data = file.read_bytes() if isinstance(file, Path) else file
    film = read(data, name="film.dcm")
    return film, source_of(pydicom.dcmread(io.BytesIO(data), stop_before_pixels=True))


def stored(
    film: Radiograph, label: str = "PNEUMONIA", *, value: float = 0.97, status: Status = Status.OK, reason: str = ""
) -> StoredPrediction:
    """Return an answer with two classes, one operating point and a map that peaks at the film's left half."""
    maps = np.zeros((2, 7, 7), np.uint8)
    maps[1, 3, 1], maps[1, 3, 2], maps[1, 4, 1], maps[1, 0, 6] = 255, 180, 200, 140
    measured = {"value": 0.95, "low": 0.93, "high": 0.97}
    point = Point("youden", label, 0.426, value >= 0.426, measured, measured)
    urgent = status is Status.OK and value >= 0.426
    return StoredPrediction(
        prediction_id="p",
        image_id="i",
        bundle_id=MODEL.sha256,
        model=MODEL.name,
        created_at=AT,
        status=status,
        label=label,
        probabilities={"NORMAL": 1 - value, label: value},
        reasons=(reason,) if reason else (),
        prediction_set=(label,),
        distance=0.5,
        points=(point,),
        urgency=Urgency.URGENT if urgent else Urgency.ROUTINE if status is Status.OK else Urgency.DOUBT,
        score=value,
        precision="f32",
        maps=maps,
        geometry=prepare(film, Preprocessing(SIDE, SIDE)).geometry,
    )


KINDS = ("present", "absent", "abstain", "out of scope", "not analysed", "covid")


def film_result(kind: str, file: bytes | Path | None = None) -> FilmResult:
    """Return a film's result of one of `KINDS`."""
    film, source = of(file or phantom())
    if kind == "not analysed":
        return FilmResult(source, not_analysed="body part PELVIS is not analysed; a chest is")
    answers = {
        "present": stored(film),
        "absent": stored(film, value=0.04),
        "abstain": stored(film, value=0.5, status=Status.ABSTAIN, reason="no single class is left"),
        "out of scope": stored(film, status=Status.OUT_OF_SCOPE, reason="the patient is older than 18 years"),
        "covid": stored(film, "COVID"),
    }
    return FilmResult(source, answers[kind])


def study(kind: str = "present", file: bytes | Path | None = None, model: ModelIdentity = MODEL) -> StudyResult:
    """Return a study of one film."""
    return StudyResult((film_result(kind, file),), model, AT, "0.1.0")


def two_films() -> StudyResult:
    """Return a study of two films: one with a finding, one that was not analysed."""
    one, other = film_result("present"), film_result("not analysed")
    moved = replace(other.source, sop_instance_uid=other.source.sop_instance_uid[:-1] + "7", instance_number=2)
    return StudyResult((one, replace(other, source=moved)), MODEL, AT, "0.1.0")


def every_kind() -> StudyResult:
    """Return a study of a film for each of `KINDS`."""
    films = []
    for number, kind in enumerate(KINDS, 1):
        one = film_result(kind)
        uid = f"{one.source.sop_instance_uid[:-1]}{number}"
        films.append(replace(one, source=replace(one.source, sop_instance_uid=uid, instance_number=number)))
    return StudyResult(tuple(films), MODEL, AT, "0.1.0")


def graded(grade: str) -> ModelIdentity:
    """Return the model with another grade of its heat maps."""
    return replace(MODEL, heat_maps=grade)
