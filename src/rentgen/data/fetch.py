"""Fetch a known set: download with resumption and checks, unpack safely, convert the published labels."""

from __future__ import annotations

import hashlib
import importlib
import ipaddress
import json
import logging
import os
import re
import shutil
import ssl
import stat
import tarfile
import time
import unicodedata
import urllib.request
import uuid
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.message import Message
from http.client import HTTPException, HTTPResponse
from lzma import LZMAError
from pathlib import Path
from typing import IO, Literal, Protocol, cast
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit

import numpy as np

from rentgen.data.catalog import Client, DataSet, Published, RemoteFile, images_in, write_labels
from rentgen.errors import DataError, MissingExtraError, PeerError, SettingError
from rentgen.images import phantom

logger = logging.getLogger(__name__)

Progress = Callable[[int, int | None], None]
"""Called with what is done and what there is to do (None where unknown); bytes, or films of a generated set."""

SOURCE_NAME = ".rentgen-source.json"
_CHUNK = 1 << 20
_LONGEST_WAIT_S = 60.0
_ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz")
_JUNK = re.compile(r"(__MACOSX|\.DS_Store|Thumbs\.db|desktop\.ini|\._.*)", re.IGNORECASE)
_RESERVED = re.compile(r"(CON|PRN|AUX|NUL|COM\d|LPT\d)(\..*)?", re.IGNORECASE)


class KaggleClient(Protocol):
    """What is used of kagglehub; both methods return the folder that was filled."""

    def dataset_download(self, handle: str, *, output_dir: str) -> str:
        """Fetch a data set."""

    def competition_download(self, handle: str, *, output_dir: str) -> str:
        """Fetch the data of a competition."""


@dataclass(frozen=True, slots=True)
class Transfer:
    """How patiently a file is downloaded.

    Attributes:
        timeout_s: without a byte, until a connection counts as broken.
        attempts: in a row that may bring nothing new.
        backoff_s: before the second attempt; doubled each time, up to a minute.
        max_bytes: of one file.
    """

    timeout_s: float = 60.0
    attempts: int = 6
    backoff_s: float = 1.0
    max_bytes: int = 200 * 2**30

    def __post_init__(self) -> None:
        if self.timeout_s <= 0 or self.attempts < 1 or self.backoff_s < 0 or self.max_bytes < 1:
            raise SettingError(f"Expected a positive timeout, attempts and size, and a backoff >= 0, but got {self}.")


@dataclass(frozen=True, slots=True)
class Limits:
    """What an archive may become.

    Attributes:
        members: number of entries.
        total_bytes: when unpacked.
        ratio: of unpacked to packed bytes; films hardly shrink, bombs do.
    """

    members: int = 500_000
    total_bytes: int = 200 * 2**30
    ratio: float = 100.0


@dataclass(frozen=True, slots=True)
class GetOptions:
    """What `get` may be told.

    Attributes:
        finding: one finding against the rest, for sets with a published table of findings.
        films: to draw of each class of a generated set.
        seed: of a generated set.
        dicom: draw DICOM files instead of PNG.
        transfer: patience of downloads.
        limits: of archives.
    """

    finding: str | None = None
    films: int = 200
    seed: int = 0
    dicom: bool = False
    transfer: Transfer = field(default_factory=Transfer)
    limits: Limits = field(default_factory=Limits)


def get(
    data_set: DataSet,
    directory: Path,
    *,
    progress: Progress | None = None,
    options: GetOptions | None = None,
    client: KaggleClient | None = None,
) -> Path:
    """Return what to give to `rentgen train`: the folder of class folders, or the `labels.csv`, of a fetched set.

    What already lies in the folder is not fetched again: films, or the archive that a browser downloaded. Folders that
    hold nothing but one other folder are taken away.

    Args:
        data_set: from the catalogue.
        directory: made if need be; holds one set only.
        progress: called from this thread.
        options: the defaults if None.
        client: stands for kagglehub.

    Raises:
        PeerError: the set could not be had; the message says how to fetch it by hand.
        MissingExtraError: kagglehub is needed and not installed.
        DataError: an archive is unsafe or broken, or published labels are missing.
    """
    options = options or GetOptions()
    directory.mkdir(parents=True, exist_ok=True)
    _check_owner(data_set, directory)
    if next(images_in(directory), None) is None:
        try:
            _bring(data_set, directory, progress or _silent, options, client)
        except PeerError as error:
            raise PeerError(f"{error}\n\n{by_hand(data_set, directory)}") from error
    labels = write_labels(data_set, directory, finding=options.finding)
    note = {"name": data_set.name, "title": data_set.title, "page": data_set.page, "licence": data_set.licence}
    text = json.dumps(note | {"citation": data_set.citation}, indent=2, ensure_ascii=False)
    (directory / SOURCE_NAME).write_text(text + "\n", encoding="utf-8")
    return labels or _class_root(directory)


