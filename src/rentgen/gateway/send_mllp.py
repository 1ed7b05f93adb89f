"""HL7 v2 messages over MLLP: one at a time, each until it is acknowledged."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Sequence

from rentgen.errors import PeerError
from rentgen.gateway.mllp import acknowledgement, control_id, frame, of_acknowledgement, unframe
from rentgen.gateway.nouns import CheckResult, Destination, Outcome, Result
from rentgen.gateway.outcomes import DELIVERED, dead, retry
from rentgen.gateway.tls import fault_of, probe
from rentgen.gateway.transport import client_context
from rentgen.records.results import Document


class MllpSender:
    """Sends messages over one connection, which is kept, and opened anew where the peer closed it."""

    def __init__(self, destination: Destination) -> None:
        """Connect nothing yet.

        Args:
            destination: with host, port and time limit.

        Raises:
            SettingError: a certificate cannot be read.
        """
        self._destination = destination
        self._tls = None if destination.tls is None else client_context(destination.tls)
        self._lock = threading.Lock()
        self._connection: socket.socket | None = None

    def send(self, documents: Sequence[Document]) -> Outcome:
        """Deliver messages in their order; the first that is not acknowledged ends it."""
        with self._lock:
            for document in documents:
                outcome = self._deliver(document.content)
                if outcome.result is not Result.DELIVERED:
                    return outcome
        return DELIVERED

    def check(self) -> CheckResult:
        """Connect, and shake hands where TLS is asked for; nothing is sent."""
        name = self._destination.name
        try:
            self._connect().close()
            fault = self._tls_fault()
        except OSError as error:
            fault = self._why(error)
        if fault is not None:
            return CheckResult(name, False, f"cannot connect ({fault}); check host, port and TLS")
        return CheckResult(name, True, "connected")

    def rest(self) -> None:
        """Nothing that a peer waits for is kept open."""

    def close(self) -> None:
        """Close the connection."""
        with self._lock:
            self._drop()

    def _deliver(self, message: bytes) -> Outcome:
        try:
            framed = frame(message)
        except PeerError as error:
            return dead(str(error))
        kept = self._connection is not None
        try:
            return self._exchange(framed, control_id(message))
        except (ConnectionError, EOFError) as error:
            self._drop()
            if not kept:
                return retry(f"the connection ended before an acknowledgement ({self._why(error)})")
        except OSError as error:
            self._drop()
            return retry(f"no acknowledgement ({self._why(error)})")
        except PeerError as error:
            self._drop()
            return retry(str(error))
        # The peer let the idle connection go; the message keeps its control ID, so that once more does no harm.
        return self._deliver(message)

    def _exchange(self, framed: bytes, asked: str) -> Outcome:
        if self._connection is None:
            self._connection = self._connect()
        until = time.monotonic() + self._destination.timeout_s
        self._connection.settimeout(self._destination.timeout_s)
        self._connection.sendall(framed)
        outcome = of_acknowledgement(acknowledgement(_receive(self._connection, until)), asked)
        if outcome.result is Result.RETRY:
            # Answers may be out of step; a fresh connection has none.
            self._drop()
        return outcome

    def _connect(self) -> socket.socket:
        address = (self._destination.host, self._destination.port)
        plain = socket.create_connection(address, self._destination.timeout_s)
        if self._tls is None:
            return plain
        try:
            return self._tls.wrap_socket(plain, server_hostname=self._destination.host)
        except OSError:
            plain.close()
            raise

    def _tls_fault(self) -> str | None:
        told = self._destination
        # A peer that refuses our certificate may hang up before its reason arrives.
        return None if self._tls is None else probe((told.host, told.port), self._tls, timeout_s=told.timeout_s)

    def _why(self, error: Exception) -> str:
        fault = fault_of(error)
        if fault is None and not isinstance(error, TimeoutError):
            fault = self._tls_fault()
        return fault or type(error).__name__

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _receive(connection: socket.socket, until: float) -> bytes:
    """Return the next message; a peer that sends a byte now and then does not get more time."""
    data = b""
    while True:
        left = until - time.monotonic()
        if left <= 0:
            raise TimeoutError
        connection.settimeout(left)
        piece = connection.recv(65_536)
        if not piece:
            raise EOFError
        messages, data = unframe(data + piece)
        if messages:
            return messages[0]
