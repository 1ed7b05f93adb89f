"""A real film passes the gateway: its patient is in what is delivered, and nowhere that an operator looks."""

from __future__ import annotations

import io
import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import gateways
import peers
import pydicom
import pytest
from gateways import Archive, Command, Running
from receivers import scripted
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from rentgen.gateway.nouns import GatewayConfig
from rentgen.gateway.stow import create_stow

pytestmark = pytest.mark.filterwarnings(
    # pynetdicom's requestor leaves a socket whose peer hung up to the garbage collector.
    "ignore::pytest.PytestUnraisableExceptionWarning"
)

KEY = "A" * 43 + "="
PATIENT = ("CompressedSamples", "compressedsamples", "9RG1", "19400305", "1940-03-05", "05.03.1940")
STUDY = "1.3.6.1.4.1.5962.1.2.9.20040826185059.5457"
IN_CLEAR = {("gateway_answers", "content"), ("gateway_documents", "content")}
"""Where a database without a key holds who a film shows: in what is to be delivered, and in what it is made of."""
DEBUGGING = """
import logging
from rentgen.service import logs

def configure(log_format, configure=logs.configure):
    configure(log_format, level=logging.DEBUG)
    logging.getLogger("rentgen").debug("All is told.")

logs.configure = configure
logging.getLogger("pynetdicom").setLevel(logging.DEBUG)
from rentgen.cli import main
main()
"""


@dataclass
class Systems:
    """An archive that takes all, and systems that refuse, and repeat the patient as they do."""

    archive: Archive = field(default_factory=Archive)
    bundles: list[str] = field(default_factory=list)

    async def refuse(self, request: Request) -> Response:
        self.bundles.append((await request.body()).decode())
        words = f"no patient {' '.join(PATIENT)}"
        issue = {"severity": "error", "code": "invalid", "diagnostics": words, "expression": [f"Patient.{words}"]}
        return JSONResponse({"resourceType": "OperationOutcome", "issue": [issue], "text": words}, 422)

    @contextmanager
    def listening(self, folder: Path) -> Iterator[list[dict[str, object]]]:
        stow = create_stow(GatewayConfig(folder=folder / "inbox", min_free_mb=0), self.archive)
        records = Starlette(routes=[Route("/{path:path}", self.refuse, methods=["GET", "POST"])])
        answer = (
            f"\x0bMSH|^~\\&|RIS\rMSA|AR|{PATIENT[0]}|{' '.join(PATIENT)}\rERR|||207|E||{PATIENT[2]}\r\x1c\r".encode()
        )
        with (
            peers.serving(stow) as archive,
            peers.serving(records) as fhir,
            scripted(*[[answer]] * 20) as (mllp, _),
        ):
            yield [
                {"name": "archive", "wire": "stow", "kinds": ["sr"], "url": f"http://127.0.0.1:{archive}"},
                {"name": "records", "wire": "fhir", "kinds": ["fhir"], "url": f"http://127.0.0.1:{fhir}"},
                {"name": "ris", "wire": "mllp", "kinds": ["hl7"], "host": "127.0.0.1", "port": mllp, "timeout_s": 5},
                {
                    "name": "gone",
                    "wire": "dimse",
                    "kinds": ["sr"],
                    "host": "127.0.0.1",
                    "port": peers.free_port(),
                    "ae_title": "GONE",
                    "timeout_s": 5,
                },
            ]


def changed(data: bytes, **values: object) -> bytes:
    stream = io.BytesIO()
    with pydicom.config.disable_value_validation():
        dataset = pydicom.dcmread(io.BytesIO(data))
        for name, value in values.items():
            setattr(dataset, name, value)
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        dataset.save_as(stream)
    return stream.getvalue()


def send_all(running: Running, film: bytes) -> list[str]:
    """Send the film by both doors: well, twice, changed, cut off, damaged, as somebody else's; returns the answers."""
    uid = "1.2.826.0.1.3680043.10.4.1"
    root = pydicom.dcmread(io.BytesIO(film), stop_before_pixels=True).SOPInstanceUID
    short = changed(film, SOPInstanceUID=f"{uid}.1")[:2_000_000]
    damaged = changed(film, SOPInstanceUID=f"{uid}.2", Rows=9_999)
    nobody = changed(film, SOPInstanceUID=f"{uid}.3", PatientBirthDate="19400305X", PatientSex="9RG1 CompressedSamples")
    hand = changed(film, SOPInstanceUID=f"{uid}.4", BodyPartExamined="HAND")
    other = changed(film, ViewPosition="AP")
    # Its first element claims to be longer than the file.
    broken = film.replace(b"\x08\x00\x05\x00CS", b"\x08\x00\x05\x00UN\0\0\xff\xff\xff\x7f", 1)
    answers = [
        running.stow(each).text for each in (film, film, other, short, damaged, nobody, hand, broken, film[:400])
    ]
    answers.append(running.stow(film, kind="text/plain; name=9RG1").text)
    answers.append(running.get("/studies/9RG1").text)
    at = film.index(b"\x08\x00\x05\x00CS")
    for data in (film[at:], film[at:-1_000_000], film[at : at + 300]):
        gateways.c_store(running.port, data, root)
    gateways.c_store(running.port, film[at:], "1.2.3")
    gateways.c_store(running.port, film[at:], root, calling="CompressedSample")
    return answers


