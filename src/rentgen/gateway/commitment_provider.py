"""Storage commitment, as the one who is asked: does the gateway hold what a peer sent?

A request is acknowledged at once, and answered a moment later (PS3.4, annex J): on a new association to the peer, where
the configuration knows its address, or else on the association of the request while that is open. Requests that wait
for their answer are kept in memory alone: a peer that is not answered asks again, and keeps its objects until then.

What is promised is to hold an object until its results are delivered, and for `keep_days` after that. The gateway is no
archive, and a modality must not delete films because of its word alone.
"""

from __future__ import annotations

import heapq
import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from itertools import chain, count, groupby
from typing import cast

from pydicom.dataset import Dataset
from pynetdicom import evt
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import N_ACTION
from pynetdicom.sop_class import StorageCommitmentPushModel  # type: ignore[attr-defined]

from rentgen.errors import PeerError, SettingError, StoreError
from rentgen.gateway.associate import associated
from rentgen.gateway.commitment import DAMAGED, INSTANCE, MOST_REFERENCES, reference
from rentgen.gateway.intake import is_uid
from rentgen.gateway.nouns import Destination, GatewayConfig, Source, Wire

logger = logging.getLogger(__name__)

PAUSES_S = (0.2, 1.0, 10.0, 60.0)
"""Before each attempt to answer; the first lets the peer end what it is at."""

_SUCCESS = 0x0000
_NO_SUCH_OBJECT = 0x0112
_INVALID = 0x0115
_NO_SUCH_ACTION = 0x0123
_FULL = 0x0213
_ALL_HELD, _SOME_NOT = 1, 2
_TIMEOUT_S = 10.0
_MOST_WAITING = 200
# All waiting requests together: some 50 MB.
_MOST_WAITING_REFERENCES = 100_000

Peer = Destination | Source


@dataclass(frozen=True, slots=True)
class CommitmentRequest:
    """What a peer asks.

    Attributes:
        transaction_uid: to be repeated in the answer.
        references: SOP Class and Instance UID of each object, each once.
    """

    transaction_uid: str
    references: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, order=True)
class _Waiting:
    due: float
    number: int
    request: CommitmentRequest = field(compare=False)
    title: str = field(compare=False)
    association: Association = field(compare=False)
    attempt: int = field(compare=False, default=0)


class CommitmentProvider:
    """Answers requests in a thread of its own, one after the other."""

    def __init__(
        self, config: GatewayConfig, holds: Callable[[str], bool], tell: Callable[[str], None] = lambda _: None
    ) -> None:
        """Begin to wait for requests.

        Args:
            config: of the gateway; its destinations and sources are the peers whose addresses are known.
            holds: whether an object of that SOP Instance UID is kept for good.
            tell: told what happened, in one word, for counters.
        """
        self._title = config.ae_title
        self._peers = peers_of((*config.destinations, *config.sources))
        self._holds, self._tell = holds, tell
        self._changed = threading.Condition()
        self._waiting: list[_Waiting] = []
        self._numbers = count()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="commitment", daemon=True)
        self._thread.start()

    def asked(self, event: evt.Event) -> tuple[int, Dataset | None]:
        """Take a request, and return its status; for `EVT_N_ACTION`."""
        self._tell("commitment_requests")
        status = self._take(event)
        if status != _SUCCESS:
            self._tell("refused_commitment")
        return status, None

    def stop(self, seconds: float = 5.0) -> None:
        """Answer no more; what still waits is dropped, and its peers ask again.

        Args:
            seconds: that an answer which is on its way may take.
        """
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        self._thread.join(seconds)

    def _take(self, event: evt.Event) -> int:
        if cast(N_ACTION, event.request).RequestedSOPInstanceUID != INSTANCE:
            return _NO_SUCH_OBJECT
        if event.action_type != 1:
            return _NO_SUCH_ACTION
        request = read_request(lambda: event.action_information)
        if request is None:
            return _INVALID
        waiting = _Waiting(
            time.monotonic() + PAUSES_S[0],
            next(self._numbers),
            request,
            str(event.assoc.requestor.ae_title).strip(),
            event.assoc,
        )
        with self._changed:
            references = sum(len(each.request.references) for each in self._waiting) + len(request.references)
            if self._stopping or len(self._waiting) >= _MOST_WAITING or references > _MOST_WAITING_REFERENCES:
                return _FULL
            heapq.heappush(self._waiting, waiting)
            self._changed.notify_all()
        return _SUCCESS

    def _run(self) -> None:
        while (waiting := self._next()) is not None:
            if self._answer(waiting):
                self._tell("commitment_answers")
            elif waiting.attempt + 1 < len(PAUSES_S) and self._may_answer(waiting):
                due = time.monotonic() + PAUSES_S[waiting.attempt + 1]
                with self._changed:
                    heapq.heappush(self._waiting, replace(waiting, due=due, attempt=waiting.attempt + 1))
            else:
                self._tell("commitment_unanswered")
                logger.warning(
                    "A request for storage commitment was not answered: its peer is not reached. "
                    "Name its AE title, host and port as a destination or a source, and check that it listens there."
                )

    def _next(self) -> _Waiting | None:
        """Return what is due, when it is; None at the end."""
        with self._changed:
            while not self._stopping:
                now = time.monotonic()
                if self._waiting and self._waiting[0].due <= now:
                    return heapq.heappop(self._waiting)
                self._changed.wait(self._waiting[0].due - now if self._waiting else None)
        return None

    def _may_answer(self, waiting: _Waiting) -> bool:
        return waiting.title in self._peers or waiting.association.is_established

    def _answer(self, waiting: _Waiting) -> bool:
        try:
            kind, report = report_of(waiting.request, self._holds)
        except (OSError, StoreError):
            logger.exception("The store cannot say what it holds; storage commitment is answered later.")
            return False
        for peer in self._peers.get(waiting.title, ()):
            try:
                with _called(peer, self._title) as association:
                    if _send(association, kind, report):
                        return True
            except (PeerError, SettingError, OSError):
                continue
        return _send(waiting.association, kind, report)


