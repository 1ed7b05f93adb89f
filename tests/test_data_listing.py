from __future__ import annotations

import logging
from pathlib import Path

import made
import numpy as np
import pytest
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
)

from rentgen.data.listing import list_images, parse_split
from rentgen.data.split import split
from rentgen.errors import DataError, SettingError
from rentgen.records import Listing, PatientSource, Split


def png(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(path, "PNG")
    return path


def dicom(path: Path, patient: str, uid: str = "1.2.3") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    ds = Dataset()
    ds.SOPClassUID = DigitalXRayImageStorageForPresentation
    ds.SOPInstanceUID = UID(uid)
    ds.PatientID = patient
    ds.file_meta = FileMetaDataset()
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
    ds.file_meta.MediaStorageSOPInstanceUID = UID(uid)
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.save_as(path, enforce_file_format=True)
    return path


def table(path: Path, text: str, *, encoding: str = "utf-8") -> Path:
    path.write_text(text, encoding=encoding)
    return path


def rows(listing: Listing, root: Path) -> list[tuple[str, str | None, Split | None]]:
    return [(r.path.relative_to(root).as_posix(), r.label, r.split) for r in listing.records]


def patients(listing: Listing) -> list[str]:
    return [record.patient for record in listing.records]


def test_class_folders_in_natural_order(tmp_path: Path) -> None:
    for name in ("b/10.png", "b/9.PNG", "a/deep/er/1.jpeg", "a/2.tif"):
        png(tmp_path / name)
    listing = list_images(tmp_path)
    assert rows(listing, tmp_path) == [
        ("a/2.tif", "a", None),
        ("a/deep/er/1.jpeg", "a", None),
        ("b/9.PNG", "b", None),
        ("b/10.png", "b", None),
    ]
    assert (listing.classes, listing.patient_source, listing.root) == (("a", "b"), PatientSource.NONE, tmp_path)
    assert len(set(patients(listing))) == 4
    assert list_images(tmp_path) == listing


@pytest.mark.parametrize("wrapper", ["", "one/", "one/two/"])
def test_parts_with_class_folders(tmp_path: Path, wrapper: str) -> None:
    for name in ("Train/a/1.png", "VALID/a/1.png", "testing/b/x/1.png"):
        png(tmp_path / wrapper / name)
    assert [(label, part) for _, label, part in rows(list_images(tmp_path), tmp_path)] == [
        ("b", Split.TEST),
        ("a", Split.TRAIN),
        ("a", Split.VALIDATION),
    ]


def test_parts_inside_class_folders(tmp_path: Path) -> None:
    for name in ("a/train/1.png", "a/test/1.png", "b/train/1.png"):
        png(tmp_path / name)
    assert rows(list_images(tmp_path), tmp_path) == [
        ("a/test/1.png", "a", Split.TEST),
        ("a/train/1.png", "a", Split.TRAIN),
        ("b/train/1.png", "b", Split.TRAIN),
    ]


def test_a_wrapper_around_classes_is_gone_through(tmp_path: Path) -> None:
    png(tmp_path / "set" / "a" / "1.png")
    png(tmp_path / "set" / "b" / "1.png")
    assert list_images(tmp_path).classes == ("a", "b")


def test_one_class_is_listed(tmp_path: Path) -> None:
    png(tmp_path / "a" / "1.png")
    assert list_images(tmp_path).classes == ("a",)


def test_a_plain_folder_has_no_classes(tmp_path: Path) -> None:
    png(tmp_path / "1.png")
    listing = list_images(tmp_path)
    assert (rows(listing, tmp_path), listing.classes) == ([("1.png", None, None)], ())


def test_several_tasks_are_named(tmp_path: Path) -> None:
    for task in ("COVID", "Pneumonia"):
        for part in ("train", "test"):
            png(tmp_path / "wrapper" / task / part / "a" / "1.png")
    with pytest.raises(DataError, match=r"holds several tasks, .*: COVID, Pneumonia\. Give the folder of one .*COVID"):
        list_images(tmp_path)


def test_a_second_copy_beside_the_parts_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("train/a/1.png", "test/a/1.png", "chest_xray/train/a/1.png", "chest_xray/test/a/1.png"):
        png(tmp_path / name)
    assert len(list_images(tmp_path)) == 2
    assert "chest_xray: left out" in caplog.text


def test_a_strange_folder_beside_the_parts_is_refused(tmp_path: Path) -> None:
    for name in ("train/a/1.png", "extra/1.png"):
        png(tmp_path / name)
    with pytest.raises(DataError, match=r"Beside the parts of the data in .* stands the folder 'extra' with 1 films"):
        list_images(tmp_path)


@pytest.mark.parametrize("part", ["", "train/"])
def test_films_beside_class_folders_are_refused(tmp_path: Path, part: str) -> None:
    for name in ("a/1.png", "b/1.png", "2.png"):
        png(tmp_path / part / name)
    with pytest.raises(DataError, match=r"1 films lie in .* beside folders of films \(a, b\)"):
        list_images(tmp_path)


def test_classes_that_differ_in_case_are_refused(tmp_path: Path) -> None:
    for name in ("train/Normal/1.png", "test/NORMAL/1.png"):
        png(tmp_path / name)
    with pytest.raises(DataError, match="The classes 'NORMAL' and 'Normal' differ in case only"):
        list_images(tmp_path)


def test_junk_is_passed_over_and_strange_files_are_mentioned(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    png(tmp_path / "a" / "1.png")
    for name in ("a/.2.png", "a/Thumbs.db", "a/.DS_Store", "__MACOSX/a/3.png", "DICOMDIR", "a/notes.txt", "a/4.bmp"):
        png(tmp_path / name)
    with caplog.at_level(logging.WARNING):
        listing = list_images(tmp_path)
    assert len(listing) == 1
    assert caplog.text.count("left out") == 1
    assert "1 files are of no kind that is read and were left out (.bmp 1)" in caplog.text


def test_links_are_followed_once(tmp_path: Path) -> None:
    png(tmp_path / "elsewhere" / "1.png")
    png(tmp_path / "set" / "b" / "1.png")
    (tmp_path / "set" / "a").mkdir()
    (tmp_path / "set" / "a" / "dangling").symlink_to(tmp_path / "nowhere")
    (tmp_path / "set" / "a" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "set" / "a" / "loop").symlink_to(tmp_path / "set")
    assert [r.label for r in list_images(tmp_path / "set").records] == ["a", "b"]


def test_nothing_to_list(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds no films\. Expected PNG, JPEG, TIFF or DICOM"):
        list_images(tmp_path)
    with pytest.raises(DataError, match=r"is not there\. Expected a folder of films or a CSV"):
        list_images(tmp_path / "absent")
    with pytest.raises(DataError, match="is not a table in UTF-8"):
        list_images(png(tmp_path / "1.png"))


def test_kermany_names_tell_the_patient(tmp_path: Path) -> None:
    names = ["IM-0115-0001", "NORMAL2-IM-0115-0001", "NORMAL2-IM-0115-0001-0002", "IM-0115-0001-0001"]
    names += ["person7_bacteria_1", "person7_virus_20", "person70_virus_1"]
    for name in names:
        png(tmp_path / ("a" if "IM" in name else "b") / f"{name}.png")
    listing = list_images(tmp_path)
    assert listing.patient_source is PatientSource.NAME
    assert {r.path.stem: r.patient for r in listing.records} == {
        "IM-0115-0001": "IM-0115",
        "IM-0115-0001-0001": "IM-0115",
        "NORMAL2-IM-0115-0001": "NORMAL2-IM-0115",
        "NORMAL2-IM-0115-0001-0002": "NORMAL2-IM-0115",
        "person7_bacteria_1": "person7",
        "person7_virus_20": "person7",
        "person70_virus_1": "person70",
    }


def test_published_parts_number_their_persons_apart(tmp_path: Path) -> None:
    names = ["train/b/person80_virus_150", "test/b/person80_bacteria_390"]
    names += [
        "train/b/person9_virus_1",
        "test/b/person9_virus_2",
        "train/b/person4_virus_1",
        "train/b/person4_bacteria_1",
    ]
    for name in names:
        png(tmp_path / f"{name}.png")
    found = {r.path.stem: r.patient for r in list_images(tmp_path).records}
    assert found["person80_virus_150"] != found["person80_bacteria_390"]
    assert found["person9_virus_1"] == found["person9_virus_2"]
    assert found["person4_virus_1"] == found["person4_bacteria_1"]


def test_built_in_names_must_fit_nearly_all_films(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for index in range(19):
        png(tmp_path / f"person{index}_virus_1.png")
    png(tmp_path / "stranger.png")
    listing = list_images(tmp_path)
    assert listing.patient_source is PatientSource.NAME
    assert patients(listing)[-1] == str(tmp_path / "stranger.png")
    assert "1 of 20 films do not say whom they show" in caplog.text
    png(tmp_path / "another.png")
    assert list_images(tmp_path).patient_source is PatientSource.NONE
    assert "nothing names the patients of enough of the 21 films" in caplog.text


def test_known_patients_stay_together_where_too_few_are_known(tmp_path: Path) -> None:
    for index in range(60):
        dicom(tmp_path / "ab"[index % 2] / f"{index}.dcm", f"p{index // 6}", f"1.2.{index}")
        png(tmp_path / "ab"[index % 2] / f"{index}.png")
    listing = list_images(tmp_path)
    assert listing.patient_source is PatientSource.NONE
    assert len(set(patients(listing))) == 10 + 60
    divided = split(listing, rng=np.random.default_rng(0))
    parts = {(record.patient, record.split) for record in divided.records}
    assert len({part for _, part in parts}) == 3
    assert len(parts) == 10 + 60


def test_a_column_must_name_nearly_all_patients_to_count_as_the_source(tmp_path: Path) -> None:
    for index in range(20):
        png(tmp_path / f"{index}.png")
    for known, source in ((19, PatientSource.CSV), (18, PatientSource.NONE)):
        cells = [f"{index}.png,{'p' if index < known else ''}\n" for index in range(20)]
        listing = list_images(table(tmp_path / "set.csv", "path,patient\n" + "".join(cells)))
        assert listing.patient_source is source
        assert patients(listing) == ["p"] * known + [str(tmp_path / f"{index}.png") for index in range(known, 20)]


def test_what_the_column_leaves_out_is_asked_of_the_files(tmp_path: Path) -> None:
    for index, patient in enumerate(("h1", "h1", "h2", "h2")):
        dicom(tmp_path / f"{index}.dcm", patient)
    for index in range(16):
        png(tmp_path / f"x{index}.png")
    cells = ["0.dcm,p1\n", *(f"{index}.dcm,\n" for index in (1, 2, 3)), *(f"x{index}.png,\n" for index in range(16))]
    source = table(tmp_path / "set.csv", "path,patient\n" + "".join(cells))
    listing = list_images(source)
    assert (patients(listing)[:4], listing.patient_source) == (["p1", "p1", "h2", "h2"], PatientSource.NONE)
    listing = list_images(source, patient_pattern=r"^(?P<patient>x)\d")
    assert (patients(listing)[:4], listing.patient_source) == (["p1", "p1", "h2", "h2"], PatientSource.NAME)
    assert set(patients(listing)[4:]) == {"x"}


@pytest.mark.parametrize("pattern", [r"^(?P<patient>[a-z]+)-", r"^([a-z]+)-", r"(\d)?-?^(?P<patient>[a-z]+)"])
def test_a_pattern_tells_the_patient(tmp_path: Path, pattern: str) -> None:
    for name in ("x-1", "x-2", "y-1"):
        png(tmp_path / f"{name}.png")
    listing = list_images(tmp_path, patient_pattern=pattern)
    assert (patients(listing), listing.patient_source) == (["x", "x", "y"], PatientSource.NAME)


def test_wrong_patterns_are_refused(tmp_path: Path) -> None:
    png(tmp_path / "x-1.png")
    with pytest.raises(SettingError, match="Expected the patient pattern to be a regular expression"):
        list_images(tmp_path, patient_pattern="(")
    with pytest.raises(SettingError, match="Expected the patient pattern to have a group"):
        list_images(tmp_path, patient_pattern="x-")
    with pytest.raises(DataError, match="matches none of 1 file names"):
        list_images(tmp_path, patient_pattern="(z+)")


def test_dicom_by_suffix_or_by_magic(tmp_path: Path) -> None:
    dicom(tmp_path / "a" / "1.dcm", "p1")
    dicom(tmp_path / "a" / "IM000001", "p1")
    dicom(tmp_path / "b" / "1.2.840.7", "p2")
    (tmp_path / "b" / "noise").write_bytes(b"\0" * 200)
    listing = list_images(tmp_path)
    assert [(r.path.name, r.label, r.patient) for r in listing.records] == [
        ("1.dcm", "a", "p1"),
        ("IM000001", "a", "p1"),
        ("1.2.840.7", "b", "p2"),
    ]
    assert listing.patient_source is PatientSource.DICOM


def test_a_broken_dicom_file_is_listed(tmp_path: Path) -> None:
    for index in range(20):
        dicom(tmp_path / f"{index}.dcm", f"p{index}")
    (tmp_path / "x.dcm").write_bytes(b"broken")
    assert patients(list_images(tmp_path))[-1] == str(tmp_path / "x.dcm")


def test_a_pacs_export_has_patients_not_classes(tmp_path: Path) -> None:
    for patient in ("PA0", "PA1"):
        for index in range(2):
            dicom(tmp_path / "DICOM" / patient / "ST0" / "SE0" / f"IM{index}", f"id-{patient}")
    listing = list_images(tmp_path)
    assert (listing.classes, patients(listing)) == ((), ["id-PA0"] * 2 + ["id-PA1"] * 2)
    for index in range(11):
        dicom(tmp_path / "flat" / f"f{index}" / "x.dcm", f"id{index}")
    assert list_images(tmp_path / "flat").classes == ()


def test_csv_with_everything(tmp_path: Path) -> None:
    for name in ("x/1.png", "x/2.png", "3.png"):
        png(tmp_path / name)
    text = "Path, LABEL ,Patient,split,age\nx/1.png,a,p1,Training,4\nx/2.png,,p1,val,5\n{0}/3.png,b,,TEST,6\n"
    source = table(tmp_path / "set.csv", text.format(tmp_path), encoding="utf-8-sig")
    listing = list_images(source)
    assert rows(listing, tmp_path) == [
        ("x/1.png", "a", Split.TRAIN),
        ("x/2.png", None, Split.VALIDATION),
        ("3.png", "b", Split.TEST),
    ]
    assert patients(listing) == ["p1", "p1", str(tmp_path / "3.png")]
    assert (listing.patient_source, listing.classes, listing.root) == (PatientSource.NONE, ("a", "b"), source)


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_csv_by_another_spreadsheet_and_base(tmp_path: Path, delimiter: str) -> None:
    png(tmp_path / "films" / "знімок 1.png")
    source = table(tmp_path / "set.csv", f'label{delimiter}path\r\n"легені"{delimiter}знімок 1.png\r\n')
    (record,) = list_images(source, base=tmp_path / "films").records
    assert (record.path, record.label) == (tmp_path / "films" / "знімок 1.png", "легені")


def test_csv_of_dicom_takes_the_patient_from_the_files(tmp_path: Path) -> None:
    dicom(tmp_path / "1.dcm", "p1")
    dicom(tmp_path / "2", "p2")
    listing = list_images(table(tmp_path / "set.csv", "path,label\n1.dcm,a\n2,b\n"))
    assert (patients(listing), listing.patient_source) == (["p1", "p2"], PatientSource.DICOM)


def test_csv_by_uid(tmp_path: Path) -> None:
    dicom(tmp_path / "tree" / "x" / "1.dcm", "p1", "1.2.3")
    dicom(tmp_path / "tree" / "y" / "2", "p2", "1.2.4")
    (tmp_path / "tree" / "broken.dcm").write_bytes(b"broken")
    deflated = made.part10(b"\xff" * 64, syntax=DeflatedExplicitVRLittleEndian)
    (tmp_path / "tree" / "deflated.dcm").write_bytes(deflated)
    source = table(tmp_path / "set.csv", "SOP_Instance_UID,label\n1.2.4,b\n1.2.3,a\n")
    listing = list_images(source, base=tmp_path / "tree")
    assert [(r.path.name, r.label, r.patient) for r in listing.records] == [("2", "b", "p2"), ("1.dcm", "a", "p1")]
    table(source, "sop_instance_uid,label\n1.2.4,b\n1.2.9,a\n")
    with pytest.raises(DataError, match=r"1 rows name an object that is not below .*: row 3, 1\.2\.9\."):
        list_images(source, base=tmp_path / "tree")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected a header with a column 'path' or 'sop_instance_uid', but got an empty file"),
        ("file,label\n1.png,a\n", "expected a header with a column 'path' .* but got 'file', 'label'"),
        ("path,label\n", "has a header but no rows"),
        ("path,label\n1.png,a\n,b\n", "1 rows have no path: row 3"),
        ("path,label\n1.png,a,b\n", "row 2: more cells than the header has columns"),
        ("path,label\n1.png,a\n./1.png,b\n", "1 rows name a file that an earlier row names: row 3, as in row 2"),
        ("path,split\n1.png,fold1\n", "row 2: Expected a part of the data, one of train, .* but got 'fold1'"),
        (
            "path\n" + "".join(f"no{index}.png\n" for index in range(7)),
            r"7 rows name a file that is not there: row 2, .*no0\.png; .*no4\.png and 2 more",
        ),
    ],
)
def test_wrong_tables_are_refused(tmp_path: Path, text: str, message: str) -> None:
    png(tmp_path / "1.png")
    with pytest.raises(DataError, match=message):
        list_images(table(tmp_path / "set.csv", text))


def test_parse_split() -> None:
    assert [parse_split(word) for word in ("TRAIN", " Valid ", "testing")] == list(Split)
    with pytest.raises(DataError, match=r"Expected a part of the data, one of train, training, .* but got 'fold'"):
        parse_split("fold")
