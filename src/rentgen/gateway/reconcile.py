"""What a PACS has and the gateway does not: senders lose objects without a word, so somebody must look."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, order=True)
class Instance:
    """One object, by its UIDs.

    Attributes:
        study_instance_uid: of the study.
        series_instance_uid: of the series.
        sop_instance_uid: of the object.
    """

    study_instance_uid: str
    series_instance_uid: str
    sop_instance_uid: str


@dataclass(frozen=True, slots=True)
class Difference:
    """What a reconciliation found.

    Attributes:
        missing: objects that the peer has and we do not, each once, in order.
        known: how many of the peer's objects we have.
    """

    missing: tuple[Instance, ...]
    known: int

    @property
    def studies(self) -> tuple[str, ...]:
        """Study Instance UIDs of what is missing, each once, in order."""
        return tuple(dict.fromkeys(instance.study_instance_uid for instance in self.missing))


def reconcile(theirs: Iterable[Instance], ours: Collection[str]) -> Difference:
    """Return what a peer has that we do not.

    Args:
        theirs: objects of the peer.
        ours: SOP Instance UIDs that we know, among them those that are put aside.

    Example:
        >>> reconcile([Instance("1.1", "1.2", "1.3"), Instance("1.1", "1.2", "1.4")], {"1.3"}).missing
        (Instance(study_instance_uid='1.1', series_instance_uid='1.2', sop_instance_uid='1.4'),)
    """
    by_uid = {instance.sop_instance_uid: instance for instance in theirs}
    missing = sorted(instance for uid, instance in by_uid.items() if uid not in ours)
    return Difference(tuple(missing), len(by_uid) - len(missing))
