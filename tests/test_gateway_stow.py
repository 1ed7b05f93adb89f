"""The DICOMweb door."""

from __future__ import annotations

import hashlib
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import httpx
import peers
import pydicom
import pytest
from peers import FolderIntake
from starlette.testclient import TestClient

from rentgen.gateway.nouns import GatewayConfig
from rentgen.gateway.stow import StowLimits, create_stow
from rentgen.gateway.transport import Guard
from rentgen.gateway.web_guard import guarded

TYPE = 'multipart/related; type="application/dicom"; boundary=b0undary'


@pytest.fixture
def config(tmp_path: Path) -> GatewayConfig:
    return GatewayConfig(folder=tmp_path / "spool", min_free_mb=0)


@pytest.fixture
def intake(tmp_path: Path) -> FolderIntake:
    (tmp_path / "kept").mkdir()
    return FolderIntake(tmp_path / "kept")


def client(config: GatewayConfig, intake: FolderIntake, **limits: int) -> TestClient:
    return TestClient(create_stow(config, intake, limits=StowLimits(**limits)), client=("127.0.0.1", 5))


def body(parts: Sequence[bytes], kind: str = "application/dicom") -> bytes:
    head = f"--b0undary\r\nContent-Type: {kind}\r\n\r\n".encode()
    return b"".join(head + part + b"\r\n" for part in parts) + b"--b0undary--\r\n"


def post(peer: TestClient, content: bytes, path: str = "/studies", **headers: str):  # type: ignore[no-untyped-def]  # noqa: ANN201
    return peer.post(path, content=content, headers={"Content-Type": TYPE, **headers})


def film(tmp_path: Path, **changes: str) -> bytes:
    dataset = pydicom.dcmread(peers.film_file(), stop_before_pixels=True)
    for keyword, value in changes.items():
        setattr(dataset, keyword, value)
    dataset.save_as(tmp_path / "film.dcm")
    return (tmp_path / "film.dcm").read_bytes()


def test_a_real_film_is_kept_byte_for_byte(config: GatewayConfig, intake: FolderIntake) -> None:
    data = peers.film_file().read_bytes()
    answer = post(client(config, intake), body([data]))
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/dicom+json"
    (kept,) = intake.files
    assert kept.read_bytes() == data
    uid = answer.json()["00081199"]["Value"][0]["00081155"]["Value"][0]
    assert uid == kept.stem
    assert [path.name for path in config.folder.iterdir()] == []


def test_some_kept_some_not_is_202_and_none_409(config: GatewayConfig, intake: FolderIntake, tmp_path: Path) -> None:
    peer, good = client(config, intake), film(tmp_path)
    answer = post(peer, body([good, b"junk"]))
    assert answer.status_code == 202
    assert answer.json()["00081198"]["Value"][0]["00081197"]["Value"] == [0xC000]
    assert post(peer, body([b"junk"])).status_code == 409


def test_the_same_again_is_well_and_another_of_its_name_a_warning(
    config: GatewayConfig, intake: FolderIntake, tmp_path: Path
) -> None:
    peer = client(config, intake)
    assert [post(peer, body([film(tmp_path)])).status_code for _ in range(2)] == [200, 200]
    answer = post(peer, body([film(tmp_path, ViewPosition="AP")]))
    assert answer.status_code == 202
    assert answer.json()["00081199"]["Value"][0]["00081196"]["Value"] == [0xB000]


def test_a_study_in_the_address_must_be_the_object_s(
    config: GatewayConfig, intake: FolderIntake, tmp_path: Path
) -> None:
    peer, good = client(config, intake), film(tmp_path)
    study = str(pydicom.dcmread(tmp_path / "film.dcm").StudyInstanceUID)
    assert post(peer, body([good]), "/studies/1.2.3").status_code == 409
    assert post(peer, body([good]), "/studies/not-a-uid").status_code == 400
    assert intake.files == []
    assert post(peer, body([good]), f"/studies/{study}").status_code == 200


def test_keys(config: GatewayConfig, intake: FolderIntake, tmp_path: Path) -> None:
    peer = client(replace(config, http_keys=(hashlib.sha256(b"open").hexdigest(),)), intake)
    content = body([film(tmp_path)])
    assert post(peer, content).status_code == 401
    assert post(peer, content, Authorization="Bearer shut").status_code == 401
    assert post(peer, content, Authorization="Bearer open").status_code == 200


