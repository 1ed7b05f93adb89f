"""Structured reports, judged by dicom3tools, dcmtk and PixelMed, and read back."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, cast

import highdicom
import numpy as np
import pydicom
import pytest
from answers import KINDS, MODEL, every_kind, graded, of, phantom, rg1, study
from validators import dciodvfy, dsrdump, pixelmed

from rentgen.outputs.structured_report import structured_report
from rentgen.records.results import Kind, StudyResult


def content(result: StudyResult) -> pydicom.Dataset:
    return pydicom.dcmread(io.BytesIO(structured_report(result).content))


def items(ds: pydicom.Dataset) -> list[tuple[str, Any]]:
    """Return (concept, value) of all content items, in order."""
    found = []
    for item in ds.get("ContentSequence", []):
        name = item.ConceptNameCodeSequence[0].CodeMeaning if "ConceptNameCodeSequence" in item else ""
        values: dict[str, Any] = {
            "CODE": lambda item: item.ConceptCodeSequence[0].CodeMeaning,
            "TEXT": lambda item: item.TextValue,
            "NUM": lambda item: float(item.MeasuredValueSequence[0].NumericValue),
            "UIDREF": lambda item: item.UID,
            "IMAGE": lambda item: item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID,
            "SCOORD": lambda item: list(item.GraphicData),
        }
        found.append((name, values[item.ValueType](item) if item.ValueType in values else None))
        found += items(item)
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_judges(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "sr.dcm"
    path.write_bytes(structured_report(study(kind)).content)
    assert dciodvfy(path) == []
    assert "Preliminary Flag    : PRELIMINARY" in dsrdump(path)


def test_template(tmp_path: Path) -> None:
    path = tmp_path / "sr.dcm"
    path.write_bytes(structured_report(every_kind()).content)
    assert dciodvfy(path) == []
    assert pixelmed(path) == []


def test_real_film(tmp_path: Path) -> None:
    path = tmp_path / "sr.dcm"
    path.write_bytes(structured_report(study(file=rg1())).content)
    assert dciodvfy(path) == []


def test_the_same_bytes_each_time() -> None:
    first, second = structured_report(study()), structured_report(study())
    assert first == second
    assert first.kind is Kind.STRUCTURED_REPORT
    assert first.uid == content(study()).SOPInstanceUID
    assert structured_report(study("absent")).content != first.content


def test_content() -> None:
    ds = content(study())
    said = items(ds)
    for each in [
        ("Finding", "Pneumonia"),
        ("Presence at the operating point", "Present"),
        ("Calibrated probability of the finding", 97.0),
        ("Threshold of the operating point", 42.6),
        ("Algorithm Name", MODEL.name),
        ("Algorithm Version", MODEL.version),
        ("Algorithm Parameters", f"bundle sha256 {MODEL.sha256}"),
        (
            "Algorithm Parameters",
            "operating point youden, threshold 0.426000; sensitivity 0.950; specificity 0.950",
        ),
        ("Finding Site", "Chest"),
        ("Status of the AI analysis", "Analysed"),
        ("What the region shows", "AI heat map at half its peak, not a lesion outline"),
        ("Source", of(phantom())[1].sop_instance_uid),
    ]:
        assert each in said
    assert (ds.CompletionFlag, ds.PreliminaryFlag, ds.VerificationFlag) == ("COMPLETE", "PRELIMINARY", "UNVERIFIED")
    tracking = [value for name, value in said if name == "Tracking Unique Identifier"]
    assert len(tracking) == len(set(tracking)) == 3
    scheme = ds.CodingSchemeIdentificationSequence[0]
    assert scheme.CodingSchemeDesignator == "99RENTGEN"
    assert scheme.CodingSchemeUID.startswith("2.25.")


def test_region_is_drawn_on_the_film() -> None:
    coordinates = np.array(next(value for name, value in items(content(study())) if name == "Image Region"))
    _, source = of(phantom())
    points = coordinates.reshape(-1, 2)
    assert (points >= 0).all()
    assert (points <= [source.columns, source.rows]).all()
    assert points[0].tolist() == points[-1].tolist()
    assert not [1 for name, _ in items(content(study(model=graded("weak")))) if name == "Image Region"]


@pytest.mark.parametrize(
    ("kind", "status", "presences", "comment"),
    [
        ("absent", "Analysed", ["Absent"], "Research software"),
        ("abstain", "Abstained: the model does not know", ["Undetermined"], "no single class is left"),
        ("out of scope", "Out of scope: not a film for this model", ["Not assessed"] * 2, "older than 18 years"),
        ("not analysed", "Not analysed", [], "body part PELVIS"),
    ],
)
def test_what_is_not_an_answer_is_said(kind: str, status: str, presences: list[str], comment: str) -> None:
    said = items(content(study(kind)))
    assert ("Status of the AI analysis", status) in said
    assert [value for name, value in said if name == "Presence at the operating point"] == presences
    assert comment in next(value for name, value in said if name == "Comment")
    if kind == "out of scope":
        assert "Calibrated probability of the finding" not in dict(said)


def test_long_code() -> None:
    group = content(study("covid"))
    found = [item for item in group.iterall() if item.keyword == "LongCodeValue"]
    assert [element.value for element in found] == ["882784691000119100"]


def test_patient_and_study_are_the_films() -> None:
    ds, source = content(study(file=rg1())), pydicom.dcmread(rg1(), stop_before_pixels=True)
    keywords = """
        PatientName PatientID PatientBirthDate PatientSex StudyInstanceUID StudyID StudyDate StudyTime
        AccessionNumber ReferringPhysicianName StudyDescription TimezoneOffsetFromUTC
    """
    for keyword in keywords.split():
        if keyword in source:
            assert ds[keyword].value == source[keyword].value, keyword
    assert ds.SeriesInstanceUID != source.SeriesInstanceUID
    # 09:30:15 in Kyiv, on the clock that the film's header names.
    assert (ds.ContentDate, ds.ContentTime) == ("20261201", "033015")


def test_highdicom_reads_it() -> None:
    ds = content(study())
    report = cast(highdicom.sr.MeasurementReport, highdicom.sr.Comprehensive3DSR.from_dataset(ds).content)
    groups = report.get_planar_roi_measurement_groups()
    assert [group.finding_type and group.finding_type.value for group in groups] == ["233604007"]
    assert len(report.get_image_measurement_groups()) == 2
