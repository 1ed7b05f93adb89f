"""A run and those who keep track of it; whatever becomes of them, the run goes on."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from rentgen.errors import PeerError
from rentgen.records.runs import Findings, RunStart
from rentgen.tracking.events import events, file_name

logger = logging.getLogger(__name__)


class Tracker(Protocol):
    """Who keeps track of one run. Each call may raise PeerError or OSError; after that nothing more is called."""

    def begin(self, run: RunStart) -> None:
        """Note what the run was asked."""

    def keep(self, found: Findings) -> None:
        """Note what it found."""

    def end(self, *, failed: bool) -> None:
        """Note that it is over."""


class TensorBoard:
    """Event files in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def begin(self, run: RunStart) -> None:
        """Make the run's folder: a place that cannot be written is known before the work."""
        self.folder = self.folder / f"{run.task}-{run.name}-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}"
        self.folder.mkdir(parents=True, exist_ok=True)

    def keep(self, found: Findings) -> None:
        """Write curves, figures and pictures."""
        now = time.time()
        (self.folder / file_name(now)).write_bytes(events(found.curves, now, found))

    def end(self, *, failed: bool) -> None:
        """Do nothing: a file has no end."""


class Followers:
    """Several trackers as one that never fails: who does is warned of, once, and left out from then on."""

    def __init__(self, trackers: Sequence[Tracker]) -> None:
        self._trackers = list(trackers)

    def begin(self, run: RunStart) -> None:
        """Tell all."""
        for tracker in tuple(self._trackers):
            with self._shielded(tracker):
                tracker.begin(run)

    def keep(self, found: Findings) -> None:
        """Tell all."""
        for tracker in tuple(self._trackers):
            with self._shielded(tracker):
                tracker.keep(found)

    def end(self, *, failed: bool) -> None:
        """Tell all."""
        for tracker in tuple(self._trackers):
            with self._shielded(tracker):
                tracker.end(failed=failed)

    @contextmanager
    def _shielded(self, tracker: Tracker) -> Iterator[None]:
        try:
            yield
        except (PeerError, OSError) as error:
            self._trackers.remove(tracker)
            logger.warning("%s no longer keeps track of this run, which goes on: %s", type(tracker).__name__, error)


@contextmanager
def follow(trackers: Sequence[Tracker], run: RunStart) -> Iterator[Followers]:
    """Begin a run with all who keep track of it; it ends as failed where the work raises."""
    followers = Followers(trackers)
    followers.begin(run)
    try:
        yield followers
    except BaseException:
        followers.end(failed=True)
        raise
    followers.end(failed=False)
