"""Audit messages to a hospital's audit repository: syslog (RFC 5424) over TLS (RFC 5425), by a thread of its own.

Syslog has no receipts: what a connection that broke had in flight may be lost, and nobody can tell. The store's trail
is the truth; this is a copy, whose lines carry the trail's numbers, so that a gap shows.
"""

from __future__ import annotations

import logging
import os
import queue
import random
import socket
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

from rentgen.errors import PeerError, SettingError

logger = logging.getLogger(__name__)

# Security and authorisation, notice: as IHE ITI-20 has it.
_PRIORITY = 10 * 8 + 5
_BOM = b"\xef\xbb\xbf"
LONGEST_BYTES = 32_768
"""Of a message. RFC 5425 asks receivers for 2,048 and recommends 8,192; an audit message has some 1,500."""


@dataclass(frozen=True, slots=True)
class SyslogTarget:
    """Where audit messages go.

    Attributes:
        host: of the repository; its certificate must name it.
        port: of the repository.
        ca: certificates that its certificate may come from, PEM; None for those of the system.
        certificate: our own, PEM, where the repository asks for one.
        key: file of its private key.
        app: our name in the messages' headers, printable ASCII without blanks.
        timeout_s: for connecting, and for each message.
        waiting: most messages that wait; further ones are dropped, and counted.
        longest_pause_s: between attempts to connect.
    """

    host: str
    port: int = 6514
    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = field(default=None, repr=False)
    app: str = "rentgen"
    timeout_s: float = 10.0
    waiting: int = 10_000
    longest_pause_s: float = 60.0

    def __post_init__(self) -> None:
        if not 1 <= self.port <= 65_535:
            raise SettingError(f"Expected the audit repository's port to be from 1 to 65535, but got {self.port}.")
        if not _is_word(self.app, 48):
            raise SettingError("Expected `app` to be up to 48 printable ASCII letters without blanks.")
        if self.waiting < 1 or not 0 < self.timeout_s <= 600 or self.longest_pause_s <= 0:
            raise SettingError(
                "Expected `waiting`, `timeout_s` and `longest_pause_s` to be positive, of at most 600 s."
            )
        if (self.certificate is None) != (self.key is None):
            raise SettingError("Expected `certificate` and `key` together, or neither.")


@dataclass(frozen=True, slots=True)
class SyslogState:
    """How delivery stands.

    Attributes:
        sent: messages handed to the network.
        dropped: messages that found no place to wait.
        waiting: messages that wait.
        connected: whether the repository was reached at the last attempt.
        problem: why not; empty where it was, or where nothing was tried yet.
    """

    sent: int
    dropped: int
    waiting: int
    connected: bool
    problem: str


def frame(message: bytes, *, at: datetime, host: str, app: str, message_id: str) -> bytes:
    """Return a message as syslog sends it, with the number of its bytes in front (RFC 5425 4.3).

    Args:
        message: UTF-8.
        at: when it happened.
        host: our name.
        app: our application's name.
        message_id: what kind of message it is.

    Raises:
        SettingError: it is longer than `LONGEST_BYTES`.
    """
    when = at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    name = host if _is_word(host, 255) else "-"
    head = f"<{_PRIORITY}>1 {when} {name} {app} {os.getpid()} {message_id} - "
    whole = head.encode("ascii") + _BOM + message
    if len(whole) > LONGEST_BYTES:
        raise SettingError(f"Expected an audit message of at most {LONGEST_BYTES} bytes, but got {len(whole)}.")
    return f"{len(whole)} ".encode() + whole


