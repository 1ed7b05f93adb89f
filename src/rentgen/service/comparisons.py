"""Two models compared on a set, in the background."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rentgen.data.listing import list_images
from rentgen.engine.predictor import Predictor
from rentgen.errors import RentgenError
from rentgen.evaluate.compare import compare
from rentgen.service.problems import Problem

logger = logging.getLogger(__name__)

KEPT_COMPARISONS = 20


@dataclass(frozen=True, slots=True)
class Comparison:
    """How far a comparison is, and what came out.

    Attributes:
        number: counts from 1.
        old: name of the model in use.
        new: name of the one that may take its place.
        set: name of the set.
        state: `waiting`, `running`, `done` or `failed`.
        done: films answered, by both models together.
        total: films to answer at this stage.
        result: plain values of `evaluate.compare`; None until it is done.
        error: why it failed; None otherwise.
    """

    number: int
    old: str
    new: str
    set: str
    state: str = "waiting"
    done: int = 0
    total: int = 0
    result: dict[str, Any] | None = None
    error: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        names = ("old", "new", "set", "state", "done", "total", "result", "error")
        return {"id": str(self.number)} | {name: getattr(self, name) for name in names}


class Comparisons:
    """Comparisons, one at a time, the last few remembered while the service runs."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._turn = threading.Lock()
        self._known: OrderedDict[int, Comparison] = OrderedDict()
        self._count = 0

    def get(self, number: str) -> Comparison:
        """Return one.

        Raises:
            Problem: 404.
        """
        found = self._known.get(int(number)) if number.isascii() and number.isdecimal() and len(number) < 10 else None
        if found is None:
            raise Problem(404, "not_found", "There is no such comparison; they are remembered until the service stops.")
        return found

    def begin(self, old: str, new: str, name: str) -> Comparison:
        """Return a new one, to be run.

        Raises:
            Problem: 429, so many wait already.
        """
        with self._lock:
            if sum(one.state in ("waiting", "running") for one in self._known.values()) >= 3:
                raise Problem(429, "busy", "Three comparisons wait or run already.", headers={"Retry-After": "60"})
            self._count += 1
            begun = Comparison(self._count, old, new, name)
            self._known[self._count] = begun
            while len(self._known) > KEPT_COMPARISONS:
                self._known.popitem(last=False)
            return begun

    def run(self, begun: Comparison, old: Predictor, new: Predictor, source: Path) -> None:
        """Compare, and remember what came out; an error is remembered too."""

        def progress(stage: str, done: int, total: int, note: str = "") -> None:
            self._set(begun.number, state="running", done=done, total=total)

        with self._turn:
            self._set(begun.number, state="running")
            try:
                result = compare(old, new, list_images(source), progress=progress).to_dict()
            except RentgenError as error:
                # Names of files may be names of patients: the page gets the kind, the operator's log the words.
                logger.error("A comparison failed: %s", type(error).__name__)
                self._set(begun.number, state="failed", error=f"The set could not be used ({type(error).__name__}).")
                return
            # Paths of films say more than a page needs.
            result["failed"] = {str(place): reason for place, reason in enumerate(result.get("failed", {}).values(), 1)}
            self._set(begun.number, state="done", result=result)

    def _set(self, number: int, **changes: Any) -> None:  # noqa: ANN401
        with self._lock:
            if number in self._known:
                self._known[number] = replace(self._known[number], **changes)
