"""Storage commitment: what a peer asks of us, answered to Orthanc, to dcmtk's kin, and to peers that mean no good."""

from __future__ import annotations

import gc
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import answers
import peers
import pydicom
import pytest
from certificates import Authority
from peers import FolderIntake
from pydicom.dataset import Dataset
from pydicom.uid import ComputedRadiographyImageStorage
from pynetdicom import AE, evt
from pynetdicom.association import Association
from pynetdicom.sop_class import StorageCommitmentPushModel  # type: ignore[attr-defined]

from rentgen.errors import StoreError
from rentgen.gateway import commitment_provider
from rentgen.gateway.commitment import INSTANCE, MOST_REFERENCES, CommitmentReport, read_report, reference
from rentgen.gateway.commitment_provider import read_request
from rentgen.gateway.deliver import sender_of
from rentgen.gateway.dimse import Receiver
from rentgen.gateway.nouns import Destination, GatewayConfig, Result, Source, Tls, Wire
from rentgen.outputs.documents import documents
from rentgen.records.results import Kind

# pynetdicom's requestor leaves a socket whose peer hung up to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(autouse=True)
def collected() -> Iterator[None]:
    """Collect what a test left before the next one, whose warnings are errors."""
    yield
    gc.collect()


PORT = 11_112
HELD, MISSING = "1.2.3", "1.2.4"


@pytest.fixture
def config(tmp_path: Path) -> GatewayConfig:
    return GatewayConfig(port=0, folder=tmp_path / "spool", min_free_mb=0)


@pytest.fixture
def intake(tmp_path: Path) -> FolderIntake:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / f"{HELD}.dcm").write_bytes(b"held")
    return FolderIntake(tmp_path / "kept")


@dataclass
class Asker:
    """A modality that asks for commitment, and hears the answer on the same association."""

    association: Association
    reports: list[CommitmentReport] = field(default_factory=list)

    def ask(self, *uids: str, instance: str = INSTANCE, action: int = 1) -> int:
        question = Dataset()
        question.TransactionUID = "1.2.9"
        question.ReferencedSOPSequence = [reference(ComputedRadiographyImageStorage, uid) for uid in uids]
        status, _ = self.association.send_n_action(question, action, StorageCommitmentPushModel, instance)
        return int(status.Status)


@contextmanager
def asker(port: int, title: str = "MODALITY") -> Iterator[Asker]:
    entity = AE(title)
    entity.add_requested_context(StorageCommitmentPushModel)
    reports: list[CommitmentReport] = []

    def hear(event: evt.Event) -> tuple[int, None]:
        report = read_report(lambda: event.event_information)
        assert report is not None
        reports.append(report)
        return 0, None

    heard = [(evt.EVT_N_EVENT_REPORT, hear)]
    association = entity.associate("127.0.0.1", port, ae_title="RENTGEN", evt_handlers=heard)  # type: ignore[arg-type]
    assert association.is_established
    yield Asker(association, reports)
    if association.is_established:
        association.release()


