"""Objects on the disk: under their content's hash, safe from a power cut before anybody is told that they are here."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import time
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from rentgen.errors import InputError, StoreError
from rentgen.gateway.intake import Taken, rewrite
from rentgen.gateway.nouns import Header
from rentgen.images.dicom import PATIENT_ID, read_text
from rentgen.store.gateway import Held, Queue

OBJECTS = "objects"
"""Folder in the spool for what was kept for good."""
_ASIDE = "gone-"
_BLOCK = 1 << 20
_ROOMS = ("stow-*", "pull-*")
"""Folders in the spool for what is on its way."""


class Spool:
    """A folder of files that are named by their SHA-256. Safe from any thread and process."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / OBJECTS
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for aside in self._folder.glob(f"{_ASIDE}*"):
            # Whoever swept here was killed.
            aside.replace(self._folder / aside.name.removeprefix(_ASIDE))

    def take(self, path: Path) -> str:
        """Return the SHA-256 of a file on the same disk, which was moved here and will survive a power cut.

        Raises:
            OSError: it cannot be kept.
        """
        with path.open("rb") as stream:
            found = hashlib.sha256()
            while block := stream.read(_BLOCK):
                found.update(block)
            os.fsync(stream.fileno())
        # The same content under the same name: what is there already is replaced by itself.
        path.replace(self.path(found.hexdigest()))
        sync_folder(self._folder)
        return found.hexdigest()

    def sweep(self, queue: Queue, *, older_s: float = 3600.0) -> int:
        """Return how many files were deleted that the queue does not want any more.

        What a killed process left of bodies on their way goes, too.

        Args:
            queue: that knows which are wanted.
            older_s: younger files are left alone: their rows may be on their way.
        """
        before = time.time() - older_s
        self._clear_rooms(before)
        old = {each.name for each in self._folder.iterdir() if each.stat().st_mtime < before}
        gone = old - queue.wanted(sorted(old))
        return sum(self._drop(self._folder / name, before) for name in gone)

    def _drop(self, path: Path, before: float) -> bool:
        """Return whether a file was deleted; not one that has come again since it was found old."""
        aside = path.with_name(f"{_ASIDE}{path.name}")
        # Looked at where nobody replaces it any more: its sender may have been told meanwhile that it is here.
        path.replace(aside)
        if aside.stat().st_mtime < before:
            aside.unlink()
            return True
        aside.replace(path)
        sync_folder(self._folder)
        return False

    def _clear_rooms(self, before: float) -> None:
        """Delete folders of bodies on their way whose process was killed."""
        for pattern in _ROOMS:
            for room in self._folder.parent.glob(pattern):
                # One in use may end meanwhile.
                with contextlib.suppress(FileNotFoundError):
                    if all(each.stat().st_mtime < before for each in (room, *room.iterdir())):
                        shutil.rmtree(room, ignore_errors=True)

    def path(self, content_hash: str) -> Path:
        """Return where an object is, or would be."""
        return self._folder / content_hash

    def read(self, content_hash: str) -> bytes:
        """Return an object's bytes.

        Raises:
            StoreError: it is gone, or is not what was kept.
        """
        try:
            data = self.path(content_hash).read_bytes()
        except OSError as error:
            raise StoreError(f"The spool cannot read an object ({error.strerror}). Check the disk.") from error
        if hashlib.sha256(data).hexdigest() != content_hash:
            raise StoreError("An object in the spool is damaged: its hash is another. Check the disk, send it again.")
        return data


class Reception:
    """What DIMSE, STOW and the reconciler hand objects to: the file into the spool, then its row into the queue."""

    def __init__(self, spool: Spool, queue: Queue) -> None:
        self._spool = spool
        self._queue = queue

    def receive(self, path: Path, header: Header, origin: str) -> Taken:
        """Keep an object for good, and return what became of it; see `intake.Intake`."""
        rewrite(path, header)
        content_hash = self._spool.take(path)
        told = {name: value for name, value in asdict(header).items() if value not in ("", None)}
        held = Held(header.sop_instance_uid, header.study_instance_uid, content_hash, origin, told)
        patient_id = _patient_id(self._spool.path(content_hash))
        return Taken(str(self._queue.receive(held, datetime.now(UTC), patient_id=patient_id)))

    def holds(self, sop_instance_uid: str) -> bool:
        """Return whether an object was kept for good."""
        return self._queue.holds(sop_instance_uid)


def _patient_id(path: Path) -> str | None:
    """Return whom an object shows; None where that cannot be read: a bad film is received, too."""
    try:
        return read_text(path, PATIENT_ID)
    except InputError:
        return None


def sync_folder(folder: Path) -> None:
    """Bring a folder's entries to the disk: a rename alone may be lost in a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
