"""The audit trail: who did what when; numbered without a gap, each line holding the hash of the one before."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from rentgen.errors import SettingError, StoreError
from rentgen.records.studies import AuditEntry, Principal
from rentgen.store.schema import AuditHeadRow, AuditRow, clean
from rentgen.store.sealing import Sealer

NOTHING = "0" * 64
"""What stands for the hash before the first."""

# Statements are built once: building one takes longer than SQLite takes to run it.
_HEAD = sa.select(AuditHeadRow.number, AuditHeadRow.hash).with_for_update()
_ADD = sa.insert(AuditRow)
_MOVE = sa.update(AuditHeadRow)

ACTION = re.compile(r"[a-z][a-z_.]{0,63}")
MOST_DETAIL = 10_000
PAGE = 1000


def canonical(values: Mapping[str, Any]) -> str:
    """Return the one JSON text of plain values: keys sorted, no blanks, ASCII, no nan.

    Raises:
        SettingError: a value is not plain JSON.
    """
    try:
        return json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise SettingError("Expected plain JSON values in the detail of an audit entry.") from error


def digest(entry: AuditEntry) -> str:
    """Return the SHA-256, in hexadecimal, over everything of an entry but its own hash."""
    told = {
        "number": entry.number,
        "at": entry.at.astimezone(UTC).isoformat(timespec="microseconds"),
        "actor": entry.actor,
        "action": entry.action,
        "subject": entry.subject,
        "detail": entry.detail,
        "previous": entry.previous,
    }
    return hashlib.sha256(canonical(told).encode()).hexdigest()


def append(
    connection: Connection,
    sealer: Sealer,
    actor: Principal,
    action: str,
    subject: str,
    detail: Mapping[str, Any] | None = None,
) -> None:
    """Add an entry within the transaction of what it tells of; the last thing there, for other writers wait for it.

    Raises:
        SettingError: the action is no word such as `study.add`, or the detail is too long or not plain.
    """
    if not ACTION.fullmatch(action):
        raise SettingError(f"Expected an action such as study.add, but got {action!r}.")
    told = canonical(detail or {})
    if len(told) > MOST_DETAIL:
        raise SettingError(f"Expected the detail of an audit entry to be at most {MOST_DETAIL} characters of JSON.")
    # PostgreSQL's writers queue here until the one before has committed; SQLite has one writer anyway.
    head = connection.execute(_HEAD).one()
    entry = AuditEntry(
        number=head.number + 1,
        at=datetime.now(UTC),
        actor=clean(actor.name)[:200],
        action=action,
        subject=clean(subject)[:200],
        detail=json.loads(told),
        previous=head.hash,
        hash="",
    )
    own = digest(entry)
    connection.execute(
        _ADD,
        {
            "number": entry.number,
            "at": entry.at,
            "actor": entry.actor,
            "action": entry.action,
            "subject": entry.subject,
            "detail": told,
            "previous": entry.previous,
            "hash": own,
        },
    )
    move_head(connection, sealer, entry.number, own)


def move_head(connection: Connection, sealer: Sealer, number: int, last: str) -> None:
    """Write where the trail ends; with a key, so that nobody without it can."""
    proof = sealer.seal(last.encode(), _head(number)) if sealer.has_key else None
    connection.execute(_MOVE, {"number": number, "hash": last, "proof": proof})


def entries(connection: Connection, *, after: int = 0, limit: int = PAGE) -> tuple[AuditEntry, ...]:
    """Return entries in order, from the one behind number `after` on.

    Raises:
        StoreError: one is damaged so that it cannot be shown.
    """
    query = sa.select(AuditRow).where(AuditRow.number > after).order_by(AuditRow.number).limit(limit)
    return tuple(_entry(row) for row in connection.execute(query))


def about(connection: Connection, subjects: list[str]) -> tuple[AuditEntry, ...]:
    """Return the entries about any of some subjects, in order."""
    query = sa.select(AuditRow).where(AuditRow.subject.in_(subjects)).order_by(AuditRow.number)
    return tuple(_entry(row) for row in connection.execute(query))


def verify(connection: Connection, sealer: Sealer, noted: Mapping[int, str] | None = None) -> int:
    """Return the number of entries of a sound trail.

    Args:
        connection: whose transaction sees one state of all of it.
        sealer: of the store.
        noted: number to hash of entries that were written down elsewhere.

    Raises:
        StoreError: it is not sound; the message names the first broken entry.
    """
    head = connection.execute(sa.select(AuditHeadRow)).one_or_none()
    if head is None:
        raise StoreError("The audit trail is broken: the note of its end is gone.")
    number, last = 0, NOTHING
    wanted = dict(noted or {})
    for entry in _all(connection):
        if entry.number != number + 1:
            raise _broken(number + 1, "it is missing")
        if entry.previous != last:
            raise _broken(entry.number, "it does not follow the one before")
        if digest(entry) != entry.hash:
            raise _broken(entry.number, "it was changed")
        if wanted.pop(entry.number, entry.hash) != entry.hash:
            raise _broken(entry.number, "it is not the one that was noted")
        number, last = entry.number, entry.hash
    if wanted:
        raise _broken(min(wanted), "it was noted, but is missing")
    if head.number > number:
        raise _broken(number + 1, f"it is missing, and so are all up to {head.number}")
    if (head.number, head.hash) != (number, last):
        raise _broken(number, "it was added past the store, or the note of the end was changed")
    if sealer.has_key and (head.proof is None or sealer.open(head.proof, _head(number)) != last.encode()):
        raise _broken(number, "the note of the end was not written with the store's key")
    return number


def _all(connection: Connection) -> Iterator[AuditEntry]:
    after = 0
    while page := entries(connection, after=after):
        yield from page
        after = page[-1].number


def _entry(row: sa.Row[Any]) -> AuditEntry:
    try:
        detail = json.loads(row.detail)
    except ValueError:
        raise _broken(row.number, "its detail is not JSON") from None
    # The text as it stands is what was hashed.
    if not isinstance(detail, dict) or canonical(detail) != row.detail:
        raise _broken(row.number, "its detail was changed")
    return AuditEntry(row.number, row.at, row.actor, row.action, row.subject, detail, row.previous, row.hash)


def _broken(number: int, why: str) -> StoreError:
    return StoreError(f"The audit trail is broken at entry {number}: {why}. Compare with a backup.")


def _head(number: int) -> str:
    return f"audit_head {number}"