def by_hand(data_set: DataSet, directory: Path) -> str:
    """Return, as numbered lines, how a person with a browser brings a set into a folder."""
    again = f"rentgen data get {data_set.name} {directory}"
    ready = directory if data_set.published is Published.FOLDERS else directory / "labels.csv"
    train = f"Then go on with: rentgen train {ready} --out {data_set.name}.rentgen"
    if data_set.client is Client.GENERATED:
        return f"Run: {again}\n{train}"
    steps = [f"Open {data_set.page} in a browser."]
    if data_set.client is Client.HTTPS:
        size = f" (about {data_set.approx_bytes / 1e9:.1f} GB)" if data_set.approx_bytes else ""
        steps.append(f"Fetch {' and '.join(file.name for file in data_set.files)}{size}.")
        steps.append(f"Put it into {directory}, packed as it is.")
        if data_set.handle:
            train += f"\nThe same films are at https://www.kaggle.com/datasets/{data_set.handle} too."
    else:
        kind = "competitions" if data_set.client is Client.KAGGLE_COMPETITION else "datasets"
        kaggle = f"https://www.kaggle.com/{kind}/{data_set.handle}"
        steps = [f"Open {kaggle} in a browser and sign in."]
        if data_set.client is Client.KAGGLE_COMPETITION:
            steps.append(f"Accept the rules at {kaggle}/rules.")
        steps.append(f"Download everything as one zip and put it into {directory}, packed as it is.")
        train += (
            "\nTo let Rentgen fetch it: make an API token at https://www.kaggle.com/settings/api and put it into the"
            " file ~/.kaggle/access_token or the environment variable KAGGLE_API_TOKEN."
        )
    steps.append(f"Run: {again}")
    return "By hand:\n" + "\n".join(f"{number}. {step}" for number, step in enumerate(steps, 1)) + f"\n{train}"


def _bring(
    data_set: DataSet, directory: Path, progress: Progress, options: GetOptions, client: KaggleClient | None
) -> None:
    """Fill a hidden folder and move what is in it up when it is complete, so that a broken run leaves no half set."""
    stage = directory / ".incoming.part"
    shutil.rmtree(stage, ignore_errors=True)
    stage.mkdir()
    placed = [path for path in sorted(directory.iterdir()) if path.name.lower().endswith(_ARCHIVES)]
    done_with: list[Path] = []
    if data_set.client is Client.GENERATED:
        rng = np.random.default_rng(options.seed)
        phantom.write_set(stage, films=options.films, rng=rng, dicom=options.dicom, progress=progress)
    elif data_set.client is Client.HTTPS:
        for file in data_set.files:
            there = (directory / file.name).exists()
            archive = download(file, directory, progress=progress, transfer=options.transfer)
            unpack(archive, stage / _stem(archive), progress=progress, limits=options.limits)
            done_with += [] if there else [archive]
    elif len(placed) > 1:
        raise DataError(f"Expected at most one archive in {directory}, but got {', '.join(p.name for p in placed)}.")
    elif placed:
        unpack(placed[0], stage / _stem(placed[0]), progress=progress, limits=options.limits)
    else:
        _from_kaggle(data_set, stage, client or _kagglehub())
    root = _class_root(stage)
    members = [path for path in sorted(root.iterdir()) if not path.name.startswith(".")]
    for path in members:
        if (directory / path.name).exists():
            raise DataError(f"Expected {directory} not to have {path.name!r} yet. Choose an empty folder.")
    for path in members:
        path.replace(directory / path.name)
    shutil.rmtree(stage)
    for archive in done_with:
        archive.unlink()


