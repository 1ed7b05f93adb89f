"""The audit trail on its way to rsyslog: every line once, also over restarts and where the repository is away."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree as Xml

import kept
import pytest
from kept import ADMIN
from test_gateway_syslog import Papers, Repository, free_port, papers, rsyslog, to, wait_for  # noqa: F401

from rentgen.errors import StoreError
from rentgen.gateway.audit_trail import PAGE, Forwarder
from rentgen.gateway.syslog import Syslog
from rentgen.outputs.atna import AuditSource, audit_message
from rentgen.store.studies import Store

SOURCE = AuditSource("rentgen@gate", "gate.example")


@pytest.fixture(params=kept.KINDS)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    opened = Store.open(kept.fresh(request, tmp_path))
    yield opened
    opened.close()


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "audit.json"


def add(store: Store, count: int) -> None:
    for _ in range(count):
        store.audit(ADMIN, "gateway.deliver", "mnvwvfn7r3at6456gp5k7gu7xi", {"destination": "pacs"})


def drain(forwarder: Forwarder, syslog: Syslog) -> None:
    """Forward until all has left, and is noted."""
    while forwarder.forward():
        wait_for(lambda: syslog.state().waiting == 0)
    wait_for(lambda: forwarder.forward() == 0 and forwarder.behind == 0)


def test_rsyslog_gets_every_line_once_over_restarts(
    papers: Papers,  # noqa: F811
    rsyslog: tuple[int, Path],  # noqa: F811
    store: Store,
    state: Path,
) -> None:
    port, log = rsyslog
    for first in (PAGE + 5, 3):
        add(store, first)
        with Syslog(to(port, papers)) as syslog:
            drain(Forwarder(store, syslog, state, source=SOURCE), syslog)
    entries = store.audit_entries()
    wait_for(lambda: log.exists() and log.read_text("utf-8").count("\n") == len(entries) == PAGE + 8, 15)
    for line, entry in zip(log.read_text("utf-8").splitlines(), entries, strict=True):
        head, _, message = line.partition("\ufeff")
        assert head.split("|")[2:4] == ["rentgen", "DICOM+RFC3881"]
        assert message.encode() == audit_message(entry, SOURCE)
        Xml.fromstring(message)  # noqa: S314 - our own
    assert json.loads(state.read_text()) == {"sent": PAGE + 8, "hash": entries[-1].hash}
    assert [path.name for path in state.parent.glob("*audit.json*")] == ["audit.json"]


def test_nothing_is_skipped_where_the_repository_is_away(papers: Papers, store: Store, state: Path) -> None:  # noqa: F811
    add(store, 10)
    port = free_port()
    with Syslog(to(port, papers, waiting=2)) as syslog:
        forwarder = Forwarder(store, syslog, state)
        wait_for(lambda: forwarder.forward() == 0 and syslog.state().problem != "")
        assert not state.exists()
        repository = Repository(papers, port)
        try:
            drain(forwarder, syslog)
            told = [message.partition(b"\xef\xbb\xbf")[2] for message in repository.messages]
        finally:
            repository.close()
    assert len(set(told)) == len(told) == 10


def test_what_may_not_have_left_comes_again(papers: Papers, store: Store, state: Path) -> None:  # noqa: F811
    add(store, PAGE + 20)
    syslog = Syslog(to(free_port(), papers))
    forwarder = Forwarder(store, syslog, state)
    # No more than a page is on its way, however often it is called.
    assert [forwarder.forward(), forwarder.forward()] == [PAGE, 0]
    assert syslog.close(timeout_s=0.1) == PAGE
    repository = Repository(papers)
    try:
        with Syslog(to(repository.port, papers)) as syslog:
            drain(Forwarder(store, syslog, state), syslog)
        assert len(repository.messages) == PAGE + 20
    finally:
        repository.close()


def test_another_trail_is_sent_from_its_beginning(papers: Papers, store: Store, state: Path) -> None:  # noqa: F811
    add(store, 2)
    with Syslog(to(free_port(), papers)) as syslog:
        for noted in ({"sent": 90, "hash": "0" * 64}, {"sent": 2, "hash": "0" * 64}):
            state.write_text(json.dumps(noted))
            assert Forwarder(store, syslog, state).forward() == 2
        state.write_text(json.dumps({"sent": 1, "hash": store.audit_entries()[0].hash}))
        assert Forwarder(store, syslog, state).forward() == 1


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"sent": -1, "hash": ""}', '{"sent": true, "hash": ""}', '{"sent": 1}']
)
def test_a_strange_file_is_refused(papers: Papers, state: Path, store: Store, content: str) -> None:  # noqa: F811
    state.write_text(content)
    with Syslog(to(free_port(), papers)) as syslog, pytest.raises(StoreError, match="Delete it"):
        Forwarder(store, syslog, state)


def test_a_file_that_cannot_be_written_is_told_of(
    papers: Papers,  # noqa: F811
    store: Store,
    state: Path,
) -> None:
    add(store, 1)
    repository = Repository(papers)
    try:
        with Syslog(to(repository.port, papers)) as syslog:
            forwarder = Forwarder(store, syslog, state.parent / "gone" / "audit.json")
            assert forwarder.forward() == 1
            wait_for(lambda: syslog.state().sent == 1)
            with pytest.raises(StoreError, match="Check the disk"):
                forwarder.forward()
            state.with_name("gone").mkdir()
            assert forwarder.forward() == 0
            assert forwarder.behind == 0
    finally:
        repository.close()
