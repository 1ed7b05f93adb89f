"""Key object selections, judged by dicom3tools, dcmtk and PixelMed."""

from __future__ import annotations

import io
from pathlib import Path

import pydicom
import pytest
from answers import rg1, study, two_films
from validators import dcentvfy, dciodvfy, dsrdump, pixelmed

from rentgen.outputs.key_object import key_object


def test_judges(tmp_path: Path) -> None:
    document = key_object(study(file=rg1()))
    assert document is not None
    assert document == key_object(study(file=rg1()))
    path = tmp_path / document.name
    path.write_bytes(document.content)
    assert dciodvfy(path) == []
    assert dcentvfy(rg1(), path) == []
    assert pixelmed(path) == []
    said = dsrdump(path)
    assert "Of Interest" in said
    assert "Read first: possible Pneumonia." in said


def test_urgent_films_only() -> None:
    result = two_films()
    document = key_object(result)
    assert document is not None
    ds = pydicom.dcmread(io.BytesIO(document.content))
    images = [item for item in ds.ContentSequence if item.ValueType == "IMAGE"]
    assert [item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID for item in images] == [
        result.films[0].source.sop_instance_uid
    ]
    assert all("ConceptNameCodeSequence" not in item for item in images)
    evidence = ds.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence
    assert len(evidence[0].ReferencedSOPSequence) == 1


@pytest.mark.parametrize("kind", ["absent", "abstain", "out of scope", "not analysed"])
def test_nothing_urgent(kind: str) -> None:
    assert key_object(study(kind)) is None
