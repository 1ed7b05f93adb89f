"""What all DICOM results share: patient and study of the film, a series of their own, UIDs that come out the same."""

from __future__ import annotations

import io
import re
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset
from pydicom.filewriter import correct_ambiguous_vr, write_dataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import UID, ExplicitVRLittleEndian

from rentgen.errors import InputError
from rentgen.outputs.codes import SCHEME, SCHEME_NAME, SCHEME_UID, Code
from rentgen.records.results import Document, Kind, Order, Patient, SourceImage, StudyResult

MANUFACTURER = "Rentgen"
MEDIA_TYPE = "application/dicom"
FIRST_SERIES = 900
"""Series Number of the first kind of result; those of the films are below, as a rule."""

IMPLEMENTATION_VERSION = "RENTGEN"
IMPLEMENTATION_UID = "2.25.257421217900952548704024349293786521604"
# As `images.dicom` turns a film before it is analysed.
_ORIENTATIONS: Mapping[tuple[str, ...], int] = {("L", "F"): 1, ("R", "F"): 2, ("R", "H"): 3, ("L", "H"): 4}
_GREY = (
    "RescaleIntercept",
    "RescaleSlope",
    "RescaleType",
    "ModalityLUTSequence",
    "WindowCenter",
    "WindowWidth",
    "VOILUTFunction",
    "VOILUTSequence",
    "PhotometricInterpretation",
    "PresentationLUTShape",
    "PixelRepresentation",
    "BitsStored",
)
_IDENTIFIERS = {"PatientID": 64, "IssuerOfPatientID": 64, "StudyID": 16, "AccessionNumber": 16}
_AGE = re.compile(r"\d{3}[DWMY]", re.ASCII)
_DATE = re.compile(r"\d{8}", re.ASCII)
_TIME = re.compile(r"\d{2}(\d{2}(\d{2}(\.\d{1,6})?)?)?", re.ASCII)
_OFFSET = re.compile(r"[+-](0\d|1[0-4])[0-5]\d", re.ASCII)


@dataclass(frozen=True, slots=True)
class Make:
    """What kind of object is made.

    Attributes:
        kind: of document.
        sop_class_uid: of the object.
        modality: of its series.
        series: is added to `FIRST_SERIES`.
        title: of the series.
    """

    kind: Kind
    sop_class_uid: str
    modality: str
    series: int
    title: str


def source_of(ds: Dataset, *, source: str = "film") -> SourceImage:
    """Return what results need of a film's DICOM object.

    Args:
        ds: the object; its pixels are not looked at.
        source: what stands for it in messages.

    Raises:
        InputError: it lacks a UID or its size, or holds an identifier that is too long to be handed on.
    """
    try:
        return SourceImage(
            sop_class_uid=str(ds.get("SOPClassUID", "")),
            sop_instance_uid=str(ds.get("SOPInstanceUID", "")),
            series_instance_uid=str(ds.get("SeriesInstanceUID", "")),
            patient=Patient(
                patient_id=_text(ds, "PatientID"),
                issuer=_text(ds, "IssuerOfPatientID"),
                name=_name(ds, "PatientName"),
                birth_date=_matching(ds, "PatientBirthDate", _DATE),
                sex=_one_of(ds, "PatientSex", ("M", "F", "O")),
                age=_matching(ds, "PatientAge", _AGE),
            ),
            order=Order(
                study_instance_uid=str(ds.get("StudyInstanceUID", "")),
                study_id=_text(ds, "StudyID"),
                study_date=_matching(ds, "StudyDate", _DATE),
                study_time=_matching(ds, "StudyTime", _TIME),
                accession_number=_text(ds, "AccessionNumber"),
                referring_physician=_name(ds, "ReferringPhysicianName"),
                description=_text(ds, "StudyDescription"),
                timezone=_matching(ds, "TimezoneOffsetFromUTC", _OFFSET),
            ),
            rows=int(ds.get("Rows") or 0),
            columns=int(ds.get("Columns") or 0),
            orientation=_ORIENTATIONS.get(_directions(ds), 1),
            patient_orientation=_directions(ds),
            modality=_text(ds, "Modality")[:16],
            body_part_examined=_text(ds, "BodyPartExamined")[:16],
            view_position=_text(ds, "ViewPosition")[:16],
            laterality=_one_of(ds, "ImageLaterality", ("R", "L", "B", "U")) or _one_of(ds, "Laterality", ("R", "L")),
            spacing_mm=_spacing(ds),
            instance_number=_number(ds, "InstanceNumber"),
            grey=_grey(ds),
        )
    except ValueError as error:
        raise InputError(source, f"no result can refer to the DICOM object: {error}") from error


