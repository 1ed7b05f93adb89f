"""Several findings a film: the CSV with a column for each, the table of names, and what `No Finding` excludes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from made import film8, png

from rentgen.data.audit import audit, examine
from rentgen.data.findings import CHESTXRAY14, CHEXPERT, COMMON18, align, canonical, wanted_findings
from rentgen.data.listing import list_images
from rentgen.data.shortcuts import best_shortcut
from rentgen.data.split import patient_folds, select, split
from rentgen.errors import DataError
from rentgen.records import ImageRecord, Int64, Listing, PatientSource, Split, Task, one_against_rest, strata, truth_of

TABLE = """path,patient,Pleural effusion,Nodule,No_Finding,age
a.png,p1,1,0,0,50
b.png,p2,,1,,61
c.png,p3,,,1,1
d.png,p4,1,,1,0
"""


@pytest.fixture
def table(tmp_path: Path) -> Path:
    for seed, name in enumerate("abcd"):
        (tmp_path / f"{name}.png").write_bytes(png(film8(seed=seed)))
    path = tmp_path / "labels.csv"
    path.write_text(TABLE, encoding="utf-8")
    return path


def test_columns_of_ones_and_zeros_are_findings_and_empty_is_unknown(table: Path) -> None:
    found = list_images(table)
    assert found.task is Task.MULTILABEL
    assert found.classes == ("Pleural effusion", "Nodule", "No_Finding")  # the age is none: it holds 50
    assert found.records[0].findings == (True, False, False)
    assert found.records[1].findings == (None, True, False)  # a nodule says that `No Finding` is not true
    assert found.records[2].findings == (False, False, True)  # and that says that there is nothing
    assert found.records[0].label is None


def test_contradiction_becomes_unknown_and_is_told(table: Path) -> None:
    found = list_images(table)
    assert found.records[3].findings == (None, None, None)
    assert "1 films have 'No_Finding' and a finding at once (Pleural effusion 1)" in found.notes[0]
    assert found.notes[0] in audit(found, examine(found)).findings


def test_findings_can_be_asked_for_by_any_of_their_names(table: Path) -> None:
    found = list_images(table, findings=["nodule", "effusion"])
    assert found.classes == ("Nodule", "Effusion")
    # What `No Finding` excludes is known before its column goes.
    assert found.records[2].findings == (False, False)
    with pytest.raises(DataError, match=r"has none of the findings Hernia\. It has Pleural effusion"):
        list_images(table, findings=["hernia"])


def test_label_column_has_the_last_word(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(film8()))
    (tmp_path / "t.csv").write_text("path,label,flag\na.png,normal,1\n", encoding="utf-8")
    assert list_images(tmp_path / "t.csv").task is Task.MULTICLASS
    with pytest.raises(DataError, match="has none of the findings Nodule"):
        list_images(tmp_path / "t.csv", findings=["Nodule"])


def test_known_finding_with_a_strange_cell_is_refused(table: Path) -> None:
    table.write_text(TABLE.replace("a.png,p1,1,0", "a.png,p1,2,0"), encoding="utf-8")
    with pytest.raises(DataError, match="row 2, column 'Pleural effusion': expected 1, 0, -1 or nothing, but got '2'"):
        list_images(table)


def test_names_of_the_published_sets() -> None:
    assert len(CHESTXRAY14) == len(CHEXPERT) == 14
    assert set(CHESTXRAY14) < set(COMMON18)
    assert [canonical(name) for name in ("Pleural Effusion", "Pleural_Thickening", "NORMAL")] == [
        "Effusion", "Pleural_Thickening", "No Finding",
    ]  # fmt: skip
    assert wanted_findings(["Common18", "support devices"]) == (*COMMON18, "Support Devices")


def test_two_columns_of_one_finding_become_one() -> None:
    record = ImageRecord(Path("a"), None, "a", None, (None, True, False))
    listing = Listing(
        Path("."), (record,), ("Effusion", "Pleural effusion", "Nodule"), PatientSource.CSV, Task.MULTILABEL
    )
    assert align(listing, ("Nodule", "Effusion", "Mass")).records[0].findings == (False, True, None)


def several(count: int, seed: int = 0) -> Listing:
    rng = np.random.default_rng(seed)
    findings = rng.random((count, 3)) < (0.4, 0.2, 0.05)
    hidden = rng.random((count, 3)) < 0.1
    records = tuple(
        ImageRecord(
            Path(f"{i}.png"), None, str(i // 2), None,
            tuple(None if lost else bool(value) for value, lost in zip(row, out, strict=True)),
        )
        for i, (row, out) in enumerate(zip(findings, hidden, strict=True))
    )  # fmt: skip
    return Listing(Path("."), records, ("a", "b", "c"), PatientSource.CSV, Task.MULTILABEL)


def truth(listing: Listing) -> Int64:
    return truth_of(listing.records, listing.classes, listing.task)


def test_split_by_patient_keeps_each_findings_share() -> None:
    divided = split(several(600), rng=np.random.default_rng(0))
    parts = {part: select(divided, part) for part in Split}
    assert [len(part) for part in parts.values()] == pytest.approx([420, 90, 90], abs=8)
    names = [{record.patient for record in part.records} for part in parts.values()]
    assert not (names[0] | names[1]) & names[2]
    assert not names[0] & names[1]
    for column, share in enumerate((0.36, 0.18, 0.045)):
        for part in parts.values():
            assert (truth(part)[:, column] == 1).mean() == pytest.approx(share, abs=0.04)


def test_finding_without_a_film_to_learn_from_is_refused() -> None:
    listing = several(40)
    records = tuple(
        ImageRecord(record.path, None, record.patient, None, (*record.findings[:2], False))
        for record in listing.records
    )
    with pytest.raises(DataError, match=r"has 0 films with 'c' and \d+ without"):
        split(
            Listing(listing.root, records, listing.classes, listing.patient_source, listing.task),
            rng=np.random.default_rng(0),
        )


def test_folds_and_strata_of_several_findings() -> None:
    listing = several(200)
    found = truth(listing)
    assert set(np.unique(found)) == {-1, 0, 1}
    rarest = strata(found)
    assert ((rarest == 2) == (found[:, 2] == 1)).all()
    assert ((rarest == 3) == ~(found == 1).any(axis=1)).all()
    patients = [record.patient for record in listing.records]
    folds = patient_folds(found, patients, 5, np.random.default_rng(0))
    assert len({(fold, patient) for fold, patient in zip(folds.tolist(), patients, strict=True)}) == len(set(patients))


def test_one_against_the_rest_of_both_shapes() -> None:
    assert one_against_rest(np.array([2, 0]), 3).tolist() == [[0, 0, 1], [1, 0, 0]]
    given = np.array([[1, -1]])
    assert one_against_rest(given, 2) is given


def test_shortcut_of_a_finding_looks_at_known_films_only() -> None:
    found = best_shortcut([1, 2, 3, 4, 100], np.array([[0, 0], [0, 1], [1, 0], [1, 1], [-1, 0]]), ("a", "b"))
    assert found is not None
    assert (found.label, found.auroc) == ("a", 1.0)


def test_audit_counts_present_and_known(table: Path) -> None:
    listing = list_images(table)
    found = audit(listing, examine(listing))
    assert found.counts == {"all": {"No_Finding": 1, "Nodule": 1, "Pleural effusion": 1}}
    assert found.films == {"all": 4}
    assert found.known["all"] == {"Pleural effusion": 2, "Nodule": 3, "No_Finding": 3}
    assert any("1 film with Pleural effusion" in words for words in found.findings)