class Syslog:
    """Sends messages in order, each by at most one connection; waits and connects anew where it must.

    Example:
        >>> with Syslog(target) as syslog:  # doctest: +SKIP
        ...     syslog.send(audit_message(entry, source), at=entry.at, message_id="DICOM+RFC3881")
    """

    def __init__(self, target: SyslogTarget, *, chance: Callable[[], float] = random.random) -> None:
        """Begin to send.

        Args:
            target: where to.
            chance: uniform in [0, 1), for the pauses.

        Raises:
            SettingError: a certificate cannot be read.
        """
        self._target = target
        self._tls = _tls(target)
        self._chance = chance
        self._host = socket.gethostname()
        self._queue: queue.Queue[bytes] = queue.Queue(target.waiting)
        self._lock = threading.Lock()
        self._sent = self._dropped = 0
        self._connected, self._problem = False, ""
        self._stopping = threading.Event()
        self._give_up = threading.Event()
        self._thread = threading.Thread(target=self._run, name="audit syslog", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def send(self, message: bytes, *, at: datetime, message_id: str) -> bool:
        """Return whether a message was taken; never waits. False: it was dropped, for too many wait already.

        Raises:
            SettingError: it is too long, or the sender was closed.
        """
        if self._stopping.is_set():
            raise SettingError("The sender of audit messages was closed.")
        framed = frame(message, at=at, host=self._host, app=self._target.app, message_id=message_id)
        try:
            self._queue.put_nowait(framed)
        except queue.Full:
            with self._lock:
                self._dropped += 1
            return False
        return True

    def state(self) -> SyslogState:
        """Return how delivery stands; an operator should be told of what was dropped, and of a lasting problem."""
        with self._lock:
            return SyslogState(self._sent, self._dropped, self._queue.qsize(), self._connected, self._problem)

    def close(self, timeout_s: float = 5.0) -> int:
        """Send what waits, stop, and return how many messages are left unsent.

        Args:
            timeout_s: how long to try.
        """
        self._stopping.set()
        self._thread.join(timeout_s)
        self._give_up.set()
        self._thread.join(self._target.timeout_s + 1)
        return self._queue.qsize()

    def _run(self) -> None:
        connection: ssl.SSLSocket | None = None
        failures = 0
        pending: bytes | None = None
        while not self._give_up.is_set():
            pending = pending or self._next()
            if pending is None:
                if self._stopping.is_set():
                    break
                continue
            try:
                if connection is not None and _has_ended(connection):
                    _hang_up(connection)
                    connection = None
                connection = connection or self._connect()
                connection.sendall(pending)
            except (OSError, ValueError) as error:
                _hang_up(connection)
                connection = None
                failures += 1
                self._note(problem=_say(error))
                self._give_up.wait(self._pause(failures))
                continue
            pending, failures = None, 0
            self._note(problem="")
        if pending is not None:
            self._put_back(pending)
        _hang_up(connection)

    def _next(self) -> bytes | None:
        try:
            return self._queue.get(timeout=0.05 if self._stopping.is_set() else 0.2)
        except queue.Empty:
            return None

    def _connect(self) -> ssl.SSLSocket:
        plain = socket.create_connection((self._target.host, self._target.port), self._target.timeout_s)
        try:
            return self._tls.wrap_socket(plain, server_hostname=self._target.host)
        except (OSError, ValueError):
            plain.close()
            raise

    def _pause(self, failures: int) -> float:
        """Return how long to wait: full jitter below a bound that doubles, from half a second on."""
        bound = min(self._target.longest_pause_s, 0.5 * 2.0 ** min(failures - 1, 30))
        return 0.05 + self._chance() * bound

    def _note(self, *, problem: str) -> None:
        with self._lock:
            if problem and problem != self._problem:
                logger.warning("The audit repository is not reached: %s. Messages wait.", problem)
            elif not problem and self._problem:
                logger.warning("The audit repository is reached again.")
            self._problem, self._connected = problem, not problem
            self._sent += not problem

    def _put_back(self, pending: bytes) -> None:
        try:
            self._queue.put_nowait(pending)
        except queue.Full:
            with self._lock:
                self._dropped += 1


def check(target: SyslogTarget) -> str:
    """Return which TLS the repository speaks, by a handshake and nothing more.

    Raises:
        PeerError: it is not reached, or not trusted.
        SettingError: a certificate cannot be read.
    """
    context = _tls(target)
    try:
        with (
            socket.create_connection((target.host, target.port), target.timeout_s) as plain,
            context.wrap_socket(plain, server_hostname=target.host) as secure,
        ):
            # In TLS 1.3 a certificate of ours that is not wanted is refused after the handshake.
            time.sleep(0.05)
            if _has_ended(secure):
                raise PeerError("The audit repository closed the connection; does it know our certificate?")
            return secure.version() or "TLS"
    except (OSError, ValueError) as error:
        raise PeerError(
            f"The audit repository at {target.host}:{target.port} is not reached: {_say(error)}."
        ) from error


def _tls(target: SyslogTarget) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=None if target.ca is None else str(target.ca))
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if target.certificate is not None:
            # A password would be asked for at the terminal, for ever.
            context.load_cert_chain(str(target.certificate), str(target.key), password=_no_password)
    except (OSError, ValueError) as error:
        raise SettingError(f"A certificate or key for the audit repository cannot be read: {_say(error)}.") from error
    return context


def _no_password() -> str:
    raise ValueError("the private key has a password; store it without one, readable by its owner only")


def _has_ended(connection: ssl.SSLSocket) -> bool:
    """Return whether the other side has hung up; it has nothing else to say to us."""
    timeout = connection.gettimeout()
    connection.settimeout(0.0)
    try:
        return not connection.recv(4096)
    except (ssl.SSLWantReadError, BlockingIOError):
        # A session ticket of TLS 1.3 is none of our business.
        return False
    finally:
        connection.settimeout(timeout)


def _hang_up(connection: ssl.SSLSocket | None) -> None:
    if connection is None:
        return
    try:
        # Says goodbye in TLS, so that the other side knows that nothing was cut off.
        connection.settimeout(1.0)
        connection.unwrap()
    except (OSError, ValueError):
        pass
    finally:
        connection.close()


def _say(error: OSError | ValueError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted ({error.verify_message})"
    if isinstance(error, TimeoutError):
        return "it does not answer in time"
    return error.strerror or type(error).__name__ if isinstance(error, OSError) else str(error)


def _is_word(text: str, longest: int) -> bool:
    return 1 <= len(text) <= longest and all("!" <= letter <= "~" for letter in text)
