"""The DIMSE door: C-ECHO, C-STORE, and storage commitment in both roles.

An object is acknowledged when it is kept for good, and never before. AE titles are checked, but prove nothing: TLS with
certificates does.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Self, cast

from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import AE, ALL_TRANSFER_SYNTAXES, AllStoragePresentationContexts, evt
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.presentation import PresentationContext
from pynetdicom.sop_class import StorageCommitmentPushModel, Verification  # type: ignore[attr-defined]

from rentgen.errors import InputError, PeerError, StoreError
from rentgen.gateway.commitment import CommitmentReport, read_report
from rentgen.gateway.commitment_provider import CommitmentProvider
from rentgen.gateway.intake import DEFLATED, Intake, Taken, free_mb, open_incoming, read_header
from rentgen.gateway.nouns import GatewayConfig
from rentgen.gateway.transport import (
    LOOPBACK,
    Guard,
    Listener,
    OwnContext,
    hang_up,
    server_context,
    sign,
    stream_to_disk,
    tidy_up,
)

logger = logging.getLogger(__name__)

SUCCESS = 0x0000
NO_RESOURCES = 0xA700
"""The sender tries again."""
MISMATCH = 0xA900
"""What the message says of the object is not what the object says."""
UNREADABLE = 0xC000

# The first that both know is taken; a sender that offers several must not be led to unpack or lose explicit types.
SYNTAXES = [
    ExplicitVRLittleEndian,
    *(syntax for syntax in ALL_TRANSFER_SYNTAXES if syntax not in (ExplicitVRLittleEndian, DEFLATED)),
]

COUNTED = (
    "associations",
    "rejected",
    "aborted",
    "echo",
    "received",
    "duplicate",
    "conflict",
    "refused_address",
    "refused_waiting",
    "refused_handshake",
    "refused_silent",
    "refused_disk",
    "refused_size",
    "refused_mismatch",
    "refused_unreadable",
    "refused_store",
    "refused_commitment",
    "commitment_requests",
    "commitment_answers",
    "commitment_unanswered",
    "commitment_reports",
)
"""What a receiver counts: associations, objects by what became of them, what was refused and why, echoes, requests for
storage commitment and our answers to them, and the reports that came for requests of ours."""


class Receiver:
    """Listens for DIMSE until it is stopped.

    Example:
        >>> with Receiver(config, intake) as receiver:  # doctest: +SKIP
        ...     print(receiver.port)
    """

    def __init__(
        self,
        config: GatewayConfig,
        intake: Intake,
        *,
        on_commitment: Callable[[CommitmentReport], None] = lambda _: None,
    ) -> None:
        """Begin to listen.

        Args:
            config: of the gateway.
            intake: where objects go.
            on_commitment: told what a peer answers to a request for storage commitment.

        Raises:
            PeerError: the port is taken, or the address is none of this machine.
            SettingError: a certificate cannot be read.
        """
        self._config = config
        self._intake = intake
        self._on_commitment = on_commitment
        self._counts: Counter[str] = Counter(dict.fromkeys(COUNTED, 0))
        self._lock = threading.Lock()
        self._stopping = False
        stream_to_disk()
        self._ae = _entity(config)
        guard = Guard(
            incoming=open_incoming(config.folder),
            networks=config.allow_addresses or LOOPBACK,
            max_object_bytes=round(config.max_object_mb * 1e6),
        )
        tls = None if config.tls is None else server_context(config.tls)
        self._provider = CommitmentProvider(config, intake.holds, self._count)
        try:
            self._listener = Listener(
                self._ae,
                (config.host, config.port),
                _contexts(),
                self._handlers(),
                guard=guard,
                tls=tls,
                refused=lambda why: self._count(f"refused_{why}"),
            )
        except OSError as error:
            self._provider.stop()
            raise PeerError(
                f"Cannot listen on {config.host}:{config.port} ({error.strerror}); "
                "choose another `gateway.port`, or stop what listens there."
            ) from error
        self._ae._servers.append(self._listener)
        self._thread = threading.Thread(target=self._listener.serve_forever, args=(0.1,), name="dimse", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._listener.server_address[1])

    def counts(self) -> dict[str, int]:
        """Return how often what happened since the start: all of `COUNTED`."""
        with self._lock:
            return dict(self._counts)

    def stop(self, drain_s: float = 10.0) -> None:
        """Take no more connections, let the present ones end, and cut those that do not.

        Args:
            drain_s: how long they may take.
        """
        if self._stopping:
            return
        self._stopping = True
        running = self._listener.active_associations
        self._listener.shutdown()
        until = time.monotonic() + drain_s
        for association in running:
            if not association.is_established:
                association.abort()
        for association in running:
            association.join(max(0.0, until - time.monotonic()))
        for association in running:
            if association.is_alive():
                association.abort()
            hang_up(association)
        self._thread.join(5.0)
        self._provider.stop()

    def _handlers(self) -> list[evt.EventHandlerType]:
        return [
            (evt.EVT_C_ECHO, self._echo),
            (evt.EVT_C_STORE, self._store),
            (evt.EVT_N_ACTION, self._provider.asked),
            (evt.EVT_N_EVENT_REPORT, self._committed),
            (evt.EVT_CONN_CLOSE, tidy_up),
            (evt.EVT_ACCEPTED, lambda _: self._count("associations")),
            (evt.EVT_REJECTED, lambda _: self._count("rejected")),
            (evt.EVT_ABORTED, lambda _: self._count("aborted")),
        ]

    def _count(self, what: str) -> None:
        with self._lock:
            self._counts[what] += 1

    def _echo(self, _: evt.Event) -> int:
        self._count("echo")
        return SUCCESS

    def _store(self, event: evt.Event) -> int:
        path = Path(event.dataset_path)
        try:
            status, what = self._take(event, path)
        finally:
            path.unlink(missing_ok=True)
        self._count(what)
        if status != SUCCESS:
            logger.warning("An object was refused: %s (status 0x%04X).", what, status)
        return status

    def _take(self, event: evt.Event, path: Path) -> tuple[int, str]:
        try:
            # What pynetdicom has written may still be in its buffer.
            request = cast(C_STORE, event.request)
            if request._dataset_file is not None:
                request._dataset_file.close()
            if free_mb(self._config.folder) < self._config.min_free_mb:
                return NO_RESOURCES, "refused_disk"
            if path.stat().st_size > self._config.max_object_mb * 1e6:
                return UNREADABLE, "refused_size"
            header = read_header(path)
            told = (str(request.AffectedSOPClassUID), str(request.AffectedSOPInstanceUID))
            if told != (header.sop_class_uid, header.sop_instance_uid):
                return MISMATCH, "refused_mismatch"
            taken = self._intake.receive(path, header, f"dimse:{_caller(event)}")
        except InputError:
            return UNREADABLE, "refused_unreadable"
        except (OSError, StoreError):
            logger.exception("An object could not be kept; its sender is told to try again.")
            return NO_RESOURCES, "refused_store"
        if taken is Taken.CONFLICT:
            # A refusal would block the sender's queue for ever.
            logger.warning("An object came with the SOP Instance UID of another one; it was put aside.")
        return SUCCESS, taken.value

    def _committed(self, event: evt.Event) -> tuple[int, Dataset | None]:
        report = read_report(lambda: event.event_information)
        if report is None:
            return 0x0110, None
        self._count("commitment_reports")
        self._on_commitment(report)
        return SUCCESS, None


def _entity(config: GatewayConfig) -> AE:
    entity = AE(config.ae_title)
    sign(entity)
    entity.require_called_aet = True
    entity.require_calling_aet = list(config.allow_ae_titles)
    entity.maximum_associations = config.max_associations
    entity.maximum_pdu_size = 131_072
    entity.acse_timeout = 10
    # For the answers to our storage commitment reports alone.
    entity.dimse_timeout = 10
    entity.network_timeout = 60
    return entity


def _contexts() -> list[PresentationContext]:
    storage = [_context(str(each.abstract_syntax), SYNTAXES) for each in AllStoragePresentationContexts]
    plain = [syntax for syntax in SYNTAXES if syntax in (ExplicitVRLittleEndian, "1.2.840.10008.1.2")]
    commitment = _context(StorageCommitmentPushModel, plain)
    # A peer that reports back on a connection of its own plays the provider there.
    commitment.scu_role = commitment.scp_role = True
    return [_context(Verification, plain), commitment, *storage]


def _context(abstract: str, syntaxes: list[str]) -> PresentationContext:
    context = OwnContext()
    context.abstract_syntax = abstract
    context.transfer_syntax = list(syntaxes)
    return context


def _caller(event: evt.Event) -> str:
    title = event.assoc.requestor.ae_title.strip()
    return title if title.isprintable() else "?"
