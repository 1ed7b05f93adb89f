"""What a server must do on a cloud, one small function each; `TABLE` says where which is asked."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from rentgen.deploy.environment import Platform
from rentgen.deploy.launch import VERTEX_ROUTE, Answer, Place, ask
from rentgen.deploy.material import JSON, VERTEX_BYTES, body, film, instance, large_body

PING_S = 2.0
DRAIN_S = 30.0
AT_ONCE = 16
TOO_LARGE = 10_000_000_000
STRANGE = {
    "X-Amzn-SageMaker-Custom-Attributes": "c" * 1024,
    "X-Amzn-Trace-Id": "Root=1-0-0",
    "X-Ms-Client-Request-Id": "a-b-c",
    "X-Goog-Api-Client": "any",
    "Traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    **{f"X-Unknown-{number}": "value" for number in range(16)},
}


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check saw.

    Attributes:
        measured: in words, with its figure.
        passed: None where it could not be looked at here.
    """

    measured: str
    passed: bool | None


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the table.

    Attributes:
        name: what is looked at.
        expected: what the platform demands.
        look: asks a running server.
        platforms: that demand it.
    """

    name: str
    expected: str
    look: Callable[[Place], Finding]
    platforms: tuple[Platform, ...] = (Platform.VERTEX, Platform.SAGEMAKER, Platform.AZURE)


def predict(where: Place, data: bytes, headers: Mapping[str, str] = JSON, path: str | None = None) -> Answer:
    """Return the answer to a request for predictions."""
    return ask(where.port, "POST", path or where.predict, data, headers)


def predictions(answer: Answer) -> list[dict[str, Any]] | None:
    """Return the predictions of an answer; None where it holds none."""
    try:
        found = json.loads(answer.body)["predictions"]
    except (ValueError, KeyError, TypeError):
        return None
    return found if isinstance(found, list) and all(isinstance(item, dict) for item in found) else None


def _sound(answer: Answer, count: int) -> bool:
    found = predictions(answer)
    return answer.status == 200 and found is not None and len(found) == count and not any("error" in x for x in found)


def empty_ping(where: Place) -> Finding:
    """Look at the body of /ping."""
    answer = ask(where.port, "GET", "/ping")
    return Finding(f"{answer.status}, {len(answer.body)} bytes", answer.status == 200 and not answer.body)


def alive(where: Place) -> Finding:
    """Look at the routes for liveness."""
    statuses = {path: ask(where.port, "GET", path).status for path in ("/livez", "/")}
    return Finding(_listed(statuses), set(statuses.values()) == {200})


def default_routes(where: Place) -> Finding:
    """Look at the routes that Vertex AI takes where none are set: its sources name two for health."""
    health = {path: ask(where.port, "GET", path).status for path in (VERTEX_ROUTE, f"{VERTEX_ROUTE}:predict")}
    answer = predict(where, body([instance(film())]), path=f"{VERTEX_ROUTE}:predict")
    told = ", ".join(map(str, health.values()))
    return Finding(f"health {told}; predict {answer.status}", set(health.values()) == {200} and _sound(answer, 1))


def in_order(where: Place) -> Finding:
    """Look at number and order of predictions."""
    sent = [f"film-{number}" for number in range(5)]
    answer = predict(where, body([instance(film(number), id=name) for number, name in enumerate(sent)]))
    found = predictions(answer)
    got = [item.get("id") for item in found or ()]
    return Finding(f"{answer.status}, {len(got)} of 5", answer.status == 200 and got == sent)


def own_place(where: Place) -> Finding:
    """Look at what a bad instance does to its neighbours."""
    answer = predict(where, body([instance(film()), {"content": "no base64!"}, {"content": "bm8gZmlsbQ=="}, 7]))
    found = predictions(answer)
    errors = ["error" in item for item in found or ()]
    return Finding(
        f"{answer.status}, errors at {[i for i, bad in enumerate(errors) if bad]}", errors == [False, True, True, True]
    )


def foreign_headers(where: Place) -> Finding:
    """Look at a request with headers that nobody told us of."""
    answer = predict(where, body([instance(film())]), JSON | STRANGE)
    return Finding(f"{answer.status}", _sound(answer, 1))


def largest_request(where: Place) -> Finding:
    """Look at a request of 1.5 MB with heat maps asked for, and at the size of its answer."""
    data = large_body()
    count = len(json.loads(data)["instances"])
    data = data[:-1] + b', "parameters": {"heatmap": true}}'
    answer = predict(where, data)
    told = f"{answer.status}; {len(data) / 1e6:.2f} MB in, {len(answer.body) / 1e6:.3f} MB out for {count} films"
    return Finding(told, _sound(answer, count) and len(answer.body) <= VERTEX_BYTES)


def refused(where: Place) -> Finding:
    """Look at bodies that are too large, empty, or nothing known: each a 4xx, and the server goes on."""
    statuses = {
        "10 GB": ask(where.port, "POST", where.predict, b"{", JSON | {"Content-Length": str(TOO_LARGE)}).status,
        "no JSON": predict(where, b"{" * 100_000).status,
        "empty": predict(where, b"{}").status,
        "text": predict(where, b"film", {"Content-Type": "text/plain"}).status,
    }
    after = predict(where, body([instance(film())]))
    passed = all(400 <= status < 500 for status in statuses.values()) and statuses["10 GB"] == 413
    return Finding(f"{_listed(statuses)}; then {after.status}", passed and _sound(after, 1))


def ping_while_busy(where: Place) -> Finding:
    """Look at the slowest probe while 16 requests are computed."""
    data = [body([instance(film(number, 1024)) for _ in range(4)]) for number in range(AT_ONCE)]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        asked = [pool.submit(predict, where, one) for one in data]
        # A server that refuses at once may be done before the first look.
        probes = [ask(where.port, "GET", where.health, timeout_s=10)]
        while not all(job.done() for job in asked):
            probes.append(ask(where.port, "GET", where.health, timeout_s=10))
            time.sleep(0.005)
        statuses = sorted({job.result().status for job in asked})
    slowest = max(probe.seconds for probe in probes)
    healthy = all(probe.status == 200 for probe in probes)
    told = f"slowest of {len(probes)} probes {slowest * 1000:.0f} ms; predictions {', '.join(map(str, statuses))}"
    return Finding(told, healthy and slowest < PING_S and set(statuses) <= {200, 429} and 200 in statuses)


def content_types(where: Place) -> Finding:
    """Look at a film as it is, and at JSON lines."""
    raw = predict(where, film(), {"Content-Type": "image/png"})
    lines = b"".join(json.dumps(instance(film(number))).encode() + b"\n" for number in range(3))
    listed = predict(where, lines, {"Content-Type": "application/jsonlines", "Accept": "application/jsonlines"})
    got = [json.loads(line) for line in listed.body.splitlines()] if listed.status == 200 else []
    passed = _sound(raw, 1) and len(got) == 3 and all("error" not in item for item in got)
    return Finding(f"PNG {raw.status}; JSON lines {listed.status}, {len(got)} of 3", passed)


def execution_parameters(where: Place) -> Finding:
    """Look at what batch transform is told."""
    answer = ask(where.port, "GET", "/execution-parameters")
    wanted = {"MaxConcurrentTransforms": 4, "BatchStrategy": "MULTI_RECORD", "MaxPayloadInMB": 6}
    try:
        got = json.loads(answer.body)
    except ValueError:
        got = None
    return Finding(f"{answer.status}, {got}", got == wanted)


def swagger(where: Place) -> Finding:
    """Look at the interface's description, where Azure's own servers have theirs."""
    answer = ask(where.port, "GET", "/swagger.json")
    try:
        paths = json.loads(answer.body)["paths"]
    except (ValueError, KeyError, TypeError):
        paths = {}
    return Finding(f"{answer.status}, {len(paths)} paths", answer.status == 200 and "/score" in paths)


def drains(process: subprocess.Popen[str], where: Place) -> Finding:
    """Look at what SIGTERM does to requests in flight, and how long the server stays; it is gone afterwards."""
    data = body([instance(film(number, 1024)) for number in range(8)])
    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(predict, where, data) for _ in range(4)]
        time.sleep(0.3)
        flying = sum(not job.done() for job in asked)
        began = time.perf_counter()
        process.send_signal(signal.SIGTERM)
        try:
            code: int | None = process.wait(DRAIN_S + 15)
        except subprocess.TimeoutExpired:
            code = None
        seconds = time.perf_counter() - began
        answered = sum(_sound(job.result(), 8) for job in asked)
    told = f"{answered} of 4 answered, {flying} were in flight; gone after {seconds:.1f} s, exit code {code}"
    return Finding(told, answered == 4 and seconds < DRAIN_S and code in (0, -signal.SIGTERM, 128 + signal.SIGTERM))


def _listed(statuses: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {status}" for name, status in statuses.items())


TABLE = (
    Check("/ping has no body", "200, empty", empty_ping, (Platform.SAGEMAKER,)),
    Check("alive", "/livez and / are 200", alive),
    Check("both default routes", "health 200 twice, predict 200", default_routes, (Platform.VERTEX,)),
    Check("predictions = instances", "n of n, in order", in_order),
    Check("a bad instance", "spoils its own place only", own_place),
    Check("unknown headers", "ignored", foreign_headers),
    Check("1.5 MB request", "accepted, answer < 1.5 MB", largest_request),
    Check("payload limits", "413 and other 4xx, then 200", refused),
    Check("content types", "a film as it is, JSON lines", content_types, (Platform.SAGEMAKER,)),
    Check("/execution-parameters", "4, MULTI_RECORD, 6", execution_parameters, (Platform.SAGEMAKER,)),
    Check("/swagger.json", "names /score", swagger, (Platform.AZURE,)),
    Check(f"probes under {AT_ONCE} requests", f"200 within {PING_S:.0f} s", ping_while_busy),
)