def _kagglehub() -> KaggleClient:
    try:
        return cast(KaggleClient, importlib.import_module("kagglehub"))
    except ImportError as error:
        raise MissingExtraError("kagglehub", "download", "fetching from Kaggle") from error


def _from_kaggle(data_set: DataSet, stage: Path, client: KaggleClient) -> None:
    competition = data_set.client is Client.KAGGLE_COMPETITION
    fetch = client.competition_download if competition else client.dataset_download
    try:
        came = Path(fetch(str(data_set.handle), output_dir=str(stage)))
    except Exception as error:  # kagglehub's errors, requests' and its SDK's have no common root
        raise PeerError(f"Kaggle did not give {data_set.handle}: {type(error).__name__}: {error}") from error
    if not came.resolve().is_relative_to(stage.resolve()):
        # A Kaggle notebook attaches a read-only copy instead of filling the folder.
        shutil.copytree(came, stage, dirs_exist_ok=True)
    if next(images_in(stage), None) is None:
        raise PeerError(f"Kaggle gave no images of {data_set.handle}.")


def _check_owner(data_set: DataSet, directory: Path) -> None:
    note = directory / SOURCE_NAME
    if not note.exists():
        return
    try:
        owner = json.loads(note.read_text(encoding="utf-8"))["name"]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"Expected {note} to name a data set, but it is damaged. Delete it if the films are right."
        ) from error
    if owner != data_set.name:
        raise SettingError(f"Expected an empty folder for {data_set.name!r}, but {directory} holds {owner!r}.")


def _class_root(directory: Path) -> Path:
    while True:
        members = [path for path in directory.iterdir() if not path.name.startswith(".")]
        folders = [path for path in members if path.is_dir()]
        films = any(path.is_file() and not path.name.lower().endswith(_ARCHIVES) for path in members)
        if films or len(folders) != 1:
            return directory
        directory = folders[0]


def _stem(archive: Path) -> str:
    name = archive.name
    ending = max((ending for ending in _ARCHIVES if name.lower().endswith(ending)), key=len, default="")
    return name[: len(name) - len(ending)] or "films" if ending else name + ".unpacked"


def _silent(done: int, total: int | None) -> None:
    pass


# Download


class _PassingError(Exception):
    def __init__(self, reason: str, wait_s: float | None = None) -> None:
        super().__init__(reason)
        self.wait_s = wait_s


class _Redirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Message, newurl: str
    ) -> urllib.request.Request | None:
        try:
            _check_url(newurl, loopback=_is_loopback(req.full_url))
        except PeerError:
            fp.close()
            raise
        return super().redirect_request(req, fp, code, msg, headers, newurl)  # type: ignore[arg-type]


def download(
    file: RemoteFile,
    directory: Path,
    *,
    progress: Progress | None = None,
    transfer: Transfer | None = None,
    opener: urllib.request.OpenerDirector | None = None,
) -> Path:
    """Return the path of a file that has been downloaded and checked.

    What an interrupted download left (`NAME.part`) is continued where the server allows it and its copy is the same. A
    file that is already there is only checked. Proxies come from the environment, as urllib has it.

    Args:
        file: its URLs are tried in turn.
        directory: must exist.
        progress: called with the bytes there are and those to come.
        transfer: the defaults if None.
        opener: follows redirects and proxies; ours refuses to leave https.

    Raises:
        PeerError: no URL gave the file, or what came is not what was expected.
    """
    target, part = directory / file.name, directory / f"{file.name}.part"
    transfer = transfer or Transfer()
    opener = opener or urllib.request.build_opener(_Redirects())
    if not target.exists():
        problems = []
        for url in file.urls:
            try:
                _fetch(url, part, file, transfer, opener, progress or _silent)
                break
            except PeerError as error:
                problems.append(str(error))
        else:
            raise PeerError(f"{file.name} could not be downloaded. " + " ".join(problems))
        part.replace(target)
        _validator_file(part).unlink(missing_ok=True)
    _verify(target, file)
    return target


