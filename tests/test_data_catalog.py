"""The catalogue's own consistency, and the conversions of published labels, on tiny files in the published formats."""

from __future__ import annotations

import csv
import dataclasses
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from rentgen.data.catalog import (
    DATA_SETS,
    Client,
    DataSet,
    LabelRow,
    Published,
    RemoteFile,
    find,
    image_folder_rows,
    nih_rows,
    rsna_rows,
    tb_rows,
    write_labels,
)
from rentgen.data.listing import list_images
from rentgen.errors import DataError, SettingError
from rentgen.images.phantom import Finding
from rentgen.records import PatientSource, Split

NIH = """\
Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,\
OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],
00000001_000.png,Cardiomegaly,0,1,058Y,M,PA,2682,2749,0.143,0.143,
00000001_001.png,Cardiomegaly|Emphysema,1,1,058Y,M,PA,2894,2729,0.143,0.143,
00000002_000.png,No Finding,0,2,081Y,M,PA,2500,2048,0.171,0.171,
00000003_000.png,Hernia,0,3,081Y,F,PA,2582,2991,0.143,0.143,
""".splitlines()

RSNA = """\
patientId,x,y,width,height,Target
0004cfab-14fd-4e49-80ba-63a80b6bddd6,,,,,0
00436515-870c-4b36-a041-de91049b9ab4,264.0,152.0,213.0,379.0,1
00436515-870c-4b36-a041-de91049b9ab4,562.0,152.0,256.0,453.0,1
003d8fa0-6bf1-40ed-b54c-ac657f8495c5,,,,,0
""".splitlines()

RSNA_DETAILED = """\
patientId,class
0004cfab-14fd-4e49-80ba-63a80b6bddd6,No Lung Opacity / Not Normal
00436515-870c-4b36-a041-de91049b9ab4,Lung Opacity
00436515-870c-4b36-a041-de91049b9ab4,Lung Opacity
003d8fa0-6bf1-40ed-b54c-ac657f8495c5,Normal
""".splitlines()


def touch(directory: Path, *names: str) -> None:
    for name in names:
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(b"")


def test_names_are_those_of_the_documentation() -> None:
    text = (Path(__file__).parent.parent / "docs" / "datasets.md").read_text(encoding="utf-8")
    for data_set in DATA_SETS:
        assert f"`{data_set.name}`" in text
    assert len({data_set.name for data_set in DATA_SETS}) == len(DATA_SETS)


@pytest.mark.parametrize("data_set", DATA_SETS, ids=lambda entry: entry.name)
def test_every_entry_is_complete(data_set: DataSet) -> None:
    assert data_set.notes
    assert data_set.classes
    addresses = [url for file in data_set.files for url in file.urls] + ([data_set.page] if data_set.page else [])
    assert all(urlsplit(url).scheme == "https" and urlsplit(url).hostname for url in addresses)
    assert (data_set.page is None) == (data_set.client is Client.GENERATED)
    for file in data_set.files:
        assert file.sha256 is None or len(bytes.fromhex(file.sha256)) == 32


def test_the_phantoms_classes_are_the_generators() -> None:
    assert set(find("phantom").classes) <= {str(finding) for finding in Finding}


def test_find_knows_names_in_any_case_and_suggests_the_nearest() -> None:
    assert find(" Kermany ").name == "kermany"
    with pytest.raises(SettingError, match=r"got 'kermani'\. Did you mean 'kermany'\? Known: phantom, "):
        find("kermani")
    with pytest.raises(SettingError, match=r"got 'zzzzzz'\. Known: phantom, "):
        find("zzzzzz")


def test_an_entry_that_could_not_be_fetched_is_not_built() -> None:
    with pytest.raises(SettingError, match="the Kaggle set 'covid19-3class' to have a handle"):
        dataclasses.replace(find("covid19-3class"), handle=None)
    with pytest.raises(SettingError, match="the set 'kermany' to have files"):
        dataclasses.replace(find("kermany"), files=())
    with pytest.raises(SettingError, match=r"a plain file name, but got '\.\./a'"):
        RemoteFile("../a", ("https://localhost/a",))
    with pytest.raises(SettingError, match="at least one URL"):
        RemoteFile("a", ())


def test_nih_asks_for_any_finding_by_default() -> None:
    paths = [f"images_001/images/{name}.png" for name in ("00000001_000", "00000001_001", "00000002_000")]
    rows = nih_rows(NIH, paths, test={"00000002_000.png"})
    assert rows == [
        LabelRow(paths[0], "Finding", "1", Split.TRAIN),
        LabelRow(paths[1], "Finding", "1", Split.TRAIN),
        LabelRow(paths[2], "No Finding", "2", Split.TEST),
    ]


def test_nih_asks_for_one_finding_against_the_rest() -> None:
    rows = nih_rows(NIH, ["00000001_000.png", "00000001_001.png", "00000003_000.png"], finding="Emphysema")
    assert [row.label for row in rows] == ["No Emphysema", "Emphysema", "No Emphysema"]
    assert {row.split for row in rows} == {None}
    with pytest.raises(SettingError, match="one of Cardiomegaly, Emphysema, Hernia, but got 'Flu'"):
        nih_rows(NIH, [], finding="Flu")


def test_nih_needs_its_columns() -> None:
    with pytest.raises(DataError, match=r"Data_Entry_2017\.csv to have the column 'Image Index'"):
        nih_rows(RSNA, [])


