"""The steps of a batch: analysed, encoded, delivered; each is idempotent, and its state is in the queue alone."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Protocol

from rentgen.gateway.nouns import Destination, Header, Outcome, Result, Route, Sender
from rentgen.gateway.retry import Circuit, next_try
from rentgen.records.results import Document
from rentgen.store.gateway import Held, Job, Queue, Step

OUR_NAME = "Rentgen"
"""Manufacturer of our own results, which are not analysed again."""
LEASE_S = 300.0
"""Longer than a step can take: every film and every exchange has a time limit of its own."""
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

    def encode(self, answers: Mapping[str, bytes], destination: Destination) -> Sequence[Document]:
        """Return the documents that a destination takes: for the same answers the same bytes and UIDs."""


def is_ours(header: Header) -> bool:
    """Return whether an object is a result of ours that came back."""
    return header.manufacturer == OUR_NAME


def route_of(header: Header, routes: Sequence[Route]) -> Route | None:
    """Return the first route that fits a film; None where none does."""
    return next((route for route in routes if route.fits(header)), None)


def analyse_one(queue: Queue, analyst: Analyst, routes: Sequence[Route], now: datetime) -> bool:
    """Return whether there was a batch to analyse."""
    job = queue.claim(Step.ANALYSE, now, LEASE_S)
    if job is None:
        return False
    if _given_up(queue, job):
        return True
    answers = {}
    for held in queue.objects(job.batch_id):
        header = Header(**held.header)
        if not is_ours(header):
            answers[held.sop_instance_uid] = analyst.analyse(held, route_of(header, routes))
    queue.finish_analysis(job, answers, now)
    return True


def encode_one(queue: Queue, analyst: Analyst, destinations: Sequence[Destination], now: datetime) -> bool:
    """Return whether there was a batch to encode; a batch without a film of others ends here."""
    job = queue.claim(Step.ENCODE, now, LEASE_S)
    if job is None:
        return False
    if _given_up(queue, job):
        return True
    answers = queue.answers(job.batch_id)
    documents = {each.name: analyst.encode(answers, each) for each in destinations if answers}
    queue.finish_encoding(job, documents, now)
    return True


class Deliveries:
    """Hands documents to destinations, and leaves one alone that fails again and again. Of one thread."""

    def __init__(self, queue: Queue, senders: Mapping[str, Sender], rng: random.Random, *, dry_run: bool) -> None:
        self._queue = queue
        self._senders = senders
        self._rng = rng
        self._dry_run = dry_run
        self._circuits = dict.fromkeys(senders, Circuit())

    def deliver_one(self, now: datetime) -> bool:
        """Return whether there was a delivery to try; one of a destination that is not configured is buried."""
        resting = [name for name, circuit in self._circuits.items() if not circuit.lets_through(now)]
        job = self._queue.claim(Step.DELIVER, now, LEASE_S, without=resting)
        if job is None:
            return False
        if self._dry_run:
            self._queue.finish(job, now)
            return True
        sender = self._senders.get(job.destination)
        if sender is None:
            self._queue.bury(job, "the destination is not in the configuration any more")
            return True
        self._settle(job, sender.send(self._queue.documents(job)), now)
        return True

    def _settle(self, job: Job, outcome: Outcome, now: datetime) -> None:
        circuit = self._circuits[job.destination]
        if outcome.result is Result.RETRY:
            self._circuits[job.destination] = circuit.failed(now)
            due = next_try(job.attempts, now, self._rng, after_s=outcome.after_s)
            self._queue.postpone(job, due, outcome.reason)
            return
        # Also a peer that refuses for good has answered.
        self._circuits[job.destination] = circuit.succeeded()
        if outcome.result is Result.DELIVERED:
            self._queue.finish(job, now)
        else:
            self._queue.bury(job, outcome.reason)


def _given_up(queue: Queue, job: Job) -> bool:
    """Return whether a step was buried that has killed its worker again and again."""
    if job.attempts <= MOST_ATTEMPTS:
        return False
    return queue.bury(job, f"it was tried {MOST_ATTEMPTS} times and never came to an end")
