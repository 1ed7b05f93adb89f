"""The bundles that a service answers with: loaded side by side, replaced while it runs."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

import rentgen.bundle as bundles
from rentgen.engine.predictor import Predictor
from rentgen.errors import RentgenError, SettingError
from rentgen.records import Card, Precision
from rentgen.service.problems import Problem

logger = logging.getLogger(__name__)


class ModelState(StrEnum):
    """Whether a model answers."""

    LOADING = "loading"
    """Not yet."""
    READY = "ready"
    """Its golden vectors have replayed."""
    FAILED = "failed"
    """It could not be loaded; the error says why."""


@dataclass(frozen=True, slots=True)
class Model:
    """A bundle under a name.

    Attributes:
        name: in addresses and answers.
        source: the file it comes from.
        state: whether it answers.
        predictor: None unless it is ready.
        error: why it, or its last reload, failed; None otherwise.
    """

    name: str
    source: Path = field(repr=False)
    state: ModelState = ModelState.LOADING
    predictor: Predictor | None = field(default=None, repr=False)
    error: str | None = None

    @property
    def bundle_id(self) -> str | None:
        """Return the bundle's id; None unless it is ready."""
        return None if self.predictor is None else self.predictor.bundle.bundle_id


class Models:
    """Names to bundles. Reading is safe from any thread; a reload swaps a whole entry."""

    def __init__(
        self,
        names: tuple[str, ...],
        *,
        precision: Precision = Precision.AUTO,
        streams: int | None = None,
        cache: Path | None = None,
    ) -> None:
        """Find the bundles' files; nothing is loaded yet.

        Args:
            names: of bundles that ship, or files; the first is the default.
            precision: of the arithmetic.
            streams: films computed side by side.
            cache: folder where compiled graphs are kept and looked for; none by default.

        Raises:
            BundleError: there is no such bundle.
            SettingError: two have the same name.
        """
        self._precision = precision
        self._streams = streams
        self._cache = cache
        self._swap = threading.Lock()
        found = [bundles.find(name) for name in names]
        self._entries = {path.stem: Model(path.stem, path) for path in found}
        if len(self._entries) != len(names):
            raise SettingError(
                f"Expected bundles with different names, but got {', '.join(sorted(path.stem for path in found))}. "
                "A model's name is its file's; rename one."
            )
        self.default = found[0].stem

    def __iter__(self) -> Iterator[Model]:
        return iter(tuple(self._entries.values()))

    @property
    def ready(self) -> bool:
        """Return whether the default model answers and no other is still loading."""
        states = {entry.name: entry.state for entry in self._entries.values()}
        return states[self.default] is ModelState.READY and ModelState.LOADING not in states.values()

    def load_all(self) -> None:
        """Load each in turn; one that fails says so in its entry and leaves the others alone."""
        for name in list(self._entries):
            try:
                self.reload(name)
            except RentgenError as error:
                logger.error("Model %s was not loaded: %s", name, error)

    def reload(self, name: str) -> Model:
        """Read a bundle's file anew, replay its golden vectors, and only then let it answer.

        Raises:
            Problem: 404, there is no such model.
            RentgenError: it cannot be read or does not replay. What answered before goes on answering.
        """
        entry = self.entry(name)
        with self._swap:
            try:
                predictor = Predictor.load(
                    entry.source, precision=self._precision, streams=self._streams, cache=self._cache
                )
            except RentgenError as error:
                state = ModelState.FAILED if entry.predictor is None else entry.state
                self._entries[name] = Model(name, entry.source, state, entry.predictor, str(error))
                raise
            self._entries[name] = Model(name, entry.source, ModelState.READY, predictor)
            return self._entries[name]

    def entry(self, name: str | None) -> Model:
        """Return a model by name, whatever its state; the default one for None.

        Raises:
            Problem: 404, there is no such model.
        """
        found = self._entries.get(self.default if name is None else name)
        if found is None:
            raise Problem(404, "not_found", f"There is no such model here; there are {', '.join(self._entries)}.")
        return found

    def card_of(self, bundle_id: str | None) -> Card | None:
        """Return the card of a bundle by its id, of the default model for None; None where it does not answer here."""
        for entry in self:
            mine = entry.name == self.default if bundle_id is None else entry.bundle_id == bundle_id
            if mine and entry.predictor is not None:
                return entry.predictor.card
        return None

    def predictor(self, name: str | None) -> tuple[Model, Predictor]:
        """Return a model that answers.

        Raises:
            Problem: 404, there is none of that name; 503 `loading`, it does not answer yet or could not be loaded.
        """
        entry = self.entry(name)
        if entry.predictor is None:
            words = "is being loaded" if entry.state is ModelState.LOADING else "could not be loaded; ask the operator"
            raise Problem(503, "loading", f"The model {entry.name} {words}.", headers={"Retry-After": "2"})
        return entry, entry.predictor
