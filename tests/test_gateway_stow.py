"""The DICOMweb door."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import peers
import pydicom
import pytest
from peers import FolderIntake
from starlette.testclient import TestClient

from rentgen.gateway.nouns import GatewayConfig
from rentgen.gateway.stow import create_stow

TYPE = 'multipart/related; type="application/dicom"; boundary=b0undary'


@pytest.fixture
def config(tmp_path: Path) -> GatewayConfig:
    return GatewayConfig(folder=tmp_path / "spool", min_free_mb=0)


@pytest.fixture
def intake(tmp_path: Path) -> FolderIntake:
    (tmp_path / "kept").mkdir()
    return FolderIntake(tmp_path / "kept")


def client(config: GatewayConfig, intake: FolderIntake, **options: int) -> TestClient:
    return TestClient(create_stow(config, intake, **options), client=("127.0.0.1", 5))


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
    assert [path.name for path in config.folder.iterdir()] == ["incoming"]


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
    peer = client(replace(config, stow_keys=(hashlib.sha256(b"open").hexdigest(),)), intake)
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
    peer = client(replace(config, max_object_mb=0.01), intake, most_parts=3)
    assert post(peer, content).status_code == status
    assert [path.name for path in config.folder.iterdir()] == ["incoming"]


def test_no_room_is_said_and_when_to_come_back(config: GatewayConfig, intake: FolderIntake, tmp_path: Path) -> None:
    full = post(client(replace(config, min_free_mb=1e12), intake), body([film(tmp_path)]))
    lost = post(client(config, FolderIntake(tmp_path / "gone")), body([film(tmp_path)]))
    assert (full.status_code, lost.status_code) == (503, 503)
    assert "retry-after" in full.headers
    assert "retry-after" in lost.headers
