"""A function over many items on this machine, in order, with bounded memory."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def cores() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def imap(function: Callable[[T], R], items: Iterable[T], *, workers: int | None = None, ahead: int = 64) -> Iterator[R]:
    """Yield `function(item)` for each item, in order, working on at most `ahead` items beyond the one yielded.

    Threads, because the work that is shared out (reading, decoding, resizing, inference) releases the interpreter lock.
    An error raised by the function is raised where its result would have been yielded.

    Args:
        function: called from several threads.
        items: drawn lazily, from the calling thread.
        workers: threads; the number of usable processors by default.
        ahead: bound on the results in memory.
    """
    with ThreadPoolExecutor(workers or cores(), thread_name_prefix="rentgen") as pool:
        waiting: deque[Future[R]] = deque()
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
