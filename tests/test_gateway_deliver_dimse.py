"""C-STORE, storage commitment and STOW: to dcmtk with every fault that it can play, and to Orthanc."""

from __future__ import annotations

import urllib.request
from pathlib import Path

import answers
import httpx
import peers
import pydicom
import pytest

from rentgen.gateway.commitment import CommitmentReport, Commitments, of_report
from rentgen.gateway.deliver import sender_of
from rentgen.gateway.dimse import Receiver
from rentgen.gateway.http import Reply
from rentgen.gateway.nouns import Destination, GatewayConfig, Result, Wire
from rentgen.gateway.outcomes import of_dicom_status
from rentgen.gateway.send_stow import of_reply
from rentgen.outputs.documents import documents
from rentgen.records.results import Document, Kind

KINDS = (Kind.STRUCTURED_REPORT, Kind.PRESENTATION_STATE, Kind.KEY_OBJECT)


@pytest.fixture(scope="module")
def made() -> tuple[Document, ...]:
    return documents(answers.study(), KINDS)


def to(port: int, *, timeout_s: float = 5.0, commitment: bool = False) -> Destination:
    return Destination(
        "pacs",
        Wire.DIMSE,
        KINDS,
        host="127.0.0.1",
        port=port,
        ae_title="PACS",
        timeout_s=timeout_s,
        commitment=commitment,
    )


def test_dcmtk_takes_all_and_the_same_again(made: tuple[Document, ...], tmp_path: Path) -> None:
    with peers.storescp(tmp_path, "-aet", "PACS") as port:
        sender = sender_of(to(port))
        assert sender.check().ok
        assert [sender.send(made).result for _ in range(2)] == [Result.DELIVERED] * 2
    kept = {str(pydicom.dcmread(file, force=True).SOPInstanceUID) for file in tmp_path.iterdir()}
    assert kept == {document.uid for document in made}


@pytest.mark.parametrize(
    "options",
    [
        ["--refuse"],
        ["--abort-during"],
        ["--abort-after"],
        ["--sleep-during", "3"],
        ["--sleep-after", "3"],
    ],
    ids=lambda options: options[0],
)
def test_a_fault_is_tried_again(made: tuple[Document, ...], tmp_path: Path, options: list[str]) -> None:
    with peers.storescp(tmp_path, *options) as port:
        outcome = sender_of(to(port, timeout_s=1.0)).send(made)
    assert outcome.result is Result.RETRY
    assert outcome.reason
    assert answers.of(answers.phantom())[1].patient.name not in outcome.reason


def test_a_peer_that_rejects_nameless_implementations_takes_ours(made: tuple[Document, ...], tmp_path: Path) -> None:
    with peers.storescp(tmp_path, "--reject") as port:
        assert sender_of(to(port)).send(made).result is Result.DELIVERED


def test_nobody_there(made: tuple[Document, ...]) -> None:
    assert sender_of(to(1)).send(made).result is Result.RETRY
    assert not sender_of(to(1)).check().ok


def test_a_peer_without_commitment_is_named(made: tuple[Document, ...], tmp_path: Path) -> None:
    with peers.storescp(tmp_path) as port:
        outcome = sender_of(to(port, commitment=True)).send(made)
    assert (outcome.result, "storage commitment" in outcome.reason) == (Result.DEAD, True)


@pytest.mark.parametrize(
    ("status", "result"),
    [
        (0x0000, Result.DELIVERED),
        (0x0111, Result.DELIVERED),
        (0xB007, Result.DELIVERED),
        (None, Result.RETRY),
        (0xA700, Result.RETRY),
        (0xA7FF, Result.RETRY),
        (0x0110, Result.RETRY),
        (0x0112, Result.RETRY),
        (0x0119, Result.RETRY),
        (0x0122, Result.DEAD),
        (0xA900, Result.DEAD),
        (0xC123, Result.DEAD),
    ],
)
def test_statuses(status: int | None, result: Result) -> None:
    assert of_dicom_status(status).result is result


def test_commitment_of_some_is_not_of_all() -> None:
    assert of_report(CommitmentReport("1.2", ("1.3",), ()), ["1.3"]).result is Result.DELIVERED
    assert of_report(CommitmentReport("1.2", ("1.3",), (("1.4", 0x0112),)), ["1.3", "1.4"]).result is Result.RETRY
    assert of_report(CommitmentReport("1.2", ("1.3",), ()), ["1.3", "1.4"]).result is Result.RETRY
    assert of_report(None, ["1.3"]).result is Result.RETRY


def test_stow_answers_tell_what_failed() -> None:
    failed = b'{"00081198": {"vr": "SQ", "Value": [{"00081197": {"vr": "US", "Value": [%d]}}]}}'
    assert of_reply(Reply(202, failed % 0xA700)).result is Result.RETRY
    assert of_reply(Reply(409, failed % 0xC000)).result is Result.DEAD
    assert of_reply(Reply(409, failed % 0x0111)).result is Result.DELIVERED
    assert of_reply(Reply(503, b"", 7.0)).after_s == 7.0
    assert of_reply(Reply(400, b"")).result is Result.DEAD


def test_orthanc_stores_commits_and_takes_stow(made: tuple[Document, ...], tmp_path: Path) -> None:
    with peers.own_network():
        commitments = Commitments()
        config = GatewayConfig(port=0, folder=tmp_path / "spool", min_free_mb=0)
        (tmp_path / "kept").mkdir()
        intake = peers.FolderIntake(tmp_path / "kept")
        with (
            Receiver(config, intake, on_commitment=commitments.report) as receiver,
            peers.orthanc(tmp_path, move_to=("RENTGEN", receiver.port)) as orthanc,
        ):
            dimse = sender_of(to(orthanc.dicom_port, commitment=True), commitments=commitments)
            assert dimse.check().ok
            assert [dimse.send(made).result for _ in range(2)] == [Result.DELIVERED] * 2
            held = urllib.request.urlopen(f"{orthanc.url}/instances", timeout=5).read()  # noqa: S310
            assert held.count(b'"') == 2 * len(made)

            stow = sender_of(Destination("web", Wire.STOW, KINDS, url=orthanc.dicomweb))
            more = documents(answers.two_films(), KINDS)
            assert stow.check().ok
            assert [stow.send(more).result for _ in range(2)] == [Result.DELIVERED] * 2
            uids = {document.uid for document in (*made, *more)}
            found = httpx.get(f"{orthanc.dicomweb}/instances", trust_env=False).json()
            assert {each["00080018"]["Value"][0] for each in found} == uids
            stow.close()
