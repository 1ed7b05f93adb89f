"""Synthetic films as digital radiography objects: valid, and the same bytes each time."""

from __future__ import annotations

import hashlib
import io
import re
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import RE_VALID_UID, DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian

from rentgen.errors import SettingError

MAGNIFICATION = 1.05
"""Of the patient on the detector: 1.8 m from the tube, some 9 cm behind the middle of the chest."""


class Photometric(StrEnum):
    """Enumerated values of Photometric Interpretation in a DX image (PS3.3 C.8.11.3)."""

    MONOCHROME1 = "MONOCHROME1"
    """The smallest value is white; Presentation LUT Shape is INVERSE."""
    MONOCHROME2 = "MONOCHROME2"
    """The smallest value is black; Presentation LUT Shape is IDENTITY."""


@dataclass(frozen=True, slots=True)
class DxHeader:
    """What a film's header says.

    Attributes:
        patient_id: PatientID.
        age: years, up to 999.
        spacing_mm: between pixels, in the patient, both ways.
        study_instance_uid: made from the pixels and the patient where None.
        series_instance_uid: likewise.
        sop_instance_uid: likewise.
        photometric_interpretation: how values become grey.
        bits_stored: 12 or 14.
    """

    patient_id: str
    age: int
    spacing_mm: float
    study_instance_uid: str | None = None
    series_instance_uid: str | None = None
    sop_instance_uid: str | None = None
    photometric_interpretation: Photometric = Photometric.MONOCHROME2
    bits_stored: int = 12

    def __post_init__(self) -> None:
        # PS3.5 6.2: a Long String has at most 64 characters and no backslash.
        if not 1 <= len(self.patient_id) <= 64 or "\\" in self.patient_id:
            raise SettingError("Expected `patient_id` to have 1 to 64 characters and no backslash.")
        if self.bits_stored not in (12, 14):
            raise SettingError(f"Expected `bits_stored` to be 12 or 14, but got {self.bits_stored}.")
        for name in ("study_instance_uid", "series_instance_uid", "sop_instance_uid"):
            value = getattr(self, name)
            if value is not None and (len(value) > 64 or not re.fullmatch(RE_VALID_UID, value)):
                raise SettingError(f"Expected `{name}` to be a DICOM UID, but got {value!r}.")


def dx_file(pixels: npt.NDArray[np.uint16], header: DxHeader) -> bytes:
    """Return a Digital X-Ray Image Storage - For Presentation file.

    Args:
        pixels: (height, width), the full range of uint16; bone is bright.
        header: what to say about them.
    """
    key = hashlib.sha256(header.patient_id.encode() + b"\0" + pixels.tobytes()).digest()
    ds = Dataset()
    _describe_patient_and_study(ds, header, key)
    _describe_acquisition(ds, header)
    _describe_pixels(ds, pixels, header)
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    stream = io.BytesIO()
    ds.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def _uid(role: str, key: bytes) -> str:
    """Return a UID under 2.25, the arc for UUIDs, that depends on nothing but the arguments."""
    value = bytearray(hashlib.sha256(role.encode() + key).digest()[:16])
    # RFC 9562 section 5.8: version 8, a UUID of one's own making.
    value[6] = value[6] & 0x0F | 0x80
    value[8] = value[8] & 0x3F | 0x80
    return f"2.25.{int.from_bytes(value)}"