def _fetch(
    url: str,
    part: Path,
    file: RemoteFile,
    transfer: Transfer,
    opener: urllib.request.OpenerDirector,
    progress: Progress,
) -> None:
    _check_url(url, loopback=True)
    best, failures = 0, 0
    while True:
        try:
            _fetch_once(url, part, file, transfer, opener, progress)
        except _PassingError as fault:
            size = part.stat().st_size if part.exists() else 0
            best, failures = (size, 1) if size > best else (best, failures + 1)
            if failures >= transfer.attempts:
                raise PeerError(f"{url}: {fault} ({failures} attempts).") from fault
            backoff_s = transfer.backoff_s * 2 ** (failures - 1)
            wait_s = min(_LONGEST_WAIT_S, backoff_s if fault.wait_s is None else fault.wait_s)
            logger.info("%s: %s; again in %.1f s", url, fault, wait_s)
            time.sleep(wait_s)
        else:
            return


def _fetch_once(
    url: str,
    part: Path,
    file: RemoteFile,
    transfer: Transfer,
    opener: urllib.request.OpenerDirector,
    progress: Progress,
) -> None:
    headers = {"User-Agent": "Mozilla/5.0 (compatible; rentgen)", "Accept-Encoding": "identity"}
    start, validator = _resume_point(url, part, file)
    if start and start == file.size_bytes:
        return
    if start:
        headers["Range"] = f"bytes={start}-"
        if validator:
            headers["If-Range"] = validator
    request = urllib.request.Request(url, headers=headers)  # noqa: S310 - the scheme was checked
    with _open(opener, request, part, transfer) as response:
        length = _whole(response.headers.get("Content-Length"))
        total = length
        if response.status == 206:
            # RFC 9110 14.4: "bytes 5-9/10"; the answer may be another range than the one asked for.
            span = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", response.headers.get("Content-Range", ""))
            if span is None or int(span[1]) != start:
                part.unlink(missing_ok=True)
                raise _PassingError("the server continued at another place than asked")
            total = int(span[2])
        else:
            start = 0
        if response.headers.get("Content-Encoding", "identity") != "identity":
            raise PeerError(f"{url}: expected the file as it is, but the server compressed it.")
        if file.size_bytes is not None and total not in (None, file.size_bytes):
            raise PeerError(f"{url}: expected {file.size_bytes} bytes, but the server announced {total}.")
        _validator_file(part).write_text(json.dumps({"url": url, "validator": _validator(response)}), encoding="utf-8")
        done = _copy(response, part, start, total, file.size_bytes or transfer.max_bytes, progress)
    if total is not None and done < total:
        raise _PassingError(f"{done} of {total} bytes came, then the connection closed")


def _copy(response: HTTPResponse, part: Path, start: int, total: int | None, limit: int, progress: Progress) -> int:
    if total is not None and total > limit:
        raise PeerError(f"Expected at most {limit} bytes, but the server announced {total}.")
    done = start
    progress(done, total)
    with _writing(part, "ab" if start else "wb") as sink:
        while True:
            try:
                chunk = response.read1(_CHUNK)
            except (HTTPException, OSError) as error:
                raise _PassingError(f"the connection broke after {done} bytes: {_reason(error)}") from error
            if not chunk:
                return done
            done += len(chunk)
            if done > limit:
                raise PeerError(f"Expected at most {limit} bytes, but the server sent more.")
            sink.write(chunk)
            progress(done, total)


@contextmanager
def _writing(path: Path, mode: Literal["ab", "wb"]) -> Iterator[IO[bytes]]:
    """Yield an open file; its failures are the disk's, which no second attempt cures."""
    try:
        with path.open(mode) as stream:
            yield stream
    except OSError as error:
        raise DataError(f"{path} cannot be written: {_reason(error)}.") from error


