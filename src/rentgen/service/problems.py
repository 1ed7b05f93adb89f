"""Every error as one document: `application/problem+json` (RFC 9457) with a stable code.

::

    Problem(429, "busy", "…")          raised anywhere below a route; becomes the answer
    RentgenError                       by one table: class to status and code
    RequestValidationError             422 invalid_request: where and why, never what was sent
    HTTPException of Starlette         404, 405 and the like, in our words
    anything else                      500 internal; its type and place are logged, its message is not

Middlewares, which stand outside the handlers, send `problem_response(...)` themselves.
"""

from __future__ import annotations

import logging
import re
import traceback
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from typing import Any, NamedTuple

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse
from starlette.routing import Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rentgen.errors import (
    BundleError,
    DataError,
    InputError,
    MissingExtraError,
    PeerError,
    RentgenError,
    SettingError,
    StoreError,
    UnsupportedImageError,
    WeightsError,
)

logger = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"


class Kind(NamedTuple):
    """What a code stands for.

    Attributes:
        status: the usual HTTP status; a route may choose another of the same class.
        detail: in words, where nothing more exact is known.
    """

    status: int
    detail: str


CODES: Mapping[str, Kind] = {
    "unauthorised": Kind(401, "Say who you are: an API key, a bearer token or a session."),
    "forbidden": Kind(403, "This caller may not do that."),
    "not_found": Kind(404, "There is nothing here by that name."),
    "method_not_allowed": Kind(405, "This address does not know that method."),
    "timeout": Kind(408, "The body of the request did not arrive in time."),
    "conflict": Kind(409, "The request does not fit the present state; what was there is kept."),
    "film_gone": Kind(410, "The film itself is no longer here; only its results are."),
    "too_large": Kind(413, "The request is larger than this service takes."),
    "unsupported_type": Kind(415, "The Content-Type is not one that this address reads."),
    "wrong_host": Kind(421, "The service is not called by that Host; add it to RENTGEN_ALLOWED_HOSTS."),
    "invalid_request": Kind(422, "The request is not of the form that this address reads."),
    "unreadable_film": Kind(422, "The file could not be read as a radiograph."),
    "unsupported_film": Kind(422, "The file is sound, but of a kind that is not analysed."),
    "busy": Kind(429, "Every place in the queue is taken; try again after Retry-After seconds."),
    "rate_limited": Kind(429, "Too many requests from this caller; try again after Retry-After seconds."),
    "internal": Kind(500, "Something went wrong inside the service; the request id finds it in the log."),
    "not_installed": Kind(501, "An optional part of the service is not installed."),
    "peer_failed": Kind(502, "Another system that is needed for this refused or failed."),
    "loading": Kind(503, "The model is still loading; try again after Retry-After seconds."),
    "draining": Kind(503, "The service is stopping and takes no new work."),
    "store_failed": Kind(503, "The store does not answer; try again after Retry-After seconds."),
}
"""Every code that the service may answer with. Codes are stable; the words are not."""

_BY_STATUS: Mapping[int, str] = {
    400: "invalid_request",
    401: "unauthorised",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    408: "timeout",
    409: "conflict",
    410: "film_gone",
    413: "too_large",
    415: "unsupported_type",
    422: "invalid_request",
    429: "busy",
    502: "peer_failed",
    503: "loading",
}


