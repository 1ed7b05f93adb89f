"""Encryption at rest, and what is left on the disk: looked for in the database's own files."""

from __future__ import annotations

import base64
import os
import sqlite3
import threading
from pathlib import Path

import kept
import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st
from kept import ADMIN, KEY, OTHER_KEY, PATIENT_ID, STUDY_UID, answer, film, sha

from rentgen.errors import SettingError, StoreError
from rentgen.store.sealing import Sealer
from rentgen.store.studies import Store

NAME, COMMENT = "Nobody-Ivan-Petrovych.dcm", "as her neighbour Olena said"
FILE = np.random.default_rng(1).bytes(20_000)


@pytest.fixture(params=kept.KINDS)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return kept.fresh(request, tmp_path)


def fill(store: Store) -> tuple[str, str]:
    """Return the image and the study of a film with everything that could tell of a patient."""
    image, _ = store.add_result(film(), answer(), content_hash=sha("film"), name=NAME, data=FILE, actor=ADMIN)
    store.add_feedback(image.image_id, prediction_id=None, agree=False, label="NORMAL", comment=COMMENT, actor=ADMIN)
    return image.image_id, image.study_id


def test_nothing_of_a_patient_is_readable(url: str, request: pytest.FixtureRequest) -> None:
    store = Store.open(url, key=KEY, keep_files=True)
    image_id, _ = fill(store)
    stands = kept.bytes_on_disk(url, request.config)
    # What is not secret is found, so the search works.
    assert stands(b"body_part_examined")
    assert stands(image_id.encode())
    for secret in (NAME, COMMENT, PATIENT_ID, STUDY_UID):
        assert not stands(secret.encode()), secret
    assert not stands(FILE[:64])
    assert not stands(FILE[-64:])
    assert not stands(base64.b64decode(KEY))
    assert store.file(image_id) == FILE
    store.close()


def test_without_a_key_names_are_readable_and_patients_are_not(url: str, request: pytest.FixtureRequest) -> None:
    store = Store.open(url)
    image_id, _ = fill(store)
    stands = kept.bytes_on_disk(url, request.config)
    assert stands(NAME.encode())
    assert stands(COMMENT.encode())
    for secret in (PATIENT_ID, STUDY_UID):
        assert not stands(secret.encode()), secret
    assert not stands(FILE[:64])
    assert store.file(image_id) is None
    store.close()


