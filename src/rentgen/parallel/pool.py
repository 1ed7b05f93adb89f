"""Long work, here or on other machines, and nobody else knows which: a function over many items, or one by several.

All long work takes a `Pool`. `HERE` is threads of this process; `rentgen.parallel.ray` has another.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from rentgen.parallel.local import cores, imap
from rentgen.records import Progress

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


@dataclass(frozen=True, slots=True, eq=False)
class Seat:
    """The place of a process among those that do one piece of work together.

    Attributes:
        rank: its number; 0 leads.
        size: how many they are; where more than one, torch.distributed is set up between them.
        progress: to be told by the leading one.
        over: tells the leading one whether time is over; None where there is no end.
    """

    rank: int = 0
    size: int = 1
    progress: Progress | None = None
    over: Callable[[], bool] | None = None


class Pool(Protocol):
    """Who does the work."""

    def map(self, work: Work[S, T, R], items: Iterable[T]) -> Iterator[R]:
        """Yield the result for each item, in order, with bounded memory.

        An error raised by the work is raised where its result would have been yielded.
        """
        ...

    def together(
        self,
        run: Callable[[Seat], None],
        folder: Path,
        *,
        progress: Progress | None = None,
        over: Callable[[], bool] | None = None,
    ) -> None:
        """Do one piece of work in as many processes as the pool has places for it; what comes of it is in a folder.

        Args:
            run: may be sent to another process, and is begun again after one died.
            folder: that all of them must see under this name.
            progress: is told what the leading one tells.
            over: as of `Seat`.
        """
        ...


class Alone:
    """What every pool does that has no process but this."""

    __slots__ = ()

    def together(
        self,
        run: Callable[[Seat], None],
        folder: Path,
        *,
        progress: Progress | None = None,
        over: Callable[[], bool] | None = None,
    ) -> None:
        """Do the work in this process, which needs no other for it."""
        run(Seat(progress=progress, over=over))


@dataclass(frozen=True, slots=True)
class Threads(Alone):
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
