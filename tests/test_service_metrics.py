"""Metrics: counted where requests pass, read back by Prometheus' own parser."""

from __future__ import annotations

import asyncio
import re
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
from fastapi import APIRouter, FastAPI
from prometheus_client.parser import text_string_to_metric_families
from starlette.responses import PlainTextResponse, Response
from starlette.testclient import TestClient
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rentgen.records import Prediction, Status
from rentgen.service.drift import Measure, Report, Verdict
from rentgen.service.metrics import OTHER, BundleInfo, CountRequests, Metrics
from rentgen.service.problems import Problem, install

PATIENT = "MADE-0001"


def read(metrics: Metrics) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Return all samples by name and labels, as a scraper reads them."""
    body, content_type = metrics.render()
    assert content_type.startswith("text/plain")
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(body.decode())
        for sample in family.samples
    }


def sample(metrics: Metrics, name: str, **labels: str) -> float:
    return read(metrics)[name, frozenset(labels.items())]


def names(metrics: Metrics) -> set[str]:
    return {name for name, _ in read(metrics)}


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def client(metrics: Metrics) -> TestClient:
    app = FastAPI()
    router, inner = APIRouter(prefix="/v1"), APIRouter(prefix="/studies")

    @inner.get("/{study_id}")
    def study(study_id: str) -> Response:
        return Response("seen")

    @router.post("/busy")
    def busy() -> Response:
        raise Problem(429, "busy")

    @router.get("/broken")
    def broken() -> Response:
        raise RuntimeError(PATIENT)

    router.include_router(inner)
    app.include_router(router)
    app.mount("/assets", PlainTextResponse("asset"))
    install(app)
    app.add_middleware(CountRequests, metrics=metrics)
    return TestClient(app, raise_server_exceptions=False)


def test_a_request_is_counted_by_the_template_of_its_route(client: TestClient, metrics: Metrics) -> None:
    for name in ("one", PATIENT):
        assert client.get(f"/v1/studies/{name}?patient={PATIENT}").text == "seen"
    labels = {"route": "/v1/studies/{study_id}", "method": "GET", "status": "200"}
    assert sample(metrics, "rentgen_requests_total", **labels) == 2
    assert sample(metrics, "rentgen_request_seconds_count", route="/v1/studies/{study_id}") == 2
    assert sample(metrics, "rentgen_requests_in_flight") == 0
    assert PATIENT.encode() not in metrics.render()[0]


def test_plain_routes_and_folders_are_known_too(client: TestClient, metrics: Metrics) -> None:
    assert client.get("/openapi.json").status_code == 200
    assert client.get("/assets/made.txt").text == "asset"
    assert sample(metrics, "rentgen_requests_total", route="/openapi.json", method="GET", status="200") == 1
    assert sample(metrics, "rentgen_requests_total", route="/assets/*", method="GET", status="200") == 1


@pytest.mark.parametrize(("method", "counted"), [("GET", "GET"), ("BREW", OTHER), (PATIENT, OTHER)])
def test_what_a_caller_makes_up_adds_no_series(client: TestClient, metrics: Metrics, method: str, counted: str) -> None:
    for name in range(20):
        client.request(method, f"/{PATIENT}/{name}")
    assert sample(metrics, "rentgen_requests_total", route=OTHER, method=counted, status="404") == 20
    assert PATIENT.encode() not in metrics.render()[0]


def test_errors_are_counted_by_their_code(client: TestClient, metrics: Metrics) -> None:
    assert client.post("/v1/busy").status_code == 429
    assert client.get("/v1/broken").status_code == 500
    assert client.get("/nowhere").status_code == 404
    found = {code: sample(metrics, "rentgen_errors_total", code=code) for code in ("busy", "internal", "not_found")}
    assert found == {"busy": 1, "internal": 1, "not_found": 1}
    metrics.observe_error(PATIENT)
    assert sample(metrics, "rentgen_errors_total", code=OTHER) == 1
    assert PATIENT.encode() not in metrics.render()[0]


async def exchange(app: ASGIApp) -> None:
    async def send(message: Message) -> None:
        pass

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    await app({"type": "http", "method": "GET", "path": "/x", "headers": []}, receive, send)


@pytest.mark.parametrize("body", [b"", b"no json", b"[1]", b'{"code": 5}', b" " * 100_000])
def test_an_odd_error_answer_counts_as_other(metrics: Metrics, body: bytes) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"content-type", b"application/problem+json")]
        await send({"type": "http.response.start", "status": 400, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    asyncio.run(exchange(CountRequests(app, metrics)))
    assert sample(metrics, "rentgen_errors_total", code=OTHER) == 1


def test_a_client_that_leaves_before_the_answer_counts_as_499(metrics: Metrics) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert sample(metrics, "rentgen_requests_in_flight") == 1
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(exchange(CountRequests(app, metrics)))
    assert sample(metrics, "rentgen_requests_total", route=OTHER, method="GET", status="499") == 1
    assert sample(metrics, "rentgen_requests_in_flight") == 0


def test_films_are_counted_by_worth_and_class(metrics: Metrics) -> None:
    ok = Prediction("film", Status.OK, "PNEUMONIA", {"NORMAL": 0.1, "PNEUMONIA": 0.9})
    doubt = Prediction("film", Status.OUT_OF_SCOPE, "NORMAL", {"NORMAL": 0.9, "PNEUMONIA": 0.1})
    for prediction in (ok, ok, doubt, Prediction("film", Status.ERROR, None, {})):
        metrics.observe_film("chest", prediction, 0.02, 0.001)
    assert sample(metrics, "rentgen_films_total", model="chest", status="ok") == 2
    assert sample(metrics, "rentgen_films_total", model="chest", status="out_of_scope") == 1
    assert sample(metrics, "rentgen_films_total", model="chest", status="error") == 1
    assert sample(metrics, "rentgen_film_classes_total", model="chest", label="PNEUMONIA") == 2
    assert ("rentgen_film_classes_total", frozenset({("model", "chest"), ("label", "NORMAL")})) not in read(metrics)
    assert sample(metrics, "rentgen_film_engine_seconds_sum", model="chest") == pytest.approx(0.08)
    assert sample(metrics, "rentgen_film_wait_seconds_count") == 4


def test_what_is_watched_is_looked_at_when_metrics_are_read(metrics: Metrics) -> None:
    waiting = [3]
    metrics.watch_queue(lambda: (waiting[0], 64))
    metrics.watch_films(lambda: (2, 8_000_000))
    metrics.watch_models(lambda: [BundleInfo("chest", "ab12", "pneumonia", True), BundleInfo("late", "", "", False)])
    assert sample(metrics, "rentgen_queue_films") == 3
    waiting[0] = 5
    assert sample(metrics, "rentgen_queue_films") == 5
    assert sample(metrics, "rentgen_queue_limit") == 64
    assert sample(metrics, "rentgen_films_in_memory_bytes") == 8_000_000
    assert sample(metrics, "rentgen_model_ready", model="chest") == 1
    assert sample(metrics, "rentgen_model_ready", model="late") == 0
    assert sample(metrics, "rentgen_bundle_info", model="chest", bundle_id="ab12", title="pneumonia") == 1


def test_drift_is_shown_by_model_and_measure(metrics: Metrics) -> None:
    at = datetime(2026, 1, 2, tzinfo=UTC)
    measures = (
        Measure("beyond_distance", 200, 0.5, 0.04, 0.4, 0.6, 1e-9, verdict=Verdict.MOVED),
        Measure("distance", 200, 0.7),
        Measure("confidence", 0, None),
    )
    metrics.watch_drift(lambda: {"chest": Report(200, 500, at, at, measures, Verdict.MOVED)})
    assert sample(metrics, "rentgen_drift_moved", model="chest", measure="beyond_distance") == 1
    assert sample(metrics, "rentgen_drift_moved", model="chest", measure="distance") == 0
    assert sample(metrics, "rentgen_drift_value", model="chest", measure="beyond_distance") == 0.5
    assert sample(metrics, "rentgen_drift_expected", model="chest", measure="beyond_distance") == 0.04
    assert sample(metrics, "rentgen_drift_films", model="chest", measure="confidence") == 0


def test_the_process_is_measured_and_two_services_do_not_share(metrics: Metrics) -> None:
    assert {"process_resident_memory_bytes", "process_open_fds", "python_info", "rentgen_build_info"} <= names(metrics)
    metrics.observe_request("/v1/predict", "POST", 200, 0.1)
    assert "rentgen_requests_total" not in names(Metrics())


def test_the_document_names_every_metric_and_no_other(metrics: Metrics) -> None:
    metrics.watch_queue(lambda: (0, 1))
    metrics.watch_films(lambda: (0, 0))
    metrics.watch_models(lambda: ())
    metrics.watch_drift(dict)
    document = (Path(__file__).parents[1] / "docs" / "operations.md").read_text("utf-8")
    table = document[document.index("| metric | labels") : document.index("### Alerts")]
    told = {name for row in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)}
    families = text_string_to_metric_families(metrics.render()[0].decode())
    there = {
        f"{family.name}_total" if family.type == "counter" else family.name
        for family in families
        if family.name.startswith("rentgen_") and not family.name.endswith("_created")
    }
    assert {f"rentgen_{name}" for name in told} == there
    used = set(re.findall(r"rentgen_\w+?(?=_bucket|\b)", document[document.index("```yaml") :].split("```")[1]))
    assert used <= there


def test_counting_is_cheap(metrics: Metrics) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"x"})

    async def seconds(asgi: ASGIApp, count: int = 500) -> float:
        began = time.perf_counter()
        for _ in range(count):
            await exchange(asgi)
        return (time.perf_counter() - began) / count

    counted = CountRequests(app, metrics)
    # The least of several: what else the machine does is not of interest.
    extra = min(asyncio.run(seconds(counted)) for _ in range(7)) - min(asyncio.run(seconds(app)) for _ in range(7))
    assert extra < 50e-6
