"""A FHIR R4 transaction bundle of a result: posting it twice makes nothing twice.

Plain JSON values. Resources refer to each other by `urn:uuid:`, each of which is an entry of the bundle; each is
created only where none with its identifier exists, or put under an id that is its own.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from rentgen.outputs import codes
from rentgen.outputs.codes import FHIR_SYSTEMS, SCHEME_UID, Code
from rentgen.outputs.dicom_common import MANUFACTURER
from rentgen.outputs.findings import PRESENCE_CODES, Finding, Presence, findings, headline, impression, sentences
from rentgen.records import DISCLAIMER
from rentgen.records.results import Document, FilmResult, Kind, SourceImage, StudyResult

Json = dict[str, Any]

DICOM_UID = "urn:dicom:uid"
"""System of identifiers that are DICOM UIDs."""

_HL7 = "http://terminology.hl7.org/CodeSystem"
_GENDERS = {"M": "male", "F": "female", "O": "other"}


@dataclass(frozen=True, slots=True)
class Systems:
    """Namespaces of a site's identifiers, and of ours.

    Attributes:
        patient: of PatientID; left as it is, each issuer that a film names gets a namespace of its own below it.
        accession: of accession numbers.
        results: of this program's own identifiers.
    """

    patient: str = f"urn:oid:{SCHEME_UID}.1"
    accession: str = f"urn:oid:{SCHEME_UID}.2"
    results: str = f"urn:oid:{SCHEME_UID}.3"


DEFAULT_SYSTEMS = Systems()


def fhir_bundle(result: StudyResult, *, systems: Systems = DEFAULT_SYSTEMS, pdf: bytes | None = None) -> Json:
    """Return a transaction bundle: Patient, order, ImagingStudy, Device, Observations, report, Provenance, audit.

    Args:
        result: of the study.
        systems: namespaces of identifiers.
        pdf: the report, to stand in the DiagnosticReport; the same result gives the same bundle only where it is the
            same.
    """
    links = {name: result.identify(Kind.FHIR, name).urn for name in ("study", "report", "provenance", "audit", "order")}
    # Of one patient and one model there is one, whatever the study.
    links["device"] = result.model.uuid.urn
    links["patient"] = result.identify(Kind.FHIR, "patient").urn
    order = result.first.order
    entries = [
        _entry(links["patient"], _patient(result, systems), _unless(_patient_identifier(result, systems))),
        _entry(links["device"], _device(result, systems), _unless(_own(result.model.uuid.urn, systems))),
        _entry(links["study"], _study(result, links), _unless(_uid(order.study_instance_uid))),
    ]
    if order.accession_number:
        entries.append(_entry(links["order"], _order(result, links, systems), _unless(_accession(result, systems))))
    observations = _observations(result, links, systems)
    entries += observations
    made = [entry["fullUrl"] for entry in observations]
    report = _report(result, links, systems, made, pdf)
    entries.append(_entry(links["report"], report, _unless(_own(links["report"], systems))))
    # Neither of the two has an identifier in R4: each is put under an id of its own.
    entries.append(_put(links["provenance"], _provenance(result, links, [links["report"], *made])))
    entries.append(_put(links["audit"], _audit(result, links)))
    return {
        "resourceType": "Bundle",
        "identifier": _own(result.identify(Kind.FHIR).urn, systems),
        "type": "transaction",
        "timestamp": _instant(result.created_at),
        "entry": entries,
    }


def fhir_document(result: StudyResult, *, systems: Systems = DEFAULT_SYSTEMS, pdf: bytes | None = None) -> Document:
    """Return `fhir_bundle` as a document, UTF-8."""
    bundle = fhir_bundle(result, systems=systems, pdf=pdf)
    content = json.dumps(bundle, ensure_ascii=False, separators=(",", ":")).encode()
    return Document(Kind.FHIR, "application/fhir+json", content, bundle["identifier"]["value"], "fhir.json")


def dangling(bundle: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the references of a bundle that none of its entries answers; a bundle of ours has none."""
    known = {entry["fullUrl"] for entry in bundle["entry"]}
    return tuple(sorted(set(_references(bundle["entry"])) - known))


