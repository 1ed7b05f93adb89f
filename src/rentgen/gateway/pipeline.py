"""The steps of a batch: analysed, encoded, delivered; each is idempotent, and its state is in the queue alone."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Protocol

from rentgen.errors import RentgenError
from rentgen.gateway.gate import concerns_us
from rentgen.gateway.nouns import Destination, Header, Outcome, Result, Route, Sender
from rentgen.gateway.retry import TROUBLE, Circuit, next_try
from rentgen.records.results import Document
from rentgen.store.gateway import Held, Job, Queue, Step

logger = logging.getLogger(__name__)

LEASE_S = 300.0
"""Longer than a film or an exchange can take; a step with many of them renews it."""
MOST_ATTEMPTS = 5
"""Of analysing and encoding, which do not depend on a peer."""


class Analyst(Protocol):
    """Who decodes films and answers. The same again gives the same."""

    def analyse(self, held: Held, route: Route | None) -> bytes:
        """Return an answer, or why there is none, as bytes for the encoder; a bad film is an answer, too.

        Args:
            held: the film.
            route: whose model reads it; None where no route fits, which is an answer of not analysed.
        """

    def encode(
        self, held: Sequence[Held], answers: Mapping[str, bytes], destination: Destination
    ) -> Sequence[Document]:
        """Return the documents that a destination takes: for the same answers the same UIDs.

        Args:
            held: films of one study.
            answers: SOP Instance UID to what `analyse` returned, for each of them.
            destination: for whom.
        """


def route_of(header: Header, routes: Sequence[Route]) -> Route | None:
    """Return the first route that fits a film; None where none does."""
    return next((route for route in routes if route.fits(header)), None)


class Steps:
    """Analyses and encodes batches that are due. Any number may work on one queue; each is of one thread."""

    def __init__(
        self,
        queue: Queue,
        analyst: Analyst,
        *,
        routes: Sequence[Route],
        destinations: Sequence[Destination],
        rng: random.Random,
    ) -> None:
        self._queue = queue
        self._analyst = analyst
        self._routes = routes
        self._destinations = destinations
        self._rng = rng

    def analyse_one(self, now: datetime) -> bool:
        """Return whether there was a batch to analyse."""
        job = self._claim(Step.ANALYSE, now)
        if job is None:
            return False
        if self._is_given_up(job):
            return True
        started = renewed = time.monotonic()
        answers = {}
        try:
            for held in self._films(job):
                answers[held.sop_instance_uid] = self._analyst.analyse(held, self._route(held))
                if time.monotonic() - renewed > LEASE_S / 10:
                    renewed = time.monotonic()
                    if not self._queue.renew(job, now + timedelta(seconds=renewed - started), LEASE_S):
                        return True
        except (RentgenError, OSError) as error:
            self._put_off(job, now, error)
            return True
        self._queue.finish_analysis(job, answers, now)
        return True

    def encode_one(self, now: datetime) -> bool:
        """Return whether there was a batch to encode; a batch without a film of others ends here."""
        job = self._claim(Step.ENCODE, now)
        if job is None:
            return False
        if self._is_given_up(job):
            return True
        answers = self._queue.answers(job.batch_id)
        films = [held for held in self._queue.objects(job.batch_id) if held.sop_instance_uid in answers]
        try:
            documents = {
                each.name: self._analyst.encode(films, answers, each) for each in self._destinations if answers
            }
        except (RentgenError, OSError) as error:
            self._put_off(job, now, error)
            return True
        self._queue.finish_encoding(job, documents, now)
        return True

    def _claim(self, step: Step, now: datetime) -> Job | None:
        return self._queue.claim(step, now, LEASE_S)

    def _films(self, job: Job) -> list[Held]:
        return [held for held in self._queue.objects(job.batch_id) if concerns_us(Header(**held.header))]

    def _route(self, held: Held) -> Route | None:
        return route_of(Header(**held.header), self._routes)

    def _put_off(self, job: Job, now: datetime, error: Exception) -> None:
        logger.warning("A batch could not be worked on (step %s): %s.", job.step, error)
        reason = str(error) if isinstance(error, RentgenError) else f"the system refused ({type(error).__name__})"
        self._queue.postpone(job, next_try(job.attempts, now, self._rng), reason)

    def _is_given_up(self, job: Job) -> bool:
        """Return whether a step was buried that has failed, or killed its worker, again and again."""
        if job.attempts <= MOST_ATTEMPTS:
            return False
        logger.error("A batch is given up (step %s); see `rentgen gateway dead-letters`.", job.step)
        last = f"; the last time: {job.reason}" if job.reason else ""
        return self._queue.bury(job, f"it was tried {MOST_ATTEMPTS} times and never came to an end{last}")


class Deliveries:
    """Hands documents to destinations, and leaves one alone that fails again and again. Of one thread."""

    def __init__(self, queue: Queue, senders: Mapping[str, Sender], rng: random.Random, *, dry_run: bool) -> None:
        self._queue = queue
        self._senders = senders
        self._rng = rng
        self._dry_run = dry_run
        self._circuits = dict.fromkeys(senders, Circuit())

    def deliver_one(self, now: datetime, *, without: Sequence[str] = ()) -> bool:
        """Return whether there was a delivery to try; one of a destination that is not configured is buried.

        Args:
            now: the time.
            without: destinations that others look after.
        """
        resting = [name for name, circuit in self._circuits.items() if not circuit.lets_through(now)]
        job = self._queue.claim(Step.DELIVER, now, LEASE_S, without=[*resting, *without])
        if job is None:
            for idle in self._senders.values():
                idle.rest()
            return False
        if self._dry_run:
            self._queue.finish(job, now, dry_run=True)
            return True
        sender = self._senders.get(job.destination)
        if sender is None:
            self._bury(job, "the destination is not in the configuration any more")
            return True
        self._settle(job, sender.send(self._queue.documents(job)), now)
        return True

    def troubled(self) -> tuple[str, ...]:
        """Return destinations that have failed again and again, and not answered since."""
        return tuple(name for name, circuit in self._circuits.items() if circuit.failures >= TROUBLE)

    def _settle(self, job: Job, outcome: Outcome, now: datetime) -> None:
        circuit = self._circuits[job.destination]
        if outcome.result is Result.RETRY:
            self._circuits[job.destination] = circuit.failed(now)
            due = next_try(job.attempts, now, self._rng, after_s=outcome.after_s)
            logger.warning("Destination %s: %s; tried again later.", job.destination, outcome.reason)
            self._queue.postpone(job, due, outcome.reason)
            return
        # Also a peer that refuses for good has answered.
        self._circuits[job.destination] = circuit.succeeded()
        if outcome.result is Result.DELIVERED:
            self._queue.finish(job, now)
        else:
            self._bury(job, outcome.reason)

    def _bury(self, job: Job, reason: str) -> None:
        logger.error("Destination %s: %s; a person must look.", job.destination, reason)
        self._queue.bury(job, reason)
