"""What goes, and what is said of it before: deletion, retention, export; on both databases."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import kept
import pytest
from kept import ADMIN, KEY, PATIENT_ID, add, answer, film

from rentgen.errors import SettingError
from rentgen.store.studies import Store


@pytest.fixture(params=kept.KINDS)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return kept.fresh(request, tmp_path)


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    opened = Store.open(url, key=KEY, keep_files=True)
    yield opened
    opened.close()


def full(store: Store, name: str, shown: Any = None) -> str:  # noqa: ANN401
    """Return a study with a film, a prediction and feedback."""
    image = add(store, name, shown, b"bytes")
    prediction = store.add_prediction(image.image_id, answer(), actor=ADMIN)
    store.add_feedback(
        image.image_id, prediction_id=prediction.prediction_id, agree=True, label=None, comment="hm", actor=ADMIN
    )
    return image.study_id


def rows(url: str) -> dict[str, int]:
    tables = ("studies", "images", "files", "predictions", "feedback")
    return {table: kept.run(url, f"SELECT count(*) FROM {table}")[0][0] for table in tables}  # noqa: S608


def test_deletion_takes_everything_but_the_trail(store: Store, url: str) -> None:
    gone, stays = full(store, "gone"), full(store, "stays")
    store.delete_study(gone, actor=ADMIN)
    assert store.study(gone) is None
    assert store.study(stays) is not None
    assert set(rows(url).values()) == {1}
    assert [entry.action for entry in store.audit_entries() if entry.subject == gone] == [
        "study.add",
        "prediction.add",
        "feedback.add",
        "study.delete",
    ]
    # The same film may come again.
    assert add(store, "gone").study_id == gone
    assert store.verify_audit() == 8


def test_a_patient_is_forgotten(store: Store, url: str) -> None:
    mine = [full(store, "one", film()), full(store, "two", film(study_instance_uid=None, patient_id=f" {PATIENT_ID} "))]
    other = full(store, "three", film(study_instance_uid=None, patient_id="another"))
    nobody = full(store, "four", film(study_instance_uid=None, patient_id=" "))
    assert store.patient_studies(PATIENT_ID) == tuple(mine)
    assert store.delete_patient(f"{PATIENT_ID} ", actor=ADMIN) == 2
    assert store.delete_patient(PATIENT_ID, actor=ADMIN) == 0
    assert store.delete_patient("", actor=ADMIN) == 0
    assert {found.study_id for found in store.worklist(waiting=None)[0]} == {other, nobody}
    assert set(rows(url).values()) == {2}
    assert PATIENT_ID not in str(store.audit_entries())


def test_old_studies_go(store: Store, url: str) -> None:
    old, young = full(store, "old"), full(store, "young")
    moment = (datetime.now(UTC) - timedelta(days=30, minutes=1)).strftime("%Y-%m-%d %H:%M:%S.%f")
    kept.run(url, f"UPDATE studies SET received_at = '{moment}' WHERE id = '{old}'")  # noqa: S608
    assert store.sweep(31, actor=ADMIN) == 0
    assert store.sweep(30, actor=ADMIN) == 1
    assert store.study(old) is None
    assert store.study(young) is not None
    assert store.audit_entries()[-1].detail == {"why": "retention", "keep_days": 30}
    with pytest.raises(SettingError, match="keep_days"):
        store.sweep(0, actor=ADMIN)


def test_export_says_all_in_plain_json(store: Store) -> None:
    study_id = full(store, "film", film())
    told = store.export_study(study_id, actor=ADMIN)
    assert json.loads(json.dumps(told, allow_nan=False)) == told
    study = store.study(study_id)
    assert study is not None
    image, prediction, said = study.images[0], study.predictions[0], study.feedback[0]
    assert told["study_id"] == study_id
    assert told["images"][0] == {
        **asdict(image),
        "spacing_mm": list(image.spacing_mm or ()),
        "notes": list(image.notes),
        "received_at": image.received_at.isoformat(timespec="microseconds"),
        "file": "Ynl0ZXM=",
    }
    assert set(told["predictions"][0]) == set(prediction.__dataclass_fields__)
    assert told["predictions"][0]["maps"]["shape"] == [2, 3, 5]
    assert told["feedback"][0]["comment"] == said.comment == "hm"
    assert [entry["action"] for entry in told["audit"]] == [
        "study.add",
        "prediction.add",
        "feedback.add",
        "study.export",
    ]
    assert "file" not in store.export_study(study_id, actor=ADMIN, files=False)["images"][0]
