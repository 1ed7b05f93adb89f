"""Every error is a problem document, and none of them repeats what was sent."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator
from enum import StrEnum
from functools import cache
from typing import Annotated

import jsonschema
import pytest
from fastapi import Body, FastAPI, Request
from fastapi.testclient import TestClient
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import AfterValidator, BaseModel, ConfigDict
from starlette.responses import StreamingResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rentgen.errors import (
    BundleError,
    DataError,
    InputError,
    LeakError,
    MissingExtraError,
    PeerError,
    RentgenError,
    SettingError,
    StoreError,
    UnsupportedImageError,
)
from rentgen.service.problems import CODES, MEDIA_TYPE, RESPONSES, SCHEMA, Problem, install, problem_response, responses

PATIENT = "DOE^JANE"


class Side(StrEnum):
    LEFT = "left"
    RIGHT = "right"


def refuse(value: str) -> str:
    raise ValueError(f"{value} is not allowed")


class Form(BaseModel):
    model_config = ConfigDict(extra="forbid")

    count: int = 1
    side: Side = Side.LEFT
    odd: Annotated[str, AfterValidator(refuse)] | None = None


RAISED: dict[str, Exception] = {
    "problem": Problem(429, "busy", "Full.", headers={"Retry-After": "7"}),
    "input": InputError(f"/in/{PATIENT}.dcm", "not a DICOM file"),
    "unsupported": UnsupportedImageError(f"{PATIENT}.png", "colour"),
    "setting": SettingError("points must be positive"),
    "data": DataError("no films"),
    "leak": LeakError("one patient on both sides"),
    "store": StoreError(f"postgresql://user:{PATIENT}@host does not answer"),
    "bundle": BundleError(f"/models/{PATIENT} is damaged"),
    "peer": PeerError(f"{PATIENT} refused"),
    "extra": MissingExtraError("reportlab", "service", "the report"),
    "root": RentgenError(PATIENT),
    "bug": KeyError(PATIENT),
}


class Named:
    """Gives each request an id, as the access log does."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope.setdefault("state", {})["request_id"] = "abc123"

        async def sender(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"x-outside", b"yes")]
            await send(message)

        await self.app(scope, receive, sender)


@pytest.fixture(name="client")
def make_client() -> TestClient:
    app = FastAPI(responses=RESPONSES)
    install(app)
    app.add_middleware(Named)

    @app.get("/raise/{which}")
    def fail(which: str) -> None:
        raise RAISED[which]

    @app.post("/form")
    def form(form: Form) -> Form:
        return form

    @app.post("/any", responses=responses("busy", "loading"))
    def anything(value: Annotated[dict[str, int], Body()]) -> None:
        return None

    @app.post("/raw")
    async def raw(request: Request) -> int:
        return len(await request.body())

    return TestClient(app)


@pytest.mark.parametrize(
    ("which", "status", "code", "detail"),
    [
        ("problem", 429, "busy", "Full."),
        ("input", 422, "unreadable_film", "not a DICOM file"),
        ("unsupported", 422, "unsupported_film", "colour"),
        ("setting", 422, "invalid_request", "points must be positive"),
        ("data", 422, "invalid_request", "no films"),
        ("leak", 422, "invalid_request", "one patient on both sides"),
        ("store", 503, "store_failed", CODES["store_failed"].detail),
        ("bundle", 500, "internal", CODES["internal"].detail),
        ("peer", 502, "peer_failed", CODES["peer_failed"].detail),
        ("extra", 501, "not_installed", str(RAISED["extra"])),
        ("root", 500, "internal", CODES["internal"].detail),
        ("bug", 500, "internal", CODES["internal"].detail),
    ],
)
def test_error_becomes_a_document(client: TestClient, which: str, status: int, code: str, detail: str) -> None:
    answer = client.get(f"/raise/{which}")
    document = answer.json()
    assert answer.status_code == document["status"] == status
    assert answer.headers["content-type"] == MEDIA_TYPE
    assert answer.headers["x-outside"] == "yes"
    assert (document["code"], document["detail"], document["instance"]) == (code, detail, "abc123")
    assert document["type"] == "about:blank"
    jsonschema.validate(document, dict(SCHEMA))
    assert PATIENT not in answer.text


def test_headers_of_a_problem_go_out(client: TestClient) -> None:
    assert client.get("/raise/problem").headers["retry-after"] == "7"
    assert client.get("/raise/store").headers["retry-after"] == "5"


