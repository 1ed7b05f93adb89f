"""Connections of DIMSE: TLS, and a listener that one peer cannot stop or fill.

pynetdicom shakes hands in TLS where it accepts, without a time limit, so that one silent peer stops all; and it
believes any length that a PDU claims, before it knows who sends it. Both are put right here.
"""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import select
import socket
import ssl
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from pydicom.uid import UID
from pynetdicom import AE, _config, dimse_messages, evt
from pynetdicom.association import Association
from pynetdicom.dimse_messages import DIMSEMessage
from pynetdicom.presentation import PresentationContext
from pynetdicom.transport import AssociationSocket, RequestHandler, ThreadedAssociationServer

from rentgen.errors import SettingError
from rentgen.gateway.nouns import Tls
from rentgen.outputs.dicom_common import IMPLEMENTATION_UID, IMPLEMENTATION_VERSION

logger = logging.getLogger(__name__)

LOOPBACK = ("127.0.0.0/8", "::1")

LONGEST_PDU = 1 << 20
"""Bytes that a PDU may claim; we ask peers for far shorter ones."""
_LONGEST_COMMAND = 1 << 16
_OVER = "Sta13"
"""The association was released, rejected or aborted; the peer is to close the connection (PS3.8, 9.2)."""
_LONGEST_IN_MEMORY = 4 << 20


@dataclass(frozen=True, slots=True)
class Guard:
    """What a listener lets through.

    Attributes:
        incoming: folder where objects arrive.
        networks: that may connect.
        max_object_bytes: of one object.
        max_waiting: connections that have not said a word yet.
        max_waiting_each: of them, from one address.
        first_word_s: how long a peer may take for its TLS handshake, and then for its first byte.
        pdu_s: how long a peer may take for one PDU.
    """

    incoming: Path
    networks: tuple[str, ...] = LOOPBACK
    max_object_bytes: int = 200_000_000
    max_waiting: int = 128
    max_waiting_each: int = 32
    first_word_s: float = 5.0
    pdu_s: float = 60.0

    def admits(self, address: str) -> bool:
        """Return whether a peer of that address may connect."""
        try:
            peer = ipaddress.ip_address(address.partition("%")[0])
        except ValueError:
            return False
        mapped = getattr(peer, "ipv4_mapped", None)
        return any((mapped or peer) in ipaddress.ip_network(network) for network in self.networks)


def server_context(tls: Tls) -> ssl.SSLContext:
    """Return how we speak TLS where we are called.

    Raises:
        SettingError: a certificate or key is missing or cannot be read.
    """
    if tls.certificate is None or tls.key is None:
        raise SettingError("`tls`: expected `certificate` and `key`, since peers connect to us.")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _load(context, tls)
    if tls.demand_certificate:
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def client_context(tls: Tls) -> ssl.SSLContext:
    """Return how we speak TLS where we call; the peer's certificate must name its host.

    Raises:
        SettingError: a certificate or key cannot be read.
    """
    context = ssl.create_default_context() if tls.authority is None else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    _load(context, tls)
    return context


def _load(context: ssl.SSLContext, tls: Tls) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        if tls.authority is not None:
            context.load_verify_locations(tls.authority)
        if tls.certificate is not None:
            # A password would be asked for at the terminal, for ever.
            context.load_cert_chain(tls.certificate, tls.key, password=_no_password)
    except (OSError, ValueError) as error:
        raise SettingError(
            "`tls`: a certificate or key cannot be read, or they do not belong together; "
            f"expected PEM files without a password ({type(error).__name__})."
        ) from error


def _no_password() -> str:
    raise ValueError("the private key has a password")


class OwnContext(PresentationContext):
    """A presentation context of ours; pynetdicom copies all of them, to the last UID, for every association."""

    def __deepcopy__(self, memo: dict[int, Any]) -> OwnContext:
        # Its UIDs never change; only the list of them may.
        twin = OwnContext()
        vars(twin).update(vars(self))
        twin._transfer_syntax = list(self._transfer_syntax)
        return twin


