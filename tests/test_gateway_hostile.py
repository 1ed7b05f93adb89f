"""The gateway as a process, attacked by both doors for as long as it takes, while good films keep coming."""

from __future__ import annotations

import gzip
import os
import random
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import gateways
import httpx
import peers
import pytest
from bombs import BOMBS, MB
from gateways import CR, Archive, Running
from made import element, part10
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

from rentgen.gateway.nouns import GatewayConfig
from rentgen.gateway.stow import create_stow
from rentgen.gateway.transport import Caller

pytestmark = pytest.mark.filterwarnings(
    # pynetdicom's requestor leaves a socket whose peer hung up to the garbage collector.
    "ignore::pytest.PytestUnraisableExceptionWarning"
)

ANSWERS = (200, 202, 400, 409, 413)
SILENT = 32
"""Connections that say nothing, at each door."""
GOOD_EVERY_S = 1.0


def headed(tail: bytes) -> Callable[[], bytes]:
    """Return what makes a film with all that a door asks for, and this after it."""
    uid = b"1.2.826.0.1.3680043.10.1."
    head = (
        element(0x00080016, b"UI", CR.encode() + b"\0")
        + element(0x00080018, b"UI", uid + b"3")
        + element(0x00080060, b"CS", b"CR")
        + element(0x00180015, b"CS", b"CHEST ")
        + element(0x0020000D, b"UI", uid + b"1")
        + element(0x0020000E, b"UI", uid + b"2")
    )
    return lambda: part10(head + tail)


