"""Logs: an id for every request, one line each, and nothing of a patient, whoever logs it and however."""

from __future__ import annotations

import asyncio
import contextvars
import io
import json
import logging
import threading
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi import FastAPI, Request
from made import PATIENT_ID, PATIENT_NAME
from starlette.responses import Response
from starlette.testclient import TestClient

from rentgen.records.studies import Principal, Role
from rentgen.service import logs
from rentgen.service.logs import AccessLog, configure
from rentgen.service.problems import install

pytestmark = pytest.mark.filterwarnings("always:The value")
PLANTED = (PATIENT_ID, PATIENT_NAME, "Nobody", "MADE", "kept-key", "10.9.8.7")
library = logging.getLogger("rentgen.engine.made")
foreign = logging.getLogger("pydicom.made")


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    """Return where logs go; afterwards all is as before."""
    root = logging.getLogger()
    handlers, level = [*root.handlers], root.level
    servers = {name: logging.getLogger(name) for name in ("uvicorn", "uvicorn.error", "uvicorn.access")}
    known = {name: ([*each.handlers], each.propagate) for name, each in servers.items()}
    written = io.StringIO()
    configure("json", stream=written)
    yield written
    logging.captureWarnings(False)
    root.handlers[:], root.level = handlers, level
    for name, (old, propagate) in known.items():
        servers[name].handlers[:], servers[name].propagate = old, propagate


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def requests(stream: io.StringIO) -> list[dict[str, Any]]:
    return [line for line in lines(stream) if line["logger"] == "rentgen.access"]


@pytest.fixture
def client() -> TestClient:
    app = FastAPI()

    @app.get("/v1/studies/{study_id}")
    async def study(study_id: str, request: Request) -> Response:
        request.state.principal = Principal("ward-3", Role.READER)
        library.info("Film looked at")
        foreign.warning(f"Invalid value for VR PN: '{PATIENT_NAME}'")
        foreign.error("Bad value %s", PATIENT_ID)
        warnings.warn(f"The value {PATIENT_ID} is too long", stacklevel=1)
        await asyncio.to_thread(library.info, "Film read")
        return Response(b"12345", headers={"X-Request-ID": "of the application"})

    @app.get("/v1/broken")
    def broken() -> Response:
        raise ValueError(f"cannot read {PATIENT_NAME}")

    install(app)
    app.add_middleware(AccessLog)
    return TestClient(app, raise_server_exceptions=False)


def test_no_log_line_holds_what_came_from_outside(client: TestClient, stream: io.StringIO) -> None:
    """Plant a patient in all that a caller sends and a library may say, and read all that is written."""
    headers = {
        "X-API-Key": "kept-key",
        "X-Forwarded-For": "10.9.8.7",
        "Cookie": f"who={PATIENT_ID}",
        "User-Agent": PATIENT_ID,
    }
    for path in (
        f"/v1/studies/{PATIENT_ID}?name={PATIENT_NAME}",
        "/v1/broken",
        f"/{PATIENT_ID}",
        f"/v1/{PATIENT_NAME}/x",
    ):
        client.get(path, headers=headers)
    client.request(PATIENT_ID, "/v1/broken", headers=headers)
    client.post("/v1/broken", content=PATIENT_NAME, headers=headers | {"X-Request-ID": f"{PATIENT_NAME} {PATIENT_ID}"})
    try:
        raise ValueError(PATIENT_NAME)
    except ValueError:
        logging.getLogger("uvicorn.error").exception("Exception in ASGI application\n")
        logging.getLogger("uvicorn.error").error("Traceback:\n  ValueError: %s", PATIENT_NAME)
        logging.getLogger("uvicorn.error").info('%s - "WebSocket %s" [accepted]', "10.9.8.7", f"/{PATIENT_ID}")
        logging.getLogger("uvicorn.access").info("%s", f"/{PATIENT_ID}")
        library.exception("A film failed")
        foreign.exception(PATIENT_NAME)
        # As `logging.captureWarnings` has it; pytest keeps warnings to itself.
        logging.getLogger("py.warnings").warning("%s", f"UserWarning: {PATIENT_NAME}")
    written = stream.getvalue()
    assert len(requests(stream)) == 6
    for planted in PLANTED:
        assert planted not in written
    assert "ValueError" in written


