"""HL7 v2 messages, read by hl7apy's strict parser and by python-hl7, whatever the text."""

from __future__ import annotations

import io
from dataclasses import replace

import hl7
import pydicom
import pytest
from answers import AT, KINDS, MODEL, film_result, of, rg1, study, two_films
from hypothesis import given, settings
from hypothesis import strategies as st
from made import dicom
from validators import hl7apy

from rentgen.outputs.dicom_common import source_of
from rentgen.outputs.hl7 import MAX_LINE, Addresses, escape, hl7_message, segment, wrap
from rentgen.outputs.structured_report import structured_report
from rentgen.records.results import FilmResult, Patient, StudyResult


def with_patient(patient: Patient) -> StudyResult:
    one = film_result("present")
    return StudyResult((replace(one, source=replace(one.source, patient=patient)),), MODEL, AT, "0.1.0")


def fields(result: StudyResult, name: str) -> list[list[str]]:
    lines = hl7_message(result).content.decode().split("\r")
    return [line.split("|") for line in lines if line.startswith(name)]


@pytest.mark.parametrize("kind", KINDS)
def test_judges(kind: str) -> None:
    document = hl7_message(study(kind, rg1()))
    assert document == hl7_message(study(kind, rg1()))
    parsed = hl7apy(document.content)
    assert parsed.msh.msh_9.to_er7() == "ORU^R01^ORU_R01"
    assert parsed.msh.msh_10.to_er7() == document.uid
    read = hl7.parse(document.content.decode())
    assert str(read["PID"][0][5]) == "CompressedSamples^RG1"


def test_header_and_order() -> None:
    result = study(file=rg1())
    (header,) = fields(result, "MSH")
    # MSH-1 is the delimiter itself: the split is off by one.
    assert (header[11], header[14], header[15], header[17]) == ("2.5.1", "AL", "NE", "UNICODE UTF-8")
    assert len(header[9]) <= 20
    (request,) = fields(result, "OBR")
    assert (request[4], request[24], request[25]) == ("30745-4^XR Chest Views^LN", "RAD", "P")
    (order,) = fields(result, "ORC")
    assert order[1:3] == ["RE", of(rg1())[1].order.accession_number]
    assert request[3] == order[3]
    assert len(order[3]) <= 22


@pytest.mark.parametrize(
    ("kind", "value", "status", "flag"),
    [
        ("present", "52101004^Present^SCT", "P", "A"),
        ("absent", "2667000^Absent^SCT", "P", ""),
        ("abstain", "373068000^Undetermined^SCT", "P", ""),
        ("out of scope", "Not assessed, out of scope: the patient is older than 18 years.", "X", ""),
    ],
)
def test_finding(kind: str, value: str, status: str, flag: str) -> None:
    found = [each for each in fields(study(kind), "OBX") if each[3].startswith("233604007^Pneumonia^SCT^PNEUMONIA")]
    assert [(each[5], each[11], each[8]) for each in found] == [(value, status, flag)]


def test_probability_and_operating_point() -> None:
    numbers = {each[3].split("^")[0]: (each[5], each[6]) for each in fields(study(), "OBX") if each[4] == "1.2"}
    assert numbers["PROBABILITY"] == ("97.00", "%^Percent^UCUM")
    assert numbers["THRESHOLD"] == ("42.60", "%^Percent^UCUM")


def test_what_was_not_analysed_is_said() -> None:
    said = fields(two_films(), "OBX")
    assert [each[4] for each in said if each[3].startswith("ANALYSIS")] == ["1", "2"]
    assert any("Film 2: Not analysed: body part PELVIS" in each[5] for each in said)
    assert [each[1] for each in said] == [str(number) for number in range(1, len(said) + 1)]


def test_nothing_is_final() -> None:
    assert all(each[11] in ("P", "X") for kind in KINDS for each in fields(study(kind), "OBX"))


def test_segments_are_built_by_number() -> None:
    assert segment("OBR", {4: ("a^b", "c"), 2: "x|y"}) == r"OBR||x\F\y||a\S\b^c"
    assert segment("PID", {3: ["1", ("2", "3")]}) == "PID|||1~2^3"


@given(st.text(max_size=300))
def test_no_text_breaks_out(text: str) -> None:
    escaped = escape(text)
    assert not set(escaped) & set("|^&~\r\n\x0b\x1c")
    escaped.encode()
    # What is escaped comes back, blanks for controls and `\.br\` for line ends.
    back = escaped
    for code, letter in ((r"\F" + "\\", "|"), (r"\S" + "\\", "^"), (r"\T" + "\\", "&"), (r"\R" + "\\", "~")):
        back = back.replace(code, letter)
    assert back.count("|") == text.count("|")
    assert all(len(escape(line)) <= MAX_LINE for line in wrap(text))


@settings(deadline=None, max_examples=60)
@given(name=st.text(max_size=64), number=st.text(max_size=64), reason=st.text(min_size=1, max_size=400))
def test_any_patient_and_reason(name: str, number: str, reason: str) -> None:
    one = film_result("present")
    source = replace(one.source, patient=Patient(patient_id=number, name=name, issuer=number[:5]))
    content = hl7_message(StudyResult((FilmResult(source, not_analysed=reason),), MODEL, AT, "0.1.0")).content
    lines = content.decode().split("\r")
    assert [line[:3] for line in lines[:4]] == ["MSH", "PID", "ORC", "OBR"]
    assert all(line[:3] == "OBX" for line in lines[4:-1])
    assert lines[-1] == ""
    assert len(lines[1].split("|")) == 9
    hl7.parse(content.decode())


@settings(deadline=None, max_examples=25)
@given(name=st.text("абвгґдеєжзиіїйклмнопрстуфхцчшщьюя' -^", min_size=1, max_size=60))
def test_cyrillic_names_from_film_to_message(name: str) -> None:
    data = dicom(SpecificCharacterSet="ISO_IR 192", PatientName=name.strip() or "я")
    source = source_of(pydicom.dcmread(io.BytesIO(data)))
    result = StudyResult((FilmResult(source, not_analysed="no chest"),), MODEL, AT, "0.1.0")
    shown = hl7apy(hl7_message(result).content).oru_r01_patient_result.oru_r01_patient.pid.pid_5.to_er7()
    family = source.patient.name.split("^")[0].strip()
    assert shown.split("^")[0] == family
    report = pydicom.dcmread(io.BytesIO(structured_report(result).content))
    assert str(report.PatientName) == source.patient.name


def test_suffix_stands_before_prefix() -> None:
    (patient,) = fields(with_patient(Patient(patient_id="1", name="Doe^John^Q^Dr^Jr")), "PID")
    assert patient[5] == "Doe^John^Q^Jr^Dr"


def test_patients_nobody_knows_are_not_one() -> None:
    one = fields(with_patient(Patient()), "PID")[0][3]
    other = fields(replace(with_patient(Patient()), model=replace(MODEL, sha256="cd" * 32)), "PID")[0][3]
    assert one.endswith("^^^^U")
    assert one != other


def test_addresses() -> None:
    document = hl7_message(study(), addresses=Addresses("APP", "FAC", "RIS|1", "HOSP", "MRN"))
    header, patient = document.content.decode().split("\r")[:2]
    assert header.startswith(r"MSH|^~\&|APP|FAC|RIS\F\1|HOSP|")
    assert "PHANTOM-1^^^MRN^MR" in patient
    hl7apy(document.content)
