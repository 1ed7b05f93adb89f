"""Load for an HTTP service on this machine, light: requests are built beforehand, answers barely read.

The callers share the processors with the service they measure, so what they cost themselves is counted and told.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import uvloop

T = TypeVar("T")

HOST = "127.0.0.1"
_TICKS = os.sysconf("SC_CLK_TCK")
_MAX_CONNECTIONS = 1024


class Caller(asyncio.Protocol):
    """One connection; answers come in the order of the requests, one at a time."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self._answer: asyncio.Future[tuple[int, bytes]] | None = None
        self._received = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep what writes."""
        self.transport = transport  # type: ignore[assignment]

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail who waits."""
        self.transport = None
        self._end(lambda waiting: waiting.set_exception(ConnectionError("closed")))

    def data_received(self, data: bytes) -> None:
        """Hand over an answer when it is whole: all servers here say the length of what they send."""
        self._received += data
        end = self._received.find(b"\r\n\r\n")
        if end < 0:
            return
        head = bytes(self._received[:end]).lower()
        place = head.find(b"content-length:")
        length = int(head[place + 15 :].split(b"\r\n", 1)[0]) if place >= 0 else 0
        if len(self._received) >= end + 4 + length:
            self._received.clear()
            self._end(lambda waiting: waiting.set_result((int(head[9:12]), head)))

    def _end(self, tell: Callable[[asyncio.Future[tuple[int, bytes]]], None]) -> None:
        waiting, self._answer = self._answer, None
        if waiting is not None and not waiting.done():
            tell(waiting)

    async def ask(self, request: bytes) -> tuple[int, bytes]:
        """Return status and head of the answer."""
        if self.transport is None:
            raise ConnectionError("closed")
        self._answer = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        return await self._answer


@dataclass
class Tally:
    """What came back.

    Attributes:
        seconds: from the first request to the last answer.
        latencies_ms: of answers 200 and 201; in an open loop from when the request was due.
        statuses: how often each came.
        broken: connections that ended without an answer.
        retry_after: how many of the 429 say when to come again.
        own_cpu_s: what asking cost.
        server_cpu_s: what answering cost, all its processes.
        idle: share of all processors' time in which nobody, not even another program, had work for them.
        rss_mb: of the server, over time.
        pings_ms: of `/ping` meanwhile.
    """

    seconds: float = 0.0
    latencies_ms: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    broken: int = 0
    retry_after: int = 0
    own_cpu_s: float = 0.0
    server_cpu_s: float = 0.0
    idle: float = 0.0
    rss_mb: list[float] = field(default_factory=list)
    pings_ms: list[float] = field(default_factory=list)

    @property
    def answered(self) -> int:
        """How many films were answered."""
        return self.statuses[200] + self.statuses[201]

    @property
    def rate(self) -> float:
        """Answers a second."""
        return self.answered / self.seconds

    @property
    def errors(self) -> int:
        """How much was neither answered nor refused with 429."""
        return self.broken + sum(self.statuses.values()) - self.answered - self.statuses[429]

    @property
    def cpu_ms(self) -> float:
        """Processor time of the server an answer, ms: says more than the rate where others share the machine."""
        return 1000 * self.server_cpu_s / max(1, self.answered)

    def quantile(self, share: float) -> float:
        """Return a quantile of the latencies, ms."""
        return float(np.quantile(self.latencies_ms, share)) if self.latencies_ms else float("nan")

    def line(self) -> str:
        """Return all of it in a line."""
        own = self.own_cpu_s / max(1e-9, self.own_cpu_s + self.server_cpu_s)
        text = (
            f"{self.rate:6.1f} films/s, {self.cpu_ms:5.1f} ms of processor a film, p50 {self.quantile(0.5):6.1f} ms, "
            f"p99 {self.quantile(0.99):6.1f} ms, errors {self.errors}, load's own share {own:.0%}, idle {self.idle:.0%}"
        )
        if self.pings_ms:
            text += f", /ping max {max(self.pings_ms):.0f} ms of {len(self.pings_ms)}"
        if self.statuses[429]:
            text += f", 429: {self.statuses[429]} ({self.retry_after} with Retry-After)"
        return text

    def count(self, status: int, head: bytes, milliseconds: float) -> None:
        """Add an answer."""
        self.statuses[status] += 1
        if status in (200, 201):
            self.latencies_ms.append(milliseconds)
        elif status == 429 and b"retry-after:" in head:
            self.retry_after += 1


