"""Objects on the disk: under their content's hash, safe from a power cut before anybody is told that they are here."""

from __future__ import annotations

import hashlib
import os
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from rentgen.errors import StoreError
from rentgen.gateway.intake import Taken
from rentgen.gateway.nouns import Header
from rentgen.store.gateway import Held, Queue

OBJECTS = "objects"
"""Folder in the spool for what was kept for good."""
_BLOCK = 1 << 20


class Spool:
    """A folder of files that are named by their SHA-256. Safe from any thread and process."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / OBJECTS
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)

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
        content_hash = self._spool.take(path)
        told = {name: value for name, value in asdict(header).items() if value not in ("", None)}
        held = Held(header.sop_instance_uid, header.study_instance_uid, content_hash, origin, told)
        return Taken(str(self._queue.receive(held, datetime.now(UTC))))

    def holds(self, sop_instance_uid: str) -> bool:
        """Return whether an object was kept for good."""
        return self._queue.holds(sop_instance_uid)


def sync_folder(folder: Path) -> None:
    """Bring a folder's entries to the disk: a rename alone may be lost in a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
