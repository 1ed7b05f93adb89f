"""The audit trail: numbered, chained, append-only, and broken where somebody tampered; on both databases."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import kept
import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st
from kept import ADMIN, KEY

from rentgen.errors import SettingError, StoreError
from rentgen.records.studies import AuditEntry, Principal, Role
from rentgen.store.audit import canonical
from rentgen.store.studies import Store


@pytest.fixture(params=kept.KINDS)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return kept.fresh(request, tmp_path)


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    opened = Store.open(url)
    yield opened
    opened.close()


def write(store: Store, count: int = 5) -> None:
    for number in range(count):
        store.audit(ADMIN, "study.view", f"study{number}", {"n": number})


def hash_by_hand(entry: AuditEntry) -> str:
    """Return an entry's hash as docs/store.md says that it is made."""
    text = json.dumps(
        {
            "action": entry.action,
            "actor": entry.actor,
            "at": entry.at.strftime("%Y-%m-%dT%H:%M:%S.%f+00:00"),
            "detail": entry.detail,
            "number": entry.number,
            "previous": entry.previous,
            "subject": entry.subject,
        },
        separators=(",", ":"),
    )
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def test_entries_are_numbered_and_chained(store: Store) -> None:
    assert store.verify_audit() == 0
    store.audit(Principal("Лікар\0\ud800", Role.READER), "study.view", "abc", {"b": [1, None, "ї"], "a": {"x": 0.1}})
    write(store, 3)
    entries = store.audit_entries()
    assert [entry.number for entry in entries] == [1, 2, 3, 4]
    assert entries[0].previous == "0" * 64
    assert [entry.previous for entry in entries[1:]] == [entry.hash for entry in entries[:-1]]
    assert entries[0].actor == "Лікар\ufffd?"
    assert entries[0].detail == {"b": [1, None, "ї"], "a": {"x": 0.1}}
    for entry in entries[1:]:
        assert entry.hash == hash_by_hand(entry)
    assert store.audit_entries(after=1, limit=2) == entries[1:3]
    assert store.verify_audit() == 4


def test_long_trails_are_read_in_pages(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rentgen.store.audit.PAGE", 3)
    write(store, 10)
    assert store.verify_audit() == 10


@pytest.mark.parametrize("action", ["", "Study.View", "study view", "a" * 65, "1a"])
def test_actions_are_words(store: Store, action: str) -> None:
    with pytest.raises(SettingError, match=r"such as study\.add"):
        store.audit(ADMIN, action, "s")


def test_details_are_plain_and_short(store: Store) -> None:
    for wrong in ({"a": object()}, {"a": float("nan")}):
        with pytest.raises(SettingError, match="plain JSON"):
            store.audit(ADMIN, "study.view", "s", wrong)
    with pytest.raises(SettingError, match="at most 10000"):
        store.audit(ADMIN, "study.view", "s", {"a": "x" * 10_000})
    assert store.verify_audit() == 0


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(st.text(), JSON, max_size=4))
def test_canonical_json_is_one_text(values: dict[str, object]) -> None:
    text = canonical(values)
    assert text.isascii()
    assert canonical(json.loads(text)) == text
    assert canonical(dict(reversed(values.items()))) == text


GUARDED = (
    "UPDATE audit SET actor = 'x' WHERE number = 2",
    "DELETE FROM audit WHERE number = 2",
    "DELETE FROM audit",
)


@pytest.mark.parametrize("statement", GUARDED)
def test_the_database_refuses_to_change_the_trail(store: Store, url: str, statement: str) -> None:
    write(store)
    with pytest.raises(sa.exc.DBAPIError, match="append-only"):
        kept.run(url, statement)
    assert store.verify_audit() == 5


def test_the_database_refuses_roundabout_ways(store: Store, url: str) -> None:
    write(store)
    ways = ["TRUNCATE audit"]
    if url.startswith("sqlite"):
        copy = "INTO audit SELECT * FROM audit WHERE number = 2"
        ways = [f"REPLACE {copy}", f"INSERT OR REPLACE {copy}"]
    for way in ways:
        with pytest.raises(sa.exc.DBAPIError, match="append-only"):
            kept.run(url, way)
    assert store.verify_audit() == 5