def until(holds: Callable[[], object], seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not holds() and time.monotonic() < end:
        time.sleep(0.02)
    assert holds()


def test_a_peer_whose_address_is_not_known_is_answered_on_its_association(
    config: GatewayConfig, intake: FolderIntake
) -> None:
    with Receiver(config, intake) as receiver, asker(receiver.port) as modality:
        assert modality.ask(HELD) == 0
        until(lambda: modality.reports)
        assert modality.ask(HELD, MISSING) == 0
        until(lambda: len(modality.reports) == 2)
        until(lambda: receiver.counts()["commitment_answers"] == 2)
        assert receiver.counts()["commitment_requests"] == 2
    assert modality.reports == [
        CommitmentReport("1.2.9", (HELD,), ()),
        CommitmentReport("1.2.9", (HELD,), ((MISSING, 0x0112),)),
    ]


def known(wire: str, port: int, tls: Tls | None) -> dict[str, tuple[Destination, ...] | tuple[Source, ...]]:
    if wire == "source":
        return {"sources": (Source("pacs", Wire.DIMSE, "127.0.0.1", port, "MODALITY", tls=tls),)}
    told = Destination("pacs", Wire.DIMSE, (Kind.STRUCTURED_REPORT,), "127.0.0.1", port, "MODALITY", tls=tls)
    return {"destinations": (told,)}


@pytest.mark.parametrize(("named", "encrypted"), [("source", False), ("destination", False), ("destination", True)])
def test_a_peer_whose_address_is_known_is_called_even_if_it_is_back_late(
    config: GatewayConfig, intake: FolderIntake, tmp_path: Path, named: str, encrypted: bool
) -> None:
    port, reports = peers.free_port(), list[CommitmentReport]()
    authority = Authority.found(tmp_path)
    theirs, ours = (authority.issue(), authority.issue("gateway")) if encrypted else (None, None)
    door = replace(config, ae_title="MODALITY", port=port, folder=tmp_path / "theirs", tls=theirs)
    with Receiver(replace(config, **known(named, port, ours)), intake) as receiver:  # type: ignore[arg-type]
        with asker(receiver.port) as modality:
            assert modality.ask(HELD, MISSING) == 0
        time.sleep(0.4)
        assert reports == []
        with Receiver(door, intake, on_commitment=reports.append):
            until(lambda: reports)
        until(lambda: receiver.counts()["commitment_answers"])
    assert modality.reports == []
    assert reports == [CommitmentReport("1.2.9", (HELD,), ((MISSING, 0x0112),))]


def test_a_peer_that_is_not_known_and_has_left_is_not_answered(config: GatewayConfig, intake: FolderIntake) -> None:
    with Receiver(config, intake) as receiver:
        with asker(receiver.port) as modality:
            assert modality.ask(HELD) == 0
        until(lambda: receiver.counts()["commitment_unanswered"])


def test_what_is_no_request_is_refused_and_others_are_served(config: GatewayConfig, intake: FolderIntake) -> None:
    with Receiver(config, intake) as receiver, asker(receiver.port) as modality:
        assert modality.ask(HELD, instance="1.2.3") == 0x0112
        assert modality.ask(HELD, action=2) == 0x0123
        assert modality.ask() == 0x0115
        assert modality.ask(HELD) == 0
        until(lambda: modality.reports)
        assert receiver.counts()["refused_commitment"] == 3


def test_requests_that_wait_are_limited(
    config: GatewayConfig, intake: FolderIntake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commitment_provider, "_MOST_WAITING", 2)
    told = replace(config, **known("source", peers.free_port(), None))  # type: ignore[arg-type]
    statuses = []
    with Receiver(told, intake) as receiver:
        for _ in range(3):
            with asker(receiver.port) as modality:
                statuses.append(modality.ask(HELD))
    assert statuses == [0, 0, 0x0213]


def test_a_store_that_cannot_say_is_asked_again(config: GatewayConfig, tmp_path: Path) -> None:
    class Recovering(FolderIntake):
        asked = 0

        def holds(self, sop_instance_uid: str) -> bool:
            self.asked += 1
            if self.asked == 1:
                raise StoreError("the database does not answer")
            return super().holds(sop_instance_uid)

    with Receiver(config, Recovering(tmp_path)) as receiver, asker(receiver.port) as modality:
        assert modality.ask(HELD) == 0
        until(lambda: modality.reports)
    assert modality.reports == [CommitmentReport("1.2.9", (), ((HELD, 0x0112),))]


def test_a_request_that_is_damaged_or_asks_for_too_much_is_none() -> None:
    def request(number: int, transaction: str = "1.2.9") -> Dataset:
        found = Dataset()
        found.TransactionUID = transaction
        found.ReferencedSOPSequence = [reference("1.2", f"1.2.{index}") for index in range(number)]
        return found

    def broken() -> Dataset:
        raise ValueError("DOE^JOHN")

    whole = read_request(lambda: request(MOST_REFERENCES))
    assert whole is not None
    assert len(whole.references) == MOST_REFERENCES
    for wrong in (lambda: request(MOST_REFERENCES + 1), lambda: request(0), lambda: request(1, ""), broken, Dataset):
        assert read_request(wrong) is None


def test_our_own_sender_and_receiver_understand_each_other(config: GatewayConfig, intake: FolderIntake) -> None:
    made = documents(answers.study(), (Kind.STRUCTURED_REPORT, Kind.KEY_OBJECT))
    with Receiver(config, intake) as receiver:
        told = Destination(
            "other", Wire.DIMSE, (Kind.STRUCTURED_REPORT,), "127.0.0.1", receiver.port, "RENTGEN", commitment=True
        )
        outcome = sender_of(told, ae_title="OTHER").send(made)
    assert outcome.result is Result.DELIVERED


def test_orthanc_is_told_what_is_held(config: GatewayConfig, intake: FolderIntake, tmp_path: Path) -> None:
    film = peers.film_file("RG1_J2KR")
    uid = str(pydicom.dcmread(film, stop_before_pixels=True).SOPInstanceUID)
    with peers.own_network(), peers.orthanc(tmp_path, move_to=("RENTGEN", PORT)) as orthanc:
        pacs = Source("pacs", Wire.DIMSE, "127.0.0.1", orthanc.dicom_port, "PACS")
        with Receiver(replace(config, port=PORT, sources=(pacs,)), intake):
            orthanc.upload(film.read_bytes())
            (stored,) = json.loads(orthanc.get("/instances"))
            asked = orthanc.post(
                "/modalities/ai/store", {"Resources": [stored], "StorageCommitment": True, "Synchronous": True}
            )
            good = _report(orthanc, asked["StorageCommitmentTransactionUID"])
            other = {"SOPClassUID": ComputedRadiographyImageStorage, "SOPInstanceUID": MISSING}
            asked = orthanc.post("/modalities/ai/storage-commitment", {"DicomInstances": [other]})
            bad = _report(orthanc, asked["ID"])
    assert (good["Status"], [each["SOPInstanceUID"] for each in good["Success"]]) == ("Success", [uid])
    assert (bad["Status"], bad["Failures"][0]["FailureReason"]) == ("Failure", 0x0112)
    assert bad["Failures"][0]["SOPInstanceUID"] == MISSING


def _report(orthanc: peers.Orthanc, transaction: str) -> dict[str, Any]:
    end = time.monotonic() + 10
    while True:
        found = json.loads(orthanc.get(f"/storage-commitment/{transaction}"))
        if found["Status"] != "Pending" or time.monotonic() > end:
            return dict(found)
        time.sleep(0.05)
