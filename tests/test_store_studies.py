"""Studies, results and feedback: what goes in comes out, once, in order, and goes away; on both databases."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import kept
import numpy as np
import pytest
from kept import ADMIN, BUNDLE, KEY, PATIENT_ID, STUDY_UID, add, answer, film, sha

from rentgen.errors import SettingError, StoreError
from rentgen.records import Status
from rentgen.records.studies import Principal, Role, StoredPrediction, Urgency
from rentgen.store.studies import Store


@pytest.fixture(params=kept.KINDS)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return kept.fresh(request, tmp_path)


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    opened = Store.open(url, key=KEY, keep_files=True)
    yield opened
    opened.close()


def same(one: StoredPrediction, other: StoredPrediction) -> bool:
    """Return whether two predictions say the same, the bytes of their maps too."""
    bare = [replace(each, maps=None) for each in (one, other)]
    return (
        {name: getattr(bare[0], name) for name in bare[0].__dataclass_fields__}
        == {name: getattr(bare[1], name) for name in bare[1].__dataclass_fields__}
        and (one.maps is None) == (other.maps is None)
        and (one.maps is None or other.maps is None or np.array_equal(one.maps, other.maps))
    )


def test_what_goes_in_comes_out(store: Store) -> None:
    before = datetime.now(UTC)
    # Half a surrogate pair: how Python spells a byte of a foreign file system.
    name = "Іван\udcff.dcm"
    image = store.add_image(film(), content_hash=sha("film"), name=name, data=b"bytes", actor=ADMIN)
    assert image.name == name
    assert (image.rows, image.columns, image.bits) == (48, 40, 12)
    assert image.spacing_mm == (0.143, 0.1 + 0.2)
    assert (image.modality, image.body_part_examined, image.view_position) == ("DX", "CHEST", "PA")
    assert image.notes == ("lossy compression",)
    assert image.pixel_hash == sha("pixels")
    assert image.file_kept
    assert before <= image.received_at <= datetime.now(UTC)
    assert image.received_at.tzinfo is not None
    assert store.image(image.image_id) == image
    assert store.file(image.image_id) == b"bytes"
    given_prediction = answer(prediction_id="one", image_id=image.image_id)
    stored = store.add_prediction(image.image_id, given_prediction, actor=ADMIN)
    found = store.find_prediction(image.image_id, BUNDLE)
    assert found is not None
    assert same(stored, given_prediction)
    assert same(found, given_prediction)
    # In the model's own order: the maps are told apart by it.
    assert list(found.probabilities) == ["PNEUMONIA", "NORMAL"]
    study = store.study(image.study_id)
    assert study is not None
    assert (study.urgency, study.score, study.read_at) == (Urgency.URGENT, 0.1 + 0.2, None)
    assert study.images == (image,)
    assert same(study.predictions[0], found)


def test_what_is_not_there(store: Store) -> None:
    assert store.image("none") is None
    assert store.file("none") is None
    assert store.study("none") is None
    assert store.find_prediction("none", BUNDLE) is None
    assert store.worklist() == ((), None)
    assert list(store.all_feedback()) == []
    with pytest.raises(StoreError, match="no study none"):
        store.mark_read("none", read=True, actor=ADMIN)
    with pytest.raises(StoreError, match="no study none"):
        store.delete_study("none", actor=ADMIN)
    with pytest.raises(StoreError, match="no study none"):
        store.export_study("none", actor=ADMIN)
    with pytest.raises(StoreError, match="no film none"):
        store.add_prediction("none", answer(), actor=ADMIN)
    with pytest.raises(StoreError, match="no film none"):
        store.add_feedback("none", prediction_id=None, agree=True, label=None, comment="", actor=ADMIN)
    assert store.verify_audit() == 0


def test_the_same_bytes_twice_change_nothing(store: Store) -> None:
    first = add(store, "film", data=b"bytes")
    again = store.add_image(film(), content_hash=sha("film"), name="other.dcm", data=b"bytes", actor=ADMIN)
    assert again == first
    one = store.add_prediction(first.image_id, answer(), actor=ADMIN)
    two = store.add_prediction(first.image_id, answer(score=0.9, label="NORMAL"), actor=ADMIN)
    assert one.prediction_id
    assert same(one, two)
    other = store.add_prediction(first.image_id, answer(bundle_id="c" * 64), actor=ADMIN)
    assert other.prediction_id != one.prediction_id
    assert [entry.action for entry in store.audit_entries()] == ["study.add", "prediction.add", "prediction.add"]


def test_both_at_once(store: Store) -> None:
    image, prediction = store.add_result(
        film(), answer(), content_hash=sha("film"), name="a.dcm", data=None, actor=ADMIN
    )
    assert prediction.image_id == image.image_id == store.ids_for(sha("film"), STUDY_UID)[0]
    with pytest.raises(StoreError, match="finite"):
        store.add_result(
            film(), answer(score=float("nan")), content_hash=sha("b"), name="b.dcm", data=None, actor=ADMIN
        )
    assert store.image(store.ids_for(sha("b"), STUDY_UID)[0]) is None
    assert store.verify_audit() == 2


def test_what_was_missing_is_filled_in(url: str) -> None:
    plain = Store.open(url, key=KEY)
    unread = plain.add_image(None, content_hash=sha("film"), name="film.dcm", data=b"bytes", actor=ADMIN)
    assert (unread.source_format, unread.rows, unread.spacing_mm, unread.file_kept) == (None, None, None, False)
    plain.close()
    keeping = Store.open(url, key=KEY, keep_files=True)
    now = keeping.add_image(film(), content_hash=sha("film"), name="film.dcm", data=b"bytes", actor=ADMIN)
    assert (now.image_id, now.study_id, now.received_at) == (unread.image_id, unread.study_id, unread.received_at)
    assert (now.source_format, now.rows, now.file_kept) == ("dicom", 48, True)
    assert keeping.file(now.image_id) == b"bytes"
    assert keeping.patient_studies(PATIENT_ID) == (now.study_id,)
    assert [entry.action for entry in keeping.audit_entries()] == ["study.add", "study.complete"]
    keeping.close()


def test_names_are_opaque_and_the_stores_own(store: Store, tmp_path: Path) -> None:
    image_id, study_id = store.ids_for(sha("film"), STUDY_UID)
    assert store.ids_for(sha("film"), STUDY_UID) == (image_id, study_id)
    assert store.ids_for(sha("other"), STUDY_UID)[1] == study_id
    assert store.ids_for(sha("film"), None)[1] not in (image_id, study_id)
    for name in (image_id, study_id):
        assert len(name) >= 22
        assert set(name) <= set("abcdefghijklmnopqrstuvwxyz234567")
    elsewhere = Store.open(f"sqlite:///{tmp_path / 'other.db'}")
    assert not {image_id, study_id} & {*elsewhere.ids_for(sha("film"), STUDY_UID)}
    elsewhere.close()


def test_films_of_one_study_stand_together(store: Store) -> None:
    one = add(store, "one", film())
    store.mark_read(one.study_id, read=True, actor=ADMIN)
    two = add(store, "two", film())
    assert one.study_id == two.study_id
    study = store.study(one.study_id)
    assert study is not None
    assert [image.image_id for image in study.images] == [one.image_id, two.image_id]
    # Nobody has read the second film.
    assert study.read_at is None


def test_feedback_reads_the_study(store: Store) -> None:
    image = add(store)
    prediction = store.add_prediction(image.image_id, answer(), actor=ADMIN)
    doctor = Principal("Dr. Who", Role.PHYSICIAN)
    said = store.add_feedback(
        image.image_id, prediction_id=prediction.prediction_id, agree=True, label=None, comment="так", actor=doctor
    )
    # Who agrees names the model's class.
    assert (said.label, said.comment, said.actor, said.agree) == ("PNEUMONIA", "так", "Dr. Who", True)
    study = store.study(image.study_id)
    assert study is not None
    assert study.read_at == said.created_at
    assert study.feedback == (said,)
    assert store.worklist() == ((), None)
    store.mark_read(image.study_id, read=False, actor=doctor)
    assert [found.study_id for found in store.worklist()[0]] == [image.study_id]
    with pytest.raises(StoreError, match="no prediction other"):
        store.add_feedback(image.image_id, prediction_id="other", agree=True, label=None, comment="", actor=doctor)
    with pytest.raises(SettingError, match="at most 10000"):
        store.add_feedback(image.image_id, prediction_id=None, agree=True, label=None, comment="x" * 10001, actor=ADMIN)


def test_the_newest_feedback_of_each_film_counts(store: Store) -> None:
    images = [add(store, f"film {number}") for number in range(3)]
    for image, label in ((images[0], "A"), (images[1], "B"), (images[0], "C")):
        store.add_feedback(image.image_id, prediction_id=None, agree=False, label=label, comment="", actor=ADMIN)
    found = list(store.all_feedback())
    assert [(image.image_id, said.label) for image, _, said in found] == [
        (images[1].image_id, "B"),
        (images[0].image_id, "C"),
    ]
    assert all(prediction is None for _, prediction, _ in found)


def test_feedback_comes_in_pages(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rentgen.store.export.PAGE", 2)
    images = [add(store, f"film {number}") for number in range(5)]
    for image in images:
        prediction = store.add_prediction(image.image_id, answer(), actor=ADMIN)
        store.add_feedback(
            image.image_id, prediction_id=prediction.prediction_id, agree=True, label=None, comment="", actor=ADMIN
        )
    found = list(store.all_feedback())
    assert [image.image_id for image, _, _ in found] == [image.image_id for image in images]
    assert all(p is not None and p.image_id == i.image_id for i, p, _ in found)


@pytest.mark.parametrize(
    "wrong",
    [
        {"score": float("inf")},
        {"distance": float("nan")},
        {"probabilities": {"A": float("nan")}},
        {"maps": np.zeros((2, 3, 5), np.float32)},
        {"maps": np.zeros((3, 5), np.uint8)},
    ],
    ids=lambda wrong: "-".join(wrong),
)
def test_predictions_that_are_none(store: Store, wrong: dict[str, Any]) -> None:
    image = add(store)
    with pytest.raises(StoreError, match=r"Expected (the numbers|maps)"):
        store.add_prediction(image.image_id, answer(**wrong), actor=ADMIN)


def test_an_answer_without_anything(store: Store) -> None:
    image = store.add_image(None, content_hash=sha("film"), name="x", data=None, actor=ADMIN)
    bare = answer(
        status=Status.ERROR,
        label=None,
        probabilities={},
        reasons=("no radiograph",),
        prediction_set=(),
        distance=None,
        points=(),
        urgency=Urgency.DOUBT,
        score=0.0,
        maps=None,
        geometry=None,
        prediction_id="p",
        image_id=image.image_id,
    )
    store.add_prediction(image.image_id, bare, actor=ADMIN)
    found = store.find_prediction(image.image_id, BUNDLE)
    assert found is not None
    assert same(found, bare)


def test_hostile_words_are_kept(store: Store) -> None:
    hostile = "\0\ud800'; DROP TABLE studies; -- [bold]"
    image = store.add_image(
        film(modality=hostile, notes=(hostile,), body_part_examined=hostile),
        content_hash=sha("film"),
        name=hostile * 100,
        data=None,
        actor=Principal(hostile, Role.ADMIN),
    )
    assert image.name == (hostile * 100)[-1000:]
    assert image.notes == (hostile,)
    assert image.modality == "\ufffd?'; DROP TABLE studies; -- [bold]"
    said = store.add_feedback(
        image.image_id, prediction_id=None, agree=False, label=hostile, comment=hostile, actor=ADMIN
    )
    assert said.comment == hostile
    assert store.verify_audit() == 2


def test_many_threads_bring_the_same_films(store: Store) -> None:
    start = threading.Barrier(8)

    def bring(number: int) -> list[str]:
        start.wait()
        found = []
        for turn in range(6):
            image = add(store, f"film {turn}", film())
            store.add_prediction(image.image_id, answer(bundle_id=f"bundle {number % 2}"), actor=ADMIN)
            store.worklist()
            found.append(image.image_id)
        return found

    with ThreadPoolExecutor(8) as pool:
        brought = list(pool.map(bring, range(8)))
    assert len({tuple(names) for names in brought}) == 1
    (study,), _ = store.worklist()
    assert len(study.images) == 6
    assert len(study.predictions) == 12
    assert store.verify_audit() == 18