def build(path: str, body: bytes, content_type: str) -> bytes:
    """Return a POST request, whole."""
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def form(path: str, field_name: str, data: bytes) -> bytes:
    """Return a POST request with a form of one file."""
    edge = "------------------------7d1f0c2a9b"
    head = (
        f'--{edge}\r\nContent-Disposition: form-data; name="{field_name}"; filename="film"\r\n'
        "Content-Type: application/octet-stream\r\n\r\n"
    )
    body = head.encode() + data + f"\r\n--{edge}--\r\n".encode()
    return build(path, body, f"multipart/form-data; boundary={edge}")


def run(work: Coroutine[Any, Any, T]) -> T:
    """Return what a coroutine gives, on the fast loop."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)


async def connect(port: int) -> Caller:
    """Return a new connection."""
    _, caller = await asyncio.get_running_loop().create_connection(Caller, HOST, port)
    return caller


async def closed_loop(port: int, requests: Sequence[bytes], *, callers: int, seconds: float, pid: int) -> Tally:
    """Return what callers got who each ask again as soon as they were answered."""
    tally = Tally()
    end = time.perf_counter() + seconds

    async def ask(number: int) -> None:
        caller = await connect(port)
        turn = number
        while time.perf_counter() < end:
            began = time.perf_counter()
            status, head = await caller.ask(requests[turn % len(requests)])
            tally.count(status, head, 1000 * (time.perf_counter() - began))
            turn += callers

    async def all_of_them() -> None:
        results = await asyncio.gather(*(ask(number) for number in range(callers)), return_exceptions=True)
        tally.broken += sum(isinstance(result, BaseException) for result in results)

    await _measured(tally, all_of_them(), port, pid)
    return tally


async def open_loop(port: int, requests: Sequence[bytes], *, rate: float, seconds: float, pid: int) -> Tally:
    """Return what callers got who come at random times, whether or not those before them were answered."""
    tally = Tally()
    idle: list[Caller] = []
    due = np.cumsum(np.random.default_rng(0).exponential(1 / rate, round(rate * seconds)))

    async def ask(request: bytes, when: float) -> None:
        try:
            caller = idle.pop() if idle else await connect(port)
            status, head = await caller.ask(request)
        except OSError:
            tally.broken += 1
            return
        idle.append(caller)
        tally.count(status, head, 1000 * (time.perf_counter() - when))

    async def all_of_them() -> None:
        began = time.perf_counter()
        asked: set[asyncio.Task[None]] = set()
        for number, after in enumerate(due):
            wait = began + after - time.perf_counter()
            if wait > 0:
                await asyncio.sleep(wait)
            if len(asked) >= _MAX_CONNECTIONS:
                tally.broken += 1
                continue
            task = asyncio.create_task(ask(requests[number % len(requests)], began + after))
            asked.add(task)
            task.add_done_callback(asked.discard)
        await asyncio.gather(*asked)

    await _measured(tally, all_of_them(), port, pid)
    return tally


async def _measured(tally: Tally, work: Coroutine[Any, Any, None], port: int, pid: int) -> None:
    watching = asyncio.create_task(_watch(tally, port, pid))
    began, own, server, idle = time.perf_counter(), time.process_time(), cpu_s(pid), idle_s()
    await work
    tally.seconds = time.perf_counter() - began
    tally.own_cpu_s, tally.server_cpu_s = time.process_time() - own, cpu_s(pid) - server
    tally.idle = (idle_s() - idle) / tally.seconds / (os.cpu_count() or 1)
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)


async def _watch(tally: Tally, port: int, pid: int) -> None:
    """Ask `/ping` ten times a second and look at the server's memory."""
    caller = await connect(port)
    ping = f"GET /ping HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode()
    while True:
        began = time.perf_counter()
        status, _ = await caller.ask(ping)
        if status == 200:
            tally.pings_ms.append(1000 * (time.perf_counter() - began))
        tally.rss_mb.append(rss_mb(pid))
        await asyncio.sleep(0.1)


def family(pid: int) -> list[int]:
    """Return a process and all below it."""
    below = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in path.read_text().split():
            below += family(int(child))
    return [pid, *below]


def cpu_s(pid: int) -> float:
    """Return the processor time of a process and of all below it, s."""
    total = 0
    for one in family(pid):
        try:
            numbers = Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        total += int(numbers[11]) + int(numbers[12])
    return total / _TICKS


def idle_s() -> float:
    """Return the time in which the machine's processors had nothing to do, all added up, s."""
    return int(Path("/proc/stat").read_text().split()[4]) / _TICKS


def rss_mb(pid: int) -> float:
    """Return the resident memory of a process, MB of 10^6 bytes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