def _references(value: object) -> list[str]:
    if isinstance(value, Mapping):
        own = [value["reference"]] if isinstance(value.get("reference"), str) else []
        return own + [found for inner in value.values() for found in _references(inner)]
    if isinstance(value, list):
        return [found for inner in value for found in _references(inner)]
    return []


def _entry(url: str, resource: Json, condition: str) -> Json:
    request = {"method": "POST", "url": resource["resourceType"], "ifNoneExist": condition}
    return {"fullUrl": url, "resource": resource, "request": request}


def _put(url: str, resource: Json) -> Json:
    identifier = url.removeprefix("urn:uuid:")
    request = {"method": "PUT", "url": f"{resource['resourceType']}/{identifier}"}
    return {"fullUrl": url, "resource": {**resource, "id": identifier}, "request": request}


def _unless(identifier: Json) -> str:
    """Return the search that finds a resource by its identifier.

    `|` parts a system from a value, `,` and `$` have meanings of their own: a value that holds one is escaped first
    (FHIR R4 3.1.1.5.7), then all is percent-encoded.
    """
    value = re.sub(r"([\\,$|])", r"\\\1", identifier["value"])
    return f"identifier={quote(identifier['system'], safe=':/')}|{quote(value, safe='')}"


def _own(value: str, systems: Systems) -> Json:
    return {"system": systems.results, "value": value.removeprefix("urn:uuid:")}


def _uid(uid: str) -> Json:
    return {"system": DICOM_UID, "value": f"urn:oid:{uid}"}


def _patient_identifier(result: StudyResult, systems: Systems) -> Json:
    patient = result.first.patient
    if not patient.patient_id:
        # Nobody knows whom it shows: one of the study's own, never somebody else's.
        return _own(f"patient-of-{result.first.order.study_instance_uid}", systems)
    system = systems.patient
    if patient.issuer and system == DEFAULT_SYSTEMS.patient:
        # Two issuers may give two patients one number.
        system = f"{system}.{uuid.uuid5(uuid.NAMESPACE_OID, patient.issuer).int}"
    return {"system": system, "value": patient.patient_id}


def _accession(result: StudyResult, systems: Systems) -> Json:
    return {"system": systems.accession, "value": result.first.order.accession_number}


def _coding(code: Code) -> Json:
    return {"system": FHIR_SYSTEMS[code.scheme], "code": code.value, "display": code.meaning}


def _concept(*several: Code, text: str = "") -> Json:
    return {"coding": [_coding(code) for code in several], "text": text or several[0].meaning}


def _link(url: str) -> Json:
    return {"reference": url}


