"""One table of codes: what a label is called in SNOMED CT, RadLex and this project's own scheme.

Only codes that are certain stand here: those of SNOMED CT and DICOM are in the dictionary that DICOM publishes, or are
the concepts that data sets and profiles of others name alike. A label without a certain code has its own code alone.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

SCHEME = "99RENTGEN"
"""Coding Scheme Designator of this project's own codes (PS3.16 8: private designators begin with 99)."""

SCHEME_UID = "2.25.267884282185048267666396253341432196593"
"""Identifies that scheme wherever an OID is asked for."""

SCHEME_NAME = "Rentgen result codes"

FHIR_SYSTEMS = {
    "SCT": "http://snomed.info/sct",
    "LN": "http://loinc.org",
    "DCM": "http://dicom.nema.org/resources/ontology/DCM",
    "RADLEX": "http://radlex.org",
    "UCUM": "http://unitsofmeasure.org",
    SCHEME: f"urn:oid:{SCHEME_UID}",
}
"""Coding scheme designator to FHIR's code system."""


@dataclass(frozen=True, slots=True)
class Code:
    """A coded concept.

    Attributes:
        value: up to 16 characters, or more for a few SNOMED CT concepts.
        scheme: DICOM's Coding Scheme Designator, up to 16 characters.
        meaning: up to 64 characters.
    """

    value: str
    scheme: str
    meaning: str

    def __post_init__(self) -> None:
        for name, most in (("value", 64), ("scheme", 16), ("meaning", 64)):
            text = getattr(self, name)
            if not 1 <= len(text) <= most or text != text.strip() or not text.isprintable() or "\\" in text:
                raise ValueError(f"Expected a code's {name} of 1 to {most} printable characters, but got {text!r}.")


@dataclass(frozen=True, slots=True)
class Entry:
    """What a label is called.

    Attributes:
        labels: spellings, without case and with blanks for `_` and `-`.
        own: in this project's scheme: every label has one.
        snomed: in SNOMED CT, or None where no concept is certain.
        radlex: in RadLex, likewise.
    """

    labels: tuple[str, ...]
    own: Code
    snomed: Code | None = None
    radlex: Code | None = None

    @property
    def primary(self) -> Code:
        """The code that stands for the label where there is room for one."""
        return self.snomed or self.own

    @property
    def all(self) -> tuple[Code, ...]:
        """All codes, the primary first."""
        return tuple(code for code in (self.snomed, self.radlex, self.own) if code is not None)


def _entry(labels: str, own: str, meaning: str, snomed: str = "", radlex: str = "") -> Entry:
    """Return an entry; a code is written `value meaning`, its meaning this entry's own where left out."""

    def code(text: str, scheme: str) -> Code | None:
        value, _, named = text.partition(" ")
        return Code(value, scheme, named or meaning) if text else None

    return Entry(tuple(labels.split("|")), Code(own, SCHEME, meaning), code(snomed, "SCT"), code(radlex, "RADLEX"))


FINDINGS: tuple[Entry, ...] = (
    _entry(
        "normal|no finding|healthy|negative", "NORMAL", "No abnormality detected", "281900007 No abnormality detected"
    ),
    _entry("pneumonia", "PNEUMONIA", "Pneumonia", "233604007", "RID5350 pneumonia"),
    _entry("viral pneumonia|pneumonia viral|virus", "PNEUMONIA-VIRAL", "Viral pneumonia", "75570004"),
    _entry("bacterial pneumonia|pneumonia bacterial|bacteria", "PNEUMONIA-BACT", "Bacterial pneumonia", "53084003"),
    _entry(
        "covid|covid 19|covid19|covid 19 pneumonia|covid pneumonia",
        "PNEUMONIA-COVID",
        "COVID-19 pneumonia",
        "882784691000119100 Pneumonia caused by SARS-CoV-2",
    ),
    _entry("tuberculosis|tb", "TUBERCULOSIS", "Pulmonary tuberculosis", "154283005"),
    _entry("atelectasis", "ATELECTASIS", "Atelectasis", "46621007", "RID28493 atelectasis"),
    _entry("cardiomegaly", "CARDIOMEGALY", "Cardiomegaly", "8186001"),
    _entry("consolidation", "CONSOLIDATION", "Lung consolidation", "95436008", "RID43255 consolidation"),
    _entry("edema|pulmonary edema", "EDEMA", "Pulmonary edema", "19242006", "RID4866 pulmonary edema"),
    _entry("effusion|pleural effusion", "EFFUSION", "Pleural effusion", "60046008", "RID34539 pleural effusion"),
    _entry("emphysema", "EMPHYSEMA", "Pulmonary emphysema", "87433001", "RID4799 emphysema"),
    _entry("fibrosis|pulmonary fibrosis", "FIBROSIS", "Pulmonary fibrosis", "51615001"),
    _entry("hernia", "HERNIA", "Hernia on chest radiograph"),
    _entry("infiltration|infiltrate", "INFILTRATION", "Radiologic infiltrate of lung", "409609008"),
    _entry("mass|lung mass", "MASS", "Lung mass", "309529002"),
    _entry("nodule|lung nodule", "NODULE", "Nodule of lung", "786838002", "RID50149 pulmonary nodule"),
    _entry("pleural thickening", "PLEURAL-THICK", "Pleural thickening"),
    _entry("pneumothorax", "PNEUMOTHORAX", "Pneumothorax", "36118008", "RID5352 pneumothorax"),
    _entry("enlarged cardiomediastinum", "CARDIOMED-LARGE", "Enlarged cardiomediastinum"),
    _entry("fracture", "FRACTURE", "Fracture of bone", "125605004", "RID4650 fracture"),
    _entry("lung lesion", "LUNG-LESION", "Lung lesion"),
    _entry("lung opacity|opacity", "LUNG-OPACITY", "Lung opacity"),
    _entry("pleural other", "PLEURAL-OTHER", "Other pleural abnormality"),
    _entry("support devices", "SUPPORT-DEVICES", "Support devices"),
)
"""The chest findings of the known data sets: Kermany, COVID-19 radiography, Shenzhen, ChestX-ray14, CheXpert."""

