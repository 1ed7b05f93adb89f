"""Films fetched from Orthanc, both ways."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import date
from pathlib import Path

import peers
import pydicom
import pytest
from peers import FolderIntake

from rentgen.errors import PeerError
from rentgen.gateway.check import check_all
from rentgen.gateway.dimse import Receiver
from rentgen.gateway.intake import Taken
from rentgen.gateway.nouns import GatewayConfig, Source, Wire
from rentgen.gateway.pull import DicomWeb, DimseSource
from rentgen.gateway.reconcile import reconcile

PORT = 11_112


@pytest.fixture(scope="module")
def pacs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[peers.Orthanc]:
    folder = tmp_path_factory.mktemp("pacs")
    with peers.own_network(), peers.orthanc(folder, move_to=("RENTGEN", PORT)) as pacs:
        pacs.upload(peers.film_file("RG1_J2KR").read_bytes())
        yield pacs


@pytest.fixture
def web(pacs: peers.Orthanc) -> Source:
    return Source("pacs", Wire.STOW, url=pacs.dicomweb, orthanc_url=pacs.url)


@pytest.fixture
def intake(tmp_path: Path) -> FolderIntake:
    (tmp_path / "kept").mkdir()
    return FolderIntake(tmp_path / "kept")


def taken_on() -> date:
    day = str(pydicom.dcmread(peers.film_file("RG1_J2KR"), stop_before_pixels=True).StudyDate)
    return date(int(day[:4]), int(day[4:6]), int(day[6:8]))


def test_dicomweb_finds_and_fetches_in_the_coding_of_the_peer(
    web: Source, intake: FolderIntake, tmp_path: Path
) -> None:
    with DicomWeb(web) as peer:
        (instance,) = reconcile(peer.find(taken_on()), ()).missing
        assert peer.fetch(instance, intake, folder=tmp_path) is Taken.RECEIVED
        assert peer.find(date(2001, 1, 1)) == []
        with pytest.raises(PeerError, match="404"):
            peer.fetch(replace(instance, sop_instance_uid="1.2.3"), intake, folder=tmp_path)
    original, fetched = pydicom.dcmread(peers.film_file("RG1_J2KR")), pydicom.dcmread(intake.files[0])
    assert fetched.file_meta.TransferSyntaxUID == original.file_meta.TransferSyntaxUID
    assert fetched.PixelData == original.PixelData
    assert intake.origins == ["pull:pacs"]


def test_orthanc_tells_what_became_stable(web: Source) -> None:
    until = time.monotonic() + 15
    with DicomWeb(web) as peer:
        while not (changes := peer.changes(0)).studies and time.monotonic() < until:
            time.sleep(0.2)
        (study,) = changes.studies
        assert changes.done
        assert peer.study_uid(study) == peer.find(taken_on())[0].study_instance_uid
        assert peer.study_uid("00") is None
        assert peer.changes(changes.last).studies == ()


def test_dimse_finds_and_has_it_sent(pacs: peers.Orthanc, intake: FolderIntake, tmp_path: Path) -> None:
    source = Source("pacs", Wire.DIMSE, host="127.0.0.1", port=pacs.dicom_port, ae_title="PACS")
    config = GatewayConfig(port=PORT, folder=tmp_path / "spool", min_free_mb=0)
    with Receiver(config, intake):
        peer = DimseSource(source, ae_title="RENTGEN")
        (instance,) = peer.find(taken_on())
        assert peer.move(instance.study_instance_uid) == 1
    assert [header.sop_instance_uid for header in intake.headers] == [instance.sop_instance_uid]
    assert intake.origins == ["dimse:PACS"]


def test_a_peer_that_does_not_know_us_says_so(pacs: peers.Orthanc) -> None:
    source = Source("pacs", Wire.DIMSE, host="127.0.0.1", port=pacs.dicom_port, ae_title="PACS")
    with pytest.raises(PeerError):
        DimseSource(source, ae_title="STRANGER").move("1.2.3")


def test_the_check_finds_it_well(pacs: peers.Orthanc, web: Source, tmp_path: Path) -> None:
    echoed = Source("pacs by dimse", Wire.DIMSE, host="127.0.0.1", port=pacs.dicom_port, ae_title="PACS")
    config = GatewayConfig(folder=tmp_path, min_free_mb=0, sources=(web, echoed), database=f"sqlite:///{tmp_path}/a.db")
    assert [result for result in check_all(config) if not result.ok] == []
    wrong = replace(web, url=web.url + "/nothing")
    assert not check_all(replace(config, sources=(wrong,)))[-1].ok