class Problem(Exception):
    """An answer that is an error.

    Attributes:
        status: of HTTP.
        code: one of `CODES`.
        detail: for a person: what was expected, what came, what to do; nothing of a patient.
        headers: to send with it, as Retry-After.
    """

    def __init__(
        self, status: int, code: str, detail: str | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        self.status = status
        self.code = code
        self.detail = CODES[code].detail if detail is None else detail
        self.headers = dict(headers or {})
        super().__init__(f"{status} {code}: {self.detail}")

    @classmethod
    def of(cls, code: str, detail: str | None = None, **headers: str) -> Problem:
        """Return the problem of a code with its usual status; `Retry_After="2"` gives the header Retry-After."""
        return cls(CODES[code].status, code, detail, {name.replace("_", "-"): text for name, text in headers.items()})


def problem_response(
    scope: Scope | None,
    status: int,
    code: str,
    detail: str | None = None,
    *,
    headers: Mapping[str, str] | None = None,
    errors: Sequence[Mapping[str, str]] = (),
) -> JSONResponse:
    """Return the problem document as a response.

    Args:
        scope: of the request; its state's `request_id`, where there is one, becomes `instance`.
        status: of HTTP.
        code: one of `CODES`.
        detail: in words; by default the code's own.
        headers: to send with it.
        errors: what is wrong with which part of the request.
    """
    document = problem_document(scope, status, code, detail)
    if errors:
        document["errors"] = [dict(error) for error in errors]
    return JSONResponse(document, status, dict(headers or {}), media_type=MEDIA_TYPE)


def problem_document(scope: Scope | None, status: int, code: str, detail: str | None = None) -> dict[str, Any]:
    """Return the problem document as plain JSON values."""
    document: dict[str, Any] = {
        # RFC 9457, 4.2.1: about:blank says that the title is the status's own phrase; the code tells them apart.
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": CODES[code].detail if detail is None else detail,
        "code": code,
    }
    request_id = (scope or {}).get("state", {}).get("request_id")
    if request_id:
        document["instance"] = str(request_id)
    return document


def respond(scope: Scope | None, problem: Problem) -> JSONResponse:
    """Return a problem as a response."""
    return problem_response(scope, problem.status, problem.code, problem.detail, headers=problem.headers)


def problem_of(error: RentgenError) -> Problem:
    """Return what an error of ours is to a caller: its class decides; a file's name never goes out."""
    for kind in type(error).__mro__:
        if kind in _TABLE:
            return _TABLE[kind](error)
    return Problem.of("internal")


_TABLE: Mapping[type, Callable[[Any], Problem]] = {
    UnsupportedImageError: lambda error: Problem.of("unsupported_film", error.reason),
    InputError: lambda error: Problem.of("unreadable_film", error.reason),
    SettingError: lambda error: Problem.of("invalid_request", str(error)),
    DataError: lambda error: Problem.of("invalid_request", str(error)),
    # The messages of these are for the one who runs the service, and go to the log: they may hold addresses and paths.
    StoreError: lambda _: Problem.of("store_failed", Retry_After="5"),
    PeerError: lambda _: Problem.of("peer_failed"),
    BundleError: lambda _: Problem.of("internal"),
    WeightsError: lambda _: Problem.of("internal"),
    MissingExtraError: lambda error: Problem.of("not_installed", str(error)),
}


def install(app: FastAPI) -> None:
    """Make every error of the application a problem document, and name its schema in the OpenAPI description."""
    app.add_exception_handler(Problem, _on_problem)
    app.add_exception_handler(RentgenError, _on_rentgen_error)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(ClientDisconnect, _on_disconnect)
    # Starlette puts the handler of Exception outside all middlewares, where its answer gets no headers, no log line and
    # no count. So the last resort stands inside them; the handler is left for faults of the middlewares themselves.
    app.user_middleware.append(Middleware(LastResort))
    app.add_exception_handler(Exception, _on_fault)
    app.openapi = _with_schema(app.openapi)  # type: ignore[method-assign]


class LastResort:
    """ASGI middleware that answers 500 `internal` for what nobody caught, and logs its type and place only."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on; answer where the application raised before it answered."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = False

        async def watched(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        try:
            await self.app(scope, receive, watched)
        except Exception as error:
            log_fault(error)
            if started:
                raise  # half an answer is out: the server must break the connection
            await problem_response(scope, 500, "internal")(scope, receive, send)


def log_fault(error: BaseException) -> None:
    """Log an unexpected error: type and frames. A foreign message may hold values of a film's header or of a row."""
    frames = traceback.extract_tb(error.__traceback__)[-8:]
    place = " < ".join(f"{frame.name} {frame.filename}:{frame.lineno}" for frame in reversed(frames))
    logger.error("Unexpected %s.%s in %s", type(error).__module__, type(error).__qualname__, place)


async def _on_problem(request: Request, error: Exception) -> JSONResponse:
    return respond(request.scope, error if isinstance(error, Problem) else Problem.of("internal"))


async def _on_rentgen_error(request: Request, error: Exception) -> JSONResponse:
    problem = problem_of(error) if isinstance(error, RentgenError) else Problem.of("internal")
    if problem.status >= 500:
        logger.error("%s: %s", type(error).__name__, error)
    return respond(request.scope, problem)


async def _on_invalid(request: Request, error: Exception) -> JSONResponse:
    faults = error.errors() if isinstance(error, RequestValidationError) else ()
    errors = [{"where": _where(fault), "why": _why(fault)} for fault in list(faults)[:20]]
    summary = "; ".join(f"{each['where']}: {each['why']}" for each in errors[:3])
    detail = f"{CODES['invalid_request'].detail} {summary}." if summary else None
    return problem_response(request.scope, 422, "invalid_request", detail, errors=errors)


async def _on_http(request: Request, error: Exception) -> JSONResponse:
    status, headers = (error.status_code, error.headers) if isinstance(error, HTTPException) else (500, None)
    if status == 405:
        headers = {"Allow": ", ".join(_methods_of(request))}
    # A body in no encoding of JSON is as wrong as any other that is not what was expected.
    status = 422 if status == 400 else status
    code = _BY_STATUS.get(status, "invalid_request" if status < 500 else "internal")
    # The detail of a foreign exception may repeat what was sent; ours does not.
    return problem_response(request.scope, status, code, headers=headers)


def _methods_of(request: Request) -> list[str]:
    """Return all methods of an address: the router names only those of the first route that it found there."""
    return [
        method
        for method in ("DELETE", "GET", "HEAD", "PATCH", "POST", "PUT")
        if any(route.matches({**request.scope, "method": method})[0] is Match.FULL for route in request.app.routes)
    ]


async def _on_disconnect(request: Request, _: Exception) -> JSONResponse:
    return problem_response(request.scope, 400, "invalid_request", "The client left before its request was complete.")


async def _on_fault(request: Request, error: Exception) -> JSONResponse:
    log_fault(error)
    return problem_response(request.scope, 500, "internal")


_SOBER = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,63}")
_ECHOING = frozenset({"value_error", "assertion_error", "union_tag_invalid", "enum_custom"})