def _text(ds: Dataset, keyword: str) -> str:
    """Return the first value of a text element, without control characters; refuse an identifier that is too long.

    Other words are cut: a description says as much in 64 characters, but half a number is another patient's.
    """
    value = ds.get(keyword)
    if value is None:
        return ""
    first = value[0] if isinstance(value, Sequence) and not isinstance(value, str) and value else value
    text = _clean(str(first))
    most = _IDENTIFIERS.get(keyword)
    if most is None:
        return text[:64]
    if len(text) > most:
        raise ValueError(f"Expected {keyword} of at most {most} characters, but it has {len(text)}.")
    return text


def _clean(text: str) -> str:
    # A backslash would part one value into two.
    return " ".join("".join(" " if letter < " " or letter in "\\\x7f" else letter for letter in text).split())


def _name(ds: Dataset, keyword: str) -> str:
    """Return a person's name, its component groups cut at 64 characters (PS3.5 6.2)."""
    value = ds.get(keyword)
    if value is None:
        return ""
    groups = [_clean(group)[:64] for group in str(value).split("=")[:3]]
    return "=".join(groups).rstrip("=")


def _matching(ds: Dataset, keyword: str, pattern: re.Pattern[str]) -> str:
    text = str(ds.get(keyword) or "").strip()
    return text if pattern.fullmatch(text) else ""


def _one_of(ds: Dataset, keyword: str, allowed: tuple[str, ...]) -> str:
    text = str(ds.get(keyword) or "").strip()
    return text if text in allowed else ""


def _number(ds: Dataset, keyword: str) -> int:
    try:
        return max(1, min(int(ds.get(keyword) or 1), 2**31 - 1))
    except (TypeError, ValueError):
        return 1


def _directions(ds: Dataset) -> tuple[str, ...]:
    value = ds.get("PatientOrientation")
    if value is None or isinstance(value, str):
        return ()
    directions = tuple(str(each).strip() for each in value)
    return directions if len(directions) == 2 and all(re.fullmatch("[ALRPHF]{1,3}", d) for d in directions) else ()


def _spacing(ds: Dataset) -> tuple[float, float] | None:
    """Return the spacing in the patient: Pixel Spacing that is above 0 and not merely the detector's."""
    try:
        values = [float(value) for value in ds.get("PixelSpacing") or ()]
        imager = [float(value) for value in ds.get("ImagerPixelSpacing") or ()]
    except (TypeError, ValueError):
        return None
    if len(values) != 2 or not all(0 < value < 100 for value in values):
        return None
    if values == imager and not ds.get("PixelSpacingCalibrationType"):
        return None
    return (values[0], values[1])


def _grey(ds: Dataset) -> bytes:
    picked = Dataset()
    for keyword in _GREY:
        if keyword in ds:
            picked.add(ds[keyword])
    stream = DicomBytesIO()
    stream.is_implicit_VR, stream.is_little_endian = False, True
    write_dataset(stream, correct_ambiguous_vr(picked, is_little_endian=True))
    return stream.getvalue()


def grey_of(source: SourceImage) -> Dataset:
    """Return the film's grey transformations as a data set."""
    return read_dataset(io.BytesIO(source.grey), is_implicit_VR=False, is_little_endian=True)


def uid_of(identifier: uuid.UUID) -> str:
    """Return a UUID as a DICOM UID (PS3.5 B.2)."""
    return f"2.25.{identifier.int}"


def code_item(code: Code) -> Dataset:
    """Return a code as an item of a code sequence."""
    item = Dataset()
    if len(code.value) > 16:
        item.LongCodeValue = code.value
    else:
        item.CodeValue = code.value
    item.CodingSchemeDesignator = code.scheme
    item.CodeMeaning = code.meaning
    return item


def local_time(result: StudyResult) -> datetime:
    """Return when the result was made, on the clock of the study where its header names that clock's zone."""
    offset = result.first.order.timezone
    if not offset:
        return result.created_at
    minutes = int(offset[1:3]) * 60 + int(offset[3:5])
    return result.created_at.astimezone(timezone(timedelta(minutes=-minutes if offset[0] == "-" else minutes)))


