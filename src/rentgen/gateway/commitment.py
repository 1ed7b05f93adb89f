"""Storage commitment, as the one who asks: will the peer keep what was stored?

The answer comes on the association of the question, or on a new one to our own door, whichever the peer likes.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pydicom.dataset import Dataset
from pydicom.uid import generate_uid
from pynetdicom import evt
from pynetdicom.association import Association
from pynetdicom.sop_class import StorageCommitmentPushModel  # type: ignore[attr-defined]

from rentgen.gateway.intake import is_uid
from rentgen.gateway.nouns import Outcome, Result
from rentgen.gateway.outcomes import DELIVERED, of_dicom_status, retry, worst

INSTANCE = "1.2.840.10008.1.20.1.1"
"""The well-known instance of the service."""

MOST_REFERENCES = 10_000
"""Objects in one question or answer."""

DAMAGED = (
    ValueError,
    TypeError,
    KeyError,
    AttributeError,
    EOFError,
    OSError,
    NotImplementedError,
    RecursionError,
    struct.error,
)
"""What a data set that is none makes the parser raise; its words may quote the values."""


@dataclass(frozen=True, slots=True)
class CommitmentReport:
    """What a peer says that it will keep.

    Attributes:
        transaction_uid: of the request.
        committed: SOP Instance UIDs that it keeps.
        failed: those that it does not, with its reason.
    """

    transaction_uid: str
    committed: tuple[str, ...]
    failed: tuple[tuple[str, int], ...]


class Commitments:
    """Questions that wait for their answers. Safe from any thread.

    The receiver is given `report` as its `on_commitment`; a report that nobody waits for is dropped.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._open: dict[str, CommitmentReport | None] = {}

    def expect(self, transaction: str) -> None:
        """Begin to wait, before the question is asked."""
        with self._changed:
            self._open[transaction] = None

    def report(self, report: CommitmentReport) -> None:
        """Take an answer."""
        with self._changed:
            if report.transaction_uid in self._open:
                self._open[report.transaction_uid] = report
                self._changed.notify_all()

    def wait(self, transaction: str, seconds: float) -> CommitmentReport | None:
        """Return the answer, or None where none came in time."""
        with self._changed:
            self._changed.wait_for(lambda: self._open.get(transaction) is not None, seconds)
            return self._open.get(transaction)

    def forget(self, transaction: str) -> None:
        """Wait no longer."""
        with self._changed:
            self._open.pop(transaction, None)

    def handlers(self) -> list[evt.EventHandlerType]:
        """Return what an association of ours needs to take answers."""
        return [(evt.EVT_N_EVENT_REPORT, self._event)]

    def _event(self, event: evt.Event) -> tuple[int, Dataset | None]:
        report = read_report(lambda: event.event_information)
        if report is None:
            return 0x0115, None
        self.report(report)
        return 0x0000, None


def ask(
    association: Association, commitments: Commitments, stored: Sequence[tuple[str, str]], seconds: float
) -> Outcome:
    """Return whether a peer keeps what was stored; what it does not keep is sent again.

    Args:
        association: established, with the service's context.
        commitments: where the answer arrives.
        stored: SOP Class and Instance UID of each object.
        seconds: that the answer may take.
    """
    transaction = str(generate_uid())
    commitments.expect(transaction)
    try:
        status, _ = association.send_n_action(_question(transaction, stored), 1, StorageCommitmentPushModel, INSTANCE)
        asked = of_dicom_status(status.get("Status"))
        if asked.result is not Result.DELIVERED:
            return Outcome(asked.result, f"storage commitment: {asked.reason}", asked.after_s)
        report = commitments.wait(transaction, seconds)
    except RuntimeError:
        return retry("storage commitment: the peer ended the association")
    finally:
        commitments.forget(transaction)
    return of_report(report, [uid for _, uid in stored])


def of_report(report: CommitmentReport | None, uids: Sequence[str]) -> Outcome:
    """Return what a report means for the objects that were asked for."""
    if report is None:
        return retry("storage commitment: no answer in time")
    failed = dict(report.failed)
    kept = set(report.committed)
    return worst(_of_object(uid in kept, failed.get(uid)) for uid in uids)


def _of_object(kept: bool, reason: int | None) -> Outcome:
    if reason is not None:
        outcome = of_dicom_status(reason)
        return Outcome(outcome.result, f"storage commitment: {outcome.reason}")
    return DELIVERED if kept else retry("storage commitment: the peer says nothing of an object")


def _question(transaction: str, stored: Sequence[tuple[str, str]]) -> Dataset:
    question = Dataset()
    question.TransactionUID = transaction
    question.ReferencedSOPSequence = [reference(*each) for each in stored]
    return question


def reference(sop_class: str, instance: str) -> Dataset:
    """Return the item that names an object."""
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class, instance
    return item


def read_report(load: Callable[[], Dataset]) -> CommitmentReport | None:
    """Return what a storage commitment report says, or None where it is none.

    Args:
        load: returns the event's information; it may fail.
    """
    try:
        information = load()
        transaction = str(information.get("TransactionUID", ""))
        committed = list(information.get("ReferencedSOPSequence") or ())
        failed = list(information.get("FailedSOPSequence") or ())
        if len(committed) + len(failed) > MOST_REFERENCES:
            return None
        kept = tuple(str(item.get("ReferencedSOPInstanceUID", "")) for item in committed)
        lost = tuple(
            (str(item.get("ReferencedSOPInstanceUID", "")), int(item.get("FailureReason", None) or 0x0110))
            for item in failed
        )
    except DAMAGED:
        return None
    if not all(map(is_uid, (transaction, *kept, *(uid for uid, _ in lost)))):
        return None
    return CommitmentReport(transaction, kept, lost)
