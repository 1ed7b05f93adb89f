"""A key object selection: the films that should be read first, in the list where a PACS looks for them."""

from __future__ import annotations

from pydicom.dataset import Dataset
from pydicom.uid import KeyObjectSelectionDocumentStorage

from rentgen.outputs import codes
from rentgen.outputs.codes import Code
from rentgen.outputs.dicom_common import (
    MANUFACTURER,
    Make,
    code_item,
    finish,
    new_object,
    reference,
    series_references,
    stamp_content,
    uid_of,
)
from rentgen.outputs.findings import Presence, findings, headline, shorten
from rentgen.records import DISCLAIMER
from rentgen.records.results import Document, Kind, StudyResult

MAKE = Make(Kind.KEY_OBJECT, KeyObjectSelectionDocumentStorage, "KO", 3, "Rentgen read first")


def key_object(result: StudyResult) -> Document | None:
    """Return a Key Object Selection of the urgent films, "Of Interest"; None where none is.

    Args:
        result: of the study.
    """
    urgent = [film for film in result.films if film.urgent]
    if not urgent:
        return None
    ds = new_object(result, MAKE)
    stamp_content(ds, result)
    ds.ReferencedPerformedProcedureStepSequence = []
    selected = Dataset()
    selected.StudyInstanceUID = result.first.order.study_instance_uid
    selected.ReferencedSeriesSequence = series_references((film.source for film in urgent), "ReferencedSOPSequence")
    ds.CurrentRequestedProcedureEvidenceSequence = [selected]
    ds.ValueType = "CONTAINER"
    ds.ConceptNameCodeSequence = [code_item(codes.OF_INTEREST)]
    ds.ContinuityOfContent = "SEPARATE"
    template = Dataset()
    template.MappingResource = "DCMR"
    template.TemplateIdentifier = "2010"
    ds.ContentTemplateSequence = [template]
    # TID 2010 forbids a concept name on the images.
    images = [_item("CONTAINS", "IMAGE", None, ReferencedSOPSequence=[reference(film.source)]) for film in urgent]
    ds.ContentSequence = [*_observer(result), _description(result), *images]
    return finish(ds, MAKE)


def _item(relationship: str, value_type: str, name: Code | None, **values: object) -> Dataset:
    item = Dataset()
    item.RelationshipType = relationship
    item.ValueType = value_type
    if name is not None:
        item.ConceptNameCodeSequence = [code_item(name)]
    for keyword, value in values.items():
        setattr(item, keyword, value)
    return item


def _observer(result: StudyResult) -> list[Dataset]:
    """Return who selected (TID 1002, 1004): a device."""
    kind = _item(
        "HAS OBS CONTEXT",
        "CODE",
        Code("121005", "DCM", "Observer Type"),
        ConceptCodeSequence=[code_item(Code("121007", "DCM", "Device"))],
    )
    uid = _item(
        "HAS OBS CONTEXT", "UIDREF", Code("121012", "DCM", "Device Observer UID"), UID=uid_of(result.model.uuid)
    )
    name = _item(
        "HAS OBS CONTEXT",
        "TEXT",
        Code("121013", "DCM", "Device Observer Name"),
        TextValue=f"{MANUFACTURER} {result.software}",
    )
    return [kind, uid, name]


def _description(result: StudyResult) -> Dataset:
    present = {
        finding.entry.primary.meaning: None
        for film in result.films
        for finding in findings(film, result.model)
        if film.urgent and finding.presence is Presence.PRESENT
    }
    words = f"Read first: possible {', '.join(present)}. " if present else "Read first. "
    text = shorten(f"{words}{headline(result.model)} {DISCLAIMER}", 1024)
    return _item("CONTAINS", "TEXT", Code("113012", "DCM", "Key Object Description"), TextValue=text)
