"""A gateway's queue with something in every state, for two destinations."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import kept

from rentgen.records.results import Document, Kind
from rentgen.store.gateway import Held, Queue, Step

REFUSED = "status 0xa900: the peer does not take this class; its configuration must name it"
DESTINATIONS = ("pacs", "ris")
DOCUMENT = Document(Kind.HL7, "x-application/hl7-v2+er7", b"MSH|^~\\&|", "1.2.3.4", "hl7-1.hl7")


def held(number: int, content: str = "film") -> Held:
    """Return an object of a study of its own."""
    return Held(f"1.2.3.{number}.1", f"1.2.3.{number}", kept.sha(f"{content} {number}"), "PACS", {"modality": "DX"})


def fill(queue: Queue, *, ago_s: float = 300) -> None:
    """Bring twelve studies as far as they come: eight through, two refused by the RIS, one not encoded, one open.

    Of the eight, three still wait for the PACS, and one is in hand. All of it happened so many seconds ago.
    """
    now = datetime.now(UTC) - timedelta(seconds=ago_s)
    for number in range(11):
        queue.receive(held(number), now)
    queue.receive(held(0, "another film"), now)
    assert queue.close_quiet(now, 0) == 11
    queue.receive(held(11), now)
    for _ in range(11):
        job = queue.claim(Step.ANALYSE, now, 60)
        assert job is not None
        assert queue.finish_analysis(job, {}, now)
    for _ in range(10):
        job = queue.claim(Step.ENCODE, now, 60)
        assert job is not None
        assert queue.finish_encoding(job, dict.fromkeys(DESTINATIONS, (DOCUMENT,)), now)
    job = queue.claim(Step.ENCODE, now, 60)
    assert job is not None
    assert queue.bury(job, "the model of the answer is no longer here")
    for number in range(10):
        job = queue.claim(Step.DELIVER, now, 60, without=["pacs"])
        assert job is not None
        assert queue.bury(job, REFUSED) if number < 2 else queue.finish(job, now)
    for _ in range(6):
        job = queue.claim(Step.DELIVER, now, 60, without=["ris"])
        assert job is not None
        assert queue.finish(job, now)
    assert queue.claim(Step.DELIVER, now, 3600, without=["ris"]) is not None