def test_a_request_has_one_line_with_its_route_and_no_more(client: TestClient, stream: io.StringIO) -> None:
    answer = client.get("/v1/studies/abc", headers={"X-Request-ID": "ward-3:17"})
    (line,) = requests(stream)
    assert line.pop("ms") >= 0
    assert line.pop("time").endswith("+00:00")
    assert line == {
        "level": "info", "logger": "rentgen.access", "message": "request", "request_id": "ward-3:17", "method": "GET",
        "route": "/v1/studies/{study_id}", "status": 200, "bytes": 5, "principal": "ward-3",
    }  # fmt: skip
    assert answer.headers.get_list("x-request-id") == ["ward-3:17"]


def test_all_lines_of_a_request_carry_its_id_in_threads_too(client: TestClient, stream: io.StringIO) -> None:
    known = client.get("/v1/studies/abc").headers["x-request-id"]
    told = lines(stream)
    assert {line["message"] for line in told if line["logger"] == library.name} == {"Film looked at", "Film read"}
    assert {line["request_id"] for line in told} == {known}
    assert {line["logger"] for line in told} >= {"pydicom.made"}
    library.info("Outside")
    assert "request_id" not in lines(stream)[-1]


def test_a_thread_of_a_pool_sees_the_id_in_the_requests_context(stream: io.StringIO) -> None:
    token = logs.request_id.set("r1")
    context = contextvars.copy_context()
    logs.request_id.reset(token)
    thread = threading.Thread(target=context.run, args=(library.info, "Computed"))
    thread.start()
    thread.join()
    assert lines(stream)[-1]["request_id"] == "r1"


@pytest.mark.parametrize("came", ["", "a b", "x" * 101, "<script>", "ä", "a\\nb"])
def test_an_id_that_is_not_safe_is_replaced(client: TestClient, stream: io.StringIO, came: str) -> None:
    answer = client.get("/nowhere", headers=[(b"X-Request-ID", came.encode())])
    made = answer.headers["x-request-id"]
    assert made != came
    assert len(made) == 32
    assert answer.json()["instance"] == made


def test_a_fault_is_logged_with_its_kind_and_place(client: TestClient, stream: io.StringIO) -> None:
    answer = client.get("/v1/broken")
    assert answer.status_code == 500
    assert requests(stream)[-1]["status"] == 500
    library.info("After")
    try:
        raise KeyError(PATIENT_NAME)
    except KeyError:
        library.exception("A film failed")
    line = lines(stream)[-1]
    assert line["error"] == "builtins.KeyError"
    assert line["at"][0].endswith("test_a_fault_is_logged_with_its_kind_and_place")


def test_azures_request_id_is_answered_or_refused(client: TestClient, stream: io.StringIO) -> None:
    assert (
        client.get("/nowhere", headers={"x-ms-client-request-id": "a" * 100}).headers["x-ms-client-request-id"]
        == "a" * 100
    )
    refused = client.get("/v1/studies/abc", headers={"x-ms-client-request-id": "a" * 101})
    assert refused.status_code == 431
    assert refused.json()["code"] == "invalid_request"
    assert "x-ms-client-request-id" not in refused.headers
    assert requests(stream)[-1]["status"] == 431


def test_the_server_speaks_in_templates(stream: io.StringIO) -> None:
    server = logging.getLogger("uvicorn.error")
    server.info("Started server process [%d]", 7)
    server.info("Application startup complete.")
    assert [line["message"] for line in lines(stream)] == [
        "Started server process [%d]",
        "Application startup complete.",
    ]


def test_no_other_handler_writes_what_is_withheld(stream: io.StringIO) -> None:
    root, elsewhere = logging.getLogger(), io.StringIO()
    logging.basicConfig(stream=elsewhere, force=True)
    configure("json", stream=stream)
    foreign.error("Bad value %s", PATIENT_ID)
    assert elsewhere.getvalue() == ""
    assert len([handler for handler in root.handlers if isinstance(handler, logging.StreamHandler)]) >= 1
    assert len(lines(stream)) == 1


def test_text_lines_cannot_be_forged(stream: io.StringIO) -> None:
    written = io.StringIO()
    configure("text", stream=written)
    library.warning("one\n2026-01-01 error rentgen forged\x1b[31m\u2028")
    assert written.getvalue().count("\n") == 1
    assert "\\x0a2026-01-01" in written.getvalue()
    assert "\x1b" not in written.getvalue()
    assert stream.getvalue() == ""


def test_a_long_text_is_cut(stream: io.StringIO) -> None:
    library.info("x" * 100_000)
    assert len(lines(stream)[-1]["message"]) == logs.LONGEST_TEXT


def test_what_is_no_request_passes() -> None:
    seen: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:  # noqa: ANN401
        seen.append(scope["type"])

    asyncio.run(AccessLog(app)({"type": "lifespan"}, None, None))  # type: ignore[arg-type]
    assert seen == ["lifespan"]