class Listener(ThreadedAssociationServer):
    """Accepts connections; shakes hands and waits for the first byte in the connection's own thread."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(
        self,
        ae: AE,
        address: tuple[str, int],
        contexts: Sequence[PresentationContext],
        handlers: Sequence[Any],
        *,
        guard: Guard,
        tls: ssl.SSLContext | None,
        refused: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Listen; `serve_forever` answers.

        Args:
            ae: whose title and limits count.
            address: host and port; port 0 takes a free one.
            contexts: presentation contexts that are accepted.
            handlers: of events, as pynetdicom has them.
            guard: what is let through.
            tls: None in the clear.
            refused: told why a connection was refused.

        Raises:
            OSError: the address is taken, or is none of this machine.
        """
        self.guard = guard
        self._tls = tls
        self._refused = refused
        self._waiting: Counter[str] = Counter()
        self._lock = threading.Lock()
        super().__init__(ae, address, ae.ae_title, list(contexts), None, list(handlers), _Handler)

    def verify_request(self, request: Any, client_address: Any) -> bool:  # noqa: ANN401
        """Return whether a connection is let through: by its address, and by how many are waiting."""
        address = str(client_address[0])
        if not self.guard.admits(address):
            self._refused("address")
            return False
        with self._lock:
            full = self._waiting.total() >= self.guard.max_waiting
            if full or self._waiting[address] >= self.guard.max_waiting_each:
                self._refused("waiting")
                return False
            self._waiting[address] += 1
        return True

    def finish_request(self, request: Any, client_address: Any) -> None:  # noqa: ANN401
        """Begin an association once the peer has said a word; let the connection go if it does not."""
        try:
            connection = self._greet(request)
        except (OSError, ValueError):
            # A peer that does not know TLS, is not known, is silent, or has gone.
            self._refused("handshake" if self._tls else "silent")
            connection = None
        finally:
            self._leave(str(client_address[0]))
        if connection is None:
            self.shutdown_request(request)
            return
        super().finish_request(connection, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ANN401
        """Log that a connection failed, without what it sent."""
        logger.exception("A DIMSE connection could not be served.")

    def _greet(self, request: socket.socket) -> socket.socket:
        request.settimeout(self.guard.first_word_s)
        request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection: socket.socket = request
        if self._tls is not None:
            connection = self._tls.wrap_socket(request, server_side=True)
        pending = isinstance(connection, ssl.SSLSocket) and connection.pending()
        if not pending and not select.select([connection], [], [], self.guard.first_word_s)[0]:
            connection.close()
            raise TimeoutError("no byte came in time")
        connection.settimeout(self.guard.pdu_s)
        return connection

    def _leave(self, address: str) -> None:
        with self._lock:
            self._waiting[address] -= 1
            if self._waiting[address] <= 0:
                del self._waiting[address]


class _Handler(RequestHandler):
    """Gives an association a socket with limits."""

    def _create_association(self) -> Association:
        association = super()._create_association()
        guard = cast(Listener, self.server).guard
        association.dul.socket = _GuardedSocket(cast(AssociationSocket, association.dul.socket), guard)
        return association


def sign(entity: AE) -> None:
    """Let an application entity name our implementation in its associations, as our files do."""
    entity.implementation_class_uid = UID(IMPLEMENTATION_UID)
    entity.implementation_version_name = IMPLEMENTATION_VERSION


class Caller(AE):
    """Asks peers for associations, and closes every connection; pynetdicom leaves open what the peer has hung up."""

    def __init__(self, ae_title: str) -> None:
        super().__init__(ae_title)
        sign(self)

    def _create_socket(self, *arguments: Any) -> AssociationSocket:  # noqa: ANN401
        return _ClosedSocket(super()._create_socket(*arguments))


class _ClosedSocket(AssociationSocket):
    def __init__(self, inner: AssociationSocket) -> None:
        vars(self).update(vars(inner))
        if self.socket is not None:
            # A message is several small writes; each would wait 40 ms for the peer's word on the one before.
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def _shutdown_socket(self) -> None:
        connection = self.socket
        if connection is not None:
            _close(connection)


def _close(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()


class _GuardedSocket(AssociationSocket):
    """Reads no PDU, message or object that is longer than allowed, nor one that does not come."""

    def __init__(self, inner: AssociationSocket, guard: Guard) -> None:
        # Takes over what the other one holds: its constructor would announce the connection a second time.
        vars(self).update(vars(inner))
        self._guard = guard
        self._connection = cast(socket.socket, inner.socket)

    def recv(self, nr_bytes: int) -> bytearray:
        """Return so many bytes, or fewer where the peer has gone.

        Raises:
            OSError: too much, or too late; the association ends.
        """
        if self.assoc.dul.state_machine.current_state == _OVER:
            # Each word more would be answered with an abort, and logged, for as long as the peer likes to talk.
            return bytearray()
        if nr_bytes > LONGEST_PDU:
            raise OSError(f"a PDU claims more than {LONGEST_PDU} bytes")
        self._check_message()
        connection = cast(socket.socket, self.socket)
        until = time.monotonic() + self._guard.pdu_s
        received = bytearray()
        while len(received) < nr_bytes:
            left = until - time.monotonic()
            if left <= 0:
                raise TimeoutError("a PDU does not come to its end")
            connection.settimeout(left)
            part = connection.recv(min(1 << 16, nr_bytes - len(received)))
            if not part:
                break
            received += part
        connection.settimeout(self._guard.pdu_s)
        return received

    def _shutdown_socket(self) -> None:
        self.hang_up()

    def hang_up(self) -> None:
        """Close the connection, also one whose peer has gone already, which the other socket leaves open."""
        _close(self._connection)

    def _check_message(self) -> None:
        message: DIMSEMessage | None = self.assoc.dimse.message
        if message is None:
            return
        file = message._data_set_file
        if file is not None and not file.file.closed and file.file.tell() > self._guard.max_object_bytes:
            raise OSError(f"an object is longer than {self._guard.max_object_bytes} bytes")
        in_memory = getattr(message, "data_set", None)
        if in_memory is not None and in_memory.tell() > _LONGEST_IN_MEMORY:
            raise OSError(f"a message is longer than {_LONGEST_IN_MEMORY} bytes")
        if message.encoded_command_set.tell() > _LONGEST_COMMAND:
            raise OSError(f"a command is longer than {_LONGEST_COMMAND} bytes")


def tidy_up(event: evt.Event) -> None:
    """Delete what an association left that ended in the middle of an object, and end it; for `EVT_CONN_CLOSE`."""
    if not event.assoc.is_established:
        # It would wait for a request, and hold its place, until its time is up.
        event.assoc.dul.to_user_queue.put(None)
    hang_up(event.assoc)
    message = event.assoc.dimse.message
    file = None if message is None else message._data_set_file
    if file is not None:
        file.close()
        Path(file.name).unlink(missing_ok=True)


def hang_up(association: Association) -> None:
    """Close an association's connection, whatever state it is in."""
    connection = association.dul.socket
    if isinstance(connection, _GuardedSocket):
        connection.hang_up()


def stream_to_disk() -> None:
    """Make pynetdicom write objects to the listener's folder as they come, and log nothing of them.

    Both are switches of the whole process; an object for another listener goes where temporary files go.
    """
    _config.STORE_RECV_CHUNKED_DATASET = True
    _config.LOG_HANDLER_LEVEL = "none"
    pynetdicom_logger = logging.getLogger("pynetdicom")
    # Below it, it logs identifiers of patients.
    if pynetdicom_logger.getEffectiveLevel() < logging.WARNING:
        pynetdicom_logger.setLevel(logging.WARNING)
    vars(dimse_messages)["NamedTemporaryFile"] = _open_file


def _open_file(**options: Any) -> Any:  # noqa: ANN401
    # Messages are put together in the thread that reads them, which knows its association.
    server = getattr(getattr(threading.current_thread(), "assoc", None), "_server", None)
    folder = server.guard.incoming if isinstance(server, Listener) else None
    return tempfile.NamedTemporaryFile(dir=folder, **options)