@contextmanager
def _open(
    opener: urllib.request.OpenerDirector, request: urllib.request.Request, part: Path, transfer: Transfer
) -> Iterator[HTTPResponse]:
    try:
        response: HTTPResponse = opener.open(request, timeout=transfer.timeout_s)
    except HTTPError as error:
        error.close()
        if error.code == 416:  # the part is not a beginning of what the server has now
            part.unlink(missing_ok=True)
        if error.code in (408, 416, 429) or error.code >= 500:
            raise _PassingError(f"HTTP {error.code}", _whole(error.headers.get("Retry-After"))) from error
        raise PeerError(f"{request.full_url} answered HTTP {error.code} {error.reason}.") from error
    except (URLError, HTTPException, OSError) as error:
        if isinstance(getattr(error, "reason", None), ssl.SSLCertVerificationError):
            raise PeerError(f"{request.full_url}: the server's certificate is not trusted.") from error
        raise _PassingError(_reason(error)) from error
    with response:
        yield response


def _resume_point(url: str, part: Path, file: RemoteFile) -> tuple[int, str | None]:
    """Return how many bytes of a part can be kept, and the validator of the copy that they belong to."""
    size = part.stat().st_size if part.exists() else 0
    try:
        kept = json.loads(_validator_file(part).read_text(encoding="utf-8"))
        validator = kept["validator"] if kept["url"] == url else None
    except (OSError, ValueError, KeyError, TypeError):
        validator = None
    # Without a validator only the hash can tell whether both halves are of the same copy.
    checkable = file.sha256 is not None or file.md5 is not None
    return (size, validator) if validator or checkable else (0, None)


def _validator(response: HTTPResponse) -> str | None:
    etag: str | None = response.headers.get("ETag")
    # RFC 9110 13.1.5: If-Range needs a strong entity tag.
    return etag if etag and not etag.startswith("W/") else response.headers.get("Last-Modified")