def new_object(result: StudyResult, make: Make, *parts: str) -> Dataset:
    """Return a data set with the modules that all results have: patient, study, series, equipment, SOP common.

    Args:
        result: of the study.
        make: which kind of object.
        parts: what tells objects of one kind apart, such as the film's SOP Instance UID.
    """
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.SOPClassUID = make.sop_class_uid
    ds.SOPInstanceUID = uid_of(result.identify(make.kind, *parts))
    patient, order = result.first.patient, result.first.order
    ds.PatientName, ds.PatientID = patient.name, patient.patient_id
    if patient.issuer:
        ds.IssuerOfPatientID = patient.issuer
    ds.PatientBirthDate, ds.PatientSex = patient.birth_date, patient.sex
    if patient.age:
        ds.PatientAge = patient.age
    ds.StudyInstanceUID = order.study_instance_uid
    ds.StudyID, ds.AccessionNumber = order.study_id, order.accession_number
    ds.StudyDate, ds.StudyTime = order.study_date, order.study_time
    ds.ReferringPhysicianName = order.referring_physician
    if order.description:
        ds.StudyDescription = order.description
    if order.timezone:
        ds.TimezoneOffsetFromUTC = order.timezone
    ds.SeriesInstanceUID = uid_of(result.identify(make.kind, "series"))
    ds.SeriesNumber = FIRST_SERIES + make.series
    ds.SeriesDescription = f"{make.title} (AI, not verified)"
    ds.Modality = make.modality
    made = local_time(result)
    ds.SeriesDate = ds.InstanceCreationDate = made.strftime("%Y%m%d")
    ds.SeriesTime = ds.InstanceCreationTime = made.strftime("%H%M%S")
    ds.InstanceNumber = 1
    ds.Manufacturer = MANUFACTURER
    ds.ManufacturerModelName = result.model.name[:64]
    ds.DeviceSerialNumber = result.model.sha256
    ds.SoftwareVersions = [result.software[:64], result.model.version[:64]]
    ds.CodingSchemeIdentificationSequence = Items([_scheme_item()])
    return ds


def _scheme_item() -> Dataset:
    item = Dataset()
    item.CodingSchemeDesignator = SCHEME
    item.CodingSchemeUID = SCHEME_UID
    item.CodingSchemeName = SCHEME_NAME
    item.CodingSchemeResponsibleOrganization = MANUFACTURER
    return item


def stamp_content(ds: Dataset, result: StudyResult) -> None:
    """Set Content Date and Time to when the result was made."""
    made = local_time(result)
    ds.ContentDate, ds.ContentTime = made.strftime("%Y%m%d"), made.strftime("%H%M%S")


def reference(image: SourceImage) -> Dataset:
    """Return an item that refers to an image."""
    item = Dataset()
    item.ReferencedSOPClassUID = image.sop_class_uid
    item.ReferencedSOPInstanceUID = image.sop_instance_uid
    return item


def series_references(images: Iterable[SourceImage], items: str) -> Items:
    """Return a Referenced Series Sequence of images.

    Args:
        images: of one study.
        items: keyword of the sequence of images inside: `ReferencedSOPSequence` or `ReferencedImageSequence`.
    """
    by_series: dict[str, list[Dataset]] = {}
    for image in images:
        by_series.setdefault(image.series_instance_uid, []).append(reference(image))
    series = []
    for uid, references in by_series.items():
        item = Dataset()
        item.SeriesInstanceUID = uid
        setattr(item, items, Items(references))
        series.append(item)
    return Items(series)


def evidence(result: StudyResult) -> Items:
    """Return the Current Requested Procedure Evidence Sequence: all films of the result."""
    item = Dataset()
    item.StudyInstanceUID = result.first.order.study_instance_uid
    item.ReferencedSeriesSequence = series_references((film.source for film in result.films), "ReferencedSOPSequence")
    return Items([item])


def finish(ds: Dataset, make: Make, number: int = 1) -> Document:
    """Return a data set as a DICOM file in Explicit VR Little Endian.

    Args:
        ds: complete.
        make: which kind of object.
        number: of the object among those of its kind.
    """
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID = UID(make.sop_class_uid)
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    ds.file_meta.ImplementationClassUID = UID(IMPLEMENTATION_UID)
    ds.file_meta.ImplementationVersionName = IMPLEMENTATION_VERSION
    stream = io.BytesIO()
    ds.save_as(stream, enforce_file_format=True)
    return Document(make.kind, MEDIA_TYPE, stream.getvalue(), str(ds.SOPInstanceUID), f"{make.kind}-{number}.dcm")
