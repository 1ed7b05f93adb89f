"""What the gateway's threads are made of: what each does, and how one wakes another."""

from __future__ import annotations

import fcntl
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rentgen.errors import SettingError
from rentgen.gateway.intake import Taken
from rentgen.gateway.nouns import Header
from rentgen.gateway.spool import Reception

_ASK_S = 5.0
"""How often the database is asked for quiet studies where no object came."""


class Awake:
    """Wakes threads that wait for the same thing."""

    def __init__(self) -> None:
        self._bell = threading.Event()

    def ring(self) -> None:
        """Wake one that waits, or the next that will."""
        self._bell.set()

    def wait(self, seconds: float) -> None:
        """Wait until somebody rings, or for so many seconds."""
        if self._bell.wait(seconds):
            self._bell.clear()


@dataclass(frozen=True, slots=True)
class Part:
    """What a thread does.

    Attributes:
        name: of the thread.
        work: returns whether there was something to do.
        awake: whoever brings work rings here.
        idle_s: how long it sleeps where nobody does.
    """

    name: str
    work: Callable[[], bool]
    awake: Awake
    idle_s: float


class Arrivals:
    """When objects came whose studies may not be closed yet: so the database is asked only when something is due."""

    def __init__(self, quiet_s: float) -> None:
        self._quiet_s = quiet_s
        self._came: deque[float] = deque()
        self._asked = float("-inf")

    def note(self) -> None:
        """Note that an object came."""
        self._came.append(time.monotonic())

    def are_due(self) -> bool:
        """Return whether a study may have become quiet; now and then without a reason, too, for what was left over."""
        now = time.monotonic()
        due = now - self._asked > _ASK_S
        while self._came and self._came[0] <= now - self._quiet_s:
            self._came.popleft()
            due = True
        if due:
            self._asked = now
        return due


class WakingIntake:
    """A reception that tells of every new object, and counts what came by each door."""

    def __init__(self, reception: Reception, arrivals: Arrivals) -> None:
        self._reception = reception
        self._arrivals = arrivals
        self._lock = threading.Lock()
        self._counts: Counter[tuple[str, str]] = Counter()

    def counts(self, door: str) -> dict[str, int]:
        """Return how often an object that came by a door was new, a duplicate or a conflict."""
        with self._lock:
            return {taken.value: self._counts[door, taken.value] for taken in Taken}

    def receive(self, path: Path, header: Header, origin: str) -> Taken:
        """Keep an object for good, and return what became of it; see `intake.Intake`."""
        taken = self._reception.receive(path, header, origin)
        self._arrivals.note()
        with self._lock:
            self._counts[origin.partition(":")[0], taken.value] += 1
        return taken

    def holds(self, sop_instance_uid: str) -> bool:
        """Return whether an object was kept for good."""
        return self._reception.holds(sop_instance_uid)


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold a folder against a second gateway until the block ends; the system lets go when the process dies.

    Raises:
        SettingError: another one has it.
    """
    with (folder / "lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise SettingError(
                f"Another gateway works in {folder}; stop it, or give this one a folder and a database of its own."
            ) from error
        yield