_BY_LABEL = {label: entry for entry in FINDINGS for label in entry.labels}

# Presence, as DICOM's CID 240 has it; information systems know another concept for the second.
PRESENT = Code("52101004", "SCT", "Present")
ABSENT = Code("272519000", "SCT", "Absent")
ABSENT_QUALIFIER = Code("2667000", "SCT", "Absent")
UNDETERMINED = Code("373068000", "SCT", "Undetermined")
NOT_ASSESSED = Code("NOT-ASSESSED", SCHEME, "Not assessed")

CHEST = Code("51185008", "SCT", "Chest")
IMAGING_PROCEDURE = Code("363679005", "SCT", "Imaging procedure")
PERCENT = Code("%", "UCUM", "Percent")
STUDY_INSTANCE_UID = Code("110180", "DCM", "Study Instance UID")
SOP_INSTANCE_UID = Code("SOP-INSTANCE-UID", SCHEME, "SOP Instance UID of the film")
OF_INTEREST = Code("113000", "DCM", "Of Interest")
COMMENT = Code("121106", "DCM", "Comment")
RESULT_ISSUED = Code("RESULT-ISSUED", SCHEME, "AI result issued")

CHEST_STUDY = Code("30745-4", "LN", "XR Chest Views")
IMAGING_STUDY = Code("18748-4", "LN", "Diagnostic imaging study")
IMPRESSION = Code("19005-8", "LN", "Radiology Imaging study [Impression]")

PRESENCE = Code("PRESENCE", SCHEME, "Presence at the operating point")
PROBABILITY = Code("PROBABILITY", SCHEME, "Calibrated probability of the finding")
THRESHOLD = Code("THRESHOLD", SCHEME, "Threshold of the operating point")
ANALYSIS = Code("ANALYSIS", SCHEME, "AI analysis of a radiograph")
ANALYSIS_STATUS = Code("ANALYSIS-STATUS", SCHEME, "Status of the AI analysis")
REGION_MEANING = Code("REGION-MEANING", SCHEME, "What the region shows")
HEAT_MAP_REGION = Code("HEAT-MAP-HALF", SCHEME, "AI heat map at half its peak, not a lesion outline")
STATUSES = {
    "ok": Code("ANALYSED", SCHEME, "Analysed"),
    "abstain": Code("ABSTAINED", SCHEME, "Abstained: the model does not know"),
    "out_of_scope": Code("OUT-OF-SCOPE", SCHEME, "Out of scope: not a film for this model"),
    "error": Code("NOT-ANALYSED", SCHEME, "Not analysed"),
}
"""Status of a film's analysis to its code."""

_CHESTS = frozenset({"CHEST", "THORAX", "LUNG", "LUNGS", "CHESTPA", "CHEST PA", "CHEST AP", "PORT CHEST"})


def find(label: str) -> Entry:
    """Return what a label is called; one that the table does not know gets an own code made from its letters.

    Example:
        >>> find("Pleural_Effusion").primary.value, find("Sail sign").primary.scheme
        ('60046008', '99RENTGEN')
    """
    wanted = re.sub(r"[\s_-]+", " ", label).strip().lower()
    if wanted in _BY_LABEL:
        return _BY_LABEL[wanted]
    letters = "".join(letter if letter.isprintable() and letter != "\\" else " " for letter in label)
    meaning = " ".join(letters.split())[:64].strip() or "Unnamed class"
    return Entry((wanted,), Code(f"L-{hashlib.sha256(wanted.encode()).hexdigest()[:12].upper()}", SCHEME, meaning))


def procedure(body_part: str) -> Code:
    """Return the LOINC code of the study that a body part was examined in."""
    return CHEST_STUDY if body_part.strip().upper() in _CHESTS else IMAGING_STUDY


def is_chest(body_part: str) -> bool:
    """Return whether a DICOM BodyPartExamined is the chest."""
    return body_part.strip().upper() in _CHESTS
