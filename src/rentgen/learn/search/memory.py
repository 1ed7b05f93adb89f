"""What a search remembers between its runs, besides the features: in the cache, by all that decides a trial."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from rentgen.learn.extractors import write_whole
from rentgen.learn.search.clock import Clock
from rentgen.learn.search.space import Sight
from rentgen.records.search import Opened


@dataclass(slots=True, eq=False)
class Memory:
    """What an earlier run of the same search left, and what the next will find.

    Attributes:
        identity: of the search.
        folder: where it lies.
        opened: sets of features that were tried.
        seconds: that choosing took.
    """

    identity: str
    folder: Path
    opened: dict[Sight, Opened]
    seconds: float

    @classmethod
    def open(cls, folder: Path, identity: str) -> Memory:
        """Return what is known of a search.

        Args:
            folder: of all searches.
            identity: of this one: what decides every trial.
        """
        memory = cls(identity, folder, {}, 0.0)
        memory.folder.mkdir(parents=True, exist_ok=True)
        if memory.path.is_file():
            values = json.loads(memory.path.read_text(encoding="utf-8"))
            memory.seconds = float(values["seconds"])
            memory.opened = {Sight(**sight): Opened(**one) for sight, one in values["opened"]}
        return memory

    @property
    def path(self) -> Path:
        """Return the file of what was opened and of the time."""
        return self.folder / f"{self.identity}.json"

    @property
    def journal(self) -> Path:
        """Return the file of the trials."""
        return self.folder / f"{self.identity}.journal"

    def keep(self, clock: Clock) -> None:
        """Write what is known, whole or not at all."""
        opened = [[asdict(sight), asdict(one)] for sight, one in self.opened.items()]
        text = json.dumps({"seconds": clock.elapsed, "opened": opened})
        write_whole(self.path, lambda file: file.write(text.encode()))
