"""Presentation states, judged by dicom3tools and dcmtk, and rendered by dcmtk."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pydicom
import pytest
from answers import KINDS, graded, of, phantom, rg1, study
from made import dicom
from PIL import Image
from validators import dcentvfy, dciodvfy, dcmpschk, run

from rentgen.images.prepare import to_uint8
from rentgen.outputs.presentation_state import presentation_state
from rentgen.records.results import StudyResult


def made(result: StudyResult) -> pydicom.Dataset:
    return pydicom.dcmread(io.BytesIO(presentation_state(result, 0).content))


@pytest.mark.parametrize("kind", KINDS)
def test_judges(kind: str, tmp_path: Path) -> None:
    document = presentation_state(study(kind), 0)
    assert document == presentation_state(study(kind), 0)
    path = tmp_path / document.name
    path.write_bytes(document.content)
    assert dciodvfy(path) == []
    assert dcmpschk(path)


@pytest.mark.parametrize("name", ["rg1", "phantom"])
def test_film_looks_as_it_was_analysed(name: str, tmp_path: Path) -> None:
    file = tmp_path / "film.dcm"
    file.write_bytes(rg1().read_bytes() if name == "rg1" else phantom())
    source = rg1() if name == "rg1" else phantom()
    state = tmp_path / "pr.dcm"
    state.write_bytes(presentation_state(study("absent", source), 0).content)
    assert dciodvfy(state) == []
    assert dcentvfy(file, state) == []
    run("dcmp2pgm", "-p", state, file, tmp_path / "shown.pgm")
    shown = np.asarray(Image.open(tmp_path / "shown.pgm")).astype(int)
    film, _ = of(source)
    assert np.abs(shown - to_uint8(film.pixels)).max() <= 1


def test_outline_and_text() -> None:
    annotation = made(study()).GraphicAnnotationSequence[0]
    outline = annotation.GraphicObjectSequence[0]
    assert (outline.GraphicType, outline.GraphicAnnotationUnits) == ("POLYLINE", "PIXEL")
    points = np.array(outline.GraphicData).reshape(-1, 2)
    assert len(points) == outline.NumberOfGraphicPoints
    assert points[0].tolist() == points[-1].tolist()
    text = annotation.TextObjectSequence[0].UnformattedTextValue
    assert "Pneumonia: present (probability 97.0 %; operating point youden at 42.6 %)." in text
    assert "not verified by a person" in text
    assert "Not a medical device" in text
    assert len(text) <= 1024


@pytest.mark.parametrize("kind", ["absent", "abstain", "out of scope", "not analysed"])
def test_text_without_outline(kind: str) -> None:
    annotation = made(study(kind)).GraphicAnnotationSequence[0]
    assert "GraphicObjectSequence" not in annotation
    assert len(annotation.TextObjectSequence) == 1


def test_no_outline_without_the_grade() -> None:
    assert "GraphicObjectSequence" not in made(study(model=graded("failed"))).GraphicAnnotationSequence[0]


def test_long_reasons_leave_the_warning() -> None:
    result = study("not analysed")
    object.__setattr__(result.films[0], "not_analysed", "x" * 5000)
    text = made(result).GraphicAnnotationSequence[0].TextObjectSequence[0].UnformattedTextValue
    assert len(text) <= 1024
    assert text.endswith("not for diagnosis on its own.")


def test_first_of_several_windows_and_the_rescale() -> None:
    data = dicom(WindowCenter=[100, 200], WindowWidth=[50, 60], RescaleSlope=2, RescaleIntercept=-10)
    ds = made(study("not analysed", data))
    item = ds.SoftcopyVOILUTSequence[0]
    assert (item.WindowCenter, item.WindowWidth) == (100, 50)
    assert (ds.RescaleSlope, ds.RescaleIntercept, ds.PresentationLUTShape) == (2, -10, "IDENTITY")


@pytest.mark.parametrize("file", ["mlut_18.dcm", "vlut_04.dcm"])
def test_lookup_tables(file: str, tmp_path: Path) -> None:
    source = rg1().with_name(file)
    _, image = of(source)
    state = tmp_path / "pr.dcm"
    state.write_bytes(presentation_state(study("not analysed", source), 0).content)
    ds = pydicom.dcmread(state)
    original = pydicom.dcmread(source)
    for keyword, inner in (("ModalityLUTSequence", None), ("VOILUTSequence", "SoftcopyVOILUTSequence")):
        if keyword in original:
            holder = ds[inner][0] if inner else ds
            assert holder[keyword][0].LUTData == original[keyword][0].LUTData
            assert list(holder[keyword][0].LUTDescriptor) == list(original[keyword][0].LUTDescriptor)
    assert image.grey
    assert dcmpschk(state)
