"""The DICOMweb door: STOW-RS (PS3.18, 10.5) for objects that come over HTTP."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from rentgen.errors import InputError, PeerError, StoreError
from rentgen.gateway.intake import Intake, Taken, free_mb, is_uid, read_header
from rentgen.gateway.multipart import Limits, Parts, boundary_of
from rentgen.gateway.nouns import GatewayConfig, Header
from rentgen.gateway.transport import LOOPBACK, Guard

logger = logging.getLogger(__name__)

MEDIA_TYPE = "application/dicom+json"
_LATER = {"Retry-After": "30"}

# Failure Reason (0008,1197) and Warning Reason (0008,1196), PS3.18 I.2.
_NO_RESOURCES = 0xA700
_MISMATCH = 0xA900
_UNREADABLE = 0xC000
_ANOTHER_IS_HERE = 0xB000


@dataclass(frozen=True, slots=True)
class Stored:
    """What became of one part.

    Attributes:
        header: None where it could not be read.
        failure: reason, as DICOM numbers it; None where it is kept.
        warning: likewise, of what was kept aside.
    """

    header: Header | None
    failure: int | None = None
    warning: int | None = None


@dataclass(frozen=True, slots=True)
class StowLimits:
    """What requests may cost.

    Attributes:
        parts: in one request.
        requests: at the same time.
        body_bytes: of all bodies that are here at the same time, before their objects are kept.
        slowest_bytes_s: that a body must bring on average.
        grace_s: before that counts.
    """

    parts: int = 500
    requests: int = 16
    body_bytes: int = 2_000_000_000
    slowest_bytes_s: float = 20_000.0
    grace_s: float = 20.0


STOW_LIMITS = StowLimits()


def create_stow(config: GatewayConfig, intake: Intake, *, limits: StowLimits = STOW_LIMITS) -> Starlette:
    """Return an ASGI application with `POST /studies` and `POST /studies/{study}`.

    Args:
        config: of the gateway; `http_keys` are the SHA-256 of the keys that may store.
        intake: where objects go.
        limits: on all requests together.
    """
    store = partial(_store, config=config, intake=intake, room=_Room(limits))

    async def answer(request: Request) -> Response:
        return await store(request)

    return Starlette(
        routes=[Route(path, answer, methods=["POST"]) for path in ("/studies", "/studies/{study}")],
    )


def dataset_of(parts: list[Stored]) -> dict[str, Any]:
    """Return the answer's data set in the DICOM JSON model: what was kept, and what was not and why."""
    kept = [_reference(part) for part in parts if part.failure is None]
    failed = [_reference(part) for part in parts if part.failure is not None]
    answer: dict[str, Any] = {}
    if failed:
        answer["00081198"] = {"vr": "SQ", "Value": failed}
    if kept:
        answer["00081199"] = {"vr": "SQ", "Value": kept}
    return answer


def status_of(parts: list[Stored]) -> int:
    """Return the HTTP status: 200 all kept, 202 some or with a warning, 409 none, 503 none for want of room."""
    failures = [part.failure for part in parts if part.failure is not None]
    if not failures:
        return 202 if any(part.warning is not None for part in parts) else 200
    if len(failures) < len(parts):
        return 202
    return 503 if all(failure == _NO_RESOURCES for failure in failures) else 409


def _reference(part: Stored) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if part.header is not None:
        found["00081150"] = {"vr": "UI", "Value": [part.header.sop_class_uid]}
        found["00081155"] = {"vr": "UI", "Value": [part.header.sop_instance_uid]}
    if part.warning is not None:
        found["00081196"] = {"vr": "US", "Value": [part.warning]}
    if part.failure is not None:
        found["00081197"] = {"vr": "US", "Value": [part.failure]}
    return found


class _Room:
    """Counts what is here; used by one event loop alone."""

    def __init__(self, limits: StowLimits) -> None:
        self.limits = limits
        self.requests = self.bytes = 0


class _BusyError(PeerError):
    """There is no room now; the sender comes back."""


async def _store(request: Request, *, config: GatewayConfig, intake: Intake, room: _Room) -> Response:
    refusal = _refuse(request, config) or _refuse_body(request, room)
    if refusal is not None:
        return refusal
    room.requests += 1
    try:
        return await _store_body(request, config, intake, room)
    except ClientDisconnect:
        return Response(status_code=400)
    except TimeoutError:
        return _say(408, "the body comes too slowly")
    except _BusyError as error:
        return _say(503, str(error), _LATER)
    except OSError:
        logger.exception("Objects that came by STOW could not be written.")
        return _say(503, "the objects cannot be written now", _LATER)
    finally:
        room.requests -= 1


