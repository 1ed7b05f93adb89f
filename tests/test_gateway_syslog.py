"""Audit messages over TLS: to rsyslog where it is installed, and to a socket that misbehaves."""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from rentgen.errors import PeerError, SettingError
from rentgen.gateway.syslog import LONGEST_BYTES, Syslog, SyslogTarget, check, frame

AT = datetime.datetime(2026, 3, 1, 12, 30, 15, 123456, datetime.UTC)
ID = "DICOM+RFC3881"


@dataclass(frozen=True)
class Papers:
    """A small authority and what it signed."""

    ca: Path
    server: Path
    server_key: Path
    client: Path
    client_key: Path


def issue(
    folder: Path, name: str, issuer: tuple[x509.Name, ec.EllipticCurvePrivateKey] | None
) -> tuple[x509.Name, ec.EllipticCurvePrivateKey]:
    """Write a certificate and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    issuer_name, issuer_key = issuer or (subject, key)
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer_name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
    )
    if issuer is None:
        usage = x509.KeyUsage(
            digital_signature=True,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            key_cert_sign=True,
            crl_sign=True,
            encipher_only=False,
            decipher_only=False,
        )
        builder = builder.add_extension(usage, critical=True)
    certificate = builder.sign(issuer_key, hashes.SHA256())
    (folder / f"{name}.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / f"{name}.key").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return subject, key


@pytest.fixture(scope="module")
def papers(tmp_path_factory: pytest.TempPathFactory) -> Papers:
    folder = tmp_path_factory.mktemp("tls")
    authority = issue(folder, "authority", None)
    issue(folder, "server", authority)
    issue(folder, "client", authority)
    issue(folder, "stranger", None)
    return Papers(
        folder / "authority.crt",
        folder / "server.crt",
        folder / "server.key",
        folder / "client.crt",
        folder / "client.key",
    )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(met: Callable[[], bool], seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not met():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def to(port: int, papers: Papers, **options: object) -> SyslogTarget:
    known: dict[str, object] = {
        "ca": papers.ca,
        "certificate": papers.client,
        "key": papers.client_key,
        "timeout_s": 2.0,
        "longest_pause_s": 0.1,
    }
    return SyslogTarget("127.0.0.1", port, **(known | options))  # type: ignore[arg-type]


class Repository:
    """A TLS server that demands a certificate and takes messages by their counted bytes."""

    def __init__(self, papers: Papers, port: int = 0, *, hang_up_after: int = 10**9) -> None:
        self.messages: list[bytes] = []
        self.connections = 0
        self._context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(papers.ca))
        self._context.verify_mode = ssl.CERT_REQUIRED
        self._context.load_cert_chain(papers.server, papers.server_key)
        self._hang_up_after = hang_up_after
        self._listener = socket.create_server(("127.0.0.1", port))
        self.port = int(self._listener.getsockname()[1])
        self._open: list[socket.socket] = []
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                plain, _ = self._listener.accept()
            except OSError:
                return
            try:
                with self._context.wrap_socket(plain, server_side=True) as secure:
                    self.connections += 1
                    self._open.append(secure)
                    with secure.makefile("rb") as stream:
                        for _ in range(self._hang_up_after):
                            digits = b""
                            while (byte := stream.read(1)) not in (b" ", b""):
                                digits += byte
                            if not digits:
                                break
                            self.messages.append(stream.read(int(digits)))
            except OSError:
                continue

    def close(self) -> None:
        # Closing alone does not wake the thread that accepts.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self._open:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._thread.join(5)


@pytest.fixture
def repository(papers: Papers) -> Iterator[Repository]:
    started = Repository(papers)
    yield started
    started.close()


def test_frame_is_rfc_5424_with_its_bytes_counted() -> None:
    framed = frame("<Prüfung/>".encode(), at=AT, host="gate", app="rentgen", message_id=ID)
    length, _, rest = framed.partition(b" ")
    assert int(length) == len(rest)
    head, message = rest.split(b"\xef\xbb\xbf")
    assert message.decode() == "<Prüfung/>"
    fields = head.decode().split(" ")
    assert fields[:4] == ["<85>1", "2026-03-01T12:30:15.123Z", "gate", "rentgen"]
    assert fields[4].isdigit()
    assert fields[5:] == [ID, "-", ""]


def test_a_message_too_long_is_refused_at_once() -> None:
    with pytest.raises(SettingError, match="at most 32768 bytes"):
        frame(b"x" * LONGEST_BYTES, at=AT, host="gate", app="rentgen", message_id=ID)


@pytest.mark.parametrize(
    "wrong", [{"port": 0}, {"app": "two words"}, {"waiting": 0}, {"timeout_s": 0.0}, {"certificate": Path("a.crt")}]
)
def test_targets_are_valid_or_not_made(wrong: dict[str, object]) -> None:
    with pytest.raises(SettingError):
        SyslogTarget("host", **wrong)  # type: ignore[arg-type]


def test_messages_arrive_in_order(papers: Papers, repository: Repository) -> None:
    with Syslog(to(repository.port, papers)) as syslog:
        for number in range(50):
            assert syslog.send(f"message {number}\nof two lines".encode(), at=AT, message_id=ID)
        wait_for(lambda: len(repository.messages) == 50)
        state = syslog.state()
    assert (state.sent, state.dropped, state.waiting, state.connected, state.problem) == (50, 0, 0, True, "")
    assert repository.connections == 1
    assert [message.split(b"\xef\xbb\xbf")[1] for message in repository.messages] == [
        f"message {number}\nof two lines".encode() for number in range(50)
    ]


def test_a_repository_that_hangs_up_is_called_again(papers: Papers) -> None:
    repository = Repository(papers, hang_up_after=1)
    try:
        with Syslog(to(repository.port, papers)) as syslog:
            for number in range(4):
                syslog.send(b"%d" % number, at=AT, message_id=ID)
                wait_for(lambda wanted=number + 1: len(repository.messages) == wanted)  # type: ignore[misc]
                # The end of the connection is on its way.
                time.sleep(0.05)
    finally:
        repository.close()
    assert [message[-1:] for message in repository.messages] == [b"0", b"1", b"2", b"3"]
    assert repository.connections == 4


def test_messages_wait_until_the_repository_is_there(papers: Papers) -> None:
    port = free_port()
    with Syslog(to(port, papers)) as syslog:
        syslog.send(b"early", at=AT, message_id=ID)
        wait_for(lambda: syslog.state().problem != "")
        assert not syslog.state().connected
        repository = Repository(papers, port)
        try:
            wait_for(lambda: len(repository.messages) == 1)
            assert syslog.state().connected
        finally:
            repository.close()


def test_the_queue_is_bounded_and_what_is_left_is_told(papers: Papers) -> None:
    syslog = Syslog(to(free_port(), papers, waiting=5))
    taken = [syslog.send(b"x", at=AT, message_id=ID) for _ in range(20)]
    # One may be in the sender's hands.
    assert 5 <= sum(taken) <= 6
    assert syslog.state().dropped == 20 - sum(taken)
    left = syslog.close(timeout_s=0.2)
    assert left + syslog.state().dropped == 20
    with pytest.raises(SettingError, match="closed"):
        syslog.send(b"x", at=AT, message_id=ID)


def test_a_repository_that_is_silent_does_not_hold_the_caller(papers: Papers) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        syslog = Syslog(to(port, papers, timeout_s=0.2))
        began = time.monotonic()
        syslog.send(b"x", at=AT, message_id=ID)
        assert time.monotonic() - began < 0.1
        wait_for(lambda: "in time" in syslog.state().problem)
        assert syslog.close(timeout_s=0.1) == 1
        assert time.monotonic() - began < 5


def test_strangers_are_not_trusted(papers: Papers, repository: Repository) -> None:
    stranger = papers.ca.with_name("stranger.crt")
    with pytest.raises(PeerError, match="not trusted"):
        check(to(repository.port, papers, ca=stranger))
    with pytest.raises(PeerError, match="not trusted"):
        # The certificate names the address, not this name.
        check(SyslogTarget("localhost", repository.port, ca=papers.ca))
    with pytest.raises(PeerError):
        check(to(repository.port, papers, certificate=stranger, key=stranger.with_suffix(".key")))
    with pytest.raises(PeerError):
        check(to(free_port(), papers))
    assert check(to(repository.port, papers)) == "TLSv1.3"
    assert repository.messages == []


def test_certificates_that_cannot_be_read(papers: Papers, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="cannot be read"):
        Syslog(to(1, papers, ca=tmp_path / "none.crt"))
    (tmp_path / "bad.key").write_text("no key")
    with pytest.raises(SettingError, match="cannot be read"):
        Syslog(to(1, papers, key=tmp_path / "bad.key"))
    assert "key" not in repr(to(1, papers)).replace("DSA", "")


CONFIGURATION = """
global(workDirectory="{folder}" maxMessageSize="64k" defaultNetstreamDriver="gtls"
       defaultNetstreamDriverCAFile="{ca}" defaultNetstreamDriverCertFile="{server}"
       defaultNetstreamDriverKeyFile="{key}")