def _code(value: str, scheme: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue = value
    item.CodingSchemeDesignator = scheme
    item.CodeMeaning = meaning
    return item


def _describe_patient_and_study(ds: Dataset, header: DxHeader, key: bytes) -> None:
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.SOPClassUID = DigitalXRayImageStorageForPresentation
    ds.SOPInstanceUID = header.sop_instance_uid or _uid("sop", key)
    ds.StudyInstanceUID = header.study_instance_uid or _uid("study", key)
    ds.SeriesInstanceUID = header.series_instance_uid or _uid("series", key)
    ds.PatientName = "Phantom^Synthetic"
    ds.PatientID = header.patient_id
    ds.PatientBirthDate = ""
    ds.PatientSex = "O"
    ds.PatientAge = f"{header.age:03d}Y"
    # A fixed day: the same film must be the same bytes whenever it is made.
    ds.StudyDate = ds.SeriesDate = ds.AcquisitionDate = ds.ContentDate = "20250101"
    ds.StudyTime = ds.SeriesTime = ds.AcquisitionTime = ds.ContentTime = "120000"
    ds.ReferringPhysicianName = ""
    ds.StudyID = "1"
    ds.AccessionNumber = ""
    ds.StudyDescription = "Chest"
    ds.Modality = "DX"
    ds.PresentationIntentType = "FOR PRESENTATION"
    ds.SeriesNumber = 1
    ds.SeriesDescription = "Synthetic chest film"
    ds.InstanceNumber = 1
    ds.Manufacturer = "Rentgen"
    ds.ManufacturerModelName = "Phantom"
    ds.DeviceSerialNumber = "1"
    ds.SoftwareVersions = "1"


def _describe_acquisition(ds: Dataset, header: DxHeader) -> None:
    ds.AcquisitionNumber = 1
    ds.BodyPartExamined = "CHEST"
    ds.ImageLaterality = "U"
    ds.AnatomicRegionSequence = Sequence([_code("51185008", "SCT", "Chest")])
    ds.ViewPosition = "PA"
    view = _code("399348003", "SCT", "postero-anterior")
    view.ViewModifierCodeSequence = Sequence()
    ds.ViewCodeSequence = Sequence([view])
    ds.PatientOrientation = ["L", "F"]
    ds.PositionerType = "NONE"
    ds.DetectorType = "DIRECT"
    ds.EstimatedRadiographicMagnificationFactor = f"{MAGNIFICATION}"
    # PS3.3 10.7: at the detector, and, corrected for the magnification, in the patient.
    ds.ImagerPixelSpacing = [round(MAGNIFICATION * header.spacing_mm, 6)] * 2
    ds.PixelSpacing = [round(header.spacing_mm, 6)] * 2
    ds.PixelSpacingCalibrationType = "GEOMETRY"
    ds.PixelSpacingCalibrationDescription = "Known geometry of a synthetic film"
    ds.AcquisitionContextSequence = Sequence()


def _describe_pixels(ds: Dataset, pixels: npt.NDArray[np.uint16], header: DxHeader) -> None:
    top = (1 << header.bits_stored) - 1
    values = ((pixels.astype(np.uint32) * top + 32767) // 65535).astype("<u2")
    inverse = header.photometric_interpretation is Photometric.MONOCHROME1
    if inverse:
        values = (top - values).astype("<u2")
    ds.ImageType = ["ORIGINAL", "PRIMARY", ""]
    ds.SamplesPerPixel = 1
    ds.PhotometricInterpretation = str(header.photometric_interpretation)
    ds.PresentationLUTShape = "INVERSE" if inverse else "IDENTITY"
    ds.Rows, ds.Columns = pixels.shape
    ds.BitsAllocated = 16
    ds.BitsStored = header.bits_stored
    ds.HighBit = header.bits_stored - 1
    ds.PixelRepresentation = 0
    ds.PixelIntensityRelationship = "LOG"
    # PS3.3 C.8.11.3.1.2: -1 where larger values mean less radiation on the detector.
    ds.PixelIntensityRelationshipSign = 1 if inverse else -1
    ds.RescaleIntercept = "0"
    ds.RescaleSlope = "1"
    ds.RescaleType = "US"
    # PS3.3 C.11.2.1.2.1: with this pair LINEAR maps 0 to black and the largest value to white.
    ds.WindowCenter = str((top + 1) // 2)
    ds.WindowWidth = str(top + 1)
    ds.BurnedInAnnotation = "NO"
    ds.LossyImageCompression = "00"
    ds.PixelData = values.tobytes() + b"\0" * (values.nbytes % 2)