async def _store_body(request: Request, config: GatewayConfig, intake: Intake, room: _Room) -> Response:
    boundary = boundary_of(request.headers.get("content-type", ""))
    if boundary is None:
        return _say(415, 'expected multipart/related; type="application/dicom"; boundary=...')
    study = request.path_params.get("study")
    config.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    _demand_disk(config)
    with tempfile.TemporaryDirectory(dir=config.folder, prefix="stow-") as folder:
        body = _Body(room, config, Path(folder))
        try:
            paths = await body.receive(request, boundary)
            parts = [await run_in_threadpool(_keep, path, study, intake) for path in paths]
        except InputError as error:
            return _say(413 if "more than" in error.reason or "longer than" in error.reason else 400, error.reason)
        finally:
            body.leave()
    if not parts:
        return _say(400, "the body has no parts")
    status = status_of(parts)
    headers = _LATER if status == 503 else {}
    return JSONResponse(dataset_of(parts), status, {**headers, **_SAFE}, media_type=MEDIA_TYPE)


class _Body:
    """One body on its way to the disk."""

    def __init__(self, room: _Room, config: GatewayConfig, folder: Path) -> None:
        self._room, self._config, self._folder = room, config, folder
        self._bytes = 0

    async def receive(self, request: Request, boundary: bytes) -> list[Path]:
        """Return the files of the parts, in order.

        Raises:
            InputError: the body is damaged or too large.
            TimeoutError: it comes too slowly.
            _BusyError: there is no room for it now.
        """
        limits = self._room.limits
        paths: list[Path] = []
        loop = asyncio.get_running_loop()
        begin = loop.time()
        with ExitStack() as stack:

            def open_part() -> BinaryIO:
                paths.append(self._folder / f"{len(paths)}.dcm")
                stack.pop_all().close()
                return stack.enter_context(paths[-1].open("xb"))

            parts = Parts(boundary, Limits(round(self._config.max_object_mb * 1e6), limits.parts), open_part)
            async with asyncio.timeout(limits.grace_s) as patience:
                async for piece in request.stream():
                    self._take(len(piece))
                    await run_in_threadpool(parts.feed, piece)
                    patience.reschedule(begin + limits.grace_s + self._bytes / limits.slowest_bytes_s)
            parts.finish()
        return paths

    def leave(self) -> None:
        """Give its room back."""
        self._room.bytes -= self._bytes
        self._bytes = 0

    def _take(self, size: int) -> None:
        if self._room.bytes + size > self._room.limits.body_bytes:
            if self._bytes == self._room.bytes:
                raise InputError("body", f"it is longer than {self._room.limits.body_bytes} bytes")
            raise _BusyError("too much is on its way here")
        self._room.bytes += size
        self._bytes += size
        _demand_disk(self._config)


def _demand_disk(config: GatewayConfig) -> None:
    if free_mb(config.folder) < config.min_free_mb:
        raise _BusyError("the disk is full")


def _refuse(request: Request, config: GatewayConfig) -> Response | None:
    guard = Guard(config.folder, config.allow_addresses or LOOPBACK)
    if request.client is None or not guard.admits(request.client.host):
        return _say(403, "this address may not store")
    if config.http_keys and not _is_known(request.headers.get("authorization", ""), config.http_keys):
        return _say(401, "expected a bearer key", {"WWW-Authenticate": "Bearer"})
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        return _say(415, "expected no Content-Encoding", {"Accept-Encoding": "identity"})
    study = request.path_params.get("study")
    if study is not None and not is_uid(study):
        return _say(400, "the study in the address is no UID")
    return None


def _refuse_body(request: Request, room: _Room) -> Response | None:
    told = request.headers.get("content-length", "0")
    length = int(told) if told.isascii() and told.isdigit() and len(told) < 20 else 0
    if length > room.limits.body_bytes:
        return _say(413, f"the body is longer than {room.limits.body_bytes} bytes")
    if room.requests >= room.limits.requests:
        return _say(429, "too many requests at the same time", _LATER)
    if room.bytes + length > room.limits.body_bytes:
        return _say(503, "too much is on its way here", _LATER)
    return None


def _is_known(authorization: str, keys: tuple[str, ...]) -> bool:
    scheme, _, key = authorization.partition(" ")
    digest = hashlib.sha256(key.strip().encode()).hexdigest()
    # Every key is compared: time tells nothing.
    return scheme.lower() == "bearer" and sum(hmac.compare_digest(digest, known) for known in keys) > 0


def _keep(path: Path, study: str | None, intake: Intake) -> Stored:
    try:
        header = read_header(path)
    except InputError:
        return Stored(None, _UNREADABLE)
    if study is not None and study != header.study_instance_uid:
        return Stored(header, _MISMATCH)
    try:
        taken = intake.receive(path, header, "stow")
    except (OSError, StoreError):
        logger.exception("An object could not be kept; its sender is told to try again.")
        return Stored(header, _NO_RESOURCES)
    return Stored(header, warning=_ANOTHER_IS_HERE if taken is Taken.CONFLICT else None)


_SAFE = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"}


def _say(status: int, detail: str, headers: Mapping[str, str] = _SAFE) -> Response:
    problem = {"status": status, "detail": detail}
    # What is left of a body is not read: the connection ends with it.
    told = {**_SAFE, **headers, "Connection": "close"}
    return JSONResponse(problem, status, told, media_type="application/problem+json")
