"""API keys: shown once, kept as a hash, refused when their time is over; on both databases."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import kept
import pytest
from kept import ADMIN

from rentgen.errors import SettingError, StoreError
from rentgen.records.studies import Principal, Role
from rentgen.store.studies import Store


@pytest.fixture(params=kept.KINDS)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return kept.fresh(request, tmp_path)


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    opened = Store.open(url)
    yield opened
    opened.close()


def test_a_key_names_its_bearer(store: Store, url: str) -> None:
    key = store.add_key("Dr. Who", Role.PHYSICIAN, days=None, actor=ADMIN)
    assert re.fullmatch(r"rk_[A-Za-z0-9_-]{43}", key)
    assert store.find_key(key) == Principal("Dr. Who", Role.PHYSICIAN)
    assert kept.run(url, "SELECT hash FROM api_keys") == [(hashlib.sha256(key.encode()).hexdigest(),)]
    (known,) = store.keys()
    assert (known.name, known.role, known.expires_at, known.revoked_at) == ("Dr. Who", Role.PHYSICIAN, None, None)
    assert key not in repr(store.keys()) + repr(store.audit_entries())
    (entry,) = store.audit_entries()
    assert (entry.action, entry.subject, entry.detail) == ("key.add", "Dr. Who", {"role": "physician", "days": None})


@pytest.mark.parametrize("plain", ["", "rk_", "x" * 46, "rk_" + "x" * 43, "rk_" + "ї" * 43, "rk_" + "x" * 10**6, "\0"])
def test_other_words_are_no_keys(store: Store, plain: str) -> None:
    store.add_key("somebody", Role.ADMIN, days=None, actor=ADMIN)
    assert store.find_key(plain) is None


def test_keys_end(store: Store, url: str) -> None:
    key = store.add_key("guest", Role.READER, days=2, actor=ADMIN)
    (known,) = store.keys()
    assert known.expires_at is not None
    assert abs(known.expires_at - datetime.now(UTC) - timedelta(days=2)) < timedelta(minutes=1)
    assert store.find_key(key) == Principal("guest", Role.READER)
    past = (datetime.now(UTC) - timedelta(seconds=1)).strftime("%Y-%m-%d %H:%M:%S.%f")
    kept.run(url, f"UPDATE api_keys SET expires_at = '{past}'")  # noqa: S608
    assert store.find_key(key) is None
    assert store.find_key(store.add_key("guest", Role.READER, days=1, actor=ADMIN)) is not None


def test_revoked_keys_are_refused_at_once(store: Store, url: str) -> None:
    key = store.add_key("guest", Role.READER, days=None, actor=ADMIN)
    other = Store.open(url)
    assert other.find_key(key) is not None
    with pytest.raises(StoreError, match=r"There is a key of guest already\. Revoke it first"):
        store.add_key("guest", Role.ADMIN, days=None, actor=ADMIN)
    store.revoke_key("guest", actor=ADMIN)
    assert other.find_key(key) is None
    other.close()
    with pytest.raises(StoreError, match="no key of guest to revoke"):
        store.revoke_key("guest", actor=ADMIN)
    fresh = store.add_key("guest", Role.ADMIN, days=None, actor=ADMIN)
    assert fresh != key
    assert store.find_key(key) is None
    assert store.find_key(fresh) == Principal("guest", Role.ADMIN)
    assert [entry.action for entry in store.audit_entries()] == ["key.add", "key.revoke", "key.add"]


@pytest.mark.parametrize("name", ["", " a", "a\n", "x" * 101, "a\0"])
def test_names_of_keys(store: Store, name: str) -> None:
    with pytest.raises(SettingError, match="1 to 100 printable"):
        store.add_key(name, Role.READER, days=None, actor=ADMIN)


@pytest.mark.parametrize("days", [0, -1, 36_501])
def test_days_of_keys(store: Store, days: int) -> None:
    with pytest.raises(SettingError, match="days of a key"):
        store.add_key("a", Role.READER, days=days, actor=ADMIN)


def test_one_name_is_given_once(store: Store) -> None:
    def ask(_: int) -> str | None:
        try:
            return store.add_key("guest", Role.READER, days=None, actor=ADMIN)
        except StoreError:
            return None

    with ThreadPoolExecutor(4) as pool:
        given = [key for key in pool.map(ask, range(4)) if key is not None]
    assert len(given) == 1
    assert store.find_key(given[0]) is not None
    assert store.verify_audit() == 1