def _instant(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _patient(result: StudyResult, systems: Systems) -> Json:
    patient = result.first.patient
    resource: Json = {"resourceType": "Patient", "identifier": [_patient_identifier(result, systems)]}
    name = _human_name(patient.name)
    if name:
        resource["name"] = [name]
    if patient.sex in _GENDERS:
        resource["gender"] = _GENDERS[patient.sex]
    if born := _date(patient.birth_date):
        resource["birthDate"] = born
    return resource


def _human_name(name: str) -> Json:
    """Return a DICOM name's first component group that is not empty as a HumanName; empty where there is none."""
    group = next((group for group in name.split("=") if group.strip("^ ")), "")
    family, given, middle, prefix, suffix = (part.strip() for part in [*group.split("^"), "", "", "", "", ""][:5])
    parts: Json = {
        "family": family,
        "given": [each for each in (given, middle) if each],
        "prefix": [prefix] if prefix else [],
        "suffix": [suffix] if suffix else [],
    }
    return {key: value for key, value in parts.items() if value}


def _date(text: str) -> str:
    """Return YYYYMMDD as a FHIR date; empty where it is none."""
    try:
        return datetime.strptime(text, "%Y%m%d").replace(tzinfo=UTC).date().isoformat()
    except ValueError:
        return ""


def _device(result: StudyResult, systems: Systems) -> Json:
    model = result.model
    return {
        "resourceType": "Device",
        "identifier": [_own(model.uuid.urn, systems)],
        "status": "active",
        "manufacturer": MANUFACTURER,
        "serialNumber": model.sha256,
        "deviceName": [{"name": model.name, "type": "model-name"}],
        "type": {"text": "Software that reads radiographs; research use"},
        "version": [{"value": model.version}, {"type": {"text": "Rentgen"}, "value": result.software}],
        "note": [{"text": DISCLAIMER}],
    }


def _study(result: StudyResult, links: Mapping[str, str]) -> Json:
    order = result.first.order
    series: dict[str, list[SourceImage]] = {}
    for film in result.films:
        series.setdefault(film.source.series_instance_uid, []).append(film.source)
    resource: Json = {
        "resourceType": "ImagingStudy",
        "identifier": [_uid(order.study_instance_uid)],
        "status": "available",
        "modality": [_modality(name) for name in sorted({film.source.modality or "OT" for film in result.films})],
        "subject": _link(links["patient"]),
        "series": [_series(uid, images) for uid, images in series.items()],
    }
    if order.accession_number:
        resource["basedOn"] = [_link(links["order"])]
    if started := _date(order.study_date):
        resource["started"] = started
    if order.description:
        resource["description"] = order.description
    return resource


def _modality(name: str) -> Json:
    return {"system": FHIR_SYSTEMS["DCM"], "code": name}


def _series(uid: str, images: list[SourceImage]) -> Json:
    series: Json = {
        "uid": uid,
        "modality": _modality(images[0].modality or "OT"),
        "instance": [
            {
                "uid": image.sop_instance_uid,
                "sopClass": {"system": "urn:ietf:rfc:3986", "code": f"urn:oid:{image.sop_class_uid}"},
                "number": image.instance_number,
            }
            for image in images
        ],
    }
    if codes.is_chest(images[0].body_part_examined):
        series["bodySite"] = _coding(codes.CHEST)
    return series


def _order(result: StudyResult, links: Mapping[str, str], systems: Systems) -> Json:
    kind = {"coding": [{"system": f"{_HL7}/v2-0203", "code": "ACSN"}]}
    return {
        "resourceType": "ServiceRequest",
        "identifier": [{"type": kind, **_accession(result, systems)}],
        "status": "unknown",
        "intent": "order",
        "code": _concept(codes.procedure(result.first.body_part_examined)),
        "subject": _link(links["patient"]),
    }


def _observations(result: StudyResult, links: Mapping[str, str], systems: Systems) -> list[Json]:
    entries = []
    for film in result.films:
        status = _observation(result, film, None, links, systems)
        made = [status, *(_observation(result, film, each, links, systems) for each in findings(film, result.model))]
        for resource in made:
            url = f"urn:uuid:{resource['identifier'][0]['value']}"
            entries.append(_entry(url, resource, _unless(resource["identifier"][0])))
    return entries


def _observation(
    result: StudyResult, film: FilmResult, finding: Finding | None, links: Mapping[str, str], systems: Systems
) -> Json:
    """Return what is said of one label of a film; of the film's analysis as a whole where there is no label."""
    uid = film.source.sop_instance_uid
    part = "analysis" if finding is None else f"label {finding.label}"
    resource: Json = {
        "resourceType": "Observation",
        "identifier": [_own(result.identify(Kind.FHIR, uid, part).urn, systems)],
        "status": "preliminary",
        "category": [{"coding": [{"system": f"{_HL7}/observation-category", "code": "imaging"}]}],
        "code": _concept(codes.ANALYSIS) if finding is None else _concept(*finding.entry.all),
        "subject": _link(links["patient"]),
        "effectiveDateTime": _date(result.first.order.study_date) or _instant(result.created_at),
        "issued": _instant(result.created_at),
        "device": _link(links["device"]),
        "derivedFrom": [{**_link(links["study"]), "identifier": _uid(uid)}],
        "note": [{"text": text} for text in (headline(result.model), DISCLAIMER)],
    }
    if codes.is_chest(film.source.body_part_examined):
        resource["bodySite"] = _concept(codes.CHEST)
    if finding is None:
        resource["valueCodeableConcept"] = _concept(codes.STATUSES[film.status])
        resource["note"] += [{"text": line} for line in sentences(film, result.model)]
    else:
        resource |= _finding_values(film, finding)
    return resource


def _finding_values(film: FilmResult, finding: Finding) -> Json:
    values: Json = {}
    if finding.presence in PRESENCE_CODES:
        values["valueCodeableConcept"] = _concept(PRESENCE_CODES[finding.presence])
    elif finding.presence is Presence.NOT_ASSESSED:
        reason = {"coding": [{"system": f"{_HL7}/data-absent-reason", "code": "unsupported"}]}
        values["dataAbsentReason"] = {**reason, "text": "Not assessed: " + "; ".join(film.reasons)}
    if finding.probability is not None:
        components = [_percent(codes.PROBABILITY, finding.probability)]
        if finding.point is not None:
            components.append(_percent(codes.THRESHOLD, finding.point.threshold))
        values["component"] = components
    return values


def _percent(name: Code, share: float) -> Json:
    quantity = {"value": round(100 * share, 4), "unit": "%", "system": FHIR_SYSTEMS["UCUM"], "code": "%"}
    return {"code": _concept(name), "valueQuantity": quantity}


def _report(
    result: StudyResult, links: Mapping[str, str], systems: Systems, made: list[str], pdf: bytes | None
) -> Json:
    resource: Json = {
        "resourceType": "DiagnosticReport",
        "identifier": [_own(links["report"], systems)],
        # Never final: nobody has verified it.
        "status": "preliminary",
        "category": [{"coding": [{"system": f"{_HL7}/v2-0074", "code": "RAD"}]}],
        "code": _concept(codes.procedure(result.first.body_part_examined)),
        "subject": _link(links["patient"]),
        "effectiveDateTime": _date(result.first.order.study_date) or _instant(result.created_at),
        "issued": _instant(result.created_at),
        "imagingStudy": [_link(links["study"])],
        "result": [_link(url) for url in made],
        "conclusion": impression(result),
    }
    if result.first.order.accession_number:
        resource["basedOn"] = [_link(links["order"])]
    if pdf is not None:
        digest = hashlib.sha1(pdf, usedforsecurity=False).digest()
        resource["presentedForm"] = [
            {
                "contentType": "application/pdf",
                "data": base64.b64encode(pdf).decode(),
                "size": len(pdf),
                "hash": base64.b64encode(digest).decode(),
                "title": "AI report, not verified",
            }
        ]
    return resource


def _provenance(result: StudyResult, links: Mapping[str, str], targets: list[str]) -> Json:
    return {
        "resourceType": "Provenance",
        "target": [_link(url) for url in targets],
        "recorded": _instant(result.created_at),
        "agent": [
            {
                "type": {"coding": [{"system": f"{_HL7}/provenance-participant-type", "code": "assembler"}]},
                "who": _link(links["device"]),
            }
        ],
        "entity": [{"role": "source", "what": _link(links["study"])}],
    }


def _audit(result: StudyResult, links: Mapping[str, str]) -> Json:
    device = _link(links["device"])
    return {
        "resourceType": "AuditEvent",
        "type": _coding(codes.RESULT_ISSUED),
        "action": "C",
        "recorded": _instant(result.created_at),
        "outcome": "0",
        "agent": [{"who": device, "requestor": False}],
        "source": {"observer": device},
        "entity": [{"what": _link(links[name])} for name in ("patient", "study", "report")],
    }
