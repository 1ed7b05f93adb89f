"""The page for hospital IT against the code: each key, class, status, metric, field and number that it states."""

from __future__ import annotations

import io
import re
import tomllib
from collections.abc import Collection, Iterator
from dataclasses import MISSING, fields
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Any

import pydicom
import pytest
from answers import KINDS, every_kind, of, phantom, rg1, study
from pydicom.uid import UID
from pynetdicom import AllStoragePresentationContexts
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    StorageCommitmentPushModel,
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelMove,
    Verification,
)

from rentgen.errors import SettingError
from rentgen.gateway import commitment, commitment_provider, dimse, http, mllp, polling, retry, transport
from rentgen.gateway.audit_trail import PAGE
from rentgen.gateway.config import parse_config
from rentgen.gateway.metrics import Metrics
from rentgen.gateway.nouns import Destination, GatewayConfig, Result, Route, Source, Tls
from rentgen.gateway.outcomes import of_dicom_status, of_http_status
from rentgen.gateway.pipeline import MOST_ATTEMPTS
from rentgen.gateway.send_dimse import CLASSES
from rentgen.gateway.stow import STOW_LIMITS
from rentgen.gateway.syslog import SyslogTarget
from rentgen.gateway.transport import Caller
from rentgen.outputs import (
    encapsulated_pdf,
    key_object,
    presentation_state,
    secondary_capture,
    structured_report,
)
from rentgen.outputs.atna import EVENTS
from rentgen.outputs.codes import SCHEME, SCHEME_UID
from rentgen.outputs.dicom_common import FIRST_SERIES, Make
from rentgen.outputs.documents import Extras, documents
from rentgen.outputs.fhir import Systems, fhir_bundle
from rentgen.outputs.hl7 import Addresses, hl7_message
from rentgen.records.results import Kind, StudyResult
from rentgen.store.gateway import Queue

PAGE_OF_IT = Path(__file__).parents[1] / "docs" / "hospital.md"
TEXT = PAGE_OF_IT.read_text(encoding="utf-8")
WORDS = " ".join(TEXT.split())
PEER = '[[destination]]\nname = "a"\nwire = "fhir"\nkinds = ["fhir"]\nurl = "http://h"\n'
TABLES: dict[str, tuple[str, type]] = {
    "[gateway]": ("[gateway]\nzz = 1", GatewayConfig),
    "[gateway.tls]": ("[gateway.tls]\nzz = 1", Tls),
    "[http]": ("[http]\nzz = 1", GatewayConfig),
    "[[route]]": ("[[route]]\nzz = 1", Route),
    "[[destination]]": ("[[destination]]\nzz = 1", Destination),
    "[[source]]": ("[[source]]\nzz = 1", Source),
    "[audit]": ("[audit]\nzz = 1", SyslogTarget),
}
NEEDED = {
    "[gateway.tls]": {"certificate", "key"},
    "[[route]]": {"model"},
    "[[destination]]": {"name", "wire", "kinds"},
    "[[source]]": {"name", "wire"},
    "[audit]": {"host"},
}


def section(heading: str) -> str:
    """Return what stands below a heading, up to the next of any level."""
    found = re.search(rf"^#+ {re.escape(heading)}\n(.*?)(?=^#+ |\Z)", TEXT, re.MULTILINE | re.DOTALL)
    assert found is not None, f"no heading {heading}"
    return found[1]


def rows(text: str) -> Iterator[list[str]]:
    """Yield the cells of each row of the tables in a text, headings left out."""
    for line in text.splitlines():
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if cells and not re.fullmatch("-+", cells[0]):
            yield cells


def allowed(toml: str) -> tuple[str, ...]:
    """Return the keys that the configuration names when it is given one that is none."""
    with pytest.raises(SettingError, match="not known") as caught:
        parse_config(toml)
    return tuple(str(caught.value).rstrip(".").partition("Allowed: ")[2].split(", "))


def plain(value: object) -> object:
    """Return a default as TOML has it; None where it says nothing."""
    if isinstance(value, StrEnum):
        return value.value
    if isinstance(value, tuple):
        return list(value)
    if isinstance(value, Path):
        return str(value)
    return value if value != "" else None


def default_of(noun: type, table: str, key: str) -> object:
    named = f"http_{key}" if table == "[http]" else key
    (field,) = (each for each in fields(noun) if each.name == named)
    if field.default_factory is not MISSING:
        return field.default_factory() or None
    return None if field.default is MISSING else plain(field.default)


