"""The DIMSE door, knocked at by dcmtk, by pynetdicom as a sender, and by those who mean no good."""

from __future__ import annotations

import resource
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import peers
import pydicom
import pytest
from certificates import Authority
from peers import FolderIntake, run
from pydicom.dataset import Dataset
from pydicom.uid import ComputedRadiographyImageStorage, ExplicitVRLittleEndian
from pynetdicom import AE, _config
from pynetdicom.pdu_primitives import SCP_SCU_RoleSelectionNegotiation
from pynetdicom.sop_class import StorageCommitmentPushModel, Verification  # type: ignore[attr-defined]

from rentgen.errors import PeerError, SettingError
from rentgen.gateway.commitment import CommitmentReport
from rentgen.gateway.dimse import COUNTED, Receiver
from rentgen.gateway.intake import Taken
from rentgen.gateway.nouns import GatewayConfig, Tls
from rentgen.gateway.transport import client_context

# pynetdicom's requestor leaves a socket whose peer hung up to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

PHI = ("9RG1", "19400305")


@pytest.fixture
def config(tmp_path: Path) -> GatewayConfig:
    return GatewayConfig(port=0, folder=tmp_path / "spool", min_free_mb=0)


@pytest.fixture
def intake(tmp_path: Path) -> FolderIntake:
    (tmp_path / "kept").mkdir()
    return FolderIntake(tmp_path / "kept")


@pytest.fixture
def receiver(config: GatewayConfig, intake: FolderIntake) -> Iterator[Receiver]:
    with Receiver(config, intake) as receiver:
        yield receiver


def small(tmp_path: Path, name: str = "small.dcm", **changes: object) -> Path:
    dataset = pydicom.dcmread(peers.film_file(), stop_before_pixels=True)
    for key, value in changes.items():
        setattr(dataset, key, value)
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.save_as(tmp_path / name)
    return tmp_path / name


def associate(port: int, title: str = "SENDER", called: str = "RENTGEN", **options: object):  # type: ignore[no-untyped-def]  # noqa: ANN201
    entity = AE(title)
    entity.add_requested_context(Verification)
    entity.add_requested_context(ComputedRadiographyImageStorage, ExplicitVRLittleEndian)
    return entity.associate("127.0.0.1", port, ae_title=called, **options)  # type: ignore[arg-type]


@contextmanager
def chunked() -> Iterator[None]:
    """Make pynetdicom send a file's bytes as they are."""
    _config.STORE_SEND_CHUNKED_DATASET = True
    try:
        yield
    finally:
        _config.STORE_SEND_CHUNKED_DATASET = False


def is_answering(port: int) -> bool:
    association = associate(port)
    if not association.is_established:
        return False
    status = association.send_c_echo()
    association.release()
    return bool(status.get("Status") == 0)


def happened(receiver: Receiver) -> dict[str, int]:
    return {what: number for what, number in receiver.counts().items() if number}


def test_a_peer_is_heard_and_counted(receiver: Receiver) -> None:
    assert run("echoscu", "-aec", "RENTGEN", "127.0.0.1", receiver.port).returncode == 0
    assert happened(receiver) == {"associations": 1, "echo": 1}
    assert set(receiver.counts()) == set(COUNTED)


@pytest.mark.parametrize(
    ("sender", "options", "name"),
    [
        ("storescu", ("-xe",), "RG1_UNCR"),
        ("storescu", ("-xv",), "RG1_J2KR"),
        ("dcmsend", (), "RG1_UNCR"),
        ("dcmsend", (), "RG1_J2KR"),
    ],
)
def test_a_real_film_arrives_as_it_was_sent(
    receiver: Receiver, intake: FolderIntake, sender: str, options: tuple[str, ...], name: str
) -> None:
    film = peers.film_file(name)
    sent = run(sender, *options, "-aec", "RENTGEN", "127.0.0.1", receiver.port, film)
    assert sent.returncode == 0, sent.stderr
    (kept,) = intake.files
    original, arrived = pydicom.dcmread(film), pydicom.dcmread(kept)
    assert arrived.file_meta.TransferSyntaxUID == original.file_meta.TransferSyntaxUID
    assert arrived.PixelData == original.PixelData
    (header,) = intake.headers
    assert (header.modality, header.body_part_examined, header.view_position) == ("CR", "CHEST", "PA")
    assert intake.origins[0].startswith("dimse:")


def test_pynetdicom_sends_too(receiver: Receiver, intake: FolderIntake) -> None:
    association = associate(receiver.port)
    assert association.send_c_store(peers.film_file()).Status == 0
    association.release()
    assert len(intake.files) == 1