def test_log_of_a_bug_has_its_place_and_not_its_message(client: TestClient, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        client.get("/raise/bug")
    assert "KeyError in fail" in caplog.text
    assert PATIENT not in caplog.text


def test_fault_of_a_middleware_is_a_document_too() -> None:
    class Broken:
        def __init__(self, app: ASGIApp) -> None:
            self.app = app

        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            raise KeyError(PATIENT)

    app = FastAPI()
    install(app)
    app.add_middleware(Broken)
    answer = TestClient(app, raise_server_exceptions=False).get("/")
    assert (answer.status_code, answer.json()["code"]) == (500, "internal")
    assert PATIENT not in answer.text


def test_half_an_answer_is_broken_off() -> None:
    app = FastAPI()
    install(app)

    @app.get("/")
    async def half() -> StreamingResponse:
        async def parts() -> AsyncIterator[bytes]:
            yield b"one"
            raise KeyError(PATIENT)

        return StreamingResponse(parts())

    with pytest.raises(KeyError):
        TestClient(app).get("/")


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [("GET", f"/{PATIENT}", 404, "not_found"), ("GET", "/form", 405, "method_not_allowed")],
)
def test_what_routing_refuses(client: TestClient, method: str, path: str, status: int, code: str) -> None:
    answer = client.request(method, path)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert PATIENT not in answer.text
    assert ("allow" in answer.headers) == (status == 405)


@pytest.mark.parametrize(
    ("body", "where"),
    [
        ({"count": PATIENT}, "body.count"),
        ({"side": PATIENT}, "body.side"),
        ({"odd": PATIENT}, "body.odd"),
        ({PATIENT: 1}, "body"),
        ([PATIENT], "body"),
    ],
)
def test_invalid_request_says_where_and_repeats_nothing(client: TestClient, body: object, where: str) -> None:
    answer = client.post("/form", json=body)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    assert answer.json()["errors"][0]["where"] == where
    assert PATIENT not in answer.text
    jsonschema.validate(answer.json(), dict(SCHEMA))


def test_keys_of_a_map_are_not_repeated(client: TestClient) -> None:
    assert PATIENT not in client.post("/any", json={PATIENT: "x"}).text


def test_broken_json_is_an_invalid_request(client: TestClient) -> None:
    answer = client.post("/form", content=f'{{"{PATIENT}', headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    assert PATIENT not in answer.text


@cache
def make_client_of_forms() -> TestClient:
    app = FastAPI()
    install(app)

    @app.post("/form")
    def form(form: Form) -> Form:
        return form

    return TestClient(app)


@settings(max_examples=60, deadline=None)
@example([float("inf")])
@example(float("-inf"))
@given(st.recursive(st.none() | st.booleans() | st.floats(allow_nan=False) | st.text(), st.lists, max_leaves=5))
def test_no_body_is_an_internal_error(value: object) -> None:
    # Python's own writer, unlike the client's, says Infinity, which is no JSON but is what some clients send.
    body = json.dumps(value).encode()
    answer = make_client_of_forms().post("/form", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code in (200, 422)


def test_many_faults_are_counted_out(client: TestClient) -> None:
    answer = client.post("/any", json={f"name{number}": "x" for number in range(1000)})
    assert len(answer.json()["errors"]) == 20


def test_description_names_the_schema_and_every_code(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    assert document["components"]["schemas"]["Problem"]["properties"]["code"]["enum"] == sorted(CODES)
    operation = document["paths"]["/any"]["post"]
    busy = operation["responses"]["429"]["content"]
    assert list(busy) == [MEDIA_TYPE]
    assert busy[MEDIA_TYPE]["schema"] == {"$ref": "#/components/schemas/Problem"}
    assert set(busy[MEDIA_TYPE]["examples"]) == {"busy", "rate_limited"}
    for shown in busy[MEDIA_TYPE]["examples"].values():
        jsonschema.validate(shown["value"], dict(SCHEMA))
    assert "HTTPValidationError" not in str(operation)


def test_problem_of_a_code_has_its_status() -> None:
    problem = Problem.of("loading", Retry_After="2")
    assert (problem.status, problem.detail, problem.headers) == (503, CODES["loading"].detail, {"Retry-After": "2"})
    assert str(problem).startswith("503 loading: ")


def test_response_without_a_scope_has_no_instance() -> None:
    assert b"instance" not in problem_response(None, 404, "not_found").body


def test_unknown_code_is_a_bug_at_once() -> None:
    with pytest.raises(KeyError, match="no_such"):
        Problem(400, "no_such")


def test_codes_have_statuses_of_errors() -> None:
    assert all(400 <= kind.status < 600 and kind.detail.endswith(".") for kind in CODES.values())
