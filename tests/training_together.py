"""Work in a group for Ray's workers, who import it by name."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rentgen.parallel.pool import Seat
from rentgen.parallel.ray import Ray
from rentgen.records import Progress


@dataclass(frozen=True)
class Noting(Ray):
    """Ray's pool, whose processes note who they are."""

    notes: Path = Path()

    def together(
        self,
        run: Callable[[Seat], None],
        folder: Path,
        *,
        progress: Progress | None = None,
        over: Callable[[], bool] | None = None,
    ) -> None:
        super().together(partial(_note, self.notes, run), folder, progress=progress, over=over)

    def processes_of(self, rank: int) -> list[int]:
        """Return the processes that had a rank, the last one last."""
        notes = sorted(self.notes.glob(f"{rank}-*"), key=lambda path: path.stat().st_mtime_ns)
        return [int(path.name.partition("-")[2]) for path in notes]


def _note(notes: Path, run: Callable[[Seat], Any], seat: Seat) -> None:
    (notes / f"{seat.rank}-{os.getpid()}").touch()
    run(seat)
