"""What makes a store itself: the secret of its hashes, and the check that its key is the right one."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from rentgen.errors import StoreError
from rentgen.store import audit
from rentgen.store.database import Database
from rentgen.store.gateway_rows import answer_place, document_place
from rentgen.store.gateway_schema import AnswerRow, BatchRow, DocumentRow
from rentgen.store.schema import AuditHeadRow, FactRow, FeedbackRow, FileRow, ImageRow
from rentgen.store.sealing import Sealer

SECRET, CHECK = "facts secret", "facts key_check"
_KNOWN = b"rentgen"
_PAGE = 500


class Names:
    """Opaque names by keyed hash (HMAC-SHA256): the same for the same thing in one store, and never in two."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def __repr__(self) -> str:
        return "Names()"

    def of(self, kind: str, value: str) -> str:
        """Return 26 characters of a to z and 2 to 7 that stand for a value of a kind; 128 bits."""
        whole = hmac.digest(self._secret, f"{kind}\0{value}".encode("utf-8", "surrogatepass"), hashlib.sha256)
        return base64.b32encode(whole[:16]).decode().rstrip("=").lower()

    def of_study(self, study_instance_uid: str) -> str:
        """Return the name of a DICOM study."""
        return self.of("study uid", study_instance_uid)

    def of_patient(self, patient_id: str | None) -> str | None:
        """Return the name of a patient; None where the PatientID is empty. PS3.5, LO: blanks around it mean nothing."""
        told = (patient_id or "").strip()
        return self.of("patient", told) if told else None


def random_name() -> str:
    """Return 26 characters that nobody can guess; 128 bits."""
    return base64.b32encode(secrets.token_bytes(16)).decode().rstrip("=").lower()


def unlock(database: Database, sealer: Sealer) -> Names:
    """Return the store's names; a new store gets its secret, and one without a key that is now given one is encrypted.

    Raises:
        StoreError: the key is missing or another.
    """
    with database.reading() as connection:
        facts = _facts(connection)
    if not facts or (sealer.has_key and CHECK not in facts):
        with database.alone() as connection:
            # Another process may have been first.
            facts = _facts(connection)
            if not facts:
                _write(connection, sealer, secrets.token_bytes(32))
            elif sealer.has_key and CHECK not in facts:
                reseal(connection, Sealer(None), sealer)
            facts = _facts(connection)
        database.forget()
    names = Names(_secret(facts, sealer))
    _name_batches(database, names)
    return names


def reseal(connection: Connection, old: Sealer, new: Sealer) -> None:
    """Write everything that is encrypted, or shall be, with another key."""
    for table, column, what in (
        (ImageRow, ImageRow.name, "images.name"),
        (FeedbackRow, FeedbackRow.comment, "feedback.comment"),
        (FeedbackRow, FeedbackRow.findings, "feedback.findings"),
    ):
        after = 0
        some = sa.select(table.number, table.id, column.label("kept")).where(column.is_not(None))
        query = some.order_by(table.number).limit(_PAGE)
        while rows := connection.execute(query.where(table.number > after)).all():
            for row in rows:
                told = f"{what} {row.id}"
                sealed = new.seal(old.open(row.kept, told), told)
                connection.execute(sa.update(table).where(table.id == row.id).values({column.key: sealed}))
            after = rows[-1].number
    for image_id in connection.scalars(sa.select(FileRow.image_id)).all():
        told = f"files.data {image_id}"
        kept = connection.scalars(sa.select(FileRow.data).where(FileRow.image_id == image_id)).one()
        sealed = new.seal(old.open(kept, told), told)
        connection.execute(sa.update(FileRow).where(FileRow.image_id == image_id).values(data=sealed))
    _reseal_gateway(connection, old, new)
    _write(connection, new, _secret(_facts(connection), old))


def _reseal_gateway(connection: Connection, old: Sealer, new: Sealer) -> None:
    """Write what is under way with another key, one by one: a document may be large."""
    for uid in connection.scalars(sa.select(AnswerRow.sop_uid)).all():
        place, mine = answer_place(uid), AnswerRow.sop_uid == uid
        kept = connection.scalars(sa.select(AnswerRow.content).where(mine)).one()
        sealed = new.seal(old.open(kept, place), place)
        connection.execute(sa.update(AnswerRow).where(mine).values(content=sealed))
    key = (DocumentRow.batch_id, DocumentRow.destination, DocumentRow.number)
    for batch_id, destination, number in connection.execute(sa.select(*key)).all():
        place = document_place(batch_id, destination, number)
        this = sa.and_(key[0] == batch_id, key[1] == destination, key[2] == number)
        kept = connection.scalars(sa.select(DocumentRow.content).where(this)).one()
        sealed = new.seal(old.open(kept, place), place)
        connection.execute(sa.update(DocumentRow).where(this).values(content=sealed))


def _name_batches(database: Database, names: Names) -> None:
    """Name the studies of the gateway's batches that an older version has left."""
    nameless = sa.select(BatchRow.id, BatchRow.study_uid).where(BatchRow.study_id.is_(None))
    with database.reading() as connection:
        if connection.execute(nameless.limit(1)).one_or_none() is None:
            return
    with database.writing() as connection:
        for batch_id, uid in connection.execute(nameless.order_by(BatchRow.id).with_for_update()).all():
            values = {"study_id": names.of_study(uid)}
            connection.execute(sa.update(BatchRow).where(BatchRow.id == batch_id).values(**values))


def _write(connection: Connection, sealer: Sealer, secret: bytes) -> None:
    connection.execute(sa.delete(FactRow))
    connection.execute(sa.insert(FactRow).values(name=SECRET, value=sealer.seal(secret, SECRET)))
    if sealer.has_key:
        connection.execute(sa.insert(FactRow).values(name=CHECK, value=sealer.seal(_KNOWN, CHECK)))
    head = connection.execute(sa.select(AuditHeadRow).with_for_update()).one()
    audit.move_head(connection, sealer, head.number, head.hash)


def _facts(connection: Connection) -> dict[str, bytes]:
    return {row.name: row.value for row in connection.execute(sa.select(FactRow))}


def _secret(facts: dict[str, bytes], sealer: Sealer) -> bytes:
    if CHECK in facts and not sealer.has_key:
        raise StoreError("The store is encrypted, but no key was given. Set RENTGEN_KEY to the store's key.")
    if CHECK in facts:
        try:
            sealer.open(facts[CHECK], CHECK)
        except StoreError as error:
            raise StoreError(
                "The key does not open this store: it was encrypted with another. Set RENTGEN_KEY to that one; "
                "without it names, comments and films cannot be read by anyone."
            ) from error
    return sealer.open(facts[SECRET], SECRET)
