"""The published tables of the large chest sets, by rows in their formats."""

from __future__ import annotations

from pathlib import Path

import pytest
from made import film8, png

from rentgen.data.listing import list_images
from rentgen.errors import DataError
from rentgen.records import ImageRecord, Split, Task

NIH = """Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position
00000001_000.png,Cardiomegaly|Emphysema,0,1,57,M,PA
00000002_000.png,No Finding,0,2,81,M,PA
00000003_000.png,Hernia,0,3,81,F,PA
"""
CHEXPERT = """Path,Sex,Age,Frontal/Lateral,AP/PA,No Finding,Enlarged Cardiomediastinum,Cardiomegaly,Lung Opacity,\
Lung Lesion,Edema,Consolidation,Pneumonia,Atelectasis,Pneumothorax,\
Pleural Effusion,Pleural Other,Fracture,Support Devices
CheXpert-v1.0-small/train/patient00001/study1/view1_frontal.jpg,Female,68,Frontal,AP,1.0,,,,,,,,,0.0,,,,1.0
CheXpert-v1.0-small/train/patient00002/study2/view1_frontal.jpg,Female,87,Frontal,AP,,,-1.0,1.0,,-1.0,-1.0,,-1.0,,-1.0,,1.0,
CheXpert-v1.0-small/train/patient00002/study2/view2_lateral.jpg,Female,87,Lateral,,,,-1.0,1.0,,-1.0,-1.0,,-1.0,,-1.0,,1.0,
"""
PADCHEST = """,ImageID,ImageDir,StudyID,PatientID,Projection,Labels
0,one.png,0,s1,p1,PA,['normal']
1,two.png,0,s2,p2,L,"['pulmonary fibrosis']"
2,three.png,0,s2,p2,PA,"['pulmonary fibrosis', ' pleural effusion', 'pseudonodule', 'laminar atelectasis']"
3,four.png,0,s3,p3,PA,"['unchanged']"
"""
VINDR_LABELS = """image_id,rad_ID,Cardiomegaly,Pleural effusion,No finding
aaa,R1,1,0,0
aaa,R2,1,1,0
aaa,R3,0,0,1
"""
VINDR_BOXES = """image_id,class_name,class_id,rad_id,x_min,y_min,x_max,y_max
aaa,Cardiomegaly,3,R10,691.0,1375.0,1653.0,1831.0
aaa,Cardiomegaly,3,R10,1.0,2.0,3.0,4.0
aaa,Cardiomegaly,3,R9,691.0,1375.0,1653.0,1831.0
aaa,No finding,14,R8,,,,
bbb,No finding,14,R8,,,,
"""


def put(folder: Path, table: str, *films: str) -> Path:
    for seed, film in enumerate(films):
        (folder / film).parent.mkdir(parents=True, exist_ok=True)
        (folder / film).write_bytes(png(film8(seed=seed)))
    (folder / "table.csv").write_text(table, encoding="utf-8")
    return folder / "table.csv"


def told(record: ImageRecord, classes: tuple[str, ...]) -> tuple[set[str], set[str]]:
    """Return what is present and what is unknown."""
    pairs = list(zip(classes, record.findings, strict=True))
    return {name for name, value in pairs if value}, {name for name, value in pairs if value is None}


def test_chestxray14(tmp_path: Path) -> None:
    table = put(tmp_path, NIH, "images_001/images/00000001_000.png", "images_002/images/00000002_000.png")
    (tmp_path / "test_list.txt").write_text("00000002_000.png\n", encoding="utf-8")
    (tmp_path / "train_val_list.txt").write_text("00000001_000.png\n", encoding="utf-8")
    found = list_images(table)
    assert found.task is Task.MULTILABEL
    assert len(found.classes) == 14
    assert [told(record, found.classes) for record in found.records] == [
        ({"Cardiomegaly", "Emphysema"}, set()), (set(), set()),
    ]  # fmt: skip
    assert [(record.patient, record.split) for record in found.records] == [("1", Split.TRAIN), ("2", Split.TEST)]
    assert found.notes == ("ChestX-ray14: rows left out: 1 (film is not there).",)


def test_chexpert(tmp_path: Path) -> None:
    films = ("train/patient00001/study1/view1_frontal.jpg", "train/patient00002/study2/view1_frontal.jpg")
    found = list_images(put(tmp_path, CHEXPERT, *films))
    first, second = found.records
    # `No Finding` says that what nobody mentions is not there; of devices it says nothing, but the table does.
    assert told(first, found.classes) == ({"No Finding", "Support Devices"}, set())
    present, unknown = told(second, found.classes)
    assert present == {"Lung Opacity", "Fracture"}
    assert {"Cardiomegaly", "Edema", "Effusion", "Pneumothorax"} < unknown
    assert second.findings[found.classes.index("No Finding")] is False
    assert [record.patient for record in found.records] == ["patient00001", "patient00002"]
    assert found.notes == ("CheXpert: rows left out: 1 (lateral view).",)


def test_padchest(tmp_path: Path) -> None:
    found = list_images(put(tmp_path, PADCHEST, "0/one.png", "0/two.png", "0/three.png", "0/four.png"))
    assert [told(record, found.classes)[0] for record in found.records] == [
        {"No Finding"}, {"Fibrosis", "Effusion", "Atelectasis"},
    ]  # fmt: skip
    assert "1 (other than a frontal view), 1 (without a label that says anything)" in found.notes[0]


@pytest.mark.parametrize(("table", "films"), [(VINDR_LABELS, ("aaa",)), (VINDR_BOXES, ("aaa", "bbb"))])
def test_vindr_by_the_majority_of_its_readers(tmp_path: Path, table: str, films: tuple[str, ...]) -> None:
    found = list_images(put(tmp_path, table, *(f"train/{film}.png" for film in films)))
    assert [told(record, found.classes)[0] for record in found.records] == [{"Cardiomegaly"}, {"No Finding"}][
        : len(films)
    ]


def test_table_without_its_films_says_so(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="a table of ChestX-ray14, but none of its 3 films lies below"):
        list_images(put(tmp_path, NIH))


def test_strange_finding_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"00000003_000\.png: expected findings of ChestX-ray14, but got Hernio"):
        list_images(put(tmp_path, NIH.replace("Hernia", "Hernio"), "00000001_000.png"))
