"""Conversions of published labels, on tiny files in the published formats, as the listing reads them."""

from __future__ import annotations

from pathlib import Path

import pytest

from rentgen.data.catalog import find
from rentgen.data.listing import list_images
from rentgen.data.published import write_labels
from rentgen.errors import DataError, SettingError
from rentgen.records import PatientSource

NIH = """\
Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,\
OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],
00000001_000.png,Cardiomegaly,0,1,058Y,M,PA,2682,2749,0.143,0.143,
00000001_001.png,Cardiomegaly|Emphysema,1,1,058Y,M,PA,2894,2729,0.143,0.143,
00000002_000.png,No Finding,0,2,081Y,M,PA,2500,2048,0.171,0.171,
00000003_000.png,Hernia,0,3,081Y,F,PA,2582,2991,0.143,0.143,
"""

RSNA = """\
patientId,class
0004cfab-14fd-4e49-80ba-63a80b6bddd6,No Lung Opacity / Not Normal
00436515-870c-4b36-a041-de91049b9ab4,Lung Opacity
00436515-870c-4b36-a041-de91049b9ab4,Lung Opacity
003d8fa0-6bf1-40ed-b54c-ac657f8495c5,Normal
"""


def touch(directory: Path, *names: str) -> None:
    for name in names:
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(b"")


def converted(name: str, directory: Path, finding: str | None = None) -> list[str]:
    """Return the lines below the header."""
    table = write_labels(find(name), directory, finding=finding)
    assert table == directory / "labels.csv"
    header, *lines = table.read_text(encoding="utf-8").splitlines()
    assert header == "path,label,patient,split"
    assert len(list_images(table)) == len(lines)
    return lines


@pytest.fixture
def nih(tmp_path: Path) -> Path:
    (tmp_path / "Data_Entry_2017.csv").write_text("\ufeff" + NIH, encoding="utf-8")
    touch(tmp_path, "images_001/images/00000001_001.png", "images_002/images/00000002_000.png", ".x/00000003_000.png")
    return tmp_path


def test_nih_asks_for_any_finding_by_default(nih: Path) -> None:
    (nih / "test_list.txt").write_text("00000002_000.png\n", encoding="utf-8")
    assert converted("nih-chestxray14", nih) == [
        "images_001/images/00000001_001.png,Finding,1,train",
        "images_002/images/00000002_000.png,No Finding,2,test",
    ]
    assert list_images(nih / "labels.csv").patient_source is PatientSource.CSV


def test_nih_asks_for_one_finding_against_the_rest(nih: Path) -> None:
    assert converted("nih-chestxray14", nih, "Emphysema") == [
        "images_001/images/00000001_001.png,Emphysema,1,",
        "images_002/images/00000002_000.png,No Emphysema,2,",
    ]
    with pytest.raises(SettingError, match="one of Cardiomegaly, Emphysema, Hernia, but got 'Flu'"):
        write_labels(find("nih-chestxray14"), nih, finding="Flu")


def test_rsna_gives_one_row_to_a_film_with_two_boxes(tmp_path: Path) -> None:
    (tmp_path / "stage_2_detailed_class_info.csv").write_text(RSNA, encoding="utf-8")
    keys = ("00436515-870c-4b36-a041-de91049b9ab4", "003d8fa0-6bf1-40ed-b54c-ac657f8495c5")
    touch(tmp_path, *(f"stage_2_train_images/{key}.dcm" for key in keys), "stage_2_test_images/x.dcm")
    assert converted("rsna-pneumonia", tmp_path) == [
        f"stage_2_train_images/{keys[0]}.dcm,Lung Opacity,{keys[0]},",
        f"stage_2_train_images/{keys[1]}.dcm,Normal,{keys[1]},",
    ]
    two = converted("rsna-pneumonia", tmp_path, "Lung Opacity")
    assert [line.split(",")[1] for line in two] == ["Lung Opacity", "No Lung Opacity"]
    with pytest.raises(SettingError, match="but got 'Flu'"):
        write_labels(find("rsna-pneumonia"), tmp_path, finding="Flu")


def test_tuberculosis_labels_are_in_the_names_and_masks_are_left_out(tmp_path: Path) -> None:
    touch(
        tmp_path,
        "MontgomerySet/CXR_png/MCUCXR_0001_0.png",
        "MontgomerySet/CXR_png/MCUCXR_0108_1.png",
        "MontgomerySet/ManualMask/leftMask/MCUCXR_0001_0.png",
        "mask/CHNCXR_0327_1_mask.png",
        "CXR_png/CHNCXR_0327_1.png",
        "CXR_png/other.png",
    )
    assert converted("montgomery", tmp_path) == [
        "CXR_png/CHNCXR_0327_1.png,Tuberculosis,CHNCXR_0327,",
        "MontgomerySet/CXR_png/MCUCXR_0001_0.png,Normal,MCUCXR_0001,",
        "MontgomerySet/CXR_png/MCUCXR_0108_1.png,Tuberculosis,MCUCXR_0108,",
    ]


def test_image_folders_leave_masks_out_and_unknown_patients_are_blank(tmp_path: Path) -> None:
    touch(tmp_path, "Top/COVID/images/COVID-1.png", "Top/COVID/masks/COVID-1.png", "images/COVID-2.png", "COVID-3.png")
    assert converted("covid19-radiography", tmp_path) == ["Top/COVID/images/COVID-1.png,COVID,,"]
    assert list_images(tmp_path / "labels.csv").patient_source is PatientSource.NONE


def test_class_folders_need_no_labels(tmp_path: Path) -> None:
    assert write_labels(find("kermany"), tmp_path) is None
    with pytest.raises(SettingError, match="no finding for the set 'kermany', but got 'Hernia'"):
        write_labels(find("kermany"), tmp_path, finding="Hernia")


def test_missing_tables_columns_and_films_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"file Data_Entry_2017\*\.csv in .* Patient ID, but got no such file"):
        write_labels(find("nih-chestxray14"), tmp_path)
    (tmp_path / "stage_2_detailed_class_info.csv").write_text("patientId,Target\n", encoding="utf-8")
    with pytest.raises(DataError, match="with the columns patientId, class, but got patientId, Target"):
        write_labels(find("rsna-pneumonia"), tmp_path)
    with pytest.raises(DataError, match="Expected films of Shenzhen Hospital chest X-ray set"):
        write_labels(find("shenzhen"), tmp_path)
