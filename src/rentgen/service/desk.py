"""What a running service has at hand, and the one way in which a film is answered."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Sequence
from contextvars import copy_context
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TypeVar

from starlette.requests import Request

from rentgen.engine.predictor import Predictor
from rentgen.errors import UnsupportedImageError
from rentgen.images.read import Limits, read
from rentgen.records import Radiograph
from rentgen.records.studies import StoredImage, StoredPrediction
from rentgen.service.comparisons import Comparisons
from rentgen.service.drift import Drifts
from rentgen.service.films import FilmCache
from rentgen.service.incoming import Incoming
from rentgen.service.metrics import Metrics
from rentgen.service.models import Model, Models
from rentgen.service.problems import Problem
from rentgen.service.queue import Queue
from rentgen.service.telemetry import span, waited
from rentgen.settings import Settings
from rentgen.store.studies import Store
from rentgen.workflow import Answer, analyse, describe

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Answered:
    """A film of a request and what a model said of it.

    Attributes:
        incoming: what came.
        answer: film and prediction; None where the instance was no film at all.
        stored: the answer as it is kept and shown; None likewise.
    """

    incoming: Incoming
    answer: Answer | None
    stored: StoredPrediction | None

    @property
    def fault(self) -> tuple[str, str] | None:
        """Return code and detail of why there is no result; None where there is one."""
        if self.answer is None:
            return "invalid_request", str(self.incoming.fault)
        error = self.answer.error
        if error is None:
            return None
        return ("unsupported_film" if isinstance(error, UnsupportedImageError) else "unreadable_film"), error.reason


@dataclass(frozen=True, slots=True)
class Desk:
    """What a running service has at hand.

    Attributes:
        settings: of this installation.
        models: that answer.
        queue: in front of the engine.
        films: that are looked at but not kept.
        metrics: of all of it.
        store: None where nothing is kept.
        limits: on what a film may ask for.
        comparisons: of models, in the background.
        drifts: of the last answers of each model.
        painting: who holds it may paint a heat map in native size: one of a hundred megapixels takes a gigabyte.
    """

    settings: Settings = field(repr=False)
    models: Models
    queue: Queue
    films: FilmCache
    metrics: Metrics
    store: Store | None
    limits: Limits
    comparisons: Comparisons = field(default_factory=Comparisons)
    drifts: Drifts = field(default_factory=Drifts)
    painting: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(2), repr=False)

    async def answer(
        self, request: Request, films: Sequence[Incoming], model: str | None, *, keep: bool = False
    ) -> tuple[Model, list[Answered]]:
        """Return what a model says of a request's films, in order.

        Args:
            request: whose client may leave; then what has not begun is not begun.
            films: of its body.
            model: its name; None for the default.
            keep: compute activation maps of all, and hold the films' pixels for a while.

        Raises:
            Problem: 404, 503: no such model, or not yet, or it took too long; 429: too many films wait.
        """
        entry, predictor = self.models.predictor(model)
        # Each in the request's context: log lines and spans of the job belong to it.
        jobs = [
            partial(copy_context().run, self._job, film, entry, predictor, keep, time.perf_counter()) for film in films
        ]
        return entry, await unless_gone(request, self.queue.run(jobs), self.settings.request_timeout_s)

    def _job(self, incoming: Incoming, entry: Model, predictor: Predictor, keep: bool, queued: float) -> Answered:
        if incoming.data is None:
            return Answered(incoming, None, None)
        waited("wait", queued)
        began = time.perf_counter()
        with span("film"):
            answer = analyse(incoming.data, predictor, maps=keep or incoming.heatmap, limits=self.limits)
        stored = describe(
            answer.prediction,
            predictor.card,
            bundle_id=predictor.bundle.bundle_id,
            model=entry.name,
            precision=str(predictor.session.precision),
        )
        self.metrics.observe_film(entry.name, stored, time.perf_counter() - began, began - queued)
        self.drifts.observe(entry.name, predictor.card, stored)
        return Answered(incoming, self._put_aside(answer, keep=keep), stored)

    def _put_aside(self, answer: Answer, *, keep: bool) -> Answer:
        """Return an answer without the film's pixels, which wait in bounded memory, where they are wanted at all.

        Small files make large films, and a request holds its answers until the last is there.
        """
        film = answer.film
        if film is None:
            return answer
        if keep and self.store is not None:
            image_id, _ = self.store.ids_for(film.content_hash, film.study_instance_uid)
            self.films.put(image_id, film)
        return replace(answer, film=film.without_pixels())

    def film(self, image: StoredImage) -> Radiograph:
        """Return the pixels of a film that is still in memory or was kept.

        Raises:
            Problem: 410 `film_gone`.
        """
        found = self.films.get(image.image_id)
        if found is None and image.file_kept and self.store is not None:
            data = self.store.file(image.image_id)
            if data is not None:
                found = read(data, name="film", limits=self.limits)
                self.films.put(image.image_id, found)
        if found is None:
            raise Problem(
                410,
                "film_gone",
                "The film is no longer here: films stay in memory for a while and are kept only where the service is "
                "told to. Send it again to see it.",
            )
        return found

    def kept(self) -> Store:
        """Return the store.

        Raises:
            Problem: 404: this service keeps nothing.
        """
        if self.store is None:
            raise Problem(404, "not_found", "This service keeps no studies; ask /v1/predict.")
        return self.store


async def unless_gone(request: Request, work: Awaitable[T], timeout_s: float) -> T:
    """Return what the work gives, unless the client leaves or it takes too long: then the work is cancelled.

    Raises:
        Problem: 503 `busy`; also where the client left, who does not read it.
    """
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_wait_gone(request))
    try:
        await asyncio.wait({task, gone}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise Problem(503, "busy", "The answer took too long.", headers={"Retry-After": "5"})
    finally:
        for one in (task, gone):
            if not one.done():
                one.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await one


async def _wait_gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
