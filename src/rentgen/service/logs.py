"""Logs that an operator can search and that name no patient.

What is written, by whom it comes from:

- **Rentgen's own lines** in full: their texts are ours, and hold ids, codes and counts.
- **The web server's** (`uvicorn.error`) as its template without values: `Started server process [%d]`.
- **Everybody else's** (pydicom, SQLAlchemy, Python's warnings, ...) from level warning on: which logger, at which line;
  the text is withheld, because such texts quote what they stumble over, and that may be a header with a name in it.
- **An exception** as its class and the places it passed, without its message and without source lines.

So a line can be told to nobody who may not see it; what a filter like this cannot do is to know a name when it sees
one. It does not search texts. Whoever writes `logger.info("... %s", film.patient_id)` in Rentgen's own code defeats it;
a test plants a patient and reads all that was written. A request id that a client chooses is written as it came (of
letters, digits and `._:-` only): clients must not put a patient's number there.

A request's line has the template of its route, never its path, its query, its headers or the caller's address.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import time
import traceback
import uuid
from collections.abc import Mapping
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, TextIO

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rentgen.service.metrics import METHODS, OTHER, route_of
from rentgen.service.problems import problem_response

access = logging.getLogger("rentgen.access")

request_id: ContextVar[str] = ContextVar("rentgen_request_id", default="")
"""Id of the request that is being answered; empty outside one. Threads see it where they run in its context."""

OURS = "rentgen"
SERVER = "uvicorn.error"
WITHHELD = "(text withheld)"
LONGEST_ID = 100
LONGEST_TEXT = 4000
NO_FRAMES = 12
"""Places of an exception that are written, the innermost last."""

_SAFE_ID = re.compile(r"[A-Za-z0-9._:-]{1,100}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def configure(log_format: str, *, level: int = logging.INFO, stream: TextIO | None = None) -> None:
    """Send all logs of the process to one stream, in one form; calling it again replaces what it set.

    A plain stream handler of somebody else (`logging.basicConfig`) goes: it would write what is withheld here.

    Args:
        log_format: `json` for a JSON object a line, `text` for people.
        level: the least that is written.
        stream: standard error by default.
    """
    root = logging.getLogger()
    for handler in [*root.handlers]:
        if type(handler) in (_Stream, logging.StreamHandler):
            root.removeHandler(handler)
    handler = _Stream(stream or sys.stderr)
    handler.addFilter(_is_worth_telling)
    handler.setFormatter(JsonLines() if log_format == "json" else TextLines())
    root.addHandler(handler)
    root.setLevel(level)
    # Warnings go to standard error otherwise, and quote what they warn of.
    logging.captureWarnings(True)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        server = logging.getLogger(name)
        server.handlers.clear()
        server.setLevel(logging.NOTSET)
        server.propagate = name != "uvicorn.access"


class _Stream(logging.StreamHandler[TextIO]):
    """The handler that `configure` sets, to know it again."""


def _is_worth_telling(record: logging.LogRecord) -> bool:
    """Return whether a line says something when its text is withheld: of others, warnings and worse do."""
    return _is_ours(record) or record.name == SERVER or record.levelno >= logging.WARNING


def told(record: logging.LogRecord) -> dict[str, Any]:
    """Return what may be written of a log record, as plain JSON values."""
    fields: dict[str, Any] = {
        "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
        "level": record.levelname.lower(),
        "logger": record.name,
        "message": _text(record)[:LONGEST_TEXT],
    }
    if known := request_id.get():
        fields["request_id"] = known
    extra = getattr(record, "fields", None)
    if _is_ours(record) and isinstance(extra, Mapping):
        fields |= extra
    if record.exc_info and record.exc_info[1] is not None:
        error = record.exc_info[1]
        fields["error"] = f"{type(error).__module__}.{type(error).__qualname__}"
        fields["at"] = [
            f"{frame.filename}:{frame.lineno} {frame.name}"
            for frame in traceback.extract_tb(error.__traceback__)[-NO_FRAMES:]
        ]
    return fields


def _is_ours(record: logging.LogRecord) -> bool:
    return record.name == OURS or record.name.startswith(f"{OURS}.")


def _text(record: logging.LogRecord) -> str:
    if _is_ours(record):
        return record.getMessage()
    # One with several lines is a traceback, with the error's message in it.
    if record.name == SERVER and isinstance(record.msg, str) and "\n" not in record.msg.strip():
        return record.msg.strip()
    return f"{WITHHELD} {record.module}:{record.lineno}"


class JsonLines(logging.Formatter):
    """A JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        return json.dumps(told(record), ensure_ascii=False, default=str)


class TextLines(logging.Formatter):
    """For people: time, level, logger, text, and the other fields as `name=value`."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line; what would break it is shown as an escape, so that no text can forge another line."""
        fields = told(record)
        head = [fields.pop(name) for name in ("time", "level", "logger", "message")]
        rest = [f"{name}={value}" for name, value in fields.items()]
        line = " ".join(str(part) for part in (*head, *rest))
        return _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", line)


class AccessLog:
    """Pure ASGI middleware that gives each request an id and writes one line when it is answered.

    The id comes from `X-Request-ID` where that is 1 to 100 letters, digits or `._:-`, and is made otherwise. It goes
    into `scope["state"]["request_id"]`, into the answer's `X-Request-ID`, and into all log lines of the request.
    `x-ms-client-request-id` is answered as it came, or with 431 where it is longer than 100 characters or not safe.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on, and log what comes back."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        chosen = _chosen_id(headers.get("x-request-id"))
        client_id = headers.get("x-ms-client-request-id")
        scope.setdefault("state", {})["request_id"] = chosen
        token = request_id.set(chosen)
        # 499: the client left before the answer began.
        status, sent, began = 499, 0, time.perf_counter()

        async def watched(message: Message) -> None:
            nonlocal status, sent
            if message["type"] == "http.response.start":
                status = message["status"]
                answer = MutableHeaders(scope=message)
                answer["X-Request-ID"] = chosen
                if client_id is not None and _SAFE_ID.fullmatch(client_id):
                    answer["x-ms-client-request-id"] = client_id
            else:
                sent += len(message.get("body", b""))
            await send(message)

        try:
            if client_id is not None and not _SAFE_ID.fullmatch(client_id):
                await _refuse(scope, receive, watched)
            else:
                await self.app(scope, receive, watched)
        except Exception:
            status = 500
            raise
        finally:
            access.info("request", extra={"fields": _line(scope, status, time.perf_counter() - began, sent)})
            request_id.reset(token)


def _chosen_id(came: str | None) -> str:
    return came if came is not None and _SAFE_ID.fullmatch(came) else uuid.uuid4().hex


async def _refuse(scope: Scope, receive: Receive, send: Send) -> None:
    detail = f"Expected x-ms-client-request-id of at most {LONGEST_ID} letters, digits or ._:- characters."
    await problem_response(scope, 431, "invalid_request", detail)(scope, receive, send)


def _line(scope: Scope, status: int, seconds: float, sent: int) -> dict[str, Any]:
    principal = scope.get("state", {}).get("principal")
    return {
        "method": scope["method"] if scope["method"] in METHODS else OTHER,
        "route": route_of(scope),
        "status": status,
        "ms": round(seconds * 1000, 1),
        "bytes": sent,
        "principal": getattr(principal, "name", None),
    }
