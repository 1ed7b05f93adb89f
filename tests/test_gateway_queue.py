"""The durable queue, on both databases: nothing twice, nothing lost, one worker at a time."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import kept
import pytest
from kept import ADMIN

from rentgen.gateway.retry import LONGEST_S, SHORTEST_S, TROUBLE, Circuit, next_try
from rentgen.records.results import Document, Kind
from rentgen.store.gateway import Batch, Held, Queue, Receipt, State, Step
from rentgen.store.studies import Store

NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
STUDY = "1.2.3"
RNG = random.Random(0)  # noqa: S311 - jitter is no secret
REPORT = Document(Kind.HL7, "x-application/hl7-v2+er7", b"MSH|SECRETNAME", "1.2.3.4", "hl7-1.hl7")


@pytest.fixture(params=kept.KINDS)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return kept.fresh(request, tmp_path)


@pytest.fixture
def queue(url: str) -> Iterator[Queue]:
    opened = Queue.open(url, key=kept.KEY)
    yield opened
    opened.close()


TABLES = tuple(f"gateway_{each}" for each in ("batches", "conflicts", "objects", "jobs", "answers", "documents"))


def rows(url: str, *tables: str) -> list[int]:
    return [kept.run(url, f"SELECT count(*) FROM {table}")[0][0] for table in tables]  # noqa: S608


def after(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def held(number: int = 1, content: str = "content") -> Held:
    return Held(f"{STUDY}.{number}", STUDY, kept.sha(f"{content} {number}"), "stow", {"modality": "DX"})


def closed(queue: Queue, count: int = 1) -> None:
    for number in range(count):
        queue.receive(held(number), NOW)
    assert queue.close_quiet(after(10), 10) == 1


def encoded(queue: Queue, *destinations: str) -> None:
    closed(queue)
    analyse = queue.claim(Step.ANALYSE, after(10), 60)
    assert analyse is not None
    assert queue.finish_analysis(analyse, {f"{STUDY}.0": b"answer"}, after(11))
    encode = queue.claim(Step.ENCODE, after(11), 60)
    assert encode is not None
    assert queue.finish_encoding(encode, dict.fromkeys(destinations, (REPORT,)), after(12))


def test_the_same_object_is_one_and_another_content_is_put_aside(queue: Queue) -> None:
    assert queue.receive(held(), NOW) is Receipt.RECEIVED
    assert queue.receive(held(), NOW) is Receipt.DUPLICATE
    assert queue.receive(held(content="other"), NOW) is Receipt.CONFLICT
    assert queue.receive(held(content="other"), NOW) is Receipt.CONFLICT
    counts = queue.counts()
    assert (counts.objects, counts.conflicts, counts.open_batches) == (1, 1, 1)
    assert queue.holds(held().sop_instance_uid)
    assert not queue.holds("1.9")


def test_objects_at_once_are_each_received_once_in_one_batch(queue: Queue) -> None:
    with ThreadPoolExecutor(8) as pool:
        said = list(pool.map(lambda number: queue.receive(held(number % 10), NOW), range(40)))
    assert said.count(Receipt.RECEIVED) == 10
    assert said.count(Receipt.DUPLICATE) == 30
    assert queue.counts().open_batches == 1


def test_a_study_closes_when_it_is_quiet_and_what_comes_later_is_another_batch(queue: Queue) -> None:
    queue.receive(held(1), NOW)
    queue.receive(held(2), after(8))
    assert queue.close_quiet(after(17), 10) == 0
    assert queue.close_quiet(after(18), 10) == 1
    assert queue.close_quiet(after(18), 10) == 0
    queue.receive(held(3), after(19))
    assert queue.close_quiet(after(29), 10) == 1
    first, second = (queue.claim(Step.ANALYSE, after(30), 60) for _ in range(2))
    assert first is not None
    assert second is not None
    assert queue.objects(first.batch_id) == (held(1), held(2))
    assert queue.objects(second.batch_id) == (held(3),)


def test_a_lease_is_of_one_and_comes_back_and_its_old_holder_can_do_nothing(queue: Queue) -> None:
    closed(queue)
    lost = queue.claim(Step.ANALYSE, after(10), 60)
    assert lost is not None
    assert queue.claim(Step.ANALYSE, after(69), 60) is None
    again = queue.claim(Step.ANALYSE, after(70), 60)
    assert again is not None
    assert again.attempts == 2
    assert not queue.finish_analysis(lost, {f"{STUDY}.0": b"late"}, after(71))
    assert not queue.bury(lost, "late")
    assert queue.finish_analysis(again, {f"{STUDY}.0": b"answer"}, after(72))
    assert not queue.finish_analysis(again, {f"{STUDY}.0": b"twice"}, after(73))
    assert queue.answers(again.batch_id) == {f"{STUDY}.0": b"answer"}


def test_workers_at_once_never_claim_the_same(queue: Queue) -> None:
    encoded(queue, *(f"pacs{number}" for number in range(12)))
    with ThreadPoolExecutor(6) as pool:
        jobs = list(pool.map(lambda _: queue.claim(Step.DELIVER, after(20), 60), range(24)))
    names = [job.destination for job in jobs if job is not None]
    assert len(names) == len(set(names))
    # On PostgreSQL one that is being claimed is passed over; what is left comes at the next question.
    while job := queue.claim(Step.DELIVER, after(20), 60):
        names.append(job.destination)
    assert sorted(names) == sorted(f"pacs{number}" for number in range(12))


def test_each_destination_has_its_delivery_and_the_batch_ends_with_the_last(queue: Queue, url: str) -> None:
    encoded(queue, "pacs", "ris")
    first = queue.claim(Step.DELIVER, after(13), 60, without=["ris"])
    assert first is not None
    assert first.destination == "pacs"
    assert queue.documents(first) == (REPORT,)
    assert queue.finish(first, after(14))
    assert kept.run(url, "SELECT done_at FROM gateway_batches")[0][0] is None
    second = queue.claim(Step.DELIVER, after(14), 60)
    assert second is not None
    assert queue.postpone(second, after(100), "refused")
    assert queue.claim(Step.DELIVER, after(99), 60) is None
    second = queue.claim(Step.DELIVER, after(100), 60)
    assert second is not None
    assert queue.finish(second, after(101))
    assert kept.run(url, "SELECT done_at FROM gateway_batches")[0][0] is not None
    assert queue.counts().oldest is None


def test_dead_letters_are_seen_and_tried_again_when_told(queue: Queue) -> None:
    encoded(queue, "pacs", "ris")
    job = queue.claim(Step.DELIVER, after(13), 60, without=["ris"])
    assert job is not None
    assert queue.bury(job, "0x0122 SOP class not supported")
    (letter,) = queue.dead_letters()
    assert (letter.destination, letter.attempts, letter.reason) == ("pacs", 1, "0x0122 SOP class not supported")
    assert queue.counts().steps[Step.DELIVER, "pacs", State.DEAD] == 1
    assert queue.retry(after(20), actor=ADMIN, destination="ris") == 0
    assert queue.retry(after(20), actor=ADMIN, job_id=letter.job_id) == 1
    assert queue.dead_letters() == ()
    again = queue.claim(Step.DELIVER, after(20), 60, without=["ris"])
    assert again is not None
    assert again.attempts == 1
    assert queue.bury(again, "again")
    assert queue.retry(after(30), actor=ADMIN) == 1


def test_a_dead_letter_that_is_discarded_lets_the_batch_end(queue: Queue, url: str) -> None:
    encoded(queue, "pacs", "ris")
    for destination in ("pacs", "ris"):
        job = queue.claim(Step.DELIVER, after(13), 60, without=[destination])
        assert job is not None
        assert queue.bury(job, "refused")
    first, second = queue.dead_letters()
    assert queue.discard(first.job_id, after(20), actor=ADMIN) == 1
    assert queue.discard(first.job_id, after(20), actor=ADMIN) == 0
    assert kept.run(url, "SELECT done_at FROM gateway_batches")[0][0] is None
    assert queue.discard(second.job_id, after(21), actor=ADMIN) == 1
    assert queue.discard(second.job_id + 99, after(21), actor=ADMIN) == 0
    assert queue.finished_since(NOW) == ((NOW, after(21)),)
    assert queue.retry(after(30), actor=ADMIN) == 0
    assert queue.claim(Step.DELIVER, after(30), 60) is None


def test_a_step_that_was_retried_cannot_be_discarded(queue: Queue) -> None:
    encoded(queue, "pacs")
    job = queue.claim(Step.DELIVER, after(13), 60)
    assert job is not None
    assert queue.bury(job, "refused")
    assert queue.retry(after(14), actor=ADMIN, job_id=job.job_id) == 1
    assert queue.discard(job.job_id, after(15), actor=ADMIN) == 0


def test_a_lease_is_renewed_by_its_holder_alone(queue: Queue) -> None:
    closed(queue)
    job = queue.claim(Step.ANALYSE, after(10), 60)
    assert job is not None
    assert queue.renew(job, after(60), 60)
    assert queue.claim(Step.ANALYSE, after(119), 60) is None
    another = queue.claim(Step.ANALYSE, after(120), 60)
    assert another is not None
    assert not queue.renew(job, after(121), 60)
    assert queue.finish_analysis(another, {}, after(122))
    assert not queue.renew(another, after(123), 60)


def test_what_is_done_is_cleared_in_time_with_all_that_hangs_on_it(queue: Queue, url: str) -> None:
    encoded(queue, "pacs")
    queue.receive(held(0, "other"), after(1))
    queue.receive(replace(held(7), study_instance_uid="1.2.9"), after(1))
    job = queue.claim(Step.DELIVER, after(13), 60)
    assert job is not None
    day = 86_400
    assert queue.clear(after(40 * day), 7) == 0
    assert queue.finish(job, after(20))
    assert queue.clear(after(7 * day + 20), 7) == 0
    assert all(rows(url, *TABLES[:1], *TABLES[2:]))
    assert queue.clear(after(7 * day + 21), 7) == 1
    # The other study was not done, however old it is.
    assert rows(url, *TABLES) == [1, 0, 1, 0, 0, 0]
    assert kept.run(url, "SELECT study_uid FROM gateway_batches") == [("1.2.9",)]
    assert not queue.holds(f"{STUDY}.0")
    actions = [row[0] for row in kept.run(url, "SELECT action FROM audit ORDER BY number")]
    assert actions == ["gateway.receive", "gateway.deliver"]


def test_contents_that_objects_or_conflicts_have_are_wanted(queue: Queue) -> None:
    queue.receive(held(), NOW)
    queue.receive(held(content="other"), NOW)
    ours = {held().content_hash, held(content="other").content_hash}
    many = [kept.sha(str(number)) for number in range(1200)]
    assert queue.wanted([*many[:600], *ours, *many[600:]]) == ours
    assert queue.wanted([]) == set()


def test_how_long_batches_took(queue: Queue) -> None:
    assert queue.finished_since(NOW) == ()
    closed(queue)
    analyse = queue.claim(Step.ANALYSE, after(10), 60)
    assert analyse is not None
    assert queue.finish_analysis(analyse, {}, after(11))
    encode = queue.claim(Step.ENCODE, after(11), 60)
    assert encode is not None
    assert queue.finish_encoding(encode, {"pacs": ()}, after(12))
    assert queue.finished_since(NOW) == ((NOW, after(12)),)
    assert queue.finished_since(after(12)) == ()
    assert queue.finished_since(NOW, limit=0) == ()


def test_an_operator_sees_how_far_the_newest_batches_are(queue: Queue) -> None:
    assert queue.batches() == ()
    encoded(queue, "pacs", "ris")
    queue.receive(held(7), after(13))
    queue.receive(held(8), after(14))
    job = queue.claim(Step.DELIVER, after(15), 60, without=["ris"])
    assert job is not None
    assert queue.bury(job, "refused")
    done = dict.fromkeys([(Step.ANALYSE, ""), (Step.ENCODE, "")], State.DONE)
    deliveries = {(Step.DELIVER, "pacs"): State.DEAD, (Step.DELIVER, "ris"): State.WAITING}
    coming = Batch(job.batch_id + 1, 2, after(13), after(14), None, {})
    assert queue.batches() == (coming, Batch(job.batch_id, 1, NOW, NOW, None, done | deliveries))
    assert queue.batches(1) == (coming,)


def test_the_trail_tells_what_came_in_and_what_went_out(queue: Queue, url: str) -> None:
    queue.note("gateway.start", {"dry_run": False})
    encoded(queue, "pacs", "ris", "pax")
    for destination in ("pacs", "ris"):
        job = queue.claim(Step.DELIVER, after(13), 60, without=["pax", {"pacs": "ris", "ris": "pacs"}[destination]])
        assert job is not None
        assert queue.finish(job, after(14), dry_run=destination == "ris")
        assert not queue.finish(job, after(15))
    lost = queue.claim(Step.DELIVER, after(13), 60)
    assert lost is not None
    job = queue.claim(Step.DELIVER, after(80), 60)
    assert job is not None
    assert not queue.bury(lost, "late")
    assert queue.bury(job, "a peer that names JANE")
    assert queue.retry(after(90), actor=ADMIN, destination="pax") == 1
    job = queue.claim(Step.DELIVER, after(90), 60)
    assert job is not None
    assert queue.bury(job, "again")
    assert queue.discard(job.job_id, after(95), actor=ADMIN) == 1
    store = Store.open(url, key=kept.KEY)
    told = [(entry.actor, entry.action, entry.subject, entry.detail) for entry in store.audit_entries()]
    study = store.ids_for("", STUDY)[1]
    assert store.verify_audit() == len(told)
    store.close()
    batch = {"batch": job.batch_id}
    buried = ("gateway", "gateway.bury", study, batch | {"step": "deliver", "destination": "pax"})
    sent = batch | {"documents": 1}
    assert told == [
        ("gateway", "gateway.start", "gateway", {"dry_run": False}),
        ("gateway", "gateway.receive", study, batch | {"objects": 1}),
        ("gateway", "gateway.deliver", study, sent | {"destination": "pacs", "dry_run": False}),
        ("gateway", "gateway.deliver", study, sent | {"destination": "ris", "dry_run": True}),
        buried,
        ("somebody", "gateway.retry", "gateway", {"count": 1, "job": None, "destination": "pax"}),
        buried,
        ("somebody", "gateway.discard", study, batch | {"step": "deliver", "destination": "pax"}),
    ]


def test_batches_that_close_together_are_each_told_of(queue: Queue, url: str) -> None:
    for number in range(3):
        for image in range(number + 1):
            queue.receive(replace(held(10 * number + image), study_instance_uid=f"1.9.{number}"), NOW)
    assert queue.close_quiet(after(10), 10) == 3
    found = kept.run(url, "SELECT detail FROM audit WHERE action = 'gateway.receive' ORDER BY number")
    assert [json.loads(row[0])["objects"] for row in found] == [1, 2, 3]


def test_answers_and_documents_are_sealed_on_the_disk(queue: Queue, url: str, request: pytest.FixtureRequest) -> None:
    encoded(queue, "pacs")
    assert not kept.bytes_on_disk(url, request.config)(b"SECRETNAME")


@pytest.mark.parametrize("attempts", [1, 4, 10, 10_000])
def test_waits_grow_with_full_jitter_within_their_bounds(attempts: int) -> None:

    waits = [(next_try(attempts, NOW, RNG) - NOW).total_seconds() for _ in range(500)]
    most = min(LONGEST_S, SHORTEST_S * 2.0 ** min(attempts, 10))
    assert min(waits) >= SHORTEST_S
    assert max(waits) <= most
    assert max(waits) > 0.9 * most


def test_a_peer_that_asks_to_wait_is_waited_for() -> None:
    assert next_try(1, NOW, RNG, after_s=120) == after(120)
    assert next_try(1, NOW, RNG, after_s=1e9) == after(LONGEST_S)


def test_a_circuit_opens_after_failures_in_a_row_and_closes_with_a_success() -> None:
    circuit = Circuit()
    for _ in range(TROUBLE - 1):
        circuit = circuit.failed(NOW)
    assert circuit.lets_through(NOW)
    circuit = circuit.failed(NOW)
    assert not circuit.lets_through(after(29))
    assert circuit.lets_through(after(30))
    assert not circuit.failed(after(30)).lets_through(after(31))
    assert circuit.succeeded() == Circuit()
