"""The gateway's process group is killed with SIGKILL at chosen and at random moments; each film has one result."""

from __future__ import annotations

import random
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

import gateways
import httpx
import peers
import pydicom
import pytest
from gateways import Running
from peers import Orthanc
from pynetdicom import evt

from rentgen.images.dicom import data_set_start
from rentgen.store.studies import Store

pytestmark = pytest.mark.filterwarnings(
    # pynetdicom's requestor leaves a socket whose peer hung up to the garbage collector.
    "ignore::pytest.PytestUnraisableExceptionWarning"
)

PORT = 11_112
LARGE = (700, 600)
"""Rows and columns of a film that takes more than one PDU, and some time to analyse."""


@pytest.fixture(scope="module")
def pacs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    with peers.own_network(), peers.orthanc(tmp_path_factory.mktemp("pacs"), move_to=("RENTGEN", PORT)) as pacs:
        yield pacs


@dataclass
class Modality:
    """Sends films until each was acknowledged."""

    folder: Path
    waiting: list[tuple[str, bytes]] = field(default_factory=list)
    sent: dict[str, bytes] = field(default_factory=dict)
    repeated: int = 0

    def add(self, study: int, number: int, **more: object) -> str:
        data = gateways.made(study, number, **more)  # type: ignore[arg-type]
        uid = gateways.uids(study, number)["SOPInstanceUID"]
        self.waiting.append((uid, data))
        self.sent[uid] = data
        return uid

    def send(self, running: Running, *handlers: object) -> None:
        """Send all that was not acknowledged, once, by one door and the other."""
        for uid, data in [*self.waiting]:
            if self._store(running, uid, data, handlers):
                self.waiting.remove((uid, data))
            else:
                self.repeated += 1

    def _store(self, running: Running, uid: str, data: bytes, handlers: tuple[object, ...]) -> bool:
        if len(self.sent) % 3 == 0 and not handlers:
            try:
                return running.stow(data).status_code == 200
            except httpx.HTTPError:
                return False
        path = self.folder / "film.dcm"
        path.write_bytes(data)
        return gateways.c_store(running.port, data[data_set_start(path) :], uid, handlers=handlers) == 0


@contextmanager
def watching(folder: Path) -> Iterator[Callable[[str], bool]]:
    """Give what tells whether a step is under way, asked as somebody else would ask."""
    file = f"file:{folder / 'store.db'}?mode=ro"
    with closing(sqlite3.connect(file, uri=True, timeout=5, isolation_level=None)) as connection:
        question = "select 1 from gateway_jobs where step = ? and state = 'leased' limit 1"
        yield lambda step: connection.execute(question, (step,)).fetchone() is not None


def died_while(running: Running, modality: Modality, is_now: Callable[[], bool]) -> bool:
    """Kill the gateway at a moment of its own work, while the modality sends; return whether the moment was met."""
    sender = threading.Thread(target=modality.send, args=(running,))
    sender.start()
    try:
        gateways.until(is_now, 8, 0.0005)
    except TimeoutError:
        return False
    else:
        running.kill()
        return True
    finally:
        sender.join(60)


def reports(pacs: Orthanc) -> dict[str, list[str]]:
    """Return SOP Instance UID of a film to those of the reports in Orthanc that are about it."""
    found: dict[str, list[str]] = {}
    with httpx.Client(base_url=pacs.url, trust_env=False, timeout=20) as client:
        for each in client.get("/instances").json():
            data = client.get(f"/instances/{each}/file").content
            report = pydicom.dcmread(BytesIO(data))
            if report.Modality != "SR":
                continue
            about = {
                item.ReferencedSOPInstanceUID
                for study in report.CurrentRequestedProcedureEvidenceSequence
                for series in study.ReferencedSeriesSequence
                for item in series.ReferencedSOPSequence
            }
            for uid in about:
                found.setdefault(uid, []).append(report.SOPInstanceUID)
    return found


def test_a_process_that_is_killed_again_and_again_delivers_each_result_once(pacs: Orthanc, tmp_path: Path) -> None:
    rng = random.Random(5)  # noqa: S311 - no secret
    gateways.configure(
        tmp_path,
        {
            "name": "pacs",
            "wire": "dimse",
            "kinds": ["sr", "pr"],
            "host": "127.0.0.1",
            "port": pacs.dicom_port,
            "ae_title": "PACS",
            "commitment": True,
            "timeout_s": 20,
        },
        ports=(PORT, peers.free_port()),
    )
    modality = Modality(tmp_path)

    def during_store(running: Running) -> None:
        modality.add(1, 1, size=LARGE)
        modality.send(running, (evt.EVT_DATA_SENT, lambda event: running.kill() if len(event.data) > 60_000 else None))

    def after_the_acknowledgement(running: Running) -> None:
        modality.add(1, 2)
        modality.send(running)
        running.kill()

    def in_step(step: str, study: int) -> Callable[[Running], None]:
        def die(running: Running) -> None:
            with watching(tmp_path) as leased:
                for number in range(1, 6):
                    modality.add(study, number, size=LARGE)
                    if died_while(running, modality, lambda: leased(step)):
                        return
            pytest.fail("the step is over before anybody sees it")

        return die

    def during_commitment(running: Running) -> None:
        with watching(tmp_path) as leased:
            for number in range(1, 6):
                uid = modality.add(3, number)
                if died_while(running, modality, lambda uid=uid: leased("deliver") and uid in reports(pacs)):  # type: ignore[misc]
                    return
        pytest.fail("commitment is over before anybody sees it")

    def at_random(running: Running) -> None:
        for number in (2, 3):
            modality.add(rng.randrange(2, 5), 10 + number)
        until = time.monotonic() + rng.uniform(0.1, 1.5)
        assert died_while(running, modality, lambda: time.monotonic() > until)

    moments: dict[str, Callable[[Running], None]] = {
        "during C-STORE": during_store,
        "after the acknowledgement": after_the_acknowledgement,
        "during analysis": in_step("analyse", 5),
        "during encoding": in_step("encode", 2),
        "during delivery": in_step("deliver", 4),
        "during commitment": during_commitment,
        "at random": at_random,
    }
    modality.add(1, 3)
    for die in moments.values():
        die(gateways.start(tmp_path))
    starting = gateways.start(tmp_path, wait=False)
    time.sleep(rng.uniform(0.2, 2.0))
    starting.kill()

    with gateways.gateway(tmp_path) as running, gateways.queue(tmp_path) as queue:
        while modality.waiting:
            modality.send(running)
        gateways.until(lambda: gateways.is_idle(queue), 60)
        health = running.get("/healthz")
        letters, counts = queue.dead_letters(), queue.counts()
        assert running.stop() == 0
    assert health.status_code == 200
    assert letters == ()
    assert {state for _, _, state in counts.steps} == {"done"}
    assert counts.objects == len(modality.sent)
    assert counts.conflicts == 0
    assert {uid: len(those) for uid, those in reports(pacs).items()} == dict.fromkeys(modality.sent, 1)
    store = Store.open(gateways.database(tmp_path))
    try:
        listed, _ = store.worklist(limit=50)
        assert store.verify_audit() > 0
    finally:
        store.close()
    assert sum(len(study.images) for study in listed) == len(modality.sent)
    assert sum(len(study.predictions) for study in listed) == len(modality.sent)
    assert list((tmp_path / "spool" / "incoming").iterdir()) == []