def _validator_file(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def _verify(path: Path, file: RemoteFile) -> None:
    size = path.stat().st_size
    found: list[tuple[str, object, object]] = [("bytes", file.size_bytes, size)] if file.size_bytes is not None else []
    for name, expected in (("sha256", file.sha256), ("md5", file.md5)):
        if expected is not None:
            with path.open("rb") as stream:
                digest = hashlib.file_digest(stream, name)
            found.append((name, expected.lower(), digest.hexdigest()))
    for name, expected_value, came in found:
        if expected_value != came:
            aside = path.with_name(path.name + ".rejected")
            path.replace(aside)
            raise PeerError(
                f"Expected {path.name} to have {name} {expected_value}, but {came} came. It was moved to {aside}."
                " Fetch it again; if the same comes twice, the publisher has changed the file."
            )


def _check_url(url: str, *, loopback: bool) -> None:
    if urlsplit(url).scheme == "https" or (loopback and urlsplit(url).scheme == "http" and _is_loopback(url)):
        return
    raise PeerError(f"Expected an https address, but got {url}.")


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _whole(value: str | None) -> int | None:
    return int(value) if value is not None and value.isascii() and value.isdigit() else None


def _reason(error: Exception) -> str:
    reason = getattr(error, "reason", None) or error
    return getattr(reason, "strerror", None) or str(reason) or type(reason).__name__


# Unpack


@dataclass(frozen=True, slots=True)
class _Member:
    name: str
    size: int
    is_folder: bool
    open: Callable[[], IO[bytes]]


def unpack(archive: Path, destination: Path, *, progress: Progress | None = None, limits: Limits | None = None) -> Path:
    """Return the folder that a zip or tar archive was unpacked into; one that exists is complete and is returned.

    Nothing is written outside the folder, links and devices are refused, names are made safe for every system, and what
    macOS and Windows add is left out. The folder appears when everything is in it.

    Args:
        archive: `.zip`, `.tar`, `.tar.gz`; its bytes decide, not its name.
        destination: its parent must exist.
        progress: called with unpacked bytes; the total is None for tar.
        limits: the defaults if None.

    Raises:
        DataError: the archive is unsafe, broken or of another kind.
    """
    if destination.exists():
        return destination
    limits = limits or Limits()
    stage = destination.with_name(f".{destination.name}.{uuid.uuid4().hex}.part")
    stage.mkdir()
    try:
        with _members(archive) as (members, total):
            _write_members(archive, members, total, stage, limits, progress or _silent)
        stage.replace(destination)
    except (
        tarfile.TarError,
        zipfile.BadZipFile,
        zlib.error,
        LZMAError,
        EOFError,
        NotImplementedError,  # a compression method that zipfile does not know
        RuntimeError,  # an encrypted member
        OSError,
    ) as error:
        raise DataError(
            f"{archive} cannot be unpacked: {_reason(error)}. If the disk has room, fetch it again."
        ) from error
    finally:
        shutil.rmtree(stage, ignore_errors=True)
    return destination


def _write_members(
    archive: Path, members: Iterator[_Member], total: int | None, stage: Path, limits: Limits, progress: Progress
) -> None:
    packed = max(archive.stat().st_size, 1)
    # Small text may shrink a thousandfold and harms nobody; the ratio counts from a megabyte on.
    most = min(limits.total_bytes, int(max(packed * limits.ratio, 1 << 20)))
    done = 0
    for count, member in enumerate(members, 1):
        if count > limits.members:
            raise DataError(f"Expected at most {limits.members} members in {archive}, but there are more.")
        parts = _safe_parts(archive, member.name)
        if not parts:
            continue
        target = stage.joinpath(*parts)
        if member.is_folder:
            target.mkdir(parents=True, exist_ok=True)
            continue
        if done + member.size > most:
            raise DataError(
                f"Expected {archive} to unpack to at most {most} bytes, but it holds more. It may be a zip bomb."
            )
        target.parent.mkdir(parents=True, exist_ok=True)
        with member.open() as source, target.open("xb") as sink:
            while chunk := source.read(_CHUNK):
                done += len(chunk)
                if done > most:
                    raise DataError(f"{archive} holds more than its own list says. It may be a zip bomb.")
                sink.write(chunk)
                progress(done, total)


@contextmanager
def _members(archive: Path) -> Iterator[tuple[Iterator[_Member], int | None]]:
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as packed:
            infos = packed.infolist()
            yield (_zip_member(archive, packed, info) for info in infos), sum(info.file_size for info in infos)
    elif tarfile.is_tarfile(archive):
        with tarfile.open(archive) as packed:
            yield (_tar_member(archive, packed, info) for info in packed), None
    else:
        with archive.open("rb") as stream:
            start = stream.read(16)
        raise DataError(
            f"Expected {archive} to be a zip or tar archive, but it starts with {start!r}."
            " A page that asks to sign in looks like that."
        )


def _zip_member(archive: Path, packed: zipfile.ZipFile, info: zipfile.ZipInfo) -> _Member:
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise DataError(f"Expected only files and folders in {archive}, but {info.filename!r} is a link or a device.")
    return _Member(info.filename, info.file_size, info.is_dir(), lambda: packed.open(info))


def _tar_member(archive: Path, packed: tarfile.TarFile, info: tarfile.TarInfo) -> _Member:
    if not (info.isreg() or info.isdir()):
        raise DataError(f"Expected only files and folders in {archive}, but {info.name!r} is a link or a device.")
    return _Member(info.name, info.size, info.isdir(), lambda: cast(IO[bytes], packed.extractfile(info)))


def _safe_parts(archive: Path, name: str) -> tuple[str, ...]:
    """Return a member's path as names that every system takes; empty for junk."""
    path = unicodedata.normalize("NFC", name).replace("\\", "/")
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if path.startswith("/") or re.match(r"[A-Za-z]:", path) or ".." in parts:
        raise DataError(f"Expected {archive} to stay inside its folder, but a member is named {name!r}.")
    if any(_JUNK.fullmatch(part) for part in parts):
        return ()
    return tuple(_safe_name(part) for part in parts)


def _safe_name(part: str) -> str:
    name = re.sub(r'[\x00-\x1f\x7f<>:"|?*]', "_", part).rstrip(". ") or "_"
    if _RESERVED.fullmatch(name):
        name = f"_{name}"
    stem, ending = os.path.splitext(name)
    while len((stem + ending).encode()) > 240 and stem:
        stem = stem[:-1]
    return stem + ending