@pytest.mark.parametrize("table", TABLES)
def test_every_key_is_documented_with_its_default_and_none_that_does_not_exist(table: str) -> None:
    toml, noun = TABLES[table]
    shown = {cells[0].strip("`"): cells[1] for cells in rows(section(f"`{table}`")) if cells[0].startswith("`")}
    assert tuple(sorted(shown)) == tuple(sorted(allowed(toml)))
    assert {key for key, default in shown.items() if default == "**needed**"} == NEEDED.get(table, set())
    for key, default in shown.items():
        if default == "**needed**" or key in ("systems", "addresses"):
            continue
        told = None if default == "-" else tomllib.loads(f"value = {default.strip('`')}")["value"]
        # What a wire needs has a default that is none of use.
        expected = default_of(noun, table, key)
        assert told == (None if key == "port" and expected == 0 else expected), f"{table} {key}"


def test_tables_of_the_file_are_documented() -> None:
    named = {table.strip("[]").partition(".")[0] for table in TABLES}
    assert set(allowed("zz = 1")) == named


@pytest.mark.parametrize(("key", "noun"), [("systems", Systems), ("addresses", Addresses)])
def test_keys_of_inner_tables_are_documented(key: str, noun: type) -> None:
    (cells,) = (cells for cells in rows(section("`[[destination]]`")) if cells[0] == f"`{key}`")
    known = {each.name for each in fields(noun)}
    assert known == set(allowed(f"{PEER}{key} = {{ zz = 1 }}"))
    assert set(re.findall(r"`(\w+)`", cells[3])) - {"fhir", "mllp"} == known


