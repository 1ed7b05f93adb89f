"""Films that are looked at but not kept: in memory, for a while, within a bound."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable

from rentgen.records import Radiograph


class FilmCache:
    """The films of the last while, least recently used first to go. Safe from any thread.

    Attributes:
        max_bytes: of pixels, in all.
        seconds: how long a film stays after it was last looked at.
    """

    def __init__(self, max_bytes: int, seconds: float, now: Callable[[], float] = time.monotonic) -> None:
        self.max_bytes = max_bytes
        self.seconds = seconds
        self._now = now
        self._lock = threading.Lock()
        self._films: OrderedDict[str, tuple[float, Radiograph]] = OrderedDict()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._films)

    @property
    def size(self) -> int:
        """Return the bytes in use."""
        return self._bytes

    def put(self, image_id: str, film: Radiograph) -> None:
        """Keep a film for a while; one that alone exceeds the bound is not kept."""
        if film.pixels.nbytes > self.max_bytes:
            return
        with self._lock:
            self._drop(image_id)
            self._films[image_id] = (self._now(), film)
            self._bytes += film.pixels.nbytes
            self._trim_locked()

    def get(self, image_id: str) -> Radiograph | None:
        """Return a film that is still there."""
        with self._lock:
            self._trim_locked()
            found = self._films.pop(image_id, None)
            if found is None:
                return None
            self._films[image_id] = (self._now(), found[1])
            return found[1]

    def has(self, image_id: str) -> bool:
        """Return whether a film is still there, without prolonging its stay."""
        with self._lock:
            self._trim_locked()
            return image_id in self._films

    def forget(self, image_id: str) -> None:
        """Let a film go at once."""
        with self._lock:
            self._drop(image_id)

    def _drop(self, image_id: str) -> None:
        found = self._films.pop(image_id, None)
        if found is not None:
            self._bytes -= found[1].pixels.nbytes

    def trim(self) -> None:
        """Let go of what is too old."""
        with self._lock:
            self._trim_locked()

    def _trim_locked(self) -> None:
        oldest = self._now() - self.seconds
        while self._films:
            image_id, (used, _) = next(iter(self._films.items()))
            if used >= oldest and self._bytes <= self.max_bytes:
                return
            self._drop(image_id)