def _where(fault: Mapping[str, Any]) -> str:
    """Return the place of a fault. The name of a field that nobody asked for is the sender's text, and is left out."""
    parts = list(fault.get("loc", ()))
    if fault.get("type") == "extra_forbidden":
        parts = parts[:-1]
    return (
        ".".join(str(part) if isinstance(part, int) or _SOBER.fullmatch(part) else "…" for part in parts[:8])
        or "request"
    )


def _why(fault: Mapping[str, Any]) -> str:
    """Return what is wrong, in pydantic's words where they are known not to repeat the input."""
    if fault.get("type") in _ECHOING:
        return "Value is not allowed"
    if fault.get("type") == "extra_forbidden":
        return "Fields that are not known are not allowed"
    return str(fault.get("msg", "Value is not allowed"))


SCHEMA: Mapping[str, Any] = {
    "title": "Problem",
    "description": "What went wrong (RFC 9457).",
    "type": "object",
    "required": ["type", "title", "status", "detail", "code"],
    "properties": {
        "type": {"type": "string", "format": "uri-reference", "examples": ["about:blank"]},
        "title": {"type": "string", "description": "The status in words."},
        "status": {"type": "integer", "minimum": 400, "maximum": 599},
        "detail": {"type": "string", "description": "For a person: what was expected, what came, what to do."},
        "code": {"type": "string", "enum": sorted(CODES), "description": "Stable, for programs."},
        "instance": {"type": "string", "description": "The request's id, as in the log."},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["where", "why"],
                "properties": {"where": {"type": "string"}, "why": {"type": "string"}},
            },
        },
    },
}
"""JSON schema of the document; `install` puts it into the OpenAPI description as `Problem`."""


_GENERAL = (
    "unauthorised",
    "forbidden",
    "timeout",
    "too_large",
    "wrong_host",
    "invalid_request",
    "rate_limited",
    "internal",
)


def responses(*codes: str) -> dict[int | str, dict[str, Any]]:
    """Return what a route may answer with, for the `responses` of FastAPI: one entry a status, one example a code.

    A route's entry hides the application's of the same status, so what any route may answer is named there again.
    """
    table: dict[int | str, dict[str, Any]] = {}
    statuses = {CODES[code].status for code in codes}
    general = [code for code in _GENERAL if CODES[code].status in statuses]
    for code in dict.fromkeys((*codes, *general)):
        status, detail = CODES[code]
        entry = table.setdefault(
            status,
            {
                "description": HTTPStatus(status).phrase,
                "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}, "examples": {}}},
            },
        )
        entry["content"][MEDIA_TYPE]["examples"][code] = {
            "summary": detail,
            "value": problem_document({"state": {"request_id": "5f1d7c0a9b3e4d28"}}, status, code),
        }
        if status in (429, 503):
            entry["headers"] = {"Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer"}}}
    return table


RESPONSES = responses(*_GENERAL)
"""What any route may answer with: `FastAPI(responses=RESPONSES)` or `APIRouter(responses=RESPONSES)`."""


def _with_schema(openapi: Callable[[], dict[str, Any]]) -> Callable[[], dict[str, Any]]:
    def described() -> dict[str, Any]:
        document = openapi()
        document.setdefault("components", {}).setdefault("schemas", {})["Problem"] = dict(SCHEMA)
        return document

    return described
