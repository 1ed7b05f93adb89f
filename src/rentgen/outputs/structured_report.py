"""A DICOM structured report, TID 1500: each film's labels present, absent or not assessed, each with its evidence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np
from highdicom.sr import (
    AlgorithmIdentification,
    CodedConcept,
    DeviceObserverIdentifyingAttributes,
    FindingSite,
    ImageRegion,
    LanguageOfContentItemAndDescendants,
    Measurement,
    MeasurementReport,
    MeasurementsAndQualitativeEvaluations,
    ObservationContext,
    ObserverContext,
    PlanarROIMeasurementsAndQualitativeEvaluations,
    QualitativeEvaluation,
    SourceImageForMeasurementGroup,
    SourceImageForRegion,
    TextContentItem,
    TrackingIdentifier,
)
from highdicom.sr.enum import RelationshipTypeValues
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import Comprehensive3DSRStorage

from rentgen.outputs import codes
from rentgen.outputs.codes import Code
from rentgen.outputs.dicom_common import (
    MANUFACTURER,
    Make,
    evidence,
    finish,
    new_object,
    stamp_content,
    uid_of,
)
from rentgen.outputs.findings import Finding, Presence, findings, headline, shorten
from rentgen.records import DISCLAIMER
from rentgen.records.results import Document, FilmResult, Kind, StudyResult

MAKE = Make(Kind.STRUCTURED_REPORT, Comprehensive3DSRStorage, "SR", 0, "Rentgen report")

_PRESENCE = {
    Presence.PRESENT: codes.PRESENT,
    Presence.ABSENT: codes.ABSENT,
    Presence.UNDETERMINED: codes.UNDETERMINED,
    Presence.NOT_ASSESSED: codes.NOT_ASSESSED,
}
_ENGLISH = Code("en-US", "RFC5646", "English (United States)")
_MOST_REASON = 1000

Group = MeasurementsAndQualitativeEvaluations | PlanarROIMeasurementsAndQualitativeEvaluations


def structured_report(result: StudyResult) -> Document:
    """Return a Comprehensive 3D SR of a study, by TID 1500: preliminary, not verified.

    Each film has a group that says what its analysis is worth, and one for each label; a film that was not analysed has
    the first alone, with the reason.

    Args:
        result: of the study.
    """
    groups: list[Group] = []
    for film in result.films:
        groups.append(_status_group(result, film))
        groups += [_label_group(result, film, finding) for finding in findings(film, result.model)]
    report = MeasurementReport(
        observation_context=ObservationContext(observer_device_context=_observer(result)),
        # PS3.16 CID 100 is extensible, but its own code is the one that all readers know.
        procedure_reported=_concept(codes.IMAGING_PROCEDURE),
        imaging_measurements=groups,
        language_of_content_item_and_descendants=LanguageOfContentItemAndDescendants(_concept(_ENGLISH)),
    )
    ds = new_object(result, MAKE)
    stamp_content(ds, result)
    ds.CompletionFlag = "COMPLETE"
    ds.PreliminaryFlag = "PRELIMINARY"
    ds.VerificationFlag = "UNVERIFIED"
    ds.PerformedProcedureCodeSequence = Items()
    ds.ReferencedPerformedProcedureStepSequence = Items()
    ds.CurrentRequestedProcedureEvidenceSequence = evidence(result)
    for element in report[0]:
        ds.add(element)
    return finish(ds, MAKE)


def _concept(code: Code) -> CodedConcept:
    return CodedConcept(code.value, code.scheme, code.meaning)


def _observer(result: StudyResult) -> ObserverContext:
    attributes = DeviceObserverIdentifyingAttributes(
        uid=uid_of(result.model.uuid),
        name=f"{MANUFACTURER} {result.software}",
        manufacturer_name=MANUFACTURER,
        model_name=result.model.name,
        serial_number=result.model.sha256,
    )
    return ObserverContext(_concept(Code("121007", "DCM", "Device")), attributes)


def _algorithm(result: StudyResult, finding: Finding | None) -> AlgorithmIdentification:
    """Return the algorithm (TID 4019): with the hash of its weights, and the operating point and what it is worth."""
    parameters = [f"bundle sha256 {result.model.sha256}"]
    if finding is not None and finding.point is not None:
        point = finding.point
        measured = "; ".join(
            f"{name} {value['value']:.3f}"
            for name, value in (("sensitivity", point.sensitivity), ("specificity", point.specificity))
            if value.get("value") is not None
        )
        parameters.append(f"operating point {point.name}, threshold {point.threshold:.6f}; {measured}".rstrip("; "))
    return AlgorithmIdentification(name=result.model.name, version=result.model.version, parameters=parameters)


def _tracking(result: StudyResult, film: FilmResult, name: str) -> TrackingIdentifier:
    uid = uid_of(result.identify(Kind.STRUCTURED_REPORT, "tracking", film.source.sop_instance_uid, name))
    return TrackingIdentifier(uid=uid, identifier=name)


def _status_group(result: StudyResult, film: FilmResult) -> Group:
    """Return the group that says what a film's analysis is worth, and why."""
    group = MeasurementsAndQualitativeEvaluations(
        tracking_identifier=_tracking(result, film, "analysis"),
        finding_type=_concept(codes.ANALYSIS),
        algorithm_id=_algorithm(result, None),
        qualitative_evaluations=[_evaluate(codes.ANALYSIS_STATUS, codes.STATUSES[film.status])],
        source_images=[_source(film)],
    )
    _comment(group, shorten("; ".join([headline(result.model), *film.reasons]), _MOST_REASON) + f" {DISCLAIMER}")
    return group


