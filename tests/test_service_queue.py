"""The bounded place in front of the engine, tried with real threads and a real event loop."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from functools import partial

import pytest

from rentgen.service.problems import Problem
from rentgen.service.queue import Queue


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """Return an event for which jobs wait; it is set at the end whatever happens."""
    event = threading.Event()
    yield event
    event.set()


async def _settle(queue: Queue, pending: int) -> None:
    for _ in range(500):
        if queue.pending == pending:
            return
        await asyncio.sleep(0.01)
    raise TimeoutError(f"{queue.pending} jobs are pending, not {pending}")


def test_results_come_in_order_whoever_is_done_first() -> None:
    async def ask() -> list[int]:
        def last_first(place: int) -> int:
            time.sleep(0.02 * (4 - place))
            return place

        queue = Queue(limit=8, workers=4)
        return await queue.run([partial(last_first, place) for place in range(4)])

    assert asyncio.run(ask()) == [0, 1, 2, 3]


def test_what_does_not_fit_is_refused_at_once_and_says_when_to_come_back(gate: threading.Event) -> None:
    async def ask() -> None:
        queue = Queue(limit=2, workers=1)
        held = [asyncio.ensure_future(queue.run([gate.wait])) for _ in range(3)]
        await _settle(queue, 3)
        assert queue.waiting == 2
        with pytest.raises(Problem, match="2 films wait for the engine already, at most 2 may") as caught:
            await queue.run([gate.wait])
        assert (caught.value.status, caught.value.code) == (429, "busy")
        assert int(caught.value.headers["Retry-After"]) >= 1
        assert queue.pending == 3
        gate.set()
        await asyncio.gather(*held)
        await _settle(queue, 0)

    asyncio.run(ask())


def test_a_request_with_more_films_than_may_wait_is_taken_while_nothing_waits(gate: threading.Event) -> None:
    async def ask() -> None:
        queue = Queue(limit=2, workers=1)
        held = asyncio.ensure_future(queue.run([gate.wait] * 6))
        await _settle(queue, 6)
        with pytest.raises(Problem, match="5 films wait"):
            queue.check()
        gate.set()
        assert await held == [True] * 6

    asyncio.run(ask())


def test_whoever_leaves_gives_the_place_back(gate: threading.Event) -> None:
    async def ask() -> None:
        queue = Queue(limit=4, workers=1)
        running = asyncio.ensure_future(queue.run([gate.wait]))
        await _settle(queue, 1)
        leaver = asyncio.ensure_future(queue.run([gate.wait] * 3))
        await _settle(queue, 4)
        leaver.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaver
        assert queue.pending == 1
        gate.set()
        assert await running == [True]

    asyncio.run(ask())


def test_one_job_that_fails_does_not_hold_the_places_of_the_others(gate: threading.Event) -> None:
    def fail() -> bool:
        raise ValueError("this film")

    async def ask() -> None:
        queue = Queue(limit=8, workers=1)
        with pytest.raises(ValueError, match="this film"):
            await queue.run([fail, gate.wait, gate.wait])
        gate.set()
        await _settle(queue, 0)

    asyncio.run(ask())


def test_draining_finishes_what_was_begun_and_takes_no_more(gate: threading.Event) -> None:
    async def ask() -> None:
        queue = Queue(limit=8, workers=1)
        held = asyncio.ensure_future(queue.run([gate.wait]))
        await _settle(queue, 1)
        draining = asyncio.ensure_future(queue.drain(5.0))
        await asyncio.sleep(0.05)
        with pytest.raises(Problem, match="being stopped") as caught:
            queue.check()
        assert (caught.value.status, caught.value.code) == (503, "draining")
        gate.set()
        assert await held == [True]
        assert await draining

    asyncio.run(ask())


def test_draining_says_when_it_gives_up(gate: threading.Event) -> None:
    async def ask() -> None:
        queue = Queue(limit=8, workers=1)
        held = asyncio.ensure_future(queue.run([gate.wait]))
        await _settle(queue, 1)
        assert not await queue.drain(0.1)
        gate.set()
        await held

    asyncio.run(ask())
