"""Killed with SIGKILL before and after every change of the queue, the gateway still delivers each result once."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import kept
import pytest

from rentgen.gateway.nouns import Destination, Outcome, Result, Route, Wire
from rentgen.gateway.pipeline import Deliveries, Steps
from rentgen.records.results import Document, Kind
from rentgen.store.gateway import Held, Queue

NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
STUDY = "1.2.3"
HEADER = {
    "study_instance_uid": STUDY,
    "series_instance_uid": "1.2.4",
    "sop_class_uid": "1.2.840.10008.5.1.4.1.1.1.1",
    "transfer_syntax_uid": "1.2.840.10008.1.2.1",
    "modality": "DX",
}
DESTINATIONS = tuple(Destination(name, Wire.MLLP, (Kind.HL7,)) for name in ("pacs", "ris"))
STEPS = ("receive", "close_quiet", "claim", "finish_analysis", "finish_encoding", "documents", "finish")


class Killing:
    """A queue at one of whose methods the process dies: before it, or after it was done, at its n-th call."""

    def __init__(self, queue: Queue, method: str, when: str, left: int) -> None:
        self._queue, self._method, self._when, self._left = queue, method, when, left

    def __getattr__(self, name: str) -> Callable[..., Any]:
        inner: Callable[..., Any] = getattr(self._queue, name)
        return self._dying(inner) if name == self._method else inner

    def _dying(self, inner: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any, **more: Any) -> Any:  # noqa: ANN401
            self._left -= 1
            if self._left == 0 and self._when == "before":
                os.kill(os.getpid(), signal.SIGKILL)
            answer = inner(*given, **more)
            if self._left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return answer

        return call


class Echo:
    """Answers with what it was asked."""

    def analyse(self, held: Held, route: Route | None) -> bytes:
        return f"{held.content_hash} {route and route.model}".encode()

    def encode(
        self, held: Sequence[Held], answers: Mapping[str, bytes], destination: Destination
    ) -> Sequence[Document]:
        return [Document(Kind.HL7, "text/plain", answer, f"{uid}.9", f"{uid}.hl7") for uid, answer in answers.items()]


class Folder:
    """A peer that keeps a document under its UID, as an archive does, and counts the deliveries."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self._folder = folder

    def send(self, documents: Sequence[Document]) -> Outcome:
        for document in documents:
            path = self._folder / document.uid
            content = document.content
            if path.exists() and path.read_bytes() != content:
                content = b"two results under one UID"
            path.write_bytes(content)
        return Outcome(Result.DELIVERED)

    def rest(self) -> None:
        pass


def gateway(queue: Any, folder: Path, now: datetime) -> None:  # noqa: ANN401
    """Receive two films, which a sender sends until it is told that they are here, and do what is due."""
    for number in range(2):
        uid = f"{STUDY}.{number}"
        header = HEADER | {"sop_instance_uid": uid}
        queue.receive(Held(uid, STUDY, kept.sha(uid), "stow", header), NOW)
    queue.close_quiet(now, 10)
    senders: Any = {each.name: Folder(folder / each.name) for each in DESTINATIONS}
    rng = random.Random(0)  # noqa: S311 - jitter is no secret
    steps = Steps(queue, Echo(), routes=(Route("pneumonia"),), destinations=DESTINATIONS, rng=rng)
    deliveries = Deliveries(queue, senders, rng, dry_run=False)
    while steps.analyse_one(now) or steps.encode_one(now) or deliveries.deliver_one(now):
        pass


def die(url: str, folder: str, method: str, when: str, count: str) -> None:
    gateway(Killing(Queue.open(url), method, when, int(count)), Path(folder), NOW + timedelta(seconds=10))


@pytest.fixture(params=["sqlite"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return kept.fresh(request, tmp_path)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(
    ("method", "count"), [*((each, 1) for each in STEPS), ("receive", 2), ("claim", 5), ("finish", 2)]
)
def test_a_killed_gateway_delivers_each_result_once(
    url: str, tmp_path: Path, method: str, count: int, when: str
) -> None:
    code = "import sys, test_gateway_kill; test_gateway_kill.die(*sys.argv[1:])"
    killed = subprocess.run(
        [sys.executable, "-c", code, url, str(tmp_path), method, when, str(count)],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    queue = Queue.open(url)
    try:
        # Later than any lease.
        gateway(queue, tmp_path, NOW + timedelta(hours=1))
        counts = queue.counts()
    finally:
        queue.close()
    assert {state for _, _, state in counts.steps} == {"done"}
    assert sum(counts.steps.values()) == 4
    for destination in DESTINATIONS:
        found = {path.name: path.read_text() for path in (tmp_path / destination.name).iterdir()}
        assert found == {f"{STUDY}.{n}.9": f"{kept.sha(f'{STUDY}.{n}')} pneumonia" for n in range(2)}
