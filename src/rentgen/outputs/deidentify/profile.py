"""What stays of a film's header: a table, and nothing that is not in it.

PS3.15 Table E.1-1 lists some 650 attributes that must go. It cannot list private ones, nor those that a maker put where
they do not belong, nor what somebody typed into an attribute that is harmless as a rule. So the list is turned round:
an attribute stays only if it stands here, and its values only if they fit what stands here. No free text is kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from rentgen.images.dicom_elements import PIXEL_DATA

SOP_CLASSES: Mapping[str, str] = {
    "1.2.840.10008.5.1.4.1.1.1": "Computed Radiography Image Storage",
    "1.2.840.10008.5.1.4.1.1.1.1": "Digital X-Ray Image Storage - For Presentation",
    "1.2.840.10008.5.1.4.1.1.1.1.1": "Digital X-Ray Image Storage - For Processing",
}
"""The kinds of object that the table is made for, by UID."""


class Action(StrEnum):
    """What becomes of an attribute."""

    TERMS = "terms"
    """Kept as far as its values are among those of the table; others go."""
    NUMBERS = "numbers"
    """Kept if all its values are numbers between those of the table."""
    SHORTS = "shorts"
    """Binary; kept if it has as many values as the table says."""
    UID = "uid"
    """Replaced by a UID that the key makes of it."""
    DATE = "date"
    """Moved by the patient's number of days, or emptied."""
    EMPTY = "empty"
    """Emptied: it must be there, but need not say anything."""
    PSEUDONYM = "pseudonym"
    """Replaced by what the key makes of the PatientID."""
    AGE = "age"
    """Written anew from the age; all above 89 are one."""
    CODES = "codes"
    """The first item is kept if its code stands in the standard's own lists; its words are the list's."""
    LUT = "lut"
    """The first item is kept: its descriptor, its type, its data."""
    CONSTANT = "constant"
    """Written, whatever was there."""
    DUMMY = "dummy"
    """Replaced by a word that says nothing, where it was there: the standard wants one."""
    PIXELS = "pixels"
    """Kept byte for byte."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One line of the table.

    Attributes:
        tag: of the attribute.
        vr: its value representation; with two, the file says which.
        action: what becomes of it.
        terms: that may stay (TERMS), or the word that is written (CONSTANT, DUMMY).
        low: least number that may stay (NUMBERS).
        high: largest.
        most: values; further ones go.
        must: written empty where its values may not stay, for the standard demands that it is there.
    """

    tag: int
    vr: str
    action: Action
    terms: frozenset[str] = frozenset()
    low: float = 0
    high: float = 0
    most: int = 1
    must: bool = False


def _terms(tag: int, words: str, most: int = 1, *, must: bool = False, separator: str | None = None) -> Rule:
    return Rule(tag, "CS", Action.TERMS, frozenset(words.split(separator)), most=most, must=must)


def _numbers(tag: int, vr: str, low: float, high: float, most: int = 1, *, must: bool = False) -> Rule:
    return Rule(tag, vr, Action.NUMBERS, low=low, high=high, most=most, must=must)


def _shorts(tag: int, vr: str = "US", most: int = 1) -> Rule:
    return Rule(tag, vr, Action.SHORTS, most=most)


def _plain(tag: int, vr: str, action: Action) -> Rule:
    return Rule(tag, vr, action, must=True)


# PS3.16 Annex L, without what no radiograph shows, and four words that makers of CR use.
_BODY_PARTS = """
    ABDOMEN ABDOMENPELVIS ANKLE ARM AXILLA BACK BREAST BUTTOCK CALCANEUS CALF CERVIX CHEEK CHEST CHESTABDOMEN
    CHESTABDPELVIS CLAVICLE COCCYX COLON CSPINE CTSPINE ELBOW ESOPHAGUS EXTREMITY FACE FEMUR FINGER FOOT FOREARM
    GALLBLADDER HAND HEAD HEADNECK HEART HIP HUMERUS IAC ILIUM JAW KIDNEY KNEE LARYNX LEG LOW_EXM LSPINE LSSPINE LUNG
    MANDIBLE MASTOID MAXILLA MEDIASTINUM NECK NECKCHEST NECKCHESTABDOMEN NECKCHESTABDPELV NOSE ORBIT PATELLA PELVIS
    PHARYNX RADIUS RADIUSULNA RIB RIBS SCALP SCAPULA SHOULDER SINUS SKULL SPINE SSPINE STERNUM STOMACH THIGH THORAX
    THUMB TIBIA TIBIAFIBULA TLSPINE TMJ TOE TRACHEA TSPINE ULNA UP_EXM WHOLEBODY WHOLESPINE WRIST ZYGOMA
"""
_VIEWS = "AP PA LL RL LLD RLD LLO RLO LAO RAO LPO RPO LAT LATERAL OBL OBLIQUE AXIAL TANGENTIAL LATERALDECUBITUS"
# Up to three of the six directions: A, P, L, R, H, F.
_DIRECTIONS = " ".join(
    first + second + third
    for first in "APLRHF"
    for second in ("", *"APLRHF")
    for third in ("", *"APLRHF")
    if second or not third
)

