"""The gateway as a whole, against Orthanc and dcmtk: films go in by either door, results come out at the other end."""

from __future__ import annotations

import io
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import peers
import pydicom
import pytest
import validators
from bombs import BOMBS
from made import PATIENT_ID, dicom, film
from peers import Orthanc
from pydicom.data import get_testdata_file
from pydicom.uid import UID, JPEG2000Lossless
from serving import tiny_bundle

from rentgen.engine.predictor import Predictor
from rentgen.errors import SettingError
from rentgen.gateway.nouns import Destination, GatewayConfig, Route, Source, Wire
from rentgen.gateway.run import Gateway
from rentgen.records import Precision
from rentgen.records.results import Kind
from rentgen.store.gateway import Queue
from rentgen.store.studies import Store

# pynetdicom's requestor leaves a socket whose peer hung up to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

PORT = 11_112
"""Where Orthanc reports to what it commits itself; in a network of its own it is free."""
FOR_PROCESSING = "1.2.840.10008.5.1.4.1.1.1.1.1"


@pytest.fixture(scope="module")
def pacs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    with peers.own_network(), peers.orthanc(tmp_path_factory.mktemp("pacs"), move_to=("RENTGEN", PORT)) as pacs:
        yield pacs


@pytest.fixture
def config(pacs: Orthanc, tmp_path: Path) -> GatewayConfig:
    kinds = (Kind.STRUCTURED_REPORT, Kind.SECONDARY_CAPTURE, Kind.PRESENTATION_STATE, Kind.KEY_OBJECT)
    return GatewayConfig(
        port=0,
        http_port=0,
        folder=tmp_path / "spool",
        database=f"sqlite:///{tmp_path / 'store.db'}",
        min_free_mb=0,
        quiet_s=0.3,
        routes=(Route(str(tiny_bundle(tmp_path / "tiny.rentgen")), body_parts=("CHEST",)),),
        destinations=(Destination("pacs", Wire.DIMSE, kinds, host="127.0.0.1", port=pacs.dicom_port, ae_title="PACS"),),
    )


@contextmanager
def running(config: GatewayConfig) -> Iterator[Gateway]:
    with Gateway(config, precision=Precision.F32) as gateway:
        yield gateway


def uids(seed: int) -> dict[str, str]:
    """Return identifiers of a study of its own."""
    digits = random.Random(seed).randrange(10**12)  # noqa: S311 - no secret
    names = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
    return {name: f"1.2.826.0.1.3680043.10.2.{digits}.{number}" for number, name in enumerate(names, 1)}


def made(seed: int, **values: object) -> bytes:
    elements: dict[str, Any] = uids(seed) | values
    return dicom(film(80, 70, seed=seed), **elements)


def put(folder: Path, data: bytes) -> Path:
    path = folder / f"{len(list(folder.glob('*.dcm')))}.dcm"
    path.write_bytes(data)
    return path


def storescu(gateway: Gateway, path: Path) -> None:
    jpeg_2000 = pydicom.dcmread(path, stop_before_pixels=True).file_meta.TransferSyntaxUID == JPEG2000Lossless
    done = peers.run("storescu", "-aec", "RENTGEN", *(["-xv"] if jpeg_2000 else []), "127.0.0.1", gateway.port, path)
    assert done.returncode == 0, done.stderr


def stow(gateway: Gateway, *objects: bytes) -> httpx.Response:
    parts = b"".join(b"--x\r\nContent-Type: application/dicom\r\n\r\n" + each + b"\r\n" for each in objects)
    with httpx.Client(trust_env=False, timeout=30) as client:
        return client.post(
            f"http://127.0.0.1:{gateway.http_port}/studies",
            content=parts + b"--x--\r\n",
            headers={"Content-Type": 'multipart/related; type="application/dicom"; boundary=x'},
        )


def objects(pacs: Orthanc, study: str) -> dict[str, list[str]]:
    """Return modality to Orthanc's names of the objects of a study."""
    found: dict[str, list[str]] = {}
    with httpx.Client(base_url=pacs.url, trust_env=False, timeout=10) as client:
        query = {"Level": "Instance", "Query": {"StudyInstanceUID": study}}
        for each in client.post("/tools/find", json=query).json():
            modality = client.get(f"/instances/{each}/simplified-tags").json()["Modality"]
            found.setdefault(modality, []).append(each)
    return found


def until(found: Callable[[], bool], seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not found():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.1)


def is_idle(config: GatewayConfig, batches: int) -> bool:
    """Return whether so many batches were analysed, and nothing is left to do."""
    queue = Queue.open(config.database)
    try:
        counts = queue.counts()
    finally:
        queue.close()
    analysed = sum(n for (step, _, state), n in counts.steps.items() if step == "analyse" and state == "done")
    return not counts.open_batches and counts.oldest is None and analysed >= batches