def test_what_comes_twice_counts_once_and_a_conflict_is_no_refusal(
    receiver: Receiver, intake: FolderIntake, tmp_path: Path
) -> None:
    first, other = small(tmp_path), small(tmp_path, "other.dcm", ViewPosition="AP")
    association = associate(receiver.port)
    assert [association.send_c_store(path).Status for path in (first, first, other)] == [0, 0, 0]
    association.release()
    assert intake.taken == [Taken.RECEIVED, Taken.DUPLICATE, Taken.CONFLICT]
    assert receiver.counts()["conflict"] == 1


def test_nothing_is_left_in_the_folder_for_what_arrives(
    receiver: Receiver, config: GatewayConfig, tmp_path: Path
) -> None:
    association = associate(receiver.port)
    association.send_c_store(small(tmp_path))
    association.release()
    assert list((config.folder / "incoming").iterdir()) == []


def test_an_intake_that_fails_makes_the_sender_try_again(config: GatewayConfig, tmp_path: Path) -> None:
    with Receiver(config, FolderIntake(tmp_path / "not there")) as receiver:
        association = associate(receiver.port)
        assert association.send_c_store(small(tmp_path)).Status == 0xA700
        association.release()
        assert is_answering(receiver.port)


def test_a_disk_below_its_watermark_takes_nothing(config: GatewayConfig, intake: FolderIntake, tmp_path: Path) -> None:
    with Receiver(replace(config, min_free_mb=1e9), intake) as receiver:
        sent = run("storescu", "-xe", "-aec", "RENTGEN", "127.0.0.1", receiver.port, small(tmp_path))
        # storescu ends with the first byte of the status, 0xA700.
        assert sent.returncode == 0xA7
        assert happened(receiver) == {"associations": 1, "refused_disk": 1}
    assert intake.files == []


def test_an_object_that_is_too_long_ends_its_association(
    config: GatewayConfig, intake: FolderIntake, tmp_path: Path
) -> None:
    with Receiver(replace(config, max_object_mb=1.0), intake) as receiver:
        assert run("storescu", "-xe", "-aec", "RENTGEN", "127.0.0.1", receiver.port, peers.film_file()).returncode != 0
        assert is_answering(receiver.port)
        assert list((config.folder / "incoming").iterdir()) == []
    assert intake.files == []


@pytest.mark.parametrize("keyword", ["SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"])
def test_a_uid_that_is_a_path_gets_nowhere(
    receiver: Receiver, intake: FolderIntake, tmp_path: Path, keyword: str
) -> None:
    path = small(tmp_path)
    uid = str(pydicom.dcmread(path)[keyword].value)
    evil = ("../../../../" + "a" * 64)[: len(uid)]
    data = path.read_bytes()
    head, body = data[:400], data[400:]
    path.write_bytes(head + body.replace(uid.encode(), evil.encode()))
    association = associate(receiver.port)
    # The message takes the UID from the file's meta header, which is left sound.
    with chunked():
        assert association.send_c_store(path).get("Status") == 0xC000
    association.release()
    assert intake.files == []
    assert is_answering(receiver.port)


def test_the_message_must_say_what_the_object_says(receiver: Receiver, intake: FolderIntake, tmp_path: Path) -> None:
    path = small(tmp_path)
    uid = str(pydicom.dcmread(path).SOPInstanceUID)
    data = path.read_bytes()
    path.write_bytes(data[:400] + data[400:].replace(uid.encode(), uid[:-1].encode() + b"9"))
    association = associate(receiver.port)
    with chunked():
        assert association.send_c_store(path).get("Status") == 0xA900
    association.release()
    assert intake.files == []


@pytest.mark.parametrize("titles", [{"called": "OTHER"}, {"title": "STRANGER"}])
def test_titles_that_are_not_allowed_are_refused(
    config: GatewayConfig, intake: FolderIntake, titles: dict[str, str]
) -> None:
    with Receiver(replace(config, allow_ae_titles=("SENDER",)), intake) as receiver:
        association = associate(receiver.port, **titles)
        assert association.is_rejected
        assert is_answering(receiver.port)


def test_addresses_that_are_not_allowed_are_refused(config: GatewayConfig, intake: FolderIntake) -> None:
    with Receiver(replace(config, allow_addresses=("10.1.0.0/16",)), intake) as receiver:
        assert not is_answering(receiver.port)
        assert happened(receiver) == {"refused_address": 1}


def test_silent_connections_do_not_keep_others_out(config: GatewayConfig, intake: FolderIntake) -> None:
    with Receiver(replace(config, max_associations=2), intake) as receiver, ExitStack() as stack:
        for _ in range(8):
            stack.enter_context(socket.create_connection(("127.0.0.1", receiver.port)))
        begin = time.monotonic()
        assert is_answering(receiver.port)
        assert time.monotonic() - begin < 2


