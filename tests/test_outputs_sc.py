"""Secondary captures: the picture, its header, and that nothing is drawn that may not be shown."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pydicom
import pytest
from answers import KINDS, graded, of, phantom, rg1, study
from made import dicom
from validators import dcentvfy, dciodvfy, run

from rentgen.images.prepare import to_uint8
from rentgen.outputs.secondary_capture import SIDE, secondary_capture
from rentgen.records import Radiograph
from rentgen.records.results import StudyResult


def made(result: StudyResult, film: Radiograph) -> pydicom.Dataset:
    return pydicom.dcmread(io.BytesIO(secondary_capture(result, 0, film.pixels).content))


@pytest.mark.parametrize("kind", KINDS)
def test_judge(kind: str, tmp_path: Path) -> None:
    film, _ = of(phantom())
    document = secondary_capture(study(kind), 0, film.pixels)
    assert document == secondary_capture(study(kind), 0, film.pixels)
    path = tmp_path / document.name
    path.write_bytes(document.content)
    assert dciodvfy(path) == []


def test_real_film(tmp_path: Path) -> None:
    film, _ = of(rg1())
    path = tmp_path / "sc.dcm"
    path.write_bytes(secondary_capture(study(file=rg1()), 0, film.pixels).content)
    assert dciodvfy(path) == []
    assert dcentvfy(rg1(), path) == []
    run("dcm2pnm", "+on", path, tmp_path / "sc.png")
    assert (tmp_path / "sc.png").stat().st_size > 100_000


def test_header() -> None:
    film, source = of(phantom())
    ds = made(study(), film)
    assert ds.BurnedInAnnotation == "YES"
    assert ds.SourceImageSequence[0].ReferencedSOPInstanceUID == source.sop_instance_uid
    assert list(ds.PatientOrientation) == ["L", "F"]
    assert "BodyPartExamined" not in ds  # or a router would send it to be analysed
    assert ds.SeriesNumber >= 900
    assert [float(step) for step in ds.NominalScannedPixelSpacing] == pytest.approx([0.9, 0.9])


def test_picture() -> None:
    film, _ = of(phantom())
    height, width = film.pixels.shape
    pixels = made(study(), film).pixel_array
    top = next(row for row in range(80) if (pixels[row : row + 200, :, 0] == to_uint8(film.pixels)[:200]).mean() > 0.8)
    shown = pixels[top : top + height].astype(int)
    colour = np.abs(shown[..., 0] - shown[..., 2]) > 20
    # A second, smaller hot place is in the corner.
    colour[: height // 3, width // 2 :] = False
    rows, columns = np.nonzero(colour)
    # The map peaks at the middle of the left half.
    assert abs(rows.mean() - 0.55 * height) < 0.1 * height
    assert abs(columns.mean() - 0.25 * width) < 0.1 * width
    # The warning is above the film and the words below it: neither hides any of it.
    assert pixels[:top].max() > 200
    assert pixels[top + height :].max() > 200


@pytest.mark.parametrize("kind", ["absent", "abstain", "out of scope", "not analysed"])
def test_no_map_without_a_finding(kind: str) -> None:
    film, _ = of(phantom())
    grey = made(study(kind), film).pixel_array[60:300].astype(int)
    assert (np.ptp(grey, axis=2) == 0).all()


def test_no_map_without_the_grade() -> None:
    film, _ = of(phantom())
    grey = made(study(model=graded("weak")), film).pixel_array[60:300].astype(int)
    assert (np.ptp(grey, axis=2) == 0).all()


def test_large_films_are_made_smaller() -> None:
    film, source = of(rg1())
    ds = made(study(file=rg1()), film)
    assert SIDE <= ds.Rows <= SIDE + 300
    assert source.columns / source.rows == pytest.approx(ds.Columns / SIDE, rel=0.01)


def test_turned_film() -> None:
    data = dicom(PatientOrientation=["R", "F"], Rows=48, Columns=40)
    film, source = of(data)
    assert source.orientation == 2
    assert list(made(study("not analysed", data), film).PatientOrientation) == ["L", "F"]


def test_other_pixels_are_refused() -> None:
    with pytest.raises(ValueError, match="Expected pixels of"):
        secondary_capture(study(), 0, np.zeros((3, 4), np.uint8))
