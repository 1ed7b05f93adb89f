"""Files in Google Cloud Storage, where a bucket is not mounted: fetched within limits, put back, kept in step."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from rentgen.errors import MissingExtraError, PeerError, SettingError

if TYPE_CHECKING:
    from google.cloud.storage import Client

logger = logging.getLogger(__name__)

TIMEOUT_S = 60.0
MAX_OBJECTS = 1_000_000
MIRROR_S = 60.0
"""What a machine that is taken away can cost, besides what training itself had not yet written."""


def connect() -> Client:
    """Return a client with the machine's own credentials.

    Raises:
        MissingExtraError: google-cloud-storage is not installed.
        PeerError: there are no credentials.
    """
    try:
        from google.cloud import storage
    except ImportError as error:
        raise MissingExtraError("google-cloud-storage", "gcp", "a gs:// place") from error
    with translated("Cloud Storage"):
        return storage.Client()


@contextlib.contextmanager
def translated(what: str) -> Iterator[None]:
    """Turn what Google's libraries raise into PeerError.

    Args:
        what: was asked, for the message.
    """
    import requests
    from google.api_core.exceptions import GoogleAPIError
    from google.auth.exceptions import GoogleAuthError

    try:
        yield
    except (GoogleAPIError, GoogleAuthError, requests.RequestException) as error:
        told = getattr(error, "message", "") or str(error) or type(error).__name__
        raise PeerError(f"{what} refused or failed: {str(told)[:500]}") from error


def split_uri(uri: str) -> tuple[str, str]:
    """Return bucket and object name.

    Raises:
        SettingError: not gs://BUCKET/NAME.
    """
    bucket, _, name = uri.removeprefix("gs://").partition("/")
    if not uri.startswith("gs://") or not bucket:
        raise SettingError(f"Expected gs://BUCKET/NAME, but got {uri!r}.")
    return bucket, name.rstrip("/")


def download(client: Client, uri: str, folder: Path, *, limit_bytes: int, suffix: str = "") -> tuple[Path, ...]:
    """Return the files that were fetched: an object, or all below a place, under the names they have there.

    Args:
        client: of Cloud Storage.
        uri: gs://BUCKET/NAME; a `*` in it stands for anything.
        folder: where they go.
        limit_bytes: of all together; nothing is fetched where they are more.
        suffix: only objects that end so.

    Raises:
        PeerError: the storage refused or failed, or there is more than the limit.
        SettingError: not a gs:// place.
    """
    bucket, name = split_uri(uri)
    prefix, star, tail = name.partition("*")
    with translated(uri):
        blobs = []
        for blob in client.list_blobs(bucket, prefix=prefix or None, timeout=TIMEOUT_S):
            below = star or blob.name == name or not name or blob.name.startswith(f"{name}/")
            if below and blob.name.endswith(tail or suffix) and not blob.name.endswith("/"):
                blobs.append(blob)
            if len(blobs) > MAX_OBJECTS:
                raise PeerError(
                    f"{uri} holds more than {MAX_OBJECTS:,} objects. Expected a folder of one model or set."
                )
        size = sum(blob.size or 0 for blob in blobs)
        if size > limit_bytes:
            raise PeerError(f"{uri} holds {size / 1e6:,.0f} MB. Expected at most {limit_bytes / 1e6:,.0f} MB.")
        files = []
        for blob in blobs:
            path = folder / _relative(blob.name, name if not star else prefix.rpartition("/")[0])
            path.parent.mkdir(parents=True, exist_ok=True)
            blob.download_to_filename(str(path), timeout=TIMEOUT_S)
            files.append(path)
    return tuple(files)


def _relative(name: str, base: str) -> PurePosixPath:
    """Return an object's name below the place that was asked for.

    Raises:
        PeerError: it would leave the folder.
    """
    rest = name.removeprefix(base).lstrip("/") or PurePosixPath(name).name
    path = PurePosixPath(rest)
    if path.is_absolute() or ".." in path.parts or "\0" in rest:
        raise PeerError("An object's name leads out of the folder that it is fetched into. Rename it.")
    return path


def upload(client: Client, source: Path, uri: str) -> None:
    """Put a file at a place, or all files of a folder below it.

    Raises:
        PeerError: the storage refused or failed.
        SettingError: not a gs:// place.
    """
    bucket, name = split_uri(uri)
    files = [source] if source.is_file() else [path for path in sorted(source.rglob("*")) if path.is_file()]
    with translated(uri):
        for path in files:
            below = name if path == source else f"{name}/{path.relative_to(source).as_posix()}".lstrip("/")
            client.bucket(bucket).blob(below).upload_from_filename(str(path), timeout=TIMEOUT_S)


class Mirror:
    """A local folder that is kept in step with a gs:// place while a block runs, and at its end, whatever ends it."""

    def __init__(self, client: Client, folder: Path, uri: str, *, every_s: float = MIRROR_S) -> None:
        """Take a folder and its place; nothing is fetched yet.

        Args:
            client: of Cloud Storage.
            folder: on this machine.
            uri: gs://BUCKET/NAME.
            every_s: how often what changed is put.
        """
        self._client, self._folder, self._uri, self._every_s = client, folder, uri, every_s
        self._sent: dict[Path, tuple[int, int]] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="rentgen-mirror", daemon=True)

    def __enter__(self) -> Mirror:
        self._folder.mkdir(parents=True, exist_ok=True)
        download(self._client, self._uri, self._folder, limit_bytes=1 << 40)
        self._sent = dict(self._changed())
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self.put()

    def put(self) -> None:
        """Put what changed since the last time.

        Raises:
            PeerError: the storage refused or failed.
        """
        for path, stamp in self._changed():
            upload(self._client, path, f"{self._uri.rstrip('/')}/{path.relative_to(self._folder).as_posix()}")
            self._sent[path] = stamp

    def _changed(self) -> Iterator[tuple[Path, tuple[int, int]]]:
        for path in sorted(self._folder.rglob("*")):
            # Drafts are renamed when they are whole; folders of prepared films are made anew by every run.
            if any(part.startswith((".", "films-", "gathered-")) for part in path.relative_to(self._folder).parts):
                continue
            try:
                stat = path.stat()
            except FileNotFoundError:
                continue
            stamp = (stat.st_mtime_ns, stat.st_size)
            if path.is_file() and self._sent.get(path) != stamp:
                yield path, stamp

    def _run(self) -> None:
        while not self._ended.wait(self._every_s):
            try:
                self.put()
            except (PeerError, OSError) as error:
                logger.warning("Checkpoints were not put to their place: %s", error)
