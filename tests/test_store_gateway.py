"""What the gateway has in hand is the patient's, too: found, told of, forgotten; on both databases."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import kept
import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from kept import ADMIN, KEY, OTHER_KEY, PATIENT_ID, answer, film

from rentgen.errors import StoreError
from rentgen.records.results import Document, Kind
from rentgen.store.gateway import Held, Job, Queue, Receipt, Step
from rentgen.store.studies import Store

NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
TABLES = tuple(f"gateway_{each}" for each in ("batches", "objects", "conflicts", "jobs", "answers", "documents"))
# Without a key, so that what is left would be found.
MARK = "MSH|^~\\&|PLAINLY"


@pytest.fixture(params=kept.KINDS)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return kept.fresh(request, tmp_path)


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    opened = Store.open(url)
    yield opened
    opened.close()


@pytest.fixture
def queue(url: str) -> Iterator[Queue]:
    opened = Queue.open(url)
    yield opened
    opened.close()


def held(study: int, image: int = 1, content: str = "film") -> Held:
    return Held(f"1.2.77{study}.{image}", f"1.2.77{study}", kept.sha(f"{content} {study} {image}"), "pacs", {"a": 1})


def take(queue: Queue, step: Step) -> Job:
    job = queue.claim(step, NOW, 60)
    assert job is not None
    return job


def encoded(queue: Queue, one: Held, patient_id: str | None = PATIENT_ID, destinations: int = 1) -> None:
    """Bring an object as far as its deliveries."""
    assert queue.receive(one, NOW, patient_id=patient_id) is Receipt.RECEIVED
    assert queue.close_quiet(NOW, 0) == 1
    assert queue.finish_analysis(take(queue, Step.ANALYSE), {one.sop_instance_uid: f"answer {MARK}".encode()}, NOW)
    content = f"{MARK} {one.sop_instance_uid}".encode()
    document = Document(Kind.HL7, "x-application/hl7-v2+er7", content, f"{one.sop_instance_uid}.9", "hl7-1.hl7")
    documents = {f"ris{number}": (document,) for number in range(destinations)}
    assert queue.finish_encoding(take(queue, Step.ENCODE), documents, NOW)


def analysed(store: Store, one: Held, *, readable: bool = True, patient_id: str = PATIENT_ID) -> str:
    """Put an object's film onto the list, as the gateway does, and return its study."""
    shown = film(study_instance_uid=one.study_instance_uid, patient_id=patient_id) if readable else None
    image, _ = store.add_result(shown, answer(), content_hash=one.content_hash, name="DX", data=None, actor=ADMIN)
    return image.study_id


def rows(url: str) -> dict[str, int]:
    return {table[8:]: kept.run(url, f"SELECT count(*) FROM {table}")[0][0] for table in TABLES}  # noqa: S608