TAMPERED = {
    "actor": ("UPDATE audit SET actor = 'nobody' WHERE number = 3", "entry 3: it was changed"),
    "time": ("UPDATE audit SET at = '2020-01-01 00:00:00.000000' WHERE number = 3", "entry 3: it was changed"),
    "detail": ("UPDATE audit SET detail = '{\"n\"\\:7}' WHERE number = 3", "entry 3: it was changed"),
    "blank": ("UPDATE audit SET detail = '{\"n\": 2}' WHERE number = 3", "entry 3: its detail was changed"),
    "garbage": ("UPDATE audit SET detail = '{' WHERE number = 3", "entry 3: its detail is not JSON"),
    "hash": ("UPDATE audit SET hash = 'x' WHERE number = 3", "entry 3: it was changed"),
    "previous": ("UPDATE audit SET previous = 'x' WHERE number = 3", "entry 3: it does not follow"),
    "missing": ("DELETE FROM audit WHERE number = 3", "entry 3: it is missing"),
    "first": ("DELETE FROM audit WHERE number = 1", "entry 1: it is missing"),
    "end": ("DELETE FROM audit WHERE number > 3", "entry 4: it is missing, and so are all up to 5"),
    "all": ("DELETE FROM audit", "entry 1: it is missing, and so are all up to 5"),
    "renumbered": ("UPDATE audit SET number = 6 WHERE number = 5", "entry 5: it is missing"),
    "head": ("UPDATE audit_head SET hash = 'x'", "entry 5: it was added past the store"),
    "no head": ("DELETE FROM audit_head", "the note of its end is gone"),
}


@pytest.mark.parametrize("name", TAMPERED)
def test_tampering_is_found(store: Store, url: str, name: str) -> None:
    statement, found = TAMPERED[name]
    write(store)
    kept.unguard(url)
    kept.run(url, statement)
    with pytest.raises(StoreError, match=found):
        store.verify_audit()


def rewrite(store: Store, url: str, actor: str) -> None:
    """Write the trail anew from entry 3 on, hashes and all, as somebody with the database may."""
    entries = store.audit_entries()
    kept.unguard(url)
    previous = entries[1].hash
    for entry in entries[2:]:
        forged = AuditEntry(
            entry.number, entry.at, actor, entry.action, entry.subject, entry.detail, previous, entry.hash
        )
        previous = hash_by_hand(forged)
        kept.run(
            url,
            f"UPDATE audit SET actor = '{actor}', previous = '{forged.previous}', hash = '{previous}' "  # noqa: S608
            f"WHERE number = {entry.number}",
        )
    kept.run(url, f"UPDATE audit_head SET hash = '{previous}'")  # noqa: S608


def test_a_trail_written_anew_is_found_by_what_was_noted(store: Store, url: str) -> None:
    write(store)
    noted = {entry.number: entry.hash for entry in store.audit_entries()}
    assert store.verify_audit({2: noted[2], 5: noted[5]}) == 5
    rewrite(store, url, "nobody")
    # Without a key the hashes alone cannot tell.
    assert store.verify_audit({2: noted[2]}) == 5
    with pytest.raises(StoreError, match="entry 5: it is not the one that was noted"):
        store.verify_audit({5: noted[5]})
    with pytest.raises(StoreError, match="entry 9: it was noted, but is missing"):
        store.verify_audit({9: noted[5]})


def test_a_trail_written_anew_is_found_by_the_key(url: str) -> None:
    store = Store.open(url, key=KEY)
    write(store)
    assert store.verify_audit() == 5
    rewrite(store, url, "nobody")
    with pytest.raises(StoreError, match=r"audit_head 5 cannot be decrypted|not written with the store's key"):
        store.verify_audit()
    kept.run(url, "UPDATE audit_head SET proof = NULL")
    with pytest.raises(StoreError, match="entry 5: the note of the end was not written with the store's key"):
        store.verify_audit()
    store.close()


WRITER = """
import sys
from rentgen.records.studies import Principal, Role
from rentgen.store.studies import Store
url, name, count = sys.argv[1:]
store = Store.open(url)
for number in range(int(count)):
    store.audit(Principal(name, Role.ADMIN), "study.view", f"{number}")
store.close()
"""


def test_threads_and_processes_write_one_trail(url: str) -> None:
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, url, f"process {number}", "40"], stderr=subprocess.PIPE)
        for number in range(2)
    ]
    store = Store.open(url)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda number: store.audit(ADMIN, "study.view", f"thread {number}"), range(80)))
    for writer in writers:
        _, said = writer.communicate(timeout=60)
        assert writer.returncode == 0, said.decode()
    assert store.verify_audit() == 160
    entries = store.audit_entries()
    assert [entry.number for entry in entries] == list(range(1, 161))
    for number in range(2):
        mine = [entry.subject for entry in entries if entry.actor == f"process {number}"]
        assert mine == [str(turn) for turn in range(40)]
    store.close()