def test_toml_that_is_shown_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORTHANC_AUTHORIZATION", "Bearer x")
    shown = re.findall(r"^```toml\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
    assert shown
    for toml in shown:
        parse_config(toml)


def test_numbers_of_the_configuration_are_its_limits() -> None:
    for table, key, low, high in (
        ("gateway", "max_object_mb", 0.001, 4000),
        ("gateway", "max_associations", 1, 1000),
        ("gateway", "readers", 1, 64),
        ("gateway", "reader_timeout_s", 1, 3600),
        ("gateway", "quiet_s", 0, 86400),
        ("gateway", "keep_days", 0, 36500),
    ):
        (cells,) = (cells for cells in rows(section(f"`[{table}]`")) if cells[0] == f"`{key}`")
        assert cells[2] == f"{low:g} to {high:g}".replace("4e+03", "4000")
        parse_config(f"[{table}]\n{key} = {high}")
        with pytest.raises(SettingError, match=key):
            parse_config(f"[{table}]\n{key} = {high * 2}")


def test_classes_are_those_of_the_code() -> None:
    shown = {cells[1]: (cells[0], cells[2], cells[3]) for cells in rows(section("SOP classes")) if cells[1]}
    services = (
        Verification,
        StorageCommitmentPushModel,
        StudyRootQueryRetrieveInformationModelFind,
        StudyRootQueryRetrieveInformationModelMove,
    )
    assert set(shown) - {"UID"} == {*map(str, CLASSES.values()), *map(str, services)}
    for uid in CLASSES.values():
        assert shown[str(uid)][0] == UID(uid).name
    assert f"All {len(AllStoragePresentationContexts)} storage SOP classes" in WORDS
    assert dimse.SYNTAXES[0] == "1.2.840.10008.1.2.1"
    assert "1.2.840.10008.1.2.1.99" not in dimse.SYNTAXES


def test_statuses_to_senders_are_those_of_the_code() -> None:
    shown = {cells[0].strip("`") for cells in rows(section("By C-STORE")) if cells[0].startswith("`0x")}
    codes = (dimse.SUCCESS, dimse.NO_RESOURCES, dimse.MISMATCH, dimse.UNREADABLE)
    assert shown == {f"0x{code:04X}" for code in codes}
    told = section("By STOW-RS")
    for number in (STOW_LIMITS.parts, STOW_LIMITS.requests, f"{STOW_LIMITS.slowest_bytes_s / 1000:g} kB/s"):
        assert f" {number} " in told
    assert f"after {STOW_LIMITS.grace_s:g} s" in told
    assert STOW_LIMITS.body_bytes == 2_000_000_000
    assert told.count("2 GB") == 2


WORDS_OF = {Result.DELIVERED: "delivered", Result.RETRY: "tried again", Result.DEAD: "dead letter"}


def test_what_an_answer_makes_of_a_delivery() -> None:
    checked: set[Result] = set()
    for cells in rows(section("Status codes")):
        said = next((result for result, words in WORDS_OF.items() if cells[-1].startswith(words)), None)
        if said is None:
            continue
        for code in re.findall(r"`0x([0-9A-F]{4}|[0-9A-F]+x+)`", cells[0]):
            assert of_dicom_status(int(code.replace("x", "5"), 16)).result is said, code
            checked.add(said)
        for code in re.findall(r"\b([245]\d\d|[25]xx)\b(?!`)", re.sub("`[^`]*`", "", cells[0])):
            assert of_http_status(int(code.replace("xx", "03"))).result is said, code
    assert checked == set(Result)
    assert of_dicom_status(None).result is Result.RETRY
    assert of_dicom_status(0x0210).result is Result.DEAD
    assert of_http_status(404).result is Result.DEAD
    answers = {cells[0]: cells[-1] for cells in rows(section("HL7 profile"))}
    for code, result in (("AA, CA", Result.DELIVERED), ("AR, CR", Result.DEAD)):
        assert answers[code].startswith(WORDS_OF[result])
        for each in code.split(", "):
            assert mllp.of_acknowledgement(mllp.Acknowledgement(each, "1"), "1").result is result


@pytest.mark.parametrize(
    "words",
    [
        f"at most {retry.LONGEST_S / 60:g} min, after {retry.SHORTEST_S:g} s at the earliest",
        f"rests {retry.REST_S:g} s",
        f"more than {commitment.MOST_REFERENCES:,}",
        "after {:g} s, by attempts after {:g}, {:g} and {:g} s more".format(*commitment_provider.PAUSES_S),
        f"{transport.LONGEST_PDU:,} bytes",
        f"up to {PAGE} lines",
        f"an answer above {http.MOST_BYTES // 1_000_000} MB",
        f"at most {mllp.MOST_BYTES // 1_000_000} MB",
        f"in associations and in files: `{Caller('X').implementation_class_uid}`, "
        f"`{Caller('X').implementation_version_name}`",
        f"`{SCHEME}`, *Rentgen result codes*, UID `{SCHEME_UID}`",
    ],
)
def test_numbers_are_those_of_the_code(words: str) -> None:
    assert words in WORDS


def test_numbers_that_are_words() -> None:
    assert "After five failures in a row" in WORDS
    assert retry.TROUBLE == 5
    assert "five attempts" in WORDS
    assert MOST_ATTEMPTS == 5
    assert "does not come in three attempts" in WORDS
    assert polling.MOST_TRIES == 3
    guard = transport.Guard(Path())
    said = f"nothing for {guard.first_word_s:g} s; {guard.max_waiting_each} connections from its address, or "
    assert f"{said}{guard.max_waiting} in all" in WORDS
    assert f"a PDU that takes more than {guard.pdu_s:g} s" in WORDS


def test_events_of_the_trail_are_those_of_the_code() -> None:
    for cells in rows(section("Audit")):
        for action in re.findall(r"`([\w.]+)`", cells[0]):
            event = EVENTS[action]
            assert event.event_id[0] in cells[1], action
            assert event.event_type is None or event.event_type[0] in cells[1], action
    assert {name for name in EVENTS if name.startswith("gateway.")} <= set(re.findall(r"`(gateway\.\w+)`", TEXT))


def test_metrics_are_those_of_the_code(tmp_path: Path) -> None:
    queue = Queue.open(f"sqlite:///{tmp_path / 'q.db'}")
    try:
        metrics = Metrics(queue, {"dimse": lambda: {"echo": 1}})
        metrics.step("analyse", 1.0)
        metrics.done(1.0)
        metrics.fault("closer")
        known = set(re.findall(r"^# TYPE (rentgen_gateway_\w+)", metrics.text().decode(), re.MULTILINE))
    finally:
        queue.close()
    known = {name for name in known if not name.endswith("_created")}
    told = section("Monitoring")
    table = {cells[0].strip("`") for cells in rows(told) if cells[0].startswith("`rentgen_")}
    assert table == known
    assert set(re.findall(r"rentgen_gateway_\w+", told)) <= known
    assert {event for event in dimse.COUNTED if f"`{event}`" not in told} == set()
    assert {event for event in ("missing", "fetched", "failed", "unreachable") if f"`{event}`" not in told} == set()


MAKES: dict[str, Make] = {
    "sr": structured_report.MAKE,
    "sc": secondary_capture.MAKE,
    "pr": presentation_state.MAKE,
    "ko": key_object.MAKE,
    "pdf": encapsulated_pdf.MAKE,
}


def test_series_are_those_of_the_code() -> None:
    shown = {cells[0].strip("`"): cells[2:5] for cells in rows(section("Results")) if cells[0].startswith("`")}
    assert set(shown) == set(map(str, Kind))
    for kind, make in MAKES.items():
        assert shown[kind] == [make.modality, str(FIRST_SERIES + make.series), f"{make.title} (AI, not verified)"]


@cache
def made() -> tuple[StudyResult, ...]:
    """Return results of all kinds, of a drawn DX and, where it is installed, a real CR."""
    drawn = [study(kind) for kind in KINDS] + [every_kind()]
    try:
        return (*drawn, study("present", rg1()))
    except pytest.skip.Exception:
        return tuple(drawn)


@pytest.mark.parametrize(
    ("kind", "row"),
    [
        (Kind.STRUCTURED_REPORT, "SR"),
        (Kind.SECONDARY_CAPTURE, "Secondary Capture"),
        (Kind.PRESENTATION_STATE, "Presentation state"),
        (Kind.KEY_OBJECT, "Key object"),
        (Kind.PDF, "Encapsulated PDF"),
    ],
)
def test_every_attribute_that_is_written_is_documented(kind: Kind, row: str) -> None:
    told = section("Attributes of the results")
    (cells,) = (cells for cells in rows(told) if cells[0] == row)
    common = set(re.findall(r"`(\w+)`", told.partition("| object |")[0]))
    mine = set(re.findall(r"`(\w+)`", cells[1]))
    written: set[str] = set()
    for result in made():
        pixels = {film.source.sop_instance_uid: of(phantom())[0].pixels for film in result.films}
        if result.first.modality == "CR":
            pixels = {result.first.sop_instance_uid: of(rg1())[0].pixels}
        for document in documents(result, [kind], Extras(pixels, b"%PDF-1.4")):
            written |= set(pydicom.dcmread(io.BytesIO(document.content)).dir())
    assert written
    assert written - common - mine == set()
    # What only some films bring need not be in these.
    assert mine - written <= {"ModalityLUTSequence", "NominalScannedPixelSpacing"}


def test_every_element_of_the_bundle_is_documented() -> None:
    shown = {cells[0]: set(re.findall(r"`(\w+)`", cells[1])) for cells in rows(section("FHIR profile"))}
    written: dict[str, set[str]] = {}
    for result in made():
        for entry in fhir_bundle(result, pdf=b"%PDF-1.4")["entry"]:
            resource: dict[str, Any] = entry["resource"]
            name = resource["resourceType"]
            written.setdefault(name, set()).update(set(resource) - {"resourceType"})
            (cells,) = (cells for cells in rows(section("FHIR profile")) if cells[0] == name)
            conditional = "ifNoneExist" in entry["request"]
            assert cells[3] == ("`ifNoneExist`" if conditional else "`PUT`"), name
    for name, elements in written.items():
        assert elements <= shown[name], name
        assert shown[name] - elements <= {"description", "birthDate"}, name
    assert set(written) == set(shown) - {"resource"}


def test_every_field_of_the_message_is_documented() -> None:
    shown = {
        cells[0]: numbers(cells[1]) for cells in rows(section("HL7 profile")) if re.fullmatch("[A-Z]{3}", cells[0])
    }
    addresses = Addresses("A", "B", "C", "D", "E")
    written: dict[str, set[int]] = {}
    for result in made():
        for line in hl7_message(result, addresses=addresses).content.decode().rstrip("\r").split("\r"):
            name, *values = line.split("|")
            first = 2 if name == "MSH" else 1
            found = {number for number, value in enumerate(values, first) if value}
            written.setdefault(name, {1} if name == "MSH" else set()).update(found)
    assert written == shown


def numbers(text: str) -> Collection[int]:
    """Return the numbers of fields in a cell; what stands in brackets says what they hold."""
    bare = re.sub(r"\([^)]*\)", "", text)
    spans = re.findall(r"(\d+)(?: to (\d+))?", bare)
    return {number for low, high in spans for number in range(int(low), int(high or low) + 1)}