PROFILE: tuple[Rule, ...] = (
    _terms(0x00080008, "ORIGINAL DERIVED PRIMARY SECONDARY", 2),  # ImageType
    Rule(0x00080016, "UI", Action.TERMS, frozenset(SOP_CLASSES)),  # SOPClassUID
    _plain(0x00080018, "UI", Action.UID),  # SOPInstanceUID
    _plain(0x00080020, "DA", Action.DATE),  # StudyDate
    _plain(0x00080021, "DA", Action.DATE),  # SeriesDate
    _plain(0x00080022, "DA", Action.DATE),  # AcquisitionDate
    _plain(0x00080023, "DA", Action.DATE),  # ContentDate
    _plain(0x00080030, "TM", Action.EMPTY),  # StudyTime
    _plain(0x00080033, "TM", Action.EMPTY),  # ContentTime
    _plain(0x00080050, "SH", Action.EMPTY),  # AccessionNumber
    _terms(0x00080060, "CR DX RG"),  # Modality
    _terms(0x00080068, "FOR PRESENTATION,FOR PROCESSING", separator=","),  # PresentationIntentType
    _plain(0x00080070, "LO", Action.EMPTY),  # Manufacturer
    _plain(0x00080090, "PN", Action.EMPTY),  # ReferringPhysicianName
    Rule(0x00082218, "SQ", Action.CODES, must=True),  # AnatomicRegionSequence
    _plain(0x00100010, "PN", Action.PSEUDONYM),  # PatientName
    _plain(0x00100020, "LO", Action.PSEUDONYM),  # PatientID
    _plain(0x00100030, "DA", Action.EMPTY),  # PatientBirthDate
    _terms(0x00100040, "M F O", must=True),  # PatientSex
    Rule(0x00101010, "AS", Action.AGE),  # PatientAge
    Rule(0x00120062, "CS", Action.CONSTANT, frozenset({"YES"})),  # PatientIdentityRemoved
    Rule(0x00120063, "LO", Action.CONSTANT, frozenset({"Rentgen: list of what may stay, DICOM PS3.15 E.2"})),
    _terms(0x00180015, _BODY_PARTS, must=True),  # BodyPartExamined
    _numbers(0x00180060, "DS", 0, 1000),  # KVP
    _numbers(0x00181110, "DS", 0, 10_000),  # DistanceSourceToDetector
    _numbers(0x00181111, "DS", 0, 10_000),  # DistanceSourceToPatient
    _numbers(0x00181114, "DS", 0, 100),  # EstimatedRadiographicMagnificationFactor
    _numbers(0x00181150, "IS", 0, 100_000),  # ExposureTime
    _numbers(0x00181151, "IS", 0, 100_000),  # XRayTubeCurrent
    _numbers(0x00181152, "IS", 0, 100_000),  # Exposure
    _numbers(0x00181153, "IS", 0, 1_000_000),  # ExposureInuAs
    _numbers(0x0018115E, "DS", 0, 1_000_000),  # ImageAndFluoroscopyAreaDoseProduct
    _numbers(0x00181164, "DS", 0, 100, 2),  # ImagerPixelSpacing
    _terms(0x00181166, "IN OUT NONE FIXED FOCUSED RECIPROCATING PARALLEL CROSSED", 4),  # Grid
    _numbers(0x00181190, "DS", 0, 100, 2),  # FocalSpots
    _numbers(0x00181405, "IS", 0, 1_000_000),  # RelativeXRayExposure
    _numbers(0x00181411, "DS", 0, 1_000_000),  # ExposureIndex
    _numbers(0x00181412, "DS", 0, 1_000_000),  # TargetExposureIndex
    _numbers(0x00181413, "DS", -1000, 1000),  # DeviationIndex
    _terms(0x00181508, "CARM COLUMN MAMMOGRAPHIC PANORAMIC CEPHALOSTAT RIGID NONE"),  # PositionerType
    _terms(0x00185101, _VIEWS, must=True),  # ViewPosition
    _numbers(0x00186000, "DS", 0, 1_000_000),  # Sensitivity
    _terms(0x00187004, "DIRECT SCINTILLATOR STORAGE FILM", must=True),  # DetectorType
    _numbers(0x00187030, "DS", -100_000, 100_000, 2),  # FieldOfViewOrigin
    _numbers(0x00187032, "DS", 0, 360),  # FieldOfViewRotation
    _terms(0x00187034, "YES NO"),  # FieldOfViewHorizontalFlip
    _plain(0x0020000D, "UI", Action.UID),  # StudyInstanceUID
    _plain(0x0020000E, "UI", Action.UID),  # SeriesInstanceUID
    _plain(0x00200010, "SH", Action.EMPTY),  # StudyID
    _numbers(0x00200011, "IS", 0, 99_999, must=True),  # SeriesNumber
    _numbers(0x00200013, "IS", 0, 99_999, must=True),  # InstanceNumber
    _terms(0x00200020, _DIRECTIONS, 2, must=True),  # PatientOrientation
    _terms(0x00200060, "L R", must=True),  # Laterality
    _terms(0x00200062, "L R U B"),  # ImageLaterality
    _shorts(0x00280002),  # SamplesPerPixel
    _terms(0x00280004, "MONOCHROME1 MONOCHROME2"),  # PhotometricInterpretation
    _numbers(0x00280008, "IS", 1, 1),  # NumberOfFrames
    _shorts(0x00280010),  # Rows
    _shorts(0x00280011),  # Columns
    _numbers(0x00280030, "DS", 0, 100, 2),  # PixelSpacing
    _numbers(0x00280034, "IS", 1, 10_000, 2),  # PixelAspectRatio
    _shorts(0x00280100),  # BitsAllocated
    _shorts(0x00280101),  # BitsStored
    _shorts(0x00280102),  # HighBit
    _shorts(0x00280103),  # PixelRepresentation
    _shorts(0x00280106, "US SS"),  # SmallestImagePixelValue
    _shorts(0x00280107, "US SS"),  # LargestImagePixelValue
    _shorts(0x00280120, "US SS"),  # PixelPaddingValue
    _shorts(0x00280121, "US SS"),  # PixelPaddingRangeLimit
    _terms(0x00280301, "NO"),  # BurnedInAnnotation; a film with another is held back
    _terms(0x00280302, "YES NO"),  # RecognizableVisualFeatures
    _terms(0x00280A02, "GEOMETRY FIDUCIAL"),  # PixelSpacingCalibrationType
    Rule(0x00280A04, "LO", Action.DUMMY, frozenset({"removed"})),  # PixelSpacingCalibrationDescription
    _terms(0x00281040, "LIN LOG DISP"),  # PixelIntensityRelationship
    _shorts(0x00281041, "SS"),  # PixelIntensityRelationshipSign
    _numbers(0x00281050, "DS", -1_000_000, 1_000_000, 16),  # WindowCenter
    _numbers(0x00281051, "DS", -1_000_000, 1_000_000, 16),  # WindowWidth
    _numbers(0x00281052, "DS", -1_000_000, 1_000_000),  # RescaleIntercept
    _numbers(0x00281053, "DS", -1_000_000, 1_000_000),  # RescaleSlope
    Rule(0x00281054, "LO", Action.TERMS, frozenset({"OD", "HU", "US", "UNSPECIFIED"})),  # RescaleType
    _terms(0x00281056, "LINEAR LINEAR_EXACT SIGMOID"),  # VOILUTFunction
    _terms(0x00282110, "00 01"),  # LossyImageCompression
    _numbers(0x00282112, "DS", 0, 100_000, 4),  # LossyImageCompressionRatio
    _terms(0x00282114, "ISO_10918_1 ISO_14495_1 ISO_15444_1 ISO_15444_15", 4),  # LossyImageCompressionMethod
    Rule(0x00283000, "SQ", Action.LUT),  # ModalityLUTSequence
    Rule(0x00283010, "SQ", Action.LUT),  # VOILUTSequence
    Rule(0x00400555, "SQ", Action.EMPTY, must=True),  # AcquisitionContextSequence
    Rule(0x00540220, "SQ", Action.CODES, must=True),  # ViewCodeSequence
    _terms(0x20500020, "IDENTITY INVERSE"),  # PresentationLUTShape
    Rule(PIXEL_DATA, "OW OB", Action.PIXELS),  # PixelData
)
"""The table, in the order of its tags; what depends on the choice of dates is written beside it."""

# PS3.16 CID 7050.
BASIC_PROFILE = ("113100", "Basic Application Confidentiality Profile")
KEEP_DATES = ("113107", "Retain Longitudinal Temporal Information Modified Dates Option")
KEEP_PATIENT = ("113108", "Retain Patient Characteristics Option")

FORMER_REGIONS: Mapping[str, str] = {
    "51185008": "Chest",
    "113345001": "Abdomen",
    "12921003": "Pelvis",
    "46862004": "Buttock",
}
"""SNOMED CT codes of regions that stood in PS3.16 CID 4009 in former editions, and stand in most files."""
