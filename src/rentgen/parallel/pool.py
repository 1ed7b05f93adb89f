"""A function over many items, in order, with bounded memory: here, or on other machines, and nobody else knows which.

All long work takes a `Pool`. `HERE` is threads of this process; `rentgen.parallel.ray` has another.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from rentgen.parallel.local import cores, imap

S = TypeVar("S")
T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, slots=True, eq=False)
class Work(Generic[S, T, R]):
    """What is done to each item, by a worker that first opened what it needs.

    `open`, `run`, the items and the results may be sent to another process: functions of a module (or `partial` of
    such), frozen dataclasses, arrays. What cannot be sent, such as a compiled graph, is what `open` makes.

    Attributes:
        open: makes a worker's own state, once; told how many threads it may use.
        run: called with that state and an item, from several threads where the worker has them.
        here: the state, where it is open in this process already; it is never sent.
        workers: threads in this process; the number of usable processors by default.
        ahead: bound on the results in this process's memory.
        grain: items that a worker elsewhere takes at a time; one where an item is long work.
        gpus: that a worker elsewhere needs.
        folder: that a worker elsewhere must see under the same name.
    """

    open: Callable[[int], S]
    run: Callable[[S, T], R]
    here: S | None = None
    workers: int | None = None
    ahead: int = 64
    grain: int = 1
    gpus: int = 0
    folder: Path | None = None


class Pool(Protocol):
    """Who does the work."""

    def map(self, work: Work[S, T, R], items: Iterable[T]) -> Iterator[R]:
        """Yield the result for each item, in order, with bounded memory.

        An error raised by the work is raised where its result would have been yielded.
        """
        ...


@dataclass(frozen=True, slots=True)
class Threads:
    """The threads of this process."""

    def map(self, work: Work[S, T, R], items: Iterable[T]) -> Iterator[R]:
        """Yield the result for each item, in order; items are drawn lazily, from the calling thread."""
        state = work.open(work.workers or cores()) if work.here is None else work.here
        return imap(lambda item: work.run(state, item), items, workers=work.workers, ahead=work.ahead)


HERE = Threads()


def open_nothing(threads: int) -> bool:
    """Return the state of work that needs none."""
    return True


def folder_of(paths: Iterable[Path]) -> Path | None:
    """Return the folder that holds all the files, absolute; None where there is no file."""
    parents = {os.path.dirname(os.path.abspath(path)) for path in paths}
    return Path(os.path.commonpath(parents)) if parents else None