def _label_group(result: StudyResult, film: FilmResult, finding: Finding) -> Group:
    measurements = []
    if finding.probability is not None:
        measurements.append(_percent(codes.PROBABILITY, finding.probability))
        if finding.point is not None:
            measurements.append(_percent(codes.THRESHOLD, finding.point.threshold))
    evaluations = []
    if finding.presence is not None:
        evaluations.append(_evaluate(codes.PRESENCE, _PRESENCE[finding.presence]))
    sites = [FindingSite(_concept(codes.CHEST))] if codes.is_chest(film.source.body_part_examined) else None
    tracking = _tracking(result, film, finding.label)
    algorithm = _algorithm(result, finding)
    kind = _concept(finding.entry.primary)
    if not finding.region:
        return MeasurementsAndQualitativeEvaluations(
            tracking_identifier=tracking,
            finding_type=kind,
            algorithm_id=algorithm,
            finding_sites=sites,
            measurements=measurements,
            qualitative_evaluations=evaluations,
            source_images=[_source(film)],
        )
    return PlanarROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=tracking,
        referenced_region=ImageRegion(
            graphic_type="POLYLINE",
            graphic_data=np.array(finding.region, np.float32),
            source_image=SourceImageForRegion(film.source.sop_class_uid, film.source.sop_instance_uid),
        ),
        finding_type=kind,
        algorithm_id=algorithm,
        finding_sites=sites,
        measurements=measurements,
        qualitative_evaluations=[*evaluations, _evaluate(codes.REGION_MEANING, codes.HEAT_MAP_REGION)],
    )


def _source(film: FilmResult) -> SourceImageForMeasurementGroup:
    return SourceImageForMeasurementGroup(film.source.sop_class_uid, film.source.sop_instance_uid)


def _percent(name: Code, share: float) -> Measurement:
    return Measurement(name=_concept(name), value=round(100 * share, 4), unit=_concept(codes.PERCENT))


def _evaluate(name: Code, value: Code) -> QualitativeEvaluation:
    return QualitativeEvaluation(_concept(name), _concept(value))


def _comment(group: Group, text: str) -> None:
    """Add a text to a group; TID 1501 is extensible, and has no row of its own for words."""
    item = TextContentItem(_concept(codes.COMMENT), text, RelationshipTypeValues.CONTAINS)
    cast("Sequence[Dataset]", group)[0].ContentSequence.append(item)