def fetched(pacs: Orthanc, instance: str, folder: Path) -> Path:
    answer = httpx.get(f"{pacs.url}/instances/{instance}/file", trust_env=False)
    return put(folder, answer.raise_for_status().content)


@pytest.mark.parametrize("name", ["RG1_UNCR", "RG1_J2KR"])
def test_a_real_film_comes_back_with_its_results(
    pacs: Orthanc, config: GatewayConfig, tmp_path: Path, name: str
) -> None:
    ds = pydicom.dcmread(peers.film_file(name))
    study = ds.StudyInstanceUID = uids(1 if name == "RG1_UNCR" else 2)["StudyInstanceUID"]
    sent = tmp_path / "sent"
    sent.mkdir()
    stream = io.BytesIO()
    ds.save_as(stream)
    asking = replace(config, port=PORT, destinations=(replace(config.destinations[0], commitment=True),))
    with running(asking) as gateway:
        storescu(gateway, put(sent, stream.getvalue()))
        until(lambda: is_idle(asking, 1))
    found = objects(pacs, study)
    assert set(found) >= {"SR", "PR", "OT"}
    paths = {modality: fetched(pacs, those[0], sent) for modality, those in found.items()}
    assert validators.dciodvfy(paths["SR"]) == []
    assert validators.pixelmed(paths["SR"]) == []
    assert validators.dcmpschk(paths["PR"])
    assert validators.dciodvfy(paths["OT"]) == []
    report = pydicom.dcmread(paths["SR"])
    assert report.PatientID == ds.PatientID
    assert report.Modality == "SR"


def test_films_sent_twice_and_by_both_doors_make_one_result(
    pacs: Orthanc, config: GatewayConfig, tmp_path: Path
) -> None:
    data = made(3)
    with running(config) as gateway:
        storescu(gateway, put(tmp_path, data))
        storescu(gateway, put(tmp_path, data))
        assert stow(gateway, data, made(4)).status_code == 200
        until(lambda: is_idle(config, 2))
        health = httpx.get(f"http://127.0.0.1:{gateway.http_port}/healthz", trust_env=False)
        text = httpx.get(f"http://127.0.0.1:{gateway.http_port}/metrics", trust_env=False).text
    assert {modality: len(those) for modality, those in objects(pacs, uids(3)["StudyInstanceUID"]).items()} == {
        "SR": 1,
        "OT": 1,
        "PR": 1,
    } | ({"KO": 1} if "KO" in objects(pacs, uids(3)["StudyInstanceUID"]) else {})
    assert (health.status_code, health.json()["status"]) == (200, "ok")
    assert 'rentgen_gateway_events_total{door="dimse",event="duplicate"} 1.0' in text
    assert 'rentgen_gateway_steps{destination="pacs",state="done",step="deliver"} 2.0' in text
    assert "rentgen_gateway_dead_letters 0.0" in text
    store = Store.open(config.database)
    try:
        listed, _ = store.worklist()
    finally:
        store.close()
    assert [image.name for study in listed for image in study.images] == ["CR CHEST PA"] * 2
    assert PATIENT_ID not in text


def test_what_is_not_read_is_said_and_what_is_none_of_its_business_is_not(
    pacs: Orthanc, config: GatewayConfig, tmp_path: Path
) -> None:
    tomogram = pydicom.dcmread(str(get_testdata_file("CT_small.dcm")))
    for name, value in uids(5).items():
        setattr(tomogram, name, value)
    tomogram.file_meta.MediaStorageSOPInstanceUID = tomogram.SOPInstanceUID
    stream = io.BytesIO()
    tomogram.save_as(stream)
    processing = pydicom.dcmread(io.BytesIO(made(6, Modality="DX")))
    processing.SOPClassUID = processing.file_meta.MediaStorageSOPClassUID = UID(FOR_PROCESSING)
    processing.PresentationIntentType = "FOR PROCESSING"
    raw = io.BytesIO()
    processing.save_as(raw)
    with running(config) as gateway:
        hand, damaged = made(7, BodyPartExamined="HAND"), made(8, Rows=9000, Columns=9000)
        assert stow(gateway, stream.getvalue(), raw.getvalue(), hand, damaged).status_code == 200
        until(lambda: is_idle(config, 4))
        words = {
            seed: pydicom.dcmread(
                fetched(pacs, objects(pacs, uids(seed)["StudyInstanceUID"])["SR"][0], tmp_path)
            ).to_json()
            for seed in (5, 6, 7, 8)
        }
        mine = [those[0] for those in objects(pacs, uids(7)["StudyInstanceUID"]).values()]
        assert stow(gateway, *(fetched(pacs, each, tmp_path).read_bytes() for each in mine)).status_code == 200
        until(lambda: is_idle(config, 5))
    assert "CT Image Storage are not read" in words[5]
    assert "for processing" in words[6]
    assert "no model reads films of modality CR, body part HAND" in words[7]
    assert "Not analysed" in words[8]
    assert {modality: len(those) for modality, those in objects(pacs, uids(7)["StudyInstanceUID"]).items()} == {
        "SR": 1,
        "PR": 1,
    }
    store = Store.open(config.database)
    try:
        listed, _ = store.worklist()
    finally:
        store.close()
    # The one film that a model was to read.
    assert [study.predictions[0].status for study in listed] == ["error"]