module(load="imtcp" StreamDriver.Name="gtls" StreamDriver.Mode="1" StreamDriver.AuthMode="x509/certvalid")
input(type="imtcp" port="{port}" address="127.0.0.1")
template(name="parts" type="string"
         string="%syslogfacility-text%|%syslogseverity-text%|%app-name%|%msgid%|%timestamp:::date-rfc3339%|%msg%\\n")
*.* action(type="omfile" file="{folder}/audit.log" template="parts")
"""


@pytest.fixture
def rsyslog(papers: Papers, tmp_path: Path) -> Iterator[tuple[int, Path]]:
    """Start rsyslog with TLS and mutual authentication; give its port and its file."""
    program = shutil.which("rsyslogd", path="/usr/sbin:/usr/bin:/sbin")
    if program is None or not list(Path("/usr/lib").glob("*/rsyslog/lmnsd_gtls.so")):
        pytest.skip("rsyslog with its TLS driver is not installed (Debian: rsyslog, rsyslog-gnutls)")
    port = free_port()
    file = tmp_path / "rsyslog.conf"
    file.write_text(
        CONFIGURATION.format(folder=tmp_path, ca=papers.ca, server=papers.server, key=papers.server_key, port=port)
    )
    process = subprocess.Popen(
        [program, "-n", "-f", str(file), "-i", str(tmp_path / "pid")],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield port, tmp_path / "audit.log"
    finally:
        process.terminate()
        process.wait(10)


def test_rsyslog_takes_them_apart(papers: Papers, rsyslog: tuple[int, Path]) -> None:
    port, log = rsyslog
    message = '<AuditMessage note="ґрати"/>'
    with Syslog(to(port, papers)) as syslog:
        for _ in range(3):
            syslog.send(message.encode(), at=AT, message_id=ID)
        wait_for(lambda: log.exists() and log.read_text("utf-8").count("\n") == 3, 15)
    lines = log.read_text("utf-8").splitlines()
    assert lines == [f"authpriv|notice|rentgen|{ID}|2026-03-01T12:30:15.123Z|\ufeff{message}"] * 3
