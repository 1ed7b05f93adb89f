"""How large a body may be, and how slow, over a real socket."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import uvicorn
from fastapi import FastAPI, Request, UploadFile

from rentgen.service import problems
from rentgen.service.throttle import (
    LimitBody,
)


@dataclass
class Server:
    port: int
    seen: list[int] = field(default_factory=list)
    taken: list[int] = field(default_factory=list)


LIMIT = 100_000


@contextmanager
def serve(**limits: Any) -> Iterator[Server]:  # noqa: ANN401
    app = FastAPI()
    problems.install(app)
    app.add_middleware(LimitBody, max_bytes=LIMIT, **limits)
    listener = socket.create_server(("127.0.0.1", 0))
    server = Server(listener.getsockname()[1])

    @app.post("/stream")
    async def stream(request: Request) -> int:
        size = 0
        async for part in request.stream():
            size += len(part)
            server.taken.append(size)
        server.seen.append(size)
        return size

    @app.post("/form")
    async def form(films: list[UploadFile]) -> int:
        return len(films)

    @app.post("/json")
    async def body(value: dict[str, str]) -> int:
        return len(value)

    @app.post("/lazy")
    async def lazy() -> str:
        return "did not look"

    config = uvicorn.Config(app, log_config=None, lifespan="off", timeout_graceful_shutdown=1)
    runner = uvicorn.Server(config)
    thread = threading.Thread(target=runner.run, kwargs={"sockets": [listener]})
    thread.start()
    while not runner.started:
        time.sleep(0.005)
    try:
        yield server
    finally:
        runner.should_exit = True
        thread.join()
        listener.close()


@pytest.fixture(name="server", scope="module")
def make_server() -> Iterator[Server]:
    with serve(linger_s=1.5) as server:
        yield server


Answer = tuple[int, dict[str, str], object]


def post(server: Server, path: str, body: object, headers: dict[str, str] | None = None) -> Answer:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    try:
        chunked = not isinstance(body, bytes)
        connection.request("POST", path, body, headers or {}, encode_chunked=chunked)  # type: ignore[arg-type]
        answer = connection.getresponse()
        named = {name.lower(): text for name, text in answer.getheaders()}
        return answer.status, named, json.loads(answer.read())
    finally:
        connection.close()


def chunks(count: int, size: int = 1000) -> Iterator[bytes]:
    for _ in range(count):
        yield b"x" * size


def check_413(answer: Answer) -> None:
    status, headers, document = answer
    assert status == 413
    assert headers["content-type"] == "application/problem+json"
    assert headers["connection"] == "close"
    assert isinstance(document, dict)
    assert document["code"] == "too_large"
    assert "100000 bytes" in document["detail"]


def test_body_of_the_limit_is_taken(server: Server) -> None:
    assert post(server, "/stream", b"x" * LIMIT)[::2] == (200, LIMIT)
    assert post(server, "/stream", chunks(100))[::2] == (200, LIMIT)


def test_declared_body_that_is_too_large_is_not_read(server: Server) -> None:
    server.taken.clear()
    check_413(post(server, "/stream", b"x" * (LIMIT + 1)))
    assert server.taken == []


def test_chunked_body_that_is_too_large(server: Server) -> None:
    server.seen.clear()
    check_413(post(server, "/stream", chunks(101)))
    check_413(post(server, "/stream", chunks(3000)))
    assert server.seen == []
    assert max(server.taken) <= LIMIT


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/form", "multipart/form-data; boundary=b"),
        ("/json", "application/json"),
        ("/stream", "application/dicom"),
    ],
)
def test_every_reader_of_bodies_is_bounded(server: Server, path: str, kind: str) -> None:
    def parts() -> Iterator[bytes]:
        yield b'--b\r\nContent-Disposition: form-data; name="films"; filename="f"\r\n\r\n'
        yield from chunks(200)

    check_413(post(server, path, parts(), {"Content-Type": kind}))


@pytest.mark.parametrize("declared", ["9" * 19, str(2**63), str(LIMIT + 1)])
def test_absurd_lengths(server: Server, declared: str) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as raw:
        raw.sendall(f"POST /stream HTTP/1.1\r\nHost: localhost\r\nContent-Length: {declared}\r\n\r\n".encode())
        assert raw.recv(100).split()[1] in (b"413", b"400")


def test_client_that_asks_first_sends_nothing(server: Server) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as raw:
        head = "POST /stream HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 200000\r\n\r\n"
        began = time.monotonic()
        raw.sendall(head.encode())
        received = b""
        while part := raw.recv(65_536):
            received += part
        assert received.startswith(b"HTTP/1.1 413")
        assert b"100 Continue" not in received
        assert time.monotonic() - began < 1.4


def test_sender_without_end_is_cut(server: Server) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as raw:
        raw.sendall(b"POST /stream HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")
        began = time.monotonic()
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            send_without_end(raw, until=began + 8)
        assert time.monotonic() - began < 5


def send_without_end(raw: socket.socket, until: float) -> None:
    chunk = b"4000\r\n" + b"x" * 0x4000 + b"\r\n"
    while time.monotonic() < until:
        raw.sendall(chunk)
        time.sleep(0.005)


def test_route_that_does_not_read_answers(server: Server) -> None:
    assert post(server, "/lazy", b"x" * 1000)[::2] == (200, "did not look")


def test_body_that_does_not_come_is_408() -> None:
    with serve(idle_s=0.2, linger_s=0.1) as server:
        with socket.create_connection(("127.0.0.1", server.port), timeout=5) as raw:
            raw.sendall(b"POST /stream HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nabc")
            received = b""
            while part := raw.recv(65_536):
                received += part
        assert received.startswith(b"HTTP/1.1 408")
        assert b'"code":"timeout"' in received


def test_body_that_drips_is_408() -> None:
    with (
        serve(idle_s=0.3, total_s=0.4, linger_s=3) as server,
        socket.create_connection(("127.0.0.1", server.port), timeout=5) as raw,
    ):
        raw.sendall(b"POST /stream HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n")
        for _ in range(6):
            raw.sendall(b"x")
            time.sleep(0.08)
        assert raw.recv(100).startswith(b"HTTP/1.1 408")


def test_client_that_leaves_leaves_the_service_up(server: Server) -> None:
    for _ in range(5):
        with socket.create_connection(("127.0.0.1", server.port), timeout=5) as raw:
            raw.sendall(b"POST /json HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nabc")
    assert post(server, "/stream", b"x")[::2] == (200, 1)


def test_all_bodies_together_have_a_limit_and_give_their_room_back() -> None:
    def slow(release: threading.Event) -> Iterator[bytes]:
        yield from chunks(90)
        release.wait(10)

    with serve(max_held_bytes=150_000, linger_s=0.2) as server:
        release = threading.Event()
        held: list[Answer] = []
        first = threading.Thread(target=lambda: held.append(post(server, "/stream", slow(release))))
        first.start()
        while not server.taken or server.taken[-1] < 90_000:
            time.sleep(0.005)
        status, headers, document = post(server, "/stream", chunks(90))
        assert status == 429
        assert int(headers["retry-after"]) >= 1
        assert isinstance(document, dict)
        assert document["code"] == "busy"
        release.set()
        first.join()
        assert held[0][::2] == (200, 90_000)
        assert post(server, "/stream", chunks(100))[::2] == (200, LIMIT)
