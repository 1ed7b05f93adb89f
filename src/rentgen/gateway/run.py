"""The gateway as a whole: its doors, and the threads that carry films from one end to the other."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from datetime import UTC, datetime
from typing import Self

from rentgen.errors import RentgenError, StoreError
from rentgen.gateway.analyst import ConfinedAnalyst
from rentgen.gateway.audit_trail import Forwarder
from rentgen.gateway.commitment import Commitments
from rentgen.gateway.deliver import sender_of
from rentgen.gateway.dimse import Receiver
from rentgen.gateway.intake import Intake, free_mb
from rentgen.gateway.metrics import Metrics
from rentgen.gateway.nouns import Destination, GatewayConfig, Source
from rentgen.gateway.parts import Arrivals, Awake, Part, WakingIntake, alone
from rentgen.gateway.pipeline import Deliveries, Steps
from rentgen.gateway.polling import Poller
from rentgen.gateway.sandbox import Bounds, Sandbox
from rentgen.gateway.spool import Reception, Spool
from rentgen.gateway.syslog import Syslog
from rentgen.gateway.web import Web, create_app
from rentgen.records import Precision
from rentgen.store.gateway import Queue
from rentgen.store.studies import Store

logger = logging.getLogger(__name__)

_IDLE_S = 0.5
"""How long a thread sleeps that nobody wakes: what is due later, or what another process has put there, waits so."""
_REST_S = 30.0
"""Longest rest of a part that fails again and again, such as one whose database is gone."""
_HOUSEKEEPING_S = 30.0
_AUDIT_S = 2.0
_STOP_S = 60.0


class Gateway:
    """A running gateway.

    Example:
        >>> with Gateway(config, key=None) as gateway:  # doctest: +SKIP
        ...     print(gateway.port)
    """

    def __init__(self, config: GatewayConfig, *, key: str | None = None, precision: Precision = Precision.AUTO) -> None:
        """Open all doors and begin to work on what the queue holds.

        Args:
            config: with a database.
            key: base64 of 32 bytes, the store's; None for one without.
            precision: of the arithmetic.

        Raises:
            SettingError: a model, a certificate or the key is not as it should be.
            StoreError: the database does not answer.
            PeerError: a port is taken.
        """
        self._config = config
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []
        self._failing: dict[str, str] = {}
        self._told_until = datetime.now(UTC)
        self._rng = random.Random()  # noqa: S311 - jitter is no secret
        self._arrivals = Arrivals(config.quiet_s)
        self._closed = Awake()
        self._encoded = [Awake() for _ in config.destinations]
        self._sleepers: list[Awake] = []
        self._web: Web | None = None
        self._receiver: Receiver | None = None
        self._close = ExitStack()
        try:
            self._open(key, precision)
        except BaseException:
            self.stop()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def port(self) -> int:
        """Where it listens for DIMSE."""
        return self._config.port if self._receiver is None else self._receiver.port

    @property
    def http_port(self) -> int | None:
        """Where it listens for HTTP; None where it does not."""
        return None if self._web is None else self._web.port

    def health(self) -> tuple[str, ...]:
        """Return what is wrong, in words; nothing where all is well."""
        wrong = [f"{part}: {reason}" for part, reason in sorted(self._failing.items())]
        wrong += [f"{thread.name}: it has ended" for thread in self._threads if not thread.is_alive()]
        if free_mb(self._config.folder) < self._config.min_free_mb:
            wrong.append("disk: too little is free, nothing is taken")
        return tuple(wrong)

    def stop(self) -> None:
        """Take nothing more, finish the step that each thread has in hand, and let go of all; the rest is queued."""
        if self._stopping.is_set():
            return
        self._stopping.set()
        for awake in self._sleepers:
            awake.ring()
        for door in (self._web, self._receiver):
            if door is not None:
                door.stop()
        self._close.close()

    # -- opening -------------------------------------------------------------------------------------------------------

    def _open(self, key: str | None, precision: Precision) -> None:
        config, close = self._config, self._close
        config.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        close.enter_context(alone(config.folder))
        self._store = close.enter_context(closing(Store.open(config.database, key=key, keep_files=config.keep_films)))
        self._queue = close.enter_context(closing(Queue.open(config.database, key=key)))
        # What a gateway that was killed had in hand is nobody's now.
        self._queue.release(datetime.now(UTC))
        self._spool = Spool(config.folder)
        sandboxes = self._open_sandboxes(precision)
        intake = WakingIntake(Reception(self._spool, self._queue), self._arrivals)
        commitments = Commitments()
        pollers = [close.enter_context(closing(self._poller(source, intake))) for source in config.sources]
        named = list(zip(config.sources, pollers, strict=True))
        parts = [*self._inner_parts(sandboxes), *self._outer_parts(commitments), *_source_parts(named)]
        doors: dict[str, Callable[[], Mapping[str, int]]] = {}
        doors |= {f"source {source.name}": poller.counts.copy for source, poller in named}
        doors["stow"] = lambda: intake.counts("stow")
        doors["dimse"] = lambda: {} if self._receiver is None else self._receiver.counts()
        self.metrics = Metrics(self._queue, doors)
        # The receiver first: it empties the folder where what comes by either door arrives.
        self._receiver = Receiver(config, intake, on_commitment=commitments.report)
        if config.http_port is not None:
            self._web = Web(config, create_app(config, intake, metrics=self.metrics, health=self.health))
        self._queue.note("gateway.start", {"dry_run": config.dry_run, "readers": config.readers})
        # What was opened last is closed first: the threads end before that which they use goes.
        close.callback(self._join)
        self._sleepers = [part.awake for part in parts]
        for part in parts:
            thread = threading.Thread(target=self._loop, args=(part,), name=part.name, daemon=True)
            self._threads.append(thread)
            thread.start()

    def _open_sandboxes(self, precision: Precision) -> list[Sandbox]:
        config = self._config
        bounds = Bounds(config.reader_memory_mb, config.reader_timeout_s)
        names = [route.model for route in config.routes]
        opened = []
        for _ in range(config.readers):
            sandbox = Sandbox(names, bounds=bounds, precision=precision, alone=config.readers == 1)
            opened.append(self._close.enter_context(sandbox))
            # A model that cannot be loaded is told of now, and not when the first film comes.
            opened[-1].open()
        return opened

    def _poller(self, source: Source, intake: Intake) -> Poller:
        config = self._config
        most = round(config.max_object_mb * 1e6)
        return Poller(source, intake, folder=config.folder, ae_title=config.ae_title, max_bytes=most)

    def _inner_parts(self, sandboxes: list[Sandbox]) -> list[Part]:
        patience = max(0.02, min(_IDLE_S, self._config.quiet_s / 4))
        return [
            Part("closer", self._close_quiet, Awake(), patience),
            *(Part(f"reader {n}", self._steps(each), self._closed, _IDLE_S) for n, each in enumerate(sandboxes, 1)),
            Part("housekeeping", self._keep_house, Awake(), _HOUSEKEEPING_S),
        ]

    def _outer_parts(self, commitments: Commitments) -> list[Part]:
        config = self._config
        parts = [
            Part(f"delivery to {each.name}", self._deliveries(each, commitments), awake, _IDLE_S)
            for each, awake in zip(config.destinations, self._encoded, strict=True)
        ]
        if config.audit is not None:
            syslog = self._close.enter_context(Syslog(config.audit))
            forwarder = Forwarder(self._store, syslog, config.folder / "audit.json")

            def forward() -> bool:
                sent = forwarder.forward()
                state = syslog.state()
                self._tell("audit repository", "" if state.connected else state.problem)
                return sent > 0

            parts.append(Part("audit", forward, Awake(), _AUDIT_S))
        return parts

    def _join(self) -> None:
        until = time.monotonic() + _STOP_S
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))
        try:
            self._queue.note("gateway.stop", {})
        except StoreError:
            logger.exception("The stop could not be noted in the audit trail.")

    # -- what the threads do -------------------------------------------------------------------------------------------

    def _close_quiet(self) -> bool:
        if self._arrivals.are_due() and self._queue.close_quiet(datetime.now(UTC), self._config.quiet_s):
            self._closed.ring()
        return False

    def _steps(self, sandbox: Sandbox) -> Callable[[], bool]:
        analyst = ConfinedAnalyst(
            sandbox,
            self._spool,
            self._store,
            keep_films=self._config.keep_films,
            language=self._config.language,
            tell=lambda status: self.metrics.film(status),
        )
        steps = Steps(
            self._queue,
            analyst,
            routes=self._config.routes,
            destinations=self._config.destinations,
            rng=self._rng,
        )

        def work() -> bool:
            analysed = self._timed("analyse", steps.analyse_one)
            encoded = self._timed("encode", steps.encode_one)
            if encoded:
                for awake in self._encoded:
                    awake.ring()
            return analysed or encoded

        return work

    def _deliveries(self, destination: Destination, commitments: Commitments) -> Callable[[], bool]:
        sender = sender_of(destination, ae_title=self._config.ae_title, commitments=commitments)
        self._close.callback(sender.close)
        deliveries = Deliveries(self._queue, {destination.name: sender}, self._rng, dry_run=self._config.dry_run)
        others = [each.name for each in self._config.destinations if each is not destination]

        def work() -> bool:
            delivered = self._timed("deliver", lambda now: deliveries.deliver_one(now, without=others))
            self._tell(f"destination {destination.name}", "it fails again and again" if deliveries.troubled() else "")
            return delivered

        return work

    def _keep_house(self) -> bool:
        now = datetime.now(UTC)
        for last_at, done_at in self._queue.finished_since(self._told_until):
            self.metrics.done((done_at - last_at).total_seconds())
            self._told_until = done_at
        cleared = self._queue.clear(now, self._config.keep_days)
        swept = self._spool.sweep(self._queue)
        if cleared or swept:
            logger.info("Housekeeping: %d batches and %d files are gone.", cleared, swept)
        return False

    # -- threads -------------------------------------------------------------------------------------------------------

    def _timed(self, name: str, step: Callable[[datetime], bool]) -> bool:
        started = time.monotonic()
        done = step(datetime.now(UTC))
        if done:
            self.metrics.step(name, time.monotonic() - started)
        return done

    def _loop(self, part: Part) -> None:
        """Work until the gateway stops; a failure is told of and tried again, for a thread that ends helps nobody."""
        failures = 0
        while not self._stopping.is_set():
            try:
                busy = part.work()
            except Exception as error:
                failures += 1
                self._fault(part.name, error)
                self._stopping.wait(min(_REST_S, 2.0 ** min(failures, 10) / 2))
                continue
            if failures:
                failures = 0
                self._tell(part.name, "")
            if not busy:
                part.awake.wait(part.idle_s)

    def _fault(self, name: str, error: Exception) -> None:
        self.metrics.fault(name)
        if isinstance(error, RentgenError):
            logger.error("The gateway's part %s failed and tries again: %s", name, error)
            self._tell(name, str(error))
        else:
            logger.exception("The gateway's part %s failed and tries again.", name)
            self._tell(name, type(error).__name__)

    def _tell(self, part: str, wrong: str) -> None:
        if wrong:
            self._failing[part] = wrong
        else:
            self._failing.pop(part, None)


def _source_parts(pollers: Sequence[tuple[Source, Poller]]) -> list[Part]:
    return [Part(f"source {source.name}", _polling(each), Awake(), source.every_s) for source, each in pollers]


def _polling(poller: Poller) -> Callable[[], bool]:
    def work() -> bool:
        poller.poll(datetime.now(UTC))
        # What was fetched is no reason to ask again at once.
        return False

    return work
