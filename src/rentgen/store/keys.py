"""API keys: made once, shown once, kept as a hash."""

from __future__ import annotations

import hashlib
import secrets
from datetime import UTC, datetime, timedelta

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from rentgen.errors import SettingError, StoreError
from rentgen.records.studies import KeyInfo, Principal, Role
from rentgen.store.schema import KeyRow

PREFIX = "rk_"
LENGTH = len(PREFIX) + 43
MOST_DAYS = 36_500


def add(connection: Connection, name: str, role: Role, days: int | None) -> str:
    """Return a new key: 256 random bits, so that its bare SHA-256 cannot be guessed back.

    Args:
        connection: of the transaction.
        name: whom it is for; that of a revoked or expired key may be used again.
        role: what its bearer may do.
        days: how long it lives; None for ever.

    Raises:
        SettingError: the name or the days are not allowed.
        StoreError: there is a living key of that name.
    """
    if not (1 <= len(name) <= 100 and name.isprintable() and name == name.strip()):
        raise SettingError("Expected the name of a key to be 1 to 100 printable characters without blanks around it.")
    if days is not None and not 1 <= days <= MOST_DAYS:
        raise SettingError(f"Expected the days of a key to be in [1, {MOST_DAYS}], but got {days}.")
    now = datetime.now(UTC)
    plain = PREFIX + secrets.token_urlsafe(32)
    row = connection.execute(sa.select(KeyRow).where(KeyRow.name == name).with_for_update()).one_or_none()
    if row is not None and _lives(row.expires_at, row.revoked_at, now):
        raise StoreError(f"There is a key of {name} already. Revoke it first: rentgen keys revoke {name!r}")
    if row is not None:
        # That very one: another process may have given the name away meanwhile.
        connection.execute(sa.delete(KeyRow).where(KeyRow.hash == row.hash))
    connection.execute(
        sa.insert(KeyRow).values(
            name=name,
            hash=_hash(plain),
            role=str(role),
            created_at=now,
            expires_at=None if days is None else now + timedelta(days=days),
        )
    )
    return plain


def find(connection: Connection, plain: str) -> Principal | None:
    """Return whom a key was made for; None for one that is unknown, expired or revoked.

    It is looked up by its hash, so that the time taken says nothing of how much of a guess was right.
    """
    row = connection.execute(
        sa.select(KeyRow.name, KeyRow.role, KeyRow.expires_at, KeyRow.revoked_at).where(KeyRow.hash == _hash(plain))
    ).one_or_none()
    if row is None or not _lives(row.expires_at, row.revoked_at, datetime.now(UTC)):
        return None
    return Principal(row.name, Role(row.role))


def known(connection: Connection) -> tuple[KeyInfo, ...]:
    """Return what is known of all keys, by name."""
    return tuple(
        KeyInfo(row.name, Role(row.role), row.created_at, row.expires_at, row.revoked_at)
        for row in connection.execute(sa.select(KeyRow).order_by(KeyRow.name))
    )


def revoke(connection: Connection, name: str) -> None:
    """Refuse a key from now on.

    Raises:
        StoreError: there is none of that name, or it is revoked already.
    """
    changed = connection.execute(
        sa.update(KeyRow).where(KeyRow.name == name, KeyRow.revoked_at.is_(None)).values(revoked_at=datetime.now(UTC))
    )
    if changed.rowcount != 1:
        raise StoreError(f"There is no key of {name} to revoke. See: rentgen keys list")


def is_formed(plain: str) -> bool:
    """Return whether this can be a key at all; nothing else is looked up."""
    return len(plain) == LENGTH and plain.startswith(PREFIX) and plain.isascii()


def _lives(expires_at: datetime | None, revoked_at: datetime | None, now: datetime) -> bool:
    return revoked_at is None and (expires_at is None or now < expires_at)


def _hash(plain: str) -> str:
    return hashlib.sha256(plain.encode()).hexdigest()