def test_each_model_reads_the_films_of_its_route(pacs: Orthanc, config: GatewayConfig, tmp_path: Path) -> None:
    other = str(tiny_bundle(tmp_path / "other.rentgen", seed=5))
    first = config.routes[0]
    routes = (Route(other, views=("AP",)), Route(other, max_age_years=2.0), replace(first, views=("PA",)))
    several = replace(config, routes=routes)
    study = uids(20)["StudyInstanceUID"]
    films = [
        made(20, ViewPosition="PA", PatientAge="040Y"),
        made(21, ViewPosition="AP", PatientAge="040Y", StudyInstanceUID=study),
        made(22, ViewPosition="PA", PatientAge="018M", StudyInstanceUID=study),
    ]
    with running(several) as gateway:
        assert stow(gateway, *films).status_code == 200
        until(lambda: is_idle(several, 1))
    read = {}
    for instance in objects(pacs, study)["SR"]:
        report = pydicom.dcmread(fetched(pacs, instance, tmp_path))
        evidence = report.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence
        uids_of = {each.ReferencedSOPInstanceUID for series in evidence for each in series.ReferencedSOPSequence}
        read[report.DeviceSerialNumber] = uids_of
    names = [uids(seed)["SOPInstanceUID"] for seed in (20, 21, 22)]
    hashes = [Predictor.load(each, precision=Precision.F32).bundle.bundle_id for each in (first.model, other)]
    assert read == {hashes[0]: {names[0]}, hashes[1]: set(names[1:])}


def test_a_dry_run_does_everything_but_deliver(pacs: Orthanc, config: GatewayConfig) -> None:
    dry = replace(config, dry_run=True)
    with running(dry) as gateway:
        assert stow(gateway, made(9)).status_code == 200
        until(lambda: is_idle(dry, 1))
    assert objects(pacs, uids(9)["StudyInstanceUID"]) == {}


def test_what_waits_when_it_stops_goes_on_when_it_starts(pacs: Orthanc, config: GatewayConfig) -> None:
    with running(replace(config, quiet_s=60.0)) as gateway:
        assert stow(gateway, made(10)).status_code == 200
    assert objects(pacs, uids(10)["StudyInstanceUID"]) == {}
    with running(config):
        until(lambda: is_idle(config, 1))
    assert len(objects(pacs, uids(10)["StudyInstanceUID"])["SR"]) == 1


def test_a_reconciler_fetches_what_never_came(pacs: Orthanc, config: GatewayConfig) -> None:
    today = datetime.now(UTC).astimezone().strftime("%Y%m%d")
    pacs.upload(made(11, StudyDate=today, StudyTime="120000"))
    source = Source("pacs", Wire.STOW, url=pacs.dicomweb, orthanc_url=pacs.url, every_s=1.0, modalities=("CR",))
    with running(replace(config, sources=(source,))):
        until(lambda: "SR" in objects(pacs, uids(11)["StudyInstanceUID"]))
        # And what Orthanc says is new, of any day.
        pacs.upload(made(12, StudyDate="20010203"))
        until(lambda: "SR" in objects(pacs, uids(12)["StudyInstanceUID"]))


def test_bombs_are_answered_while_others_are_served(pacs: Orthanc, config: GatewayConfig) -> None:
    with running(config) as gateway:
        for name, bomb in BOMBS.items():
            assert stow(gateway, bomb()).status_code in (200, 202, 400, 409, 413), name
        assert stow(gateway, made(13)).status_code == 200
        until(lambda: "SR" in objects(pacs, uids(13)["StudyInstanceUID"]))
        assert gateway.health() == ()


def test_a_model_that_is_none_stops_the_start(config: GatewayConfig) -> None:
    with pytest.raises(SettingError, match="no-such-model"):
        Gateway(replace(config, routes=(Route("no-such-model"),)))