def test_an_address_that_is_not_allowed(config: GatewayConfig, intake: FolderIntake) -> None:
    peer = TestClient(create_stow(config, intake), client=("192.0.2.1", 5))
    assert post(peer, body([b"x"])).status_code == 403


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Content-Type": "application/dicom"}, 415),
        ({"Content-Type": 'multipart/related; type="image/jpeg"; boundary=b0undary'}, 415),
        ({"Content-Type": "multipart/related; type=application/dicom"}, 415),
        ({"Content-Encoding": "gzip"}, 415),
    ],
)
def test_what_is_not_taken(config: GatewayConfig, intake: FolderIntake, headers: dict[str, str], status: int) -> None:
    assert post(client(config, intake), body([b"x"]), **headers).status_code == status


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"", 400),
        (b"--b0undary--", 400),
        (body([b"x"])[:-12], 400),
        (body([b"x"], "image/jpeg"), 400),
        (b"--b0undary\r\n" + b"A: " + b"x" * 10_000, 400),
        (body([b"x"] * 4), 413),
        (body([b"x" * 20_000]), 413),
    ],
)
def test_bodies_that_are_damaged_or_too_large(
    config: GatewayConfig, intake: FolderIntake, content: bytes, status: int
) -> None:
    peer = client(replace(config, max_object_mb=0.01), intake, parts=3)
    assert post(peer, content).status_code == status
    assert [path.name for path in config.folder.iterdir()] == []


def test_no_room_is_said_and_when_to_come_back(config: GatewayConfig, intake: FolderIntake, tmp_path: Path) -> None:
    full = post(client(replace(config, min_free_mb=1e12), intake), body([film(tmp_path)]))
    lost = post(client(config, FolderIntake(tmp_path / "gone")), body([film(tmp_path)]))
    assert (full.status_code, lost.status_code) == (503, 503)
    assert "retry-after" in full.headers
    assert "retry-after" in lost.headers


HEAD = f"POST /studies HTTP/1.1\r\nHost: x\r\nContent-Type: {TYPE}\r\n".encode()


@contextmanager
def begun(port: int, head: bytes, start: bytes = b"") -> Iterator[socket.socket]:
    """Send a request's head and the beginning of its body."""
    with socket.create_connection(("127.0.0.1", port), 10) as peer:
        peer.sendall(HEAD + head + b"\r\n" + start)
        yield peer


def answered(peer: socket.socket) -> tuple[int, bytes]:
    """Return status and head of an answer."""
    head = b""
    while b"\r\n\r\n" not in head and (piece := peer.recv(65_536)):
        head += piece
    return int(head.split()[1]), head.lower()


def test_a_body_that_comes_too_slowly_is_ended_and_others_are_served(
    config: GatewayConfig, intake: FolderIntake, tmp_path: Path
) -> None:
    limits = StowLimits(grace_s=0.3, slowest_bytes_s=1e6)
    with (
        peers.serving(create_stow(config, intake, limits=limits)) as port,
        begun(port, b"Content-Length: 999\r\n") as slow,
    ):
        begin = time.monotonic()
        slow.sendall(b"--b0")
        whole = httpx.post(
            f"http://127.0.0.1:{port}/studies",
            content=body([film(tmp_path)]),
            headers={"Content-Type": TYPE},
            trust_env=False,
        )
        assert whole.status_code == 200
        slow.settimeout(0.05)
        while time.monotonic() - begin < 5:
            try:
                slow.sendall(b"u")
                status, head = answered(slow)
                break
            except TimeoutError:
                continue
    assert (status, b"connection: close" in head) == (408, True)
    assert time.monotonic() - begin < 2
    assert list(config.folder.iterdir()) == []


def test_too_many_requests_at_the_same_time_are_told_to_come_back(
    config: GatewayConfig, intake: FolderIntake, tmp_path: Path
) -> None:
    content = body([film(tmp_path)])
    length = b"Content-Length: %d\r\n" % len(content)
    with peers.serving(create_stow(config, intake, limits=StowLimits(requests=1))) as port:
        with begun(port, length, content[:100]) as first:
            wait_for_folder(config)
            with begun(port, length, content) as second:
                status, head = answered(second)
                assert (status, b"retry-after" in head) == (429, True)
            first.sendall(content[100:])
            assert answered(first)[0] == 200
        with begun(port, length, content) as third:
            assert answered(third)[0] == 200


