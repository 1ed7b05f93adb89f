"""Encapsulated PDF, judged by dicom3tools; and all documents of a destination together."""

from __future__ import annotations

import io
from pathlib import Path

import pydicom
import pytest
from answers import of, phantom, rg1, study
from typer.testing import CliRunner
from validators import dcentvfy, dciodvfy

import rentgen.cli.result  # registers the command
from rentgen.cli.options import app
from rentgen.outputs.documents import Extras, documents
from rentgen.outputs.encapsulated_pdf import encapsulated_pdf
from rentgen.records.results import Kind

PDF = b"%PDF-1.4\n1 0 obj<</Type/Catalog>>endobj\ntrailer<</Root 1 0 R>>\n%%EOF"


@pytest.mark.parametrize("pdf", [PDF, PDF + b"\n"], ids=["odd", "even"])
def test_judge(pdf: bytes, tmp_path: Path) -> None:
    document = encapsulated_pdf(study(file=rg1()), pdf)
    assert document == encapsulated_pdf(study(file=rg1()), pdf)
    path = tmp_path / document.name
    path.write_bytes(document.content)
    assert dciodvfy(path) == []
    assert dcentvfy(rg1(), path) == []
    ds = pydicom.dcmread(path)
    assert ds.EncapsulatedDocument[: ds.EncapsulatedDocumentLength] == pdf
    assert len(ds.EncapsulatedDocument) % 2 == 0
    assert (ds.BurnedInAnnotation, ds.VerificationFlag) == ("YES", "UNVERIFIED")


def test_what_is_no_pdf_is_refused() -> None:
    with pytest.raises(ValueError, match="Expected a PDF file"):
        encapsulated_pdf(study(), b"<html>")


def test_documents_of_a_destination(tmp_path: Path) -> None:
    film, source = of(rg1())
    result = study(file=rg1())
    made = documents(result, list(Kind), Extras(pixels={source.sop_instance_uid: film.pixels}, pdf=PDF))
    assert [document.kind for document in made] == list(Kind)
    uids = set()
    paths = []
    for document in made:
        path = tmp_path / document.name
        path.write_bytes(document.content)
        if path.suffix == ".dcm":
            paths.append(path)
            ds = pydicom.dcmread(io.BytesIO(document.content), stop_before_pixels=True)
            assert ds.SOPInstanceUID == document.uid
            uids |= {ds.SOPInstanceUID, ds.SeriesInstanceUID}
            assert ds.StudyInstanceUID == source.order.study_instance_uid
    assert len(uids) == 2 * len(paths) == 10
    assert dcentvfy(rg1(), *paths) == []


def test_documents_without_what_they_need() -> None:
    result = study("absent")
    assert documents(result, [Kind.SECONDARY_CAPTURE, Kind.PDF, Kind.KEY_OBJECT]) == ()
    assert [each.kind for each in documents(result, [Kind.HL7, Kind.FHIR])] == [Kind.HL7, Kind.FHIR]


def test_command(tmp_path: Path) -> None:
    (tmp_path / "film.dcm").write_bytes(phantom())
    wanted = ["--out", str(tmp_path / "out"), "--kind", "sr", "--kind", "sc", "--kind", "fhir"]
    done = CliRunner().invoke(app, ["result", str(tmp_path / "film.dcm"), *wanted])
    assert done.exit_code == 0, done.output
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["fhir.json", "sc-1.dcm", "sr-1.dcm"]
    assert dciodvfy(tmp_path / "out" / "sr-1.dcm") == []
    assert rentgen.cli.result.result.__doc__