@dataclass
class Told:
    """What somebody may read of a gateway."""

    texts: dict[str, str] = field(default_factory=dict)

    def names(self, *words: str) -> set[tuple[str, str]]:
        return {(place, word) for place, text in self.texts.items() for word in words if word in text}


def cells(path: Path) -> Iterator[tuple[str, str, bytes]]:
    """Return table, column and content of each value in a database."""
    with closing(sqlite3.connect(path)) as connection:
        for (table,) in connection.execute("select name from sqlite_master where type = 'table'").fetchall():
            found = connection.execute(f'select * from "{table}"')  # noqa: S608 - a name of the schema
            columns = [each[0] for each in found.description]
            for row in found:
                for column, value in zip(columns, row, strict=True):
                    yield table, column, value if isinstance(value, bytes) else str(value).encode()


@pytest.mark.parametrize(
    ("log_format", "key", "debugging"), [("json", "", False), ("text", KEY, True)], ids=["plain", "sealed, debugging"]
)
def test_the_patient_of_a_film_is_named_to_nobody_but_those_who_are_to_get_it(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    log_format: str,
    key: str,
    *,
    debugging: bool,
) -> None:
    command = Command(monkeypatch, capsys)
    film = peers.film_file().read_bytes()
    given = {"RENTGEN_LOG_FORMAT": log_format} | ({"RENTGEN_KEY": key} if key else {})
    for name, value in gateways.environment(tmp_path, **given).items():
        if name.startswith("RENTGEN_"):
            monkeypatch.setenv(name, value)
    told, systems = Told(), Systems()
    with systems.listening(tmp_path) as destinations:
        gateways.configure(tmp_path, *destinations)
        code = DEBUGGING if debugging else None
        with (
            gateways.gateway(tmp_path, code=code, given=given) as running,
            gateways.queue(tmp_path, key or None) as queue,
        ):
            told.texts |= {f"answer {n}": text for n, text in enumerate(send_all(running, film))}

            def settled() -> bool:
                states = [state for (step, _, state), _ in queue.counts().steps.items() if step != "deliver"]
                return not queue.counts().open_batches and set(states) == {"done"} and bool(queue.dead_letters())

            gateways.until(settled, 60)
            gateways.until(lambda: bool(systems.archive.contents) and bool(systems.bundles), 30)
            told.texts |= {path: running.get(path).text for path in ("/healthz", "/metrics")}
            for arguments in (
                ("gateway", "status", "--json", "-"),
                ("gateway", "status"),
                ("gateway", "dead-letters", "--json", "-"),
                ("gateway", "dead-letters"),
            ):
                told.texts[" ".join(arguments)] = command(*arguments, "--config", tmp_path / "gateway.toml").out
            for arguments in (("audit-log", "show", "--json", "-"), ("studies", "list", "--state", "all")):
                told.texts[" ".join(arguments)] = command(*arguments).out
            letters = json.loads(told.texts["gateway dead-letters --json -"])["dead_letters"]
            assert running.stop() == 0
            told.texts["log"] = running.text()
    for each in (tmp_path / "spool").iterdir():
        if each.is_file():
            told.texts[each.name] = each.read_text()

    assert told.names(*PATIENT) == set()
    # A study's number names a person to those who have the PACS; the archive's answers alone refer to it.
    assert {place for place, _ in told.names(STUDY)} == set()
    assert {each["destination"] for each in letters} >= {"records"}
    assert ("All is told." in told.texts["log"]) == debugging
    # And those who are to get it got it.
    assert any(b"CompressedSamples^RG1" in each for each in systems.archive.contents)
    assert any("9RG1" in each for each in systems.bundles)
    words = [word.encode() for word in PATIENT]
    found = {
        (table, column) for table, column, value in cells(tmp_path / "store.db") for word in words if word in value
    }
    assert found == (set() if key else IN_CLEAR)
    if key:
        raw = b"".join(each.read_bytes() for each in tmp_path.glob("store.db*"))
        assert [word for word in words if word in raw] == []
