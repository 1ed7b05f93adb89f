"""Download a file: continue what broke off, then check it."""

from __future__ import annotations

import hashlib
import logging
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from email.message import Message
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import IO
from urllib.error import HTTPError
from urllib.parse import urlsplit

from rentgen.data.catalog import RemoteFile
from rentgen.errors import DataError, PeerError

logger = logging.getLogger(__name__)

_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to bear with a server.

    Attributes:
        timeout_s: without a byte, until a connection counts as broken.
        attempts: in a row that may bring nothing new.
        backoff_s: before the second attempt; doubled each time.
    """

    timeout_s: float = 60.0
    attempts: int = 6
    backoff_s: float = 1.0


class _PassingError(Exception):
    """A fault that another attempt may cure."""


class _Redirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Message, newurl: str
    ) -> urllib.request.Request | None:
        try:
            _check_url(newurl)
        except PeerError:
            fp.close()
            raise
        return super().redirect_request(req, fp, code, msg, headers, newurl)  # type: ignore[arg-type]


def download(
    file: RemoteFile,
    directory: Path,
    *,
    progress: Callable[[int, int], None] | None = None,
    patience: Patience | None = None,
) -> Path:
    """Return the path of a file that has been downloaded and checked.

    What an interrupted download left (`NAME.part`) is continued where the server still has the same copy. A file that
    is already there is only checked. Proxies come from the environment, as urllib has it.

    Args:
        file: its URLs are tried in turn.
        directory: must exist.
        progress: called with the bytes that are there and all of them; 0 where unknown.
        patience: the defaults if None.

    Raises:
        PeerError: no URL gave the file, or what came is not what was expected.
        DataError: the disk refuses the file.
    """
    target, part = directory / file.name, directory / f"{file.name}.part"
    if not target.exists():
        problems = []
        for url in file.urls:
            try:
                _fetch(url, part, patience or Patience(), progress)
                break
            except PeerError as error:
                problems.append(str(error))
        else:
            raise PeerError(f"{file.name} could not be downloaded. " + " ".join(problems))
        part.replace(target)
        _validator_file(part).unlink(missing_ok=True)
    _verify(target, file.sha256)
    return target


def _fetch(url: str, part: Path, patience: Patience, progress: Callable[[int, int], None] | None) -> None:
    _check_url(url)
    # Without ranges each attempt begins at nothing: only a new best counts as headway.
    best, failures = 0, 0
    while True:
        try:
            return _fetch_once(url, part, patience.timeout_s, progress)
        except _PassingError as fault:
            size = part.stat().st_size if part.exists() else 0
            best, failures = (size, 1) if size > best else (best, failures + 1)
            if failures >= patience.attempts:
                raise PeerError(f"{url}: {fault} ({failures} attempts).") from fault
            wait_s = patience.backoff_s * 2 ** (failures - 1)
            logger.info("%s: %s; again in %.1f s", url, fault, wait_s)
            time.sleep(wait_s)


def _fetch_once(url: str, part: Path, timeout_s: float, progress: Callable[[int, int], None] | None) -> None:
    headers = {"User-Agent": "Mozilla/5.0 (compatible; rentgen)", "Accept-Encoding": "identity"}
    validator_file = _validator_file(part)
    start = 0
    if part.exists() and validator_file.exists():
        start = part.stat().st_size
    if start:
        headers |= {"Range": f"bytes={start}-", "If-Range": validator_file.read_text(encoding="utf-8")}
    with _open(urllib.request.Request(url, headers=headers), part, timeout_s) as response:  # noqa: S310 - checked
        if response.status != 206:
            start = 0
        # RFC 9110 14.4: the answer may be another range than the one asked for.
        elif not response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
            part.unlink()
            raise _PassingError("the server continued at another place than asked")
        total = start + response.length if response.length else 0
        done = start
        try:
            with part.open("ab" if start else "wb") as sink:
                validator_file.unlink(missing_ok=True)
                if validator := _validator(response):
                    validator_file.write_text(validator, encoding="utf-8")
                for chunk in _chunks(response):
                    sink.write(chunk)
                    done += len(chunk)
                    if progress is not None:
                        progress(done, total)
        except OSError as error:
            raise DataError(f"{part} cannot be written: {error.strerror}.") from error
    if done < total:
        raise _PassingError(f"{done} of {total} bytes came, then the connection closed")


def _open(request: urllib.request.Request, part: Path, timeout_s: float) -> HTTPResponse:
    opener = urllib.request.build_opener(_Redirects())
    try:
        response: HTTPResponse = opener.open(request, timeout=timeout_s)
    except HTTPError as error:
        error.close()
        if error.code == 416:  # the part is not a beginning of what the server has now
            part.unlink(missing_ok=True)
        if error.code in (408, 416, 429) or error.code >= 500:
            raise _PassingError(f"HTTP {error.code}") from error
        raise PeerError(f"{request.full_url} answered HTTP {error.code} {error.reason}.") from error
    except (HTTPException, OSError) as error:
        raise _PassingError(str(getattr(error, "reason", error))) from error
    return response


def _chunks(response: HTTPResponse) -> Iterator[bytes]:
    try:
        while chunk := response.read1(_CHUNK):
            yield chunk
    except (HTTPException, OSError) as error:
        raise _PassingError(f"the connection broke: {error}") from error


def _validator(response: HTTPResponse) -> str | None:
    etag: str | None = response.headers.get("ETag")
    # RFC 9110 13.1.5: If-Range needs a strong entity tag.
    return etag if etag and not etag.startswith("W/") else response.headers.get("Last-Modified")


def _validator_file(part: Path) -> Path:
    return part.with_name(part.name + ".etag")


def _verify(path: Path, sha256: str | None) -> None:
    if sha256 is None:
        return
    with path.open("rb") as stream:
        came = hashlib.file_digest(stream, "sha256").hexdigest()
    if came != sha256:
        aside = path.replace(path.with_name(path.name + ".rejected"))
        raise PeerError(
            f"Expected {path.name} to have sha256 {sha256}, but {came} came. It was moved to {aside}."
            " Fetch it again; if the same comes twice, the publisher has changed the file."
        )


def _check_url(url: str) -> None:
    """Plain http is for servers on this machine."""
    parts = urlsplit(url)
    if parts.scheme != "https" and (parts.scheme, parts.hostname) != ("http", "127.0.0.1"):
        raise PeerError(f"Expected an https address, but got {url}.")