def wait_for_folder(config: GatewayConfig) -> None:
    until = time.monotonic() + 5
    while not list(config.folder.glob("stow-*/*.dcm")) and time.monotonic() < until:
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("head", "start"),
    [(b"Content-Length: 8000\r\n", b""), (b"Transfer-Encoding: chunked\r\n", b"1f40\r\n" + b"x" * 8_000)],
)
def test_all_bodies_together_are_limited(
    config: GatewayConfig, intake: FolderIntake, head: bytes, start: bytes
) -> None:
    content = body([b"x" * 6_000])[:6_000]
    with (
        peers.serving(create_stow(config, intake, limits=StowLimits(body_bytes=10_000))) as port,
        begun(port, b"Content-Length: 9999\r\n", content),
    ):
        wait_for_folder(config)
        with begun(port, head, start) as second:
            status, told = answered(second)
    assert (status, b"retry-after" in told) == (503, True)


@pytest.mark.parametrize(
    ("head", "start"),
    [(b"Content-Length: 11000\r\n", b""), (b"Transfer-Encoding: chunked\r\n", b"2af8\r\n" + b"x" * 11_000)],
)
def test_a_body_that_never_fits_is_said_to_be_too_large(
    config: GatewayConfig, intake: FolderIntake, head: bytes, start: bytes
) -> None:
    with (
        peers.serving(create_stow(config, intake, limits=StowLimits(body_bytes=10_000))) as port,
        begun(port, head, start) as peer,
    ):
        assert answered(peer)[0] == 413


def test_a_sender_that_asks_first_is_answered_before_it_sends(
    config: GatewayConfig, intake: FolderIntake, tmp_path: Path
) -> None:
    content = body([film(tmp_path)])
    told = replace(config, http_keys=(hashlib.sha256(b"open").hexdigest(),))
    head = b"Expect: 100-continue\r\nContent-Length: %d\r\n" % len(content)
    with peers.serving(create_stow(told, intake)) as port:
        with begun(port, head) as stranger:
            assert answered(stranger)[0] == 401
        with begun(port, head + b"Authorization: Bearer open\r\n") as friend:
            assert answered(friend)[0] == 100
            friend.sendall(content)
            assert answered(friend)[0] == 200


def test_silent_connections_do_not_keep_others_out(config: GatewayConfig, intake: FolderIntake) -> None:
    app = create_stow(config, intake)
    http = guarded(Guard(config.folder), head_s=0.3)
    with peers.serving(app, http=http, at_once=20) as port, ExitStack() as stack:
        for start in (b"", b"POST /stu") * 15:
            stack.enter_context(socket.create_connection(("127.0.0.1", port))).sendall(start)
        time.sleep(0.6)
        with begun(port, b"Content-Length: 4\r\n", b"junk") as peer:
            assert answered(peer)[0] == 400


def test_a_head_that_follows_an_answer_slowly_is_not_waited_for(config: GatewayConfig, intake: FolderIntake) -> None:
    http = guarded(Guard(config.folder), head_s=0.3)
    with (
        peers.serving(create_stow(config, intake), http=http) as port,
        socket.create_connection(("127.0.0.1", port), 5) as peer,
    ):
        peer.sendall(b"GET /studies HTTP/1.1\r\nHost: x\r\n\r\n")
        assert peer.recv(65_536).startswith(b"HTTP/1.1 405")
        peer.sendall(b"GET /stu")
        begin = time.monotonic()
        with suppress(ConnectionResetError):
            while peer.recv(65_536):
                pass
        assert time.monotonic() - begin < 2


def test_a_connection_from_elsewhere_is_not_listened_to(config: GatewayConfig, intake: FolderIntake) -> None:
    http = guarded(Guard(config.folder, ("10.1.0.0/16",)))
    with (
        peers.serving(create_stow(config, intake), http=http) as port,
        pytest.raises(httpx.TransportError),
    ):
        httpx.get(f"http://127.0.0.1:{port}/studies", trust_env=False)