ENDLESS = struct.pack("<L", 0xFFFFFFFF)
DEEP = b"\x40\x00\x75\x02SQ\0\0" + ENDLESS + b"\xfe\xff\x00\xe0" + ENDLESS
STORABLE: dict[str, Callable[[], bytes]] = {
    "a film of 5,000 nested sequences": headed(DEEP * 5_000),
    "a film of 100,000 nested sequences": headed(DEEP * 100_000),
    "a film of 200,000 elements": headed(element(0x00410010, b"LO", b"DOE^JANE") * 200_000),
    "a film with an element of 4 GiB": headed(element(0x00404020, b"UT", b"abc", 0xFFFFFFF0)),
    "a film with a private element of 20 MB": headed(element(0x00411010, b"OB", bytes(20 * MB))),
    "a film with a name of 10 MB": headed(element(0x00404020, b"UT", b"DOE^JANE" * (MB + MB // 4))),
    "a film without pixels": headed(b""),
}


def numbered(data: bytes, number: int) -> bytes:
    """Return an object of a study of its own, so that none is put aside unread."""
    return data.replace(b"3680043.10.1.", b"3680043.1%03d." % number)


@dataclass
class Hospital:
    """A gateway that is attacked, and what it does meanwhile for those who mean well."""

    running: Running
    archive: Archive
    sent: dict[str, float] = field(default_factory=dict)
    refused: list[str] = field(default_factory=list)
    memory_mb: list[float] = field(default_factory=list)
    health: list[tuple[int, str]] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)
    threads: list[threading.Thread] = field(default_factory=list)

    def begin(self) -> None:
        self.threads = [threading.Thread(target=each) for each in (self.send_good_films, self.watch)]
        for each in self.threads:
            each.start()

    def rest(self) -> None:
        self.over.set()
        for each in self.threads:
            each.join(70)

    def send_good_films(self) -> None:
        number = 0
        while not self.over.wait(GOOD_EVERY_S):
            number += 1
            data, told = gateways.made(9_000 + number), gateways.uids(9_000 + number)
            self.sent[told["StudyInstanceUID"]] = time.monotonic()
            if not self.store(data, told["SOPInstanceUID"], by_stow=number % 2 == 0):
                self.refused.append(f"film {number}")

    def store(self, data: bytes, uid: str, *, by_stow: bool) -> bool:
        if by_stow:
            try:
                return self.running.stow(data).status_code == 200
            except httpx.HTTPError:
                return False
        return gateways.c_store(self.running.port, part_of(data), uid) == 0

    def watch(self) -> None:
        while not self.over.wait(0.3):
            self.memory_mb.append(gateways.resident_mb(self.running.process.pid))
            try:
                answer = self.running.get("/healthz")
                self.health.append((answer.status_code, answer.text))
            except httpx.HTTPError as error:
                self.health.append((0, type(error).__name__))

    def latencies(self) -> list[float]:
        return [self.archive.came[study] - at for study, at in self.sent.items() if study in self.archive.came]


def part_of(data: bytes) -> bytes:
    """Return a file's data set."""
    return data[start_of(data) :]


def start_of(data: bytes) -> int:
    # The length of the group is its first element.
    return 144 + int.from_bytes(data[140:144], "little")


def syntax_of(data: bytes) -> str:
    at = data.index(b"\x02\0\x10\0UI") + 6
    return data[at + 2 : at + 2 + int.from_bytes(data[at : at + 2], "little")].strip(b"\0 ").decode()


@pytest.fixture
def hospital(tmp_path: Path) -> Iterator[Hospital]:
    archive = Archive()
    inbox = GatewayConfig(folder=tmp_path / "inbox", min_free_mb=0)
    with peers.serving(create_stow(inbox, archive)) as port:
        destination = {"name": "archive", "wire": "stow", "kinds": ["sr"], "url": f"http://127.0.0.1:{port}"}
        gateways.configure(
            tmp_path,
            destination,
            reader_memory_mb=1000,
            reader_timeout_s=10,
            max_object_mb=50,
            max_associations=40,
            allow_ae_titles=["SENDER"],
        )
        with gateways.gateway(tmp_path, given={"RENTGEN_LOG_FORMAT": "text"}) as running:
            hospital = Hospital(running, archive)
            hospital.begin()
            try:
                yield hospital
            finally:
                hospital.rest()


def send_bombs(running: Running) -> None:
    for number, (name, bomb) in enumerate((BOMBS | STORABLE).items(), 1):
        data = bomb()
        assert running.stow(numbered(data, number)).status_code in ANSWERS, name
        if data[128:132] == b"DICM" and len(data) > 200 and "deflated" not in name:
            again = numbered(data, 500 + number)
            uid = f"1.2.826.0.1.3680043.1{500 + number}.3"
            gateways.c_store(running.port, part_of(again), uid, syntax=syntax_of(again))
    # A class that is none, a syntax that is none, and a message that is about another object.
    film = part_of(gateways.made(8_001))
    assert gateways.c_store(running.port, film, "1.2.3", sop_class="1.2.3.4") is None
    assert gateways.c_store(running.port, film, "1.2.3", syntax="1.2.840.10008.1.2.1.99") is None
    assert gateways.c_store(running.port, film, "1.2.3") == 0xA900


def call_by_wrong_names(running: Running) -> None:
    film = part_of(gateways.made(8_002))
    uid = gateways.uids(8_002)["SOPInstanceUID"]
    for called, calling in (("SOMEBODY", "SENDER"), ("RENTGEN", "INTRUDER"), ("RENTGEN", "' OR 1=1 --")):
        assert gateways.c_store(running.port, film, uid, called=called, calling=calling) is None


def send_bodies_that_are_none(running: Running) -> None:
    good = gateways.made(8_003)
    assert running.stow(*[gateways.made(8_004, number, size=(8, 8)) for number in range(1_000)]).status_code == 413
    assert running.stow(gzip.compress(good), Content_Encoding="gzip").status_code == 415
    assert running.stow(good, kind="application/dicom+json").status_code == 400
    assert running.stow(good, kind="application/dicom\r\nContent-Encoding: gzip").status_code in (200, 202, 400)
    assert running.stow(good, Content_Type="multipart/form-data; boundary=x").status_code == 415
    assert running.stow(good, Content_Type='multipart/related; boundary="x\x7f"').status_code == 415
    assert running.stow(bytes(51 * MB)).status_code == 413
    for path in ("/studies/../../etc/passwd", "/studies/1.2.3/series", "/studies/' OR 1=1", "/nothing"):
        assert running.get(path).status_code in (404, 405)
    # A length that is a lie, and none at all.
    for head in (b"Content-Length: 99999999999999999999", b"Content-Length: -1", b"Transfer-Encoding: gzip, chunked"):
        told = b"POST /studies HTTP/1.1\r\nHost: x\r\n" + head + b"\r\n\r\nabc"
        assert spoken_to(running.http_port, told)[9:12] in (b"400", b"413", b"415", b"501"), head


def send_junk(running: Running) -> None:
    rng = random.Random(11)  # noqa: S311 - no secret
    # Many words that are none cost no more than one.
    words = [b"\xaa" * 3_000_000, b"\1\0\0\0\0\0" * 500_000]
    words += [rng.randbytes(size) for size in (1, 7, 100, 5_000, 200_000)]
    words += [b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03", b"GET / HTTP/1.1\r\n\r\n", b"\x0bMSH|^~\\&|", b"\0" * 100]
    # PDUs of DICOM: too long, cut off, of no known type, data before there is an association.
    lengths = (0xFFFFFFFF, 0xFFFFFFF0, 1 << 20)
    words += [b"\x01\0" + struct.pack(">L", length) + bytes(3_000_000) for length in lengths]
    words += [b"\x01\0\0\0\0\x40" + bytes(64), b"\x09\0\0\0\0\4abcd", b"\x04\0\0\0\0\x08\0\0\0\4\1\3ab"]
    for word in words:
        for port in (running.port, running.http_port):
            spoken_to(port, word)


def claim_four_gib_when_associated(running: Running) -> None:
    entity = Caller("SENDER")
    entity.add_requested_context(Verification)
    association = entity.associate("127.0.0.1", running.port, ae_title="RENTGEN")
    assert association.is_established
    assert association.dul.socket is not None
    connection = association.dul.socket.socket
    assert connection is not None
    with suppress(OSError):
        connection.sendall(b"\x04\0" + struct.pack(">L", 0xFFFFFFF0) + bytes(2_000_000))
    gateways.until(lambda: not association.is_established, 20)


def kill_readers(running: Running) -> None:
    for _ in range(2):
        reader = running.family()[1]
        os.kill(reader, signal.SIGKILL)
        gateways.until(partial(has_another_reader, running, reader), 40)


def has_another_reader(running: Running, gone: int) -> bool:
    return len({*running.family()} - {gone}) > 1


ATTACKS = (
    send_bombs,
    call_by_wrong_names,
    send_bodies_that_are_none,
    send_junk,
    claim_four_gib_when_associated,
    kill_readers,
)


def connect(port: int) -> socket.socket:
    # From an address of its own: who blocks himself blocks nobody else.
    return socket.create_connection(("127.0.0.1", port), 5, source_address=("127.0.0.2", 0))


def spoken_to(port: int, word: bytes) -> bytes:
    """Return what a door answers to a word, after which nothing more comes."""
    with connect(port) as door:
        door.settimeout(15)
        with suppress(OSError):
            door.sendall(word)
            door.shutdown(socket.SHUT_WR)
            return door.recv(1_000)
    return b""


def drip(running: Running) -> Iterator[socket.socket]:
    """Begin bodies and heads that never come to their end."""
    head = (
        b"POST /studies HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/related; boundary=x\r\nContent-Length: 9999\r\n"
    )
    for word in (head + b"\r\n--x\r\nContent-Type: application/dicom\r\n\r\nabc", head):
        for _ in range(4):
            door = connect(running.http_port)
            door.sendall(word)
            yield door


def is_closed(door: socket.socket) -> bool:
    """Send one byte more, and return whether nobody listens any longer."""
    door.settimeout(0.01)
    try:
        door.sendall(b"a")
        while door.recv(10_000):
            pass
    except TimeoutError:
        return False
    except OSError:
        return True
    return True


def test_films_come_through_while_the_gateway_is_attacked(hospital: Hospital, tmp_path: Path) -> None:
    running = hospital.running
    with ExitStack() as stack:
        dripping = [stack.enter_context(each) for each in drip(running)]
        for port in (running.port, running.http_port):
            for _ in range(SILENT):
                stack.enter_context(connect(port))
            half = stack.enter_context(connect(port))
            half.shutdown(socket.SHUT_WR)
        for attack in ATTACKS:
            attack(running)
        gateways.until(lambda: all(map(is_closed, dripping)), 40, 1.0)
    sent_last = max(hospital.sent.values())
    gateways.until(lambda: max(hospital.sent.values()) > sent_last, 10)
    hospital.rest()
    with gateways.queue(tmp_path) as queue:
        gateways.until(lambda: gateways.is_idle(queue), 60)
        letters, counts = queue.dead_letters(), queue.counts()
    assert hospital.refused == []
    assert len(hospital.latencies()) == len(hospital.sent)
    assert max(hospital.latencies()) < 30
    assert {code for code, _ in hospital.health} == {200}
    # The gateway and its reader, what they share counted twice; 410 where it was measured.
    assert max(hospital.memory_mb) < 1_000
    assert letters == ()
    assert {state for _, _, state in counts.steps} == {"done"}
    assert running.process.poll() is None
    assert running.stop() == 0
    assert list((tmp_path / "spool" / "incoming").iterdir()) == []
    assert [each.name for each in (tmp_path / "spool").iterdir() if each.name.startswith(("stow-", "pull-"))] == []
    assert "DOE" not in running.text()
    assert len(running.text()) < 100_000
