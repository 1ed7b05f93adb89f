"""The durable queue, on both databases: nothing twice, nothing lost, one worker at a time."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import kept
import pytest

from rentgen.errors import StoreError
from rentgen.gateway.intake import Taken
from rentgen.gateway.nouns import Header
from rentgen.gateway.retry import LONGEST_S, SHORTEST_S, TROUBLE, Circuit, next_try
from rentgen.gateway.spool import Reception, Spool
from rentgen.records.results import Document, Kind
from rentgen.store.gateway import Held, Queue, Receipt, State, Step

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
    assert queue.retry(after(20), destination="ris") == 0
    assert queue.retry(after(20), job_id=letter.job_id) == 1
    assert queue.dead_letters() == ()


def test_answers_and_documents_are_sealed_on_the_disk(queue: Queue, url: str, request: pytest.FixtureRequest) -> None:
    encoded(queue, "pacs")
    assert not kept.bytes_on_disk(url, request.config)(b"SECRETNAME")


def test_the_spool_keeps_a_file_under_its_hash_and_sees_damage(tmp_path: Path, queue: Queue) -> None:
    spool = Spool(tmp_path / "spool")
    reception = Reception(spool, queue)
    header = Header(STUDY, "1.2.4", "1.2.5", "1.2.6", "1.2.840.10008.1.2.1", modality="DX")
    said = []
    for content in (b"film", b"film", b"other"):
        path = tmp_path / "arrived"
        path.write_bytes(content)
        said.append(reception.receive(path, header, "stow"))
        assert not path.exists()
    assert said == [Taken.RECEIVED, Taken.DUPLICATE, Taken.CONFLICT]
    assert reception.holds("1.2.5")
    name = hashlib.sha256(b"film").hexdigest()
    assert spool.read(name) == b"film"
    spool.path(name).write_bytes(b"damaged")
    with pytest.raises(StoreError, match="its hash is another"):
        spool.read(name)


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
