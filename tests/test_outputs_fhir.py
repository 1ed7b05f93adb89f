"""FHIR bundles, judged by three validators, none of which sees everything, and by our own check of references."""

from __future__ import annotations

import base64
import copy
import json
from dataclasses import replace
from typing import Any

import pytest
from answers import AT, KINDS, MODEL, film_result, of, rg1, study, two_films
from hypothesis import given, settings
from hypothesis import strategies as st
from validators import fhir_resources, fhirkit, npm_fhir

from rentgen.outputs.fhir import Systems, dangling, fhir_bundle, fhir_document
from rentgen.records.results import FilmResult, Patient, StudyResult

PDF = b"%PDF-1.4 made"


def resources(bundle: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    return [entry["resource"] for entry in bundle["entry"] if entry["resource"]["resourceType"] == kind]


def with_patient(patient: Patient) -> StudyResult:
    one = film_result("present")
    return StudyResult((replace(one, source=replace(one.source, patient=patient)),), MODEL, AT, "0.1.0")


def pneumonia(bundle: dict[str, Any]) -> dict[str, Any]:
    return next(each for each in resources(bundle, "Observation") if each["code"]["text"] == "Pneumonia")


@pytest.mark.parametrize("kind", KINDS)
def test_judges(kind: str) -> None:
    bundle = fhir_bundle(study(kind, rg1()), pdf=PDF)
    assert fhirkit(bundle) == []
    fhir_resources(bundle)
    assert dangling(bundle) == ()


@pytest.mark.parametrize("kind", ["present", "not analysed"])
def test_judge_of_value_sets(kind: str) -> None:
    assert npm_fhir(fhir_bundle(study(kind, rg1()), pdf=PDF)) == []


def test_dangling_references_are_seen() -> None:
    bundle = copy.deepcopy(fhir_bundle(study()))
    pneumonia(bundle)["device"]["reference"] = "urn:uuid:0"
    assert dangling(bundle) == ("urn:uuid:0",)


def test_the_same_bundle_each_time() -> None:
    assert fhir_document(study()) == fhir_document(study())
    # Another result of the same study: the study, the patient and the model are found again, the rest is new.
    first, second = fhir_bundle(study("not analysed")), fhir_bundle(study())
    conditions = [{entry["request"].get("ifNoneExist") for entry in each["entry"]} for each in (first, second)]
    shared = conditions[0] & conditions[1] - {None}
    assert len(shared) == 3
    assert not {entry["request"]["url"] for entry in first["entry"] if entry["request"]["method"] == "PUT"} & {
        entry["request"]["url"] for entry in second["entry"]
    }


def test_every_entry_is_conditional() -> None:
    bundle = fhir_bundle(two_films(), pdf=PDF)
    urls = [entry["fullUrl"] for entry in bundle["entry"]]
    assert len(urls) == len(set(urls))
    for entry in bundle["entry"]:
        request = entry["request"]
        if request["method"] == "POST":
            system, _, value = request["ifNoneExist"].removeprefix("identifier=").partition("|")
            assert system
            assert "|" not in value
        else:
            assert request["url"] == f"{entry['resource']['resourceType']}/{entry['resource']['id']}"


def test_nothing_is_final() -> None:
    bundle = fhir_bundle(study())
    assert {each["status"] for each in resources(bundle, "Observation")} == {"preliminary"}
    report = resources(bundle, "DiagnosticReport")[0]
    assert report["status"] == "preliminary"
    assert "not verified by a person" in report["conclusion"]
    assert len(report["result"]) == 3


@pytest.mark.parametrize(
    ("kind", "value", "reason", "probability"),
    [
        ("present", "Present", None, 97.0),
        ("absent", "Absent", None, 4.0),
        ("abstain", "Undetermined", None, 50.0),
        ("out of scope", None, "unsupported", None),
    ],
)
def test_observation(kind: str, value: str | None, reason: str | None, probability: float | None) -> None:
    said = pneumonia(fhir_bundle(study(kind)))
    assert said.get("valueCodeableConcept", {}).get("text") == value
    assert said.get("dataAbsentReason", {}).get("coding", [{}])[0].get("code") == reason
    shown = [each["valueQuantity"]["value"] for each in said.get("component", [])]
    assert shown == ([probability, 42.6] if probability is not None else [])
    assert [each["code"] for each in said["code"]["coding"]] == ["233604007", "RID5350", "PNEUMONIA"]


def test_what_was_not_analysed_is_said() -> None:
    bundle = fhir_bundle(study("not analysed"))
    (said,) = resources(bundle, "Observation")
    assert said["valueCodeableConcept"]["text"] == "Not analysed"
    assert "body part PELVIS" in json.dumps(said["note"])
    assert "body part PELVIS" in resources(bundle, "DiagnosticReport")[0]["conclusion"]


def test_who_and_from_what() -> None:
    bundle = fhir_bundle(study(file=rg1()), pdf=PDF)
    _, source = of(rg1())
    (device,) = resources(bundle, "Device")
    assert device["serialNumber"] == MODEL.sha256
    (imaging,) = resources(bundle, "ImagingStudy")
    assert imaging["identifier"] == [{"system": "urn:dicom:uid", "value": f"urn:oid:{source.order.study_instance_uid}"}]
    assert imaging["series"][0]["instance"][0]["uid"] == source.sop_instance_uid
    (provenance,) = resources(bundle, "Provenance")
    assert len(provenance["target"]) == 4
    (patient,) = resources(bundle, "Patient")
    assert (patient["birthDate"], patient["gender"]) == ("1940-03-05", "female")
    (form,) = resources(bundle, "DiagnosticReport")[0]["presentedForm"]
    assert base64.b64decode(form["data"]) == PDF


def test_patients_nobody_knows_are_not_one() -> None:
    bundle = fhir_bundle(with_patient(Patient()))
    (patient,) = resources(bundle, "Patient")
    assert patient["identifier"][0]["value"].startswith("patient-of-")


def test_issuers_part_numbers() -> None:
    def system(issuer: str, systems: Systems | None = None) -> str:
        result = with_patient(Patient(patient_id="1", issuer=issuer))
        bundle = fhir_bundle(result, systems=systems) if systems else fhir_bundle(result)
        identifier: dict[str, str] = resources(bundle, "Patient")[0]["identifier"][0]
        return identifier["system"]

    assert len({system(""), system("A"), system("B")}) == 3
    assert system("A", Systems(patient="urn:oid:1.2.3")) == "urn:oid:1.2.3"


NAMES = st.text(st.characters(exclude_categories=("Cc", "Cs"), exclude_characters="\\="), max_size=64)


@settings(deadline=None, max_examples=40)
@given(name=NAMES, number=st.text(st.characters(exclude_categories=("Cc", "Cs")), min_size=1, max_size=64))
def test_any_name_and_number(name: str, number: str) -> None:
    number = " ".join(number.split()) or "1"
    name = " ".join(name.split())
    bundle = fhir_bundle(with_patient(Patient(patient_id=number, name=name)))
    assert fhirkit(bundle) == []
    condition = bundle["entry"][0]["request"]["ifNoneExist"]
    assert condition.count("|") == 1
    assert condition.count("&") == 0
    assert resources(bundle, "Patient")[0]["identifier"][0]["value"] == number


def test_cyrillic_name() -> None:
    bundle = fhir_bundle(with_patient(Patient(patient_id="1", name="Шевченко^Тарас^Григорович^проф.^мол.")))  # noqa: RUF001
    assert resources(bundle, "Patient")[0]["name"] == [
        {"family": "Шевченко", "given": ["Тарас", "Григорович"], "prefix": ["проф."], "suffix": ["мол."]}  # noqa: RUF001
    ]


def test_reasons_are_of_the_film() -> None:
    result = StudyResult((FilmResult(film_result("present").source, not_analysed="a <b> & 'c'"),), MODEL, AT, "0.1.0")
    assert "a <b> & 'c'" in fhir_document(result).content.decode()