def test_rsna_gives_one_row_to_a_film_with_two_boxes() -> None:
    keys = [line.split(",")[0] for line in RSNA_DETAILED[1:]]
    paths = [f"stage_2_train_images/{key}.dcm" for key in keys]
    plain = rsna_rows(RSNA, paths)
    assert [(row.label, row.patient) for row in plain] == [
        ("No Lung Opacity", keys[0]),
        ("Lung Opacity", keys[1]),
        ("No Lung Opacity", keys[3]),
    ]
    three = rsna_rows(RSNA, paths, detailed=RSNA_DETAILED)
    assert [row.label for row in three] == ["No Lung Opacity / Not Normal", "Lung Opacity", "Normal"]
    two = rsna_rows(RSNA, paths, detailed=RSNA_DETAILED, finding="Lung Opacity")
    assert [row.label for row in two] == ["No Lung Opacity", "Lung Opacity", "No Lung Opacity"]


def test_rsna_files_that_contradict_each_other_are_refused() -> None:
    wrong = [line.replace(",Normal", ",Lung Opacity") for line in RSNA_DETAILED]
    with pytest.raises(DataError, match=r"a film is 'Lung Opacity'\. Fetch both files from the same version"):
        rsna_rows(RSNA, [], detailed=wrong)


def test_tuberculosis_labels_are_in_the_names_and_masks_are_left_out() -> None:
    rows = tb_rows(
        [
            "MontgomerySet/CXR_png/MCUCXR_0001_0.png",
            "MontgomerySet/CXR_png/MCUCXR_0108_1.png",
            "MontgomerySet/ManualMask/leftMask/MCUCXR_0001_0.png",
            "CXR_png/CHNCXR_0327_1.png",
            "mask/CHNCXR_0327_1_mask.png",
            "CXR_png/Thumbs.png",
        ]
    )
    assert [(Path(row.path).name, row.label, row.patient) for row in rows] == [
        ("CHNCXR_0327_1.png", "Tuberculosis", "CHNCXR_0327"),
        ("MCUCXR_0001_0.png", "Normal", "MCUCXR_0001"),
        ("MCUCXR_0108_1.png", "Tuberculosis", "MCUCXR_0108"),
    ]


def test_image_folders_leave_masks_out() -> None:
    rows = image_folder_rows(["Top/COVID/images/COVID-1.png", "Top/COVID/masks/COVID-1.png", "COVID-2.png"])
    assert rows == [LabelRow("Top/COVID/images/COVID-1.png", "COVID")]


def test_written_labels_are_what_the_listing_reads(tmp_path: Path) -> None:
    (tmp_path / "Data_Entry_2017.csv").write_text("\ufeff" + "\n".join(NIH), encoding="utf-8")
    (tmp_path / "test_list.txt").write_text("00000003_000.png\n", encoding="utf-8")
    touch(tmp_path, "images_001/images/00000001_000.png", "images_002/images/00000003_000.png", ".x/00000002_000.png")
    table = write_labels(find("nih-chestxray14"), tmp_path, finding="Hernia")
    assert table == tmp_path / "labels.csv"
    with table.open(encoding="utf-8", newline="") as stream:
        assert list(csv.reader(stream)) == [
            ["path", "label", "patient", "split"],
            ["images_001/images/00000001_000.png", "No Hernia", "1", "train"],
            ["images_002/images/00000003_000.png", "Hernia", "3", "test"],
        ]
    listing = list_images(table)
    assert listing.classes == ("Hernia", "No Hernia")
    assert listing.patient_source is PatientSource.CSV
    assert [record.split for record in listing.records] == [Split.TRAIN, Split.TEST]


def test_unknown_patients_are_blank(tmp_path: Path) -> None:
    touch(tmp_path, "COVID/images/COVID-1.png", "Normal/images/Normal-1.png", "Normal/masks/Normal-1.png")
    table = write_labels(find("covid19-radiography"), tmp_path)
    assert table is not None
    assert table.read_text(encoding="utf-8").splitlines()[1] == "COVID/images/COVID-1.png,COVID,,"
    assert list_images(table).patient_source is PatientSource.NONE


def test_rsna_is_converted_from_its_folder(tmp_path: Path) -> None:
    (tmp_path / "stage_2_train_labels.csv").write_text("\n".join(RSNA), encoding="utf-8")
    (tmp_path / "stage_2_detailed_class_info.csv").write_text("\n".join(RSNA_DETAILED), encoding="utf-8")
    touch(tmp_path, "stage_2_train_images/003d8fa0-6bf1-40ed-b54c-ac657f8495c5.dcm", "stage_2_test_images/x.dcm")
    table = write_labels(find("rsna-pneumonia"), tmp_path)
    assert table is not None
    assert [line.split(",")[1] for line in table.read_text(encoding="utf-8").splitlines()] == ["label", "Normal"]


def test_class_folders_need_no_labels(tmp_path: Path) -> None:
    assert write_labels(find("kermany"), tmp_path) is None
    with pytest.raises(SettingError, match="no finding for the set 'kermany', but got 'Hernia'"):
        write_labels(find("kermany"), tmp_path, finding="Hernia")


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"the published file Data_Entry_2017\*\.csv in .* is not there"):
        write_labels(find("nih-chestxray14"), tmp_path)
    with pytest.raises(DataError, match="Expected films of Shenzhen Hospital chest X-ray set"):
        write_labels(find("shenzhen"), tmp_path)


def test_a_row_does_not_show_its_patient() -> None:
    assert "secret" not in repr(LabelRow("a.png", "Normal", "secret"))


def test_every_way_of_publishing_is_in_use() -> None:
    assert {data_set.published for data_set in DATA_SETS} == set(Published)