def peers_of(named: Iterable[Peer]) -> Mapping[str, tuple[Peer, ...]]:
    """Return the peers of DIMSE by AE title."""
    ordered = sorted((each for each in named if each.wire is Wire.DIMSE), key=lambda each: each.ae_title)
    return {title: tuple(each) for title, each in groupby(ordered, key=lambda each: each.ae_title)}


def read_request(load: Callable[[], Dataset]) -> CommitmentRequest | None:
    """Return what a peer asks, or None where it is no request, or asks for too much.

    Args:
        load: returns the action's information; it may fail.
    """
    try:
        information = load()
        transaction = str(information.get("TransactionUID", ""))
        items = list(information.get("ReferencedSOPSequence") or ())
        found = [
            (str(item.get("ReferencedSOPClassUID", "")), str(item.get("ReferencedSOPInstanceUID", "")))
            for item in items[: MOST_REFERENCES + 1]
        ]
    except DAMAGED:
        return None
    if not found or len(found) > MOST_REFERENCES or not all(map(is_uid, (transaction, *chain.from_iterable(found)))):
        return None
    return CommitmentRequest(transaction, tuple(dict.fromkeys(found)))


def report_of(request: CommitmentRequest, holds: Callable[[str], bool]) -> tuple[int, Dataset]:
    """Return the event's type and its information: which objects are held, and which are not and why.

    Args:
        request: of the peer.
        holds: whether an object of that SOP Instance UID is kept for good.
    """
    held = {uid for _, uid in request.references if holds(uid)}
    report = Dataset()
    report.TransactionUID = request.transaction_uid
    kept = [reference(*each) for each in request.references if each[1] in held]
    missing = [reference(*each) for each in request.references if each[1] not in held]
    for item in missing:
        item.FailureReason = _NO_SUCH_OBJECT
    # An empty sequence is not allowed.
    if kept:
        report.ReferencedSOPSequence = kept
    if missing:
        report.FailedSOPSequence = missing
    return (_SOME_NOT if missing else _ALL_HELD), report


def _called(peer: Peer, own_title: str) -> AbstractContextManager[Association]:
    return associated(
        peer.name,
        (peer.host, peer.port),
        own_title,
        peer.ae_title,
        [],
        provided=[StorageCommitmentPushModel],
        tls=peer.tls,
        timeout_s=_TIMEOUT_S,
    )


def _send(association: Association, kind: int, report: Dataset) -> bool:
    """Return whether the peer took a report."""
    try:
        status, _ = association.send_n_event_report(report, kind, StorageCommitmentPushModel, INSTANCE)
    except (RuntimeError, ValueError):
        # The association has ended, or was never for this.
        return False
    return bool(status.get("Status") == _SUCCESS)