def test_deletion_leaves_no_bytes(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    url = f"sqlite:///{tmp_path / 'kept' / 'rentgen.db'}"
    # Readable, so that what is left of it could be found.
    store = Store.open(url)
    image_id, study_id = fill(store)
    prediction = b"a reason"
    before = kept.bytes_on_disk(url, request.config)
    for there in (NAME.encode(), COMMENT.encode(), prediction, sha("film").encode()):
        assert before(there)
    store.delete_study(study_id, actor=ADMIN)
    after = kept.bytes_on_disk(url, request.config)
    for gone in (NAME.encode(), COMMENT.encode(), prediction, sha("film").encode()):
        assert not after(gone)
    assert after(image_id.encode()), "the trail stays"
    store.close()


def test_a_deleted_film_leaves_no_bytes(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    url = f"sqlite:///{tmp_path / 'kept' / 'rentgen.db'}"
    store = Store.open(url, key=KEY, keep_files=True)
    _, study_id = fill(store)
    (sealed,) = kept.run(url, "SELECT data FROM files")[0]
    # Not the first bytes: a page of SQLite holds the beginning together with other values.
    parts = [sealed[at : at + 64] for at in range(100, len(sealed) - 64, 3000)]
    before = kept.bytes_on_disk(url, request.config)
    assert all(before(part) for part in parts)
    store.delete_study(study_id, actor=ADMIN)
    after = kept.bytes_on_disk(url, request.config)
    assert not any(after(part) for part in parts)
    store.close()


def test_deletion_does_not_wait_for_readers(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    path = tmp_path / "kept" / "rentgen.db"
    url = f"sqlite:///{path}"
    store = Store.open(url)
    _, study_id = fill(store)
    reader = sqlite3.connect(path, isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM studies").fetchall()
    done = threading.Event()

    def delete() -> None:
        store.delete_study(study_id, actor=ADMIN)
        done.set()

    thread = threading.Thread(target=delete)
    thread.start()
    thread.join(10)
    assert done.is_set()
    reader.close()
    # What a reader held back goes with the next deletion, or when the store is closed.
    store.close()
    assert not kept.bytes_on_disk(url, request.config)(NAME.encode())


def test_the_wrong_key_is_seen_at_once(url: str) -> None:
    store = Store.open(url, key=KEY)
    fill(store)
    store.close()
    with pytest.raises(StoreError, match=r"does not open this store: it was encrypted with another\. Set RENTGEN_KEY"):
        Store.open(url, key=OTHER_KEY)
    with pytest.raises(StoreError, match=r"encrypted, but no key was given\. Set RENTGEN_KEY"):
        Store.open(url)
    again = Store.open(url, key=KEY.replace("+", "-"))
    assert again.verify_audit() == 3
    again.close()


@pytest.mark.parametrize("key", ["", "short", "x" * 43, base64.b64encode(b"x" * 31).decode(), "ї" * 44, KEY + KEY])
def test_keys_of_another_form(tmp_path: Path, key: str) -> None:
    with pytest.raises(SettingError, match=r"base64 of 32 bytes\. Make one with: openssl") as caught:
        Store.open(f"sqlite:///{tmp_path / 'a.db'}", key=key)
    assert not key or key not in str(caught.value)


def test_films_are_not_kept_without_a_key(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="keep_files needs a key"):
        Store.open(f"sqlite:///{tmp_path / 'a.db'}", keep_files=True)
    assert not (tmp_path / "a.db").exists()


def test_a_store_that_gets_a_key_is_encrypted(url: str, request: pytest.FixtureRequest) -> None:
    plain = Store.open(url)
    image_id, study_id = fill(plain)
    names = plain.ids_for(sha("film"), STUDY_UID)
    plain.close()
    store = Store.open(url, key=KEY)
    assert store.ids_for(sha("film"), STUDY_UID) == names
    image, study = store.image(image_id), store.study(study_id)
    assert image is not None
    assert study is not None
    assert (image.name, study.feedback[0].comment) == (NAME, COMMENT)
    assert store.verify_audit() == 3
    assert store.patient_studies(PATIENT_ID) == (study_id,)
    store.close()
    if url.startswith("sqlite"):
        stands = kept.bytes_on_disk(url, request.config)
        assert not stands(NAME.encode())
        assert not stands(COMMENT.encode())
    with pytest.raises(StoreError, match="no key was given"):
        Store.open(url)


def test_the_key_can_be_changed(url: str) -> None:
    store = Store.open(url, key=KEY, keep_files=True)
    image_id, study_id = fill(store)
    store.close()
    Store.change_key(url, old=KEY, new=OTHER_KEY, actor=ADMIN)
    with pytest.raises(StoreError, match="does not open this store"):
        Store.open(url, key=KEY)
    again = Store.open(url, key=OTHER_KEY)
    image, study = again.image(image_id), again.study(study_id)
    assert image is not None
    assert study is not None
    assert (image.name, study.feedback[0].comment, again.file(image_id)) == (NAME, COMMENT, FILE)
    assert again.verify_audit() == 4
    assert again.audit_entries()[-1].action == "store.rekey"
    again.close()


def test_values_cannot_be_moved_or_put_in(url: str) -> None:
    store = Store.open(url, key=KEY, keep_files=True)
    one = kept.add(store, "one", data=b"one")
    two = kept.add(store, "two", data=b"two")
    kept.run(
        url,
        f"UPDATE files SET data = (SELECT data FROM files WHERE image_id = '{one.image_id}') "  # noqa: S608
        f"WHERE image_id = '{two.image_id}'",
    )
    assert store.file(one.image_id) == b"one"
    with pytest.raises(StoreError, match=r"files\.data .* cannot be decrypted: it was changed or moved"):
        store.file(two.image_id)
    readable = "X'00616263'" if url.startswith("sqlite") else r"'\x00616263'"
    kept.run(url, f"UPDATE images SET name = {readable} WHERE id = '{one.image_id}'")  # noqa: S608
    with pytest.raises(StoreError, match=r"Expected images\.name .* to be encrypted, but it is not"):
        store.image(one.image_id)
    store.close()


@given(st.binary(max_size=200), st.text(max_size=40))
def test_sealing_is_aes_gcm_and_leads_back(value: bytes, row: str) -> None:
    raw = base64.b64decode(KEY)
    sealer = Sealer.from_text(KEY)
    row = row.encode("utf-8", "replace").decode()
    sealed = sealer.seal(value, row)
    assert sealer.open(sealed, row) == value
    assert AESGCM(raw).decrypt(sealed[1:13], sealed[13:], row.encode()) == value
    assert sealer.seal(value, row) != sealed
    assert Sealer(None).open(Sealer(None).seal(value, row), row) == value


@given(st.binary(max_size=40), st.binary(max_size=60))
def test_what_was_not_sealed_is_not_opened(value: bytes, made_up: bytes) -> None:
    sealer = Sealer.from_text(KEY)
    sealed = bytearray(sealer.seal(value, "row"))
    sealed[-1] ^= 1
    for wrong in (bytes(sealed), bytes(sealed[:5]), made_up, b"\1" + made_up, b""):
        with pytest.raises(StoreError, match=r"cannot be decrypted|to be encrypted, but it is not"):
            sealer.open(wrong, "row")


def test_keys_do_not_show() -> None:
    raw = os.urandom(32)
    for sealer in (Sealer(raw), Sealer(None)):
        assert raw.hex() not in repr(sealer)
    assert repr(Sealer(raw)) == "Sealer(with a key)"
