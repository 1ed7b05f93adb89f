"""The DICOMweb door: STOW-RS (PS3.18, 10.5) for objects that come over HTTP."""

from __future__ import annotations

import hashlib
import hmac
import logging
import tempfile
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

from rentgen.errors import InputError, StoreError
from rentgen.gateway.intake import Intake, Taken, free_mb, is_uid, read_header
from rentgen.gateway.multipart import Limits, Parts, boundary_of
from rentgen.gateway.nouns import GatewayConfig, Header
from rentgen.gateway.transport import LOOPBACK, Guard

logger = logging.getLogger(__name__)

MEDIA_TYPE = "application/dicom+json"
_RETRY_S = "30"

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


def create_stow(config: GatewayConfig, intake: Intake, *, most_parts: int = 500) -> Starlette:
    """Return an ASGI application with `POST /studies` and `POST /studies/{study}`.

    Args:
        config: of the gateway; `stow_keys` are the SHA-256 of the keys that may store.
        intake: where objects go.
        most_parts: in one request.
    """
    limits = Limits(round(config.max_object_mb * 1e6), most_parts)
    store = partial(_store, config=config, intake=intake, limits=limits)

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


async def _store(request: Request, *, config: GatewayConfig, intake: Intake, limits: Limits) -> Response:
    refusal = _refuse(request, config)
    if refusal is not None:
        return refusal
    boundary = boundary_of(request.headers.get("content-type", ""))
    if boundary is None:
        return _say(415, 'expected multipart/related; type="application/dicom"; boundary=...')
    study = request.path_params.get("study")
    incoming = config.folder / "incoming"
    try:
        incoming.mkdir(mode=0o700, parents=True, exist_ok=True)
        if free_mb(config.folder) < config.min_free_mb:
            return _say(503, "the disk is full", {"Retry-After": _RETRY_S})
        with tempfile.TemporaryDirectory(dir=incoming.parent, prefix="stow-") as folder:
            try:
                paths = await _receive(request, boundary, limits, Path(folder))
            except InputError as error:
                # What is left of the body is not read: the connection ends with it.
                status = 413 if "more than" in error.reason or "longer than" in error.reason else 400
                return _say(status, error.reason, {"Connection": "close"})
            parts = [await run_in_threadpool(_keep, path, study, intake) for path in paths]
    except ClientDisconnect:
        return Response(status_code=400)
    except OSError:
        logger.exception("Objects that came by STOW could not be written.")
        return _say(503, "the objects cannot be written now", {"Retry-After": _RETRY_S})
    if not parts:
        return _say(400, "the body has no parts")
    status = status_of(parts)
    headers = {"Retry-After": _RETRY_S} if status == 503 else {}
    return JSONResponse(dataset_of(parts), status, headers | _SAFE, media_type=MEDIA_TYPE)


def _refuse(request: Request, config: GatewayConfig) -> Response | None:
    guard = Guard(config.folder, config.allow_addresses or LOOPBACK)
    if request.client is None or not guard.admits(request.client.host):
        return _say(403, "this address may not store")
    if config.stow_keys and not _is_known(request.headers.get("authorization", ""), config.stow_keys):
        return _say(401, "expected a bearer key", {"WWW-Authenticate": "Bearer"})
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        return _say(415, "expected no Content-Encoding", {"Accept-Encoding": "identity"})
    study = request.path_params.get("study")
    if study is not None and not is_uid(study):
        return _say(400, "the study in the address is no UID")
    return None


def _is_known(authorization: str, keys: tuple[str, ...]) -> bool:
    scheme, _, key = authorization.partition(" ")
    digest = hashlib.sha256(key.strip().encode()).hexdigest()
    # Every key is compared: time tells nothing.
    return scheme.lower() == "bearer" and sum(hmac.compare_digest(digest, known) for known in keys) > 0


async def _receive(request: Request, boundary: bytes, limits: Limits, folder: Path) -> list[Path]:
    """Return the files of the parts, in order.

    Raises:
        InputError: the body is damaged or too large.
    """
    paths: list[Path] = []
    with ExitStack() as stack:

        def open_part() -> BinaryIO:
            paths.append(folder / f"{len(paths)}.dcm")
            stack.pop_all().close()
            return stack.enter_context(paths[-1].open("xb"))

        parts = Parts(boundary, limits, open_part)
        async for piece in request.stream():
            await run_in_threadpool(parts.feed, piece)
        parts.finish()
    return paths


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


def _say(status: int, detail: str, headers: dict[str, str] | None = None) -> Response:
    problem = {"status": status, "detail": detail}
    return JSONResponse(problem, status, {**_SAFE, **(headers or {})}, media_type="application/problem+json")