def stands(url: str, config: pytest.Config, *wanted: str) -> list[bool]:
    """Return which texts stand in the database's files; PostgreSQL has rewritten its tables first."""
    if not url.startswith("sqlite"):
        engine = sa.create_engine(url, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(sa.text("VACUUM FULL"))
        engine.dispose()
    found = kept.bytes_on_disk(url, config)
    return [found(text.encode()) for text in wanted]


def test_a_deleted_study_is_gone_from_the_queue_and_the_disk(
    store: Store, queue: Queue, url: str, request: pytest.FixtureRequest
) -> None:
    encoded(queue, held(1))
    encoded(queue, held(2), "another")
    # Put aside, and what came later and is not analysed.
    assert queue.receive(held(1, content="other"), NOW, patient_id="third") is Receipt.CONFLICT
    assert queue.receive(held(1, 2), NOW) is Receipt.RECEIVED
    study_id = analysed(store, held(1))
    mine = [f"{MARK} 1.2.771.1", "1.2.771.1", "1.2.771.2", held(1, content="other").content_hash]
    assert stands(url, request.config, *mine) == [True] * 4
    store.delete_study(study_id, actor=ADMIN)
    assert rows(url) == {"batches": 1, "objects": 1, "conflicts": 0, "jobs": 3, "answers": 1, "documents": 1}
    assert stands(url, request.config, *mine, f"{MARK} 1.2.772.1") == [False] * 4 + [True]
    assert store.audit_entries()[-1].detail == {"why": "told to", "batches": 2}
    assert queue.receive(held(1), NOW) is Receipt.RECEIVED
    with pytest.raises(StoreError, match="There is no study"):
        store.delete_study(store.ids_for("", "1.2.779")[1], actor=ADMIN)


def test_a_study_that_nobody_has_analysed_can_be_deleted(store: Store, queue: Queue, url: str) -> None:
    queue.receive(held(1), NOW)
    queue.receive(held(2), NOW)
    store.delete_study(store.ids_for("", held(1).study_instance_uid)[1], actor=ADMIN)
    assert kept.run(url, "SELECT sop_uid FROM gateway_objects") == [(held(2).sop_instance_uid,)]
    assert queue.close_quiet(NOW, 0) == 1


def test_a_patient_is_forgotten_wherever_the_films_are(
    store: Store, queue: Queue, url: str, request: pytest.FixtureRequest
) -> None:
    encoded(queue, held(1), f" {PATIENT_ID}")
    encoded(queue, held(2), "another")
    queue.receive(held(3), NOW, patient_id=PATIENT_ID)
    queue.receive(held(4), NOW, patient_id=None)
    # The patient's own film that wanted the place of another's.
    queue.receive(held(2, content="other"), NOW, patient_id=PATIENT_ID)
    # One that was analysed, and could not be read: the store alone would not know whose it was.
    unreadable = analysed(store, held(1), readable=False)
    other = analysed(store, held(2), patient_id="another")
    waiting = [store.ids_for("", held(study).study_instance_uid)[1] for study in (1, 3)]
    assert store.patient_studies(PATIENT_ID) == (unreadable, *waiting)
    assert store.delete_patient(" ", actor=ADMIN) == 0
    assert rows(url)["objects"] == 4
    # The unreadable film takes its batch with it.
    assert store.delete_patient(PATIENT_ID, actor=ADMIN) == 2
    assert store.patient_studies(PATIENT_ID) == ()
    assert [study.study_id for study in store.worklist(waiting=None)[0]] == [other]
    assert rows(url) == {"batches": 2, "objects": 2, "conflicts": 0, "jobs": 3, "answers": 1, "documents": 1}
    gone = ["1.2.771.1", "1.2.773.1", held(2, content="other").content_hash]
    assert stands(url, request.config, *gone, "1.2.772.1", "1.2.774.1") == [False] * 3 + [True] * 2
    told = store.audit_entries()[-1]
    assert (told.action, told.detail) == ("gateway.forget", {"why": "the patient's request", "conflicts": 1})
    assert PATIENT_ID not in str(store.audit_entries())
    assert store.delete_patient(PATIENT_ID, actor=ADMIN) == 0


def test_what_is_old_goes_and_what_came_since_to_an_old_study_stays(store: Store, queue: Queue, url: str) -> None:
    now = datetime.now(UTC)
    for number, days in ((1, 31), (2, 31), (3, 1)):
        queue.receive(held(number), now - timedelta(days=days))
        assert queue.close_quiet(now, 0) == 1
    queue.receive(held(1, 2), now)
    queue.receive(held(3, content="other"), now - timedelta(days=31))
    old = analysed(store, held(1))
    moment = (now - timedelta(days=31)).strftime("%Y-%m-%d %H:%M:%S.%f")
    kept.run(url, f"UPDATE studies SET received_at = '{moment}' WHERE id = '{old}'")  # noqa: S608
    # The study on the list, one that was never analysed, and what was put aside.
    assert store.sweep(30, actor=ADMIN) == 3
    assert store.study(old) is None
    left = kept.run(url, "SELECT sop_uid FROM gateway_objects ORDER BY sop_uid")
    assert left == [(held(1, 2).sop_instance_uid,), (held(3).sop_instance_uid,)]
    assert rows(url)["conflicts"] == 0
    assert store.sweep(30, actor=ADMIN) == 0


def test_workers_and_deletion_do_not_wait_for_each_other_for_ever(store: Store, queue: Queue, url: str) -> None:
    for number in range(6):
        encoded(queue, held(number), destinations=4)
    studies = [store.ids_for("", held(number).study_instance_uid)[1] for number in range(6)]

    def deliver(_: int) -> None:
        while job := queue.claim(Step.DELIVER, NOW, 60):
            queue.finish(job, NOW)

    def delete(study_id: str) -> None:
        store.delete_study(study_id, actor=ADMIN)

    with ThreadPoolExecutor(6) as pool:
        workers = [pool.submit(deliver, number) for number in range(4)]
        deletions = [pool.submit(delete, study_id) for study_id in studies]
        for each in [*workers, *deletions]:
            each.result(60)
    assert set(rows(url).values()) == {0}
    store.verify_audit()


def test_export_tells_what_the_gateway_has(store: Store, queue: Queue) -> None:
    encoded(queue, held(1))
    queue.receive(held(1, content="other"), NOW)
    study_id = store.ids_for("", held(1).study_instance_uid)[1]
    assert store.patient_studies(PATIENT_ID) == (study_id,)
    told = store.export_study(study_id, actor=ADMIN)
    assert json.loads(json.dumps(told, allow_nan=False)) == told
    assert (told["received_at"], told["images"]) == (None, [])
    (batch,) = told["gateway"]["batches"]
    assert batch["objects"] == [
        {
            "sop_uid": "1.2.771.1",
            "content_hash": held(1).content_hash,
            "origin": "pacs",
            "header": {"a": 1},
            "received_at": "2026-03-04T05:06:07.000000+00:00",
            "answer": base64.b64encode(f"answer {MARK}".encode()).decode(),
        }
    ]
    (document,) = batch["documents"]
    assert (document["destination"], document["kind"], document["uid"]) == ("ris0", Kind.HL7, "1.2.771.1.9")
    assert base64.b64decode(document["content"]) == f"{MARK} 1.2.771.1".encode()
    assert [each["content_hash"] for each in told["gateway"]["conflicts"]] == [held(1, content="other").content_hash]
    assert [entry["action"] for entry in told["audit"]] == ["gateway.receive", "study.export"]
    assert analysed(store, held(1)) == study_id
    told = store.export_study(study_id, actor=ADMIN, files=False)
    assert len(told["images"]) == len(told["gateway"]["batches"]) == 1
    (batch,) = told["gateway"]["batches"]
    assert "content" not in batch["documents"][0]
    assert "answer" not in batch["objects"][0]
    with pytest.raises(StoreError, match="There is no study"):
        store.export_study("nothing", actor=ADMIN)


@pytest.mark.parametrize("before", [None, KEY])
def test_what_is_under_way_gets_the_new_key(url: str, before: str | None, request: pytest.FixtureRequest) -> None:
    queue = Queue.open(url, key=before)
    encoded(queue, held(1))
    queue.close()
    after = OTHER_KEY
    if before is None:
        # A store that is first opened with a key is encrypted.
        Store.open(url, key=after).close()
    else:
        Store.change_key(url, old=before, new=after, actor=ADMIN)
    again = Queue.open(url, key=after)
    job = take(again, Step.DELIVER)
    (document,) = again.documents(job)
    assert document.content == f"{MARK} 1.2.771.1".encode()
    assert again.answers(job.batch_id) == {"1.2.771.1": f"answer {MARK}".encode()}
    again.close()
    assert stands(url, request.config, MARK) == [False]
    with pytest.raises(StoreError):
        Queue.open(url, key=KEY)


@pytest.fixture(params=kept.KINDS)
def old(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return the URL of a database as an older version has left it, with a batch."""
    url = kept.fresh(request, tmp_path, empty=True)
    if url.startswith("sqlite"):
        (tmp_path / "kept").mkdir()
    engine = sa.create_engine(url)
    config = Config()
    config.set_main_option("script_location", "rentgen.store:migrations")
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0002")
    engine.dispose()
    values: Any = {"study_uid": "'1.2.771'", **dict.fromkeys(("first_at", "last_at"), "'2026-03-04 05:06:07'")}
    kept.run(
        url,
        f"INSERT INTO gateway_batches ({', '.join(values)}) VALUES ({', '.join(values.values())})",  # noqa: S608
        "INSERT INTO gateway_objects (sop_uid, batch_id, content_hash, origin, header, received_at) "
        "SELECT '1.2.771.1', id, '', 'pacs', '{}', first_at FROM gateway_batches",
        f"UPDATE gateway_objects SET content_hash = '{held(1).content_hash}'",  # noqa: S608
    )
    return url


@pytest.mark.parametrize("key", [None, KEY])
def test_batches_of_an_older_version_are_named_and_found_by_their_films(old: str, key: str | None) -> None:
    store = Store.open(old, key=key)
    study_id = store.ids_for("", "1.2.771")[1]
    assert kept.run(old, "SELECT study_id FROM gateway_batches") == [(study_id,)]
    assert analysed(store, held(1)) == study_id
    assert store.delete_patient(PATIENT_ID, actor=ADMIN) == 1
    assert set(rows(old).values()) == {0}
    store.close()