@pytest.fixture
def tls(tmp_path: Path) -> Tls:
    return Authority.found(tmp_path).issue()


def test_silent_connections_do_not_stop_tls(config: GatewayConfig, intake: FolderIntake, tls: Tls) -> None:
    with Receiver(replace(config, tls=tls), intake) as receiver, ExitStack() as stack:
        for _ in range(8):
            stack.enter_context(socket.create_connection(("127.0.0.1", receiver.port)))
        begin = time.monotonic()
        association = associate(receiver.port, tls_args=(client_context(tls), "localhost"))
        assert association.send_c_echo().Status == 0
        association.release()
        assert time.monotonic() - begin < 2


def test_tls_demands_a_certificate(config: GatewayConfig, intake: FolderIntake, tls: Tls) -> None:
    with Receiver(replace(config, tls=tls), intake) as receiver:
        stranger = client_context(Tls(authority=tls.authority))
        assert not associate(receiver.port, tls_args=(stranger, "localhost")).is_established
        assert not is_answering(receiver.port)


def test_dcmtk_speaks_tls_with_us(config: GatewayConfig, intake: FolderIntake, tls: Tls) -> None:
    with Receiver(replace(config, tls=tls), intake) as receiver:
        options = ("+tls", tls.key, tls.certificate, "+cf", tls.authority)
        heard = run("echoscu", *options, "-aec", "RENTGEN", "localhost", receiver.port)
        assert heard.returncode == 0, heard.stderr


def test_a_certificate_that_is_not_there_is_an_error(config: GatewayConfig, intake: FolderIntake) -> None:
    with pytest.raises(SettingError, match="tls"):
        Receiver(replace(config, tls=Tls(Path("no.crt"), Path("no.key"))), intake)


def test_http_on_the_port_does_no_harm(receiver: Receiver) -> None:
    with socket.create_connection(("127.0.0.1", receiver.port)) as peer:
        peer.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        peer.settimeout(15)
        assert not peer.recv(100).startswith(b"HTTP")
    assert is_answering(receiver.port)


def test_a_pdu_that_claims_four_gigabytes_is_not_believed(receiver: Receiver) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with socket.create_connection(("127.0.0.1", receiver.port)) as peer:
        sent = 0
        try:
            peer.sendall(struct.pack(">BBL", 1, 0, 0xFFFF_FFFF))
            for _ in range(100):
                sent += peer.send(bytes(1 << 20))
        except OSError:
            pass
    assert sent < 60 << 20
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000
    assert is_answering(receiver.port)


def test_storage_commitment_comes_back_on_an_association_of_its_own(
    config: GatewayConfig, intake: FolderIntake
) -> None:
    reports: list[CommitmentReport] = []
    with Receiver(config, intake, on_commitment=reports.append) as receiver:
        entity = AE("PACS")
        entity.add_requested_context(StorageCommitmentPushModel)
        role = SCP_SCU_RoleSelectionNegotiation()
        role.sop_class_uid = StorageCommitmentPushModel
        role.scu_role, role.scp_role = False, True
        association = entity.associate("127.0.0.1", receiver.port, ae_title="RENTGEN", ext_neg=[role])
        assert association.is_established
        kept, lost = Dataset(), Dataset()
        kept.ReferencedSOPClassUID = lost.ReferencedSOPClassUID = ComputedRadiographyImageStorage
        kept.ReferencedSOPInstanceUID, lost.ReferencedSOPInstanceUID = "1.2.3", "1.2.4"
        lost.FailureReason = 0x0112
        information = Dataset()
        information.TransactionUID = "1.2.9"
        information.ReferencedSOPSequence, information.FailedSOPSequence = [kept], [lost]
        status, _ = association.send_n_event_report(
            information, 2, StorageCommitmentPushModel, "1.2.840.10008.1.20.1.1"
        )
        association.release()
    assert status.Status == 0
    assert reports == [CommitmentReport("1.2.9", ("1.2.3",), (("1.2.4", 0x0112),))]


def test_logs_hold_nothing_of_the_patient(receiver: Receiver, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    association = associate(receiver.port)
    association.send_c_store(small(tmp_path))
    association.send_c_store(small(tmp_path, ViewPosition="AP"))
    association.release()
    assert not any(secret in caplog.text for secret in PHI)


def test_a_port_that_is_taken_is_named(receiver: Receiver, config: GatewayConfig, intake: FolderIntake) -> None:
    with pytest.raises(PeerError, match=r"gateway\.port"):
        Receiver(replace(config, port=receiver.port), intake)
