"""The store: studies, results and feedback in, what is known of them out; each change with its line in the trail."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Self

import sqlalchemy as sa

from rentgen.errors import SettingError, StoreError
from rentgen.records import Radiograph
from rentgen.records.studies import (
    AuditEntry,
    Feedback,
    KeyInfo,
    Principal,
    Role,
    StoredImage,
    StoredPrediction,
    Study,
)
from rentgen.store import audit, erasure, export, identity, intake, keys, worklist
from rentgen.store.database import Database
from rentgen.store.intake import Arrival
from rentgen.store.rows import to_image
from rentgen.store.schema import FileRow, ImageRow, StudyRow
from rentgen.store.sealing import Sealer


class Store:
    """What is kept. Any number of threads and processes may use one at the same time.

    Every method raises StoreError where the database fails or does not hold what it should, and nothing foreign.
    """

    def __init__(self, database: Database, sealer: Sealer, names: identity.Names, *, keep_files: bool) -> None:
        self._database = database
        self._sealer = sealer
        self._names = names
        self._keep_files = keep_files

    @classmethod
    def open(cls, url: str, *, key: str | None = None, keep_files: bool = False) -> Self:
        """Return a store that is ready; where there is none yet, or an older one, its tables are made or brought up.

        Args:
            url: `sqlite:///FILE` or `postgresql+psycopg://USER:PASSWORD@HOST/NAME`.
            key: base64 of 32 bytes: films, names of files and comments are encrypted with it.
            keep_files: keep the films' bytes, too; only with a key.

        Raises:
            SettingError: the URL or the key is not of that form, or films shall be kept without a key.
            StoreError: the database does not answer, is of a newer version, or has another key.
        """
        sealer = Sealer.from_text(key)
        if keep_files and not sealer.has_key:
            raise SettingError("keep_files needs a key (32 bytes, base64): films are encrypted at rest.")
        database = Database.open(url)
        try:
            names = identity.unlock(database, sealer)
        except BaseException:
            database.close()
            raise
        return cls(database, sealer, names, keep_files=keep_files)

    @classmethod
    def change_key(cls, url: str, *, old: str, new: str, actor: Principal) -> None:
        """Encrypt a store with another key, all of it or nothing; no other process may have it open.

        Args:
            url: as for `open`.
            old: the key that it has, base64 of 32 bytes.
            new: the key that it shall have, likewise.
            actor: who wants it.
        """
        fresh = Sealer.from_text(new)
        store = cls.open(url, key=old)
        try:
            with store._database.alone() as connection:
                identity.reseal(connection, store._sealer, fresh)
                audit.append(connection, fresh, actor, "store.rekey", "store")
            store._database.forget()
        finally:
            store.close()

    def __repr__(self) -> str:
        return f"Store({self._database!r}, {self._sealer!r})"

    def close(self) -> None:
        """Let the database go."""
        self._database.close()

    def check(self) -> None:
        """Ask the database something small."""
        with self._database.reading() as connection:
            connection.execute(sa.select(StudyRow.id).limit(1)).all()

    def ids_for(self, content_hash: str, study_instance_uid: str | None) -> tuple[str, str]:
        """Return the image's and the study's name: the same in this store for the same film, and nothing elsewhere.

        Args:
            content_hash: SHA-256 of the file's bytes.
            study_instance_uid: of the DICOM study; None makes a study of the film alone.
        """
        image_id = self._names.of("image", content_hash)
        uid = study_instance_uid
        return image_id, self._names.of("study", content_hash) if not uid else self._names.of_study(uid)

    # -- in ------------------------------------------------------------------------------------------------------------

    def add_image(
        self, film: Radiograph | None, *, content_hash: str, name: str, data: bytes | None, actor: Principal
    ) -> StoredImage:
        """Return the film as it is kept; the same bytes a second time change nothing.

        Args:
            film: None for a file that could not be read.
            content_hash: SHA-256 of the file's bytes.
            name: of the file.
            data: the file's bytes, kept where the store keeps files.
            actor: who brings it.
        """
        arrival = self._arrival(film, content_hash, name, data)
        with self._database.writing() as connection:
            return intake.add_image(connection, self._sealer, arrival, actor)

    def add_prediction(self, image_id: str, prediction: StoredPrediction, *, actor: Principal) -> StoredPrediction:
        """Return the prediction as it is kept: where the bundle has spoken of the film already, what it said then.

        Args:
            image_id: of the film; takes the place of the prediction's own.
            prediction: a name is made where its own is empty.
            actor: who brings it.
        """
        with self._database.writing() as connection:
            return intake.add_prediction(connection, self._sealer, replace(prediction, image_id=image_id), actor)

    def add_result(
        self,
        film: Radiograph | None,
        prediction: StoredPrediction,
        *,
        content_hash: str,
        name: str,
        data: bytes | None,
        actor: Principal,
    ) -> tuple[StoredImage, StoredPrediction]:
        """Return the film and the prediction as they are kept: both, or neither; quicker than one by one."""
        arrival = self._arrival(film, content_hash, name, data)
        prediction = replace(prediction, image_id=arrival.image_id)
        with self._database.writing() as connection:
            image = intake.add_image(connection, self._sealer, arrival, actor)
            return image, intake.add_prediction(connection, self._sealer, prediction, actor)

    def mark_read(self, study_id: str, *, read: bool, actor: Principal) -> None:
        """Take a study off the list of those that wait, or put it back."""
        with self._database.writing() as connection:
            intake.mark_read(connection, self._sealer, study_id, read, actor)

    def add_feedback(
        self,
        image_id: str,
        *,
        prediction_id: str | None,
        agree: bool,
        label: str | None,
        comment: str,
        actor: Principal,
        findings: Mapping[str, bool] | None = None,
    ) -> Feedback:
        """Return what a physician said, as it is kept; the study counts as read.

        Args:
            image_id: of the film.
            prediction_id: that it judges.
            agree: whether the prediction's class is right.
            label: the right class; where agreed and left out, the prediction's.
            comment: free words.
            actor: who says it.
            findings: of several, instead of a class: each that is present, or absent.

        Raises:
            SettingError: a text is too long, or both a class and findings are said.
        """
        feedback = Feedback(
            feedback_id=identity.random_name(),
            image_id=image_id,
            prediction_id=prediction_id,
            agree=agree,
            label=label,
            comment=comment,
            actor=actor.name[:200],
            created_at=datetime.now(UTC),
            findings=findings,
        )
        with self._database.writing() as connection:
            return intake.add_feedback(connection, self._sealer, feedback, actor)

    # -- out -----------------------------------------------------------------------------------------------------------

    def image(self, image_id: str) -> StoredImage | None:
        """Return a film without its pixels; None where there is none."""
        with self._database.reading() as connection:
            row = connection.execute(sa.select(ImageRow).where(ImageRow.id == image_id)).one_or_none()
        return None if row is None else to_image(row, self._sealer)

    def file(self, image_id: str) -> bytes | None:
        """Return a film's file; None where it is not kept."""
        with self._database.reading() as connection:
            kept = connection.scalars(sa.select(FileRow.data).where(FileRow.image_id == image_id)).one_or_none()
        return None if kept is None else self._sealer.open(kept, f"files.data {image_id}")

    def find_prediction(self, image_id: str, bundle_id: str) -> StoredPrediction | None:
        """Return what a bundle said of a film; None where it has not spoken."""
        with self._database.reading() as connection:
            return intake.find_prediction(connection, image_id, bundle_id)

    def study(self, study_id: str) -> Study | None:
        """Return a study; None where there is none."""
        with self._database.reading() as connection:
            rows = connection.execute(sa.select(StudyRow).where(StudyRow.id == study_id)).all()
            return next(iter(worklist.assemble(connection, self._sealer, rows)), None)

    def worklist(
        self, *, waiting: bool | None = True, limit: int = 50, cursor: str | None = None
    ) -> tuple[tuple[Study, ...], str | None]:
        """Return studies in the order in which they should be read, and the cursor of the next page; None at the end.

        Those that wait come first, then the more urgent, then the higher score, then the older. A study that changes
        its place while pages are turned may be seen twice or not at all.

        Args:
            waiting: only those that wait, only those read, or, for None, all.
            limit: most studies of a page, in [1, 500].
            cursor: that came with the page before.

        Raises:
            SettingError: the limit or the cursor is not allowed.
        """
        with self._database.reading() as connection:
            rows, following = worklist.page(connection, waiting=waiting, limit=limit, cursor=cursor)
            return worklist.assemble(connection, self._sealer, rows), following

    def all_feedback(self) -> Iterator[tuple[StoredImage, StoredPrediction | None, Feedback]]:
        """Yield each film that was judged, the prediction judged, and the newest judgement, in the order of these."""
        after = 0
        while True:
            with self._database.reading() as connection:
                # Page by page, so that no reader holds the database while its caller packs films.
                last, found = export.feedback_page(connection, self._sealer, after)
            yield from found
            if last is None:
                return
            after = last

    def export_study(self, study_id: str, *, actor: Principal, files: bool = True) -> dict[str, Any]:
        """Return all that is known of a study as plain JSON values; docs/store.md names them.

        Args:
            study_id: of the study.
            actor: who asks; goes into the trail.
            files: with the bytes, base64, of films, where they are kept, and of the gateway's documents.

        Raises:
            StoreError: neither the store nor the gateway has the study.
        """
        with self._database.writing() as connection:
            rows = connection.execute(sa.select(StudyRow).where(StudyRow.id == study_id).with_for_update()).all()
            gateway = export.gateway(connection, self._sealer, study_id, files=files)
            if not rows and not any(gateway.values()):
                raise StoreError(f"There is no study {study_id}; it may have been deleted.")
            audit.append(connection, self._sealer, actor, "study.export", study_id)
            study = next(iter(worklist.assemble(connection, self._sealer, rows)), None)
            images = () if study is None else study.images
            told = export.plain(study_id, study, audit.about(connection, [study_id, *(i.image_id for i in images)]))
            told["gateway"] = gateway
        if files:
            for image in told["images"]:
                image["file"] = export.base64_of(self.file(image["image_id"]))
        return told

    # -- away ----------------------------------------------------------------------------------------------------------

    def delete_study(self, study_id: str, *, actor: Principal) -> None:
        """Delete a study with its films, predictions and feedback, also what the gateway has; its trail stays."""
        with self._database.writing() as connection:
            gone = erasure.delete(connection, study_id, must=True)
            detail = {"why": "told to"} | gone.detail()
            audit.append(connection, self._sealer, actor, "study.delete", study_id, detail)
        self._database.forget()

    def patient_studies(self, patient_id: str) -> tuple[str, ...]:
        """Return the studies with a film of a patient, in the order of arrival, then those only the gateway has."""
        with self._database.reading() as connection:
            return erasure.of_patient(connection, self._names.of_patient(patient_id))

    def delete_patient(self, patient_id: str, *, actor: Principal) -> int:
        """Return how many studies were deleted: all with a film whose PatientID it was."""
        why = {"why": "the patient's request"}
        count = self._delete_all(self.patient_studies(patient_id), actor, why)
        with self._database.writing() as connection:
            aside = erasure.forget_conflicts(connection, self._names.of_patient(patient_id))
            if aside:
                audit.append(connection, self._sealer, actor, "gateway.forget", "gateway", why | {"conflicts": aside})
        if aside:
            self._database.forget()
        return count

    def sweep(self, keep_days: int, *, actor: Principal) -> int:
        """Return how many studies were deleted: all that came more than so many days ago, also the gateway's.

        Raises:
            SettingError: the days are fewer than one.
        """
        if not 1 <= keep_days <= keys.MOST_DAYS:
            raise SettingError(f"Expected keep_days in [1, {keys.MOST_DAYS}], but got {keep_days}.")
        limit = datetime.now(UTC) - timedelta(days=keep_days)
        with self._database.reading() as connection:
            old = erasure.older_than(connection, limit)
        return self._delete_all(old, actor, {"why": "retention", "keep_days": keep_days}, limit)

    def _delete_all(
        self, study_ids: tuple[str, ...], actor: Principal, why: dict[str, Any], before: datetime | None = None
    ) -> int:
        count = 0
        for study_id in study_ids:
            # A short transaction for each, so that films keep coming in meanwhile.
            with self._database.writing() as connection:
                if gone := erasure.delete(connection, study_id, before=before):
                    audit.append(connection, self._sealer, actor, "study.delete", study_id, why | gone.detail())
                    count += 1
        if count:
            self._database.forget()
        return count

    # -- the trail and the keys ----------------------------------------------------------------------------------------

    def audit(self, actor: Principal, action: str, subject: str, detail: Mapping[str, Any] | None = None) -> None:
        """Add a line to the audit trail; neither subject nor detail may name a patient."""
        with self._database.writing() as connection:
            audit.append(connection, self._sealer, actor, action, subject, detail)

    def audit_entries(self, *, after: int = 0, limit: int = 1000) -> tuple[AuditEntry, ...]:
        """Return lines of the trail in order, from the one behind number `after` on."""
        with self._database.reading() as connection:
            return audit.entries(connection, after=after, limit=limit)

    def verify_audit(self, noted: Mapping[int, str] | None = None) -> int:
        """Return the number of lines of a sound trail.

        Args:
            noted: number to hash of lines that were written down elsewhere.

        Raises:
            StoreError: it is not sound; the message names the first broken line.
        """
        with self._database.snapshot() as connection:
            return audit.verify(connection, self._sealer, noted)

    def add_key(self, name: str, role: Role, *, days: int | None, actor: Principal) -> str:
        """Return a new API key, which only its SHA-256 will be known of; see `keys.add`."""
        with self._database.writing() as connection:
            plain = keys.add(connection, name, role, days)
            audit.append(connection, self._sealer, actor, "key.add", name, {"role": str(role), "days": days})
            return plain

    def find_key(self, plain: str) -> Principal | None:
        """Return whom an API key was made for; None for one that is unknown, expired or revoked."""
        if not keys.is_formed(plain):
            return None
        with self._database.reading() as connection:
            return keys.find(connection, plain)

    def keys(self) -> tuple[KeyInfo, ...]:
        """Return what is known of all API keys, by name."""
        with self._database.reading() as connection:
            return keys.known(connection)

    def revoke_key(self, name: str, *, actor: Principal) -> None:
        """Refuse an API key from now on."""
        with self._database.writing() as connection:
            keys.revoke(connection, name)
            audit.append(connection, self._sealer, actor, "key.revoke", name)

    def _arrival(self, film: Radiograph | None, content_hash: str, name: str, data: bytes | None) -> Arrival:
        image_id, study_id = self.ids_for(content_hash, None if film is None else film.study_instance_uid)
        return Arrival(
            image_id=image_id,
            study_id=study_id,
            content_hash=content_hash,
            film=film,
            name=name,
            patient=None if film is None else self._names.of_patient(film.patient_id),
            data=data if self._keep_files else None,
        )
