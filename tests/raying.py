"""Work for Ray's workers, who import it by name and so import no torch, and a pool that sends as Ray does."""

from __future__ import annotations

import os
import pickle
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from rentgen.errors import InputError
from rentgen.parallel.pool import Seat, Work
from rentgen.records import Progress, UInt8

T = TypeVar("T")

RESULT_BYTES = 2 << 20
UNREADABLE = 80


def marks(folder: Path) -> int:
    """Return how often something was noted in a folder."""
    return sum(1 for path in folder.glob("*") if path.name.isdigit())


def mark(folder: Path) -> None:
    """Note that something happened; several processes may at once."""
    (folder / str(time.time_ns() * 100_000 + os.getpid() % 100_000)).touch()


class Posted:
    """A pool that sends work, items and results as Ray would, and works in this process."""

    def __init__(self) -> None:
        self.items = 0

    def map(self, work: Work[Any, Any, Any], items: Iterable[Any]) -> Iterator[Any]:
        sent = post(replace(work, here=None))
        state = sent.open(1)
        for item in items:
            self.items += 1
            yield post(sent.run(state, post(item)))

    def together(
        self,
        run: Callable[[Seat], None],
        folder: Path,
        *,
        progress: Progress | None = None,
        over: Callable[[], bool] | None = None,
    ) -> None:
        post(run)(Seat(progress=progress, over=over))


def post(thing: T) -> T:
    """Return the copy that another process would have; Ray sends more kinds of things than this does."""
    copy: T = pickle.loads(pickle.dumps(thing))  # noqa: S301
    return copy


def open_numbers(threads: int) -> int:
    return threads


def straggle(folder: Path, _: int, number: int) -> UInt8:
    """Return a number in much memory; number 0 waits for eight others to begin, and one is none."""
    if number == UNREADABLE:
        raise InputError(f"{number}.png", "broken")
    mark(folder)
    deadline = time.monotonic() + 60
    while number == 0 and marks(folder) < 9:
        if time.monotonic() > deadline:
            raise InputError("0", "the others wait for the slow one")
        time.sleep(0.05)
    return np.full(RESULT_BYTES, number, np.uint8)
