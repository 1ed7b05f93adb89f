"""Traces: sent to a real collector over HTTP, decoded by OpenTelemetry's own protocol buffers."""

from __future__ import annotations

import contextvars
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from gzip import decompress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from fastapi import FastAPI
from made import PATIENT_ID, PATIENT_NAME
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from served import closed_port
from starlette.responses import Response
from starlette.testclient import TestClient

from rentgen.errors import MissingExtraError, SettingError
from rentgen.service.logs import AccessLog
from rentgen.service.problems import Problem, install
from rentgen.service.telemetry import Trace, connect, span, waited

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@dataclass
class Collector:
    """What an OTLP collector on loopback received."""

    url: str = ""
    paths: list[str] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)

    def requests(self) -> list[ExportTraceServiceRequest]:
        return [ExportTraceServiceRequest.FromString(body) for body in self.bodies]

    def spans(self) -> dict[str, Span]:
        return {
            each.name: each
            for request in self.requests()
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for each in scope.spans
        }


class Handler(BaseHTTPRequestHandler):
    collector: Collector

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.collector.paths.append(self.path)
        self.collector.bodies.append(decompress(body) if self.headers["Content-Encoding"] == "gzip" else body)
        answer = ExportTraceServiceResponse().SerializeToString()
        self.send_response(200)
        self.send_header("Content-Type", "application/x-protobuf")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)


@contextmanager
def collecting() -> Iterator[Collector]:
    collector = Collector()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"collector": collector}))
    collector.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield collector
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def application() -> FastAPI:
    app = FastAPI()

    @app.post("/v1/predict/{name}")
    async def predict(name: str) -> Response:
        began = time.perf_counter() - 0.02
        with span("read", films=1):
            pass
        waited("wait", began)

        def compute() -> None:
            with span("infer", model="chest"):
                pass

        with ThreadPoolExecutor(1) as pool:
            pool.submit(contextvars.copy_context().run, compute).result()
        return Response("done")

    @app.get("/v1/broken")
    def broken() -> Response:
        with span("store"):
            raise ValueError(PATIENT_NAME)

    @app.get("/v1/busy")
    def busy() -> Response:
        raise Problem(429, "busy")

    install(app)
    return app


def values(found: Span) -> dict[str, str | int]:
    return {each.key: each.value.string_value or each.value.int_value for each in found.attributes}


def ask(collector: Collector, method: str, path: str, **headers: str) -> dict[str, Span]:
    telemetry = connect(collector.url)
    app = application()
    app.add_middleware(Trace, tracer=telemetry.tracer)
    app.add_middleware(AccessLog)
    TestClient(app, raise_server_exceptions=False).request(method, path, headers=headers)
    telemetry.close()
    return collector.spans()


def test_a_request_and_its_films_are_one_trace_below_the_callers() -> None:
    with collecting() as collector:
        spans = ask(
            collector, "POST", f"/v1/predict/{PATIENT_ID}?name={PATIENT_NAME}",
            traceparent=f"00-{TRACE}-{PARENT}-01", **{"X-Request-ID": "r-17"},
        )  # fmt: skip
    assert set(collector.paths) == {"/v1/traces"}
    assert set(spans) == {"POST /v1/predict/{name}", "read", "wait", "infer"}
    request = spans["POST /v1/predict/{name}"]
    assert request.kind == Span.SPAN_KIND_SERVER
    assert (request.trace_id.hex(), request.parent_span_id.hex()) == (TRACE, PARENT)
    assert values(request) == {
        "http.request.method": "POST", "http.route": "/v1/predict/{name}", "http.response.status_code": 200,
        "rentgen.request_id": "r-17",
    }  # fmt: skip
    for name in ("read", "wait", "infer"):
        assert spans[name].trace_id == request.trace_id
        assert spans[name].parent_span_id == request.span_id
    assert values(spans["infer"]) == {"model": "chest"}
    assert 0.02e9 <= spans["wait"].end_time_unix_nano - spans["wait"].start_time_unix_nano < 2e9
    names = {
        each.key: each.value.string_value
        for sent in collector.requests()
        for resource in sent.resource_spans
        for each in resource.resource.attributes
    }
    assert names["service.name"] == "rentgen"
    for body in collector.bodies:
        assert PATIENT_ID.encode() not in body
        assert PATIENT_NAME.encode() not in body


def test_a_fault_is_told_by_its_class_only() -> None:
    with collecting() as collector:
        spans = ask(collector, "GET", "/v1/broken")
    assert spans["GET /v1/broken"].status.code == Status.STATUS_CODE_ERROR
    assert values(spans["GET /v1/broken"])["http.response.status_code"] == 500
    assert spans["store"].status.code == Status.STATUS_CODE_ERROR
    assert values(spans["store"]) == {"error.type": "ValueError"}
    assert not spans["store"].events
    assert not any(PATIENT_NAME.encode() in body for body in collector.bodies)


def test_what_the_caller_did_wrong_is_no_fault_of_the_service() -> None:
    with collecting() as collector:
        spans = ask(collector, "GET", "/v1/busy", traceparent="not a parent")
    found = spans["GET /v1/busy"]
    assert found.status.code == Status.STATUS_CODE_UNSET
    assert values(found)["http.response.status_code"] == 429
    assert not found.parent_span_id


def test_without_traces_a_span_is_nothing_and_costs_nothing() -> None:
    assert span("read") is span("infer", films=3)
    waited("wait", 0.0)
    began = time.perf_counter()
    for _ in range(10_000):
        with span("read"):
            pass
    assert (time.perf_counter() - began) / 10_000 < 5e-6


def test_a_path_of_the_endpoint_is_kept() -> None:
    with collecting() as collector:
        telemetry = connect(f"{collector.url}/otlp/traces")
        telemetry.tracer.start_span("one").end()
        telemetry.close()
    assert collector.paths == ["/otlp/traces"]


def test_a_collector_that_is_not_there_delays_nobody_for_long() -> None:
    telemetry = connect(f"http://127.0.0.1:{closed_port()}", timeout_s=0.3)
    began = time.perf_counter()
    telemetry.tracer.start_span("one").end()
    assert time.perf_counter() - began < 0.1
    telemetry.close()
    assert time.perf_counter() - began < 5


@pytest.mark.parametrize("endpoint", ["collector:4318", "grpc://collector:4317", "http://", ""])
def test_an_endpoint_that_is_no_http_address_is_refused(endpoint: str) -> None:
    with pytest.raises(SettingError, match="Expected otlp_endpoint to be an address like http://collector:4318"):
        connect(endpoint)


def test_without_the_extra_the_message_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "opentelemetry"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    with pytest.raises(MissingExtraError, match=r"tracing needs opentelemetry.*rentgen\[telemetry\]"):
        connect("http://127.0.0.1:4318")
