"""A bounded place in front of the engine: what does not fit is refused at once instead of waiting without end."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from rentgen.service.problems import Problem

T = TypeVar("T")

_FORGET = 0.9
"""How much of the old mean of a job's seconds stays when a new one comes."""


class Queue:
    """Runs jobs on a few threads, of which at most so many wait.

    The event loop never runs a job, so probes answer while the engine is busy. All methods are called from the event
    loop; `waiting` and `pending` from anywhere.

    Attributes:
        limit: jobs that may wait.
        workers: jobs that run side by side.
    """

    def __init__(self, *, limit: int, workers: int) -> None:
        self.limit = limit
        self.workers = workers
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="rentgen-engine")
        self._lock = threading.Lock()
        self._pending = 0
        self._seconds = 0.02
        self._closed = False

    @property
    def waiting(self) -> int:
        """Return how many jobs wait for a thread."""
        return max(0, self._pending - self.workers)

    @property
    def pending(self) -> int:
        """Return how many jobs wait or run."""
        return self._pending

    def check(self, jobs: int = 1) -> None:
        """Refuse early what could not be taken: before its body is read.

        A request is taken whole or not at all. One with more films than may wait is taken while nothing waits.

        Raises:
            Problem: 429 `busy` with the seconds after which to try again; 503 `draining` when it is being stopped.
        """
        if self._closed:
            raise Problem(503, "draining", "The service is being stopped.", headers={"Retry-After": "5"})
        if self.waiting and self.waiting + jobs > self.limit:
            seconds = max(1, round(self.waiting * self._seconds / self.workers))
            raise Problem(
                429,
                "busy",
                f"{self.waiting} films wait for the engine already, at most {self.limit} may. Try again later.",
                headers={"Retry-After": str(seconds)},
            )

    async def run(self, jobs: Sequence[Callable[[], T]]) -> list[T]:
        """Return the jobs' results, in order. If the caller is cancelled, what has not begun gives its place back.

        Raises:
            Problem: as of `check`.
        """
        self.check(len(jobs))
        futures = [self._submit(job) for job in jobs]
        try:
            return list(await asyncio.gather(*(asyncio.wrap_future(future) for future in futures)))
        finally:
            for future in futures:
                future.cancel()

    def _submit(self, job: Callable[[], T]) -> Future[T]:
        def timed() -> T:
            began = time.perf_counter()
            try:
                return job()
            finally:
                with self._lock:
                    self._seconds = _FORGET * self._seconds + (1 - _FORGET) * (time.perf_counter() - began)

        with self._lock:
            self._pending += 1
        try:
            future = self._pool.submit(timed)
        except RuntimeError as error:
            self._leave()
            raise Problem(503, "draining", "The service is being stopped.") from error
        future.add_done_callback(lambda _: self._leave())
        return future

    def _leave(self) -> None:
        with self._lock:
            self._pending -= 1

    async def drain(self, timeout_s: float) -> bool:
        """Take no more, and wait for what is pending; return whether all of it was done in time."""
        self._closed = True
        end = time.monotonic() + timeout_s
        while self._pending and time.monotonic() < end:
            await asyncio.sleep(0.02)
        self._pool.shutdown(wait=False, cancel_futures=True)
        return self._pending == 0
