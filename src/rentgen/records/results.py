"""The nouns of what leaves for a PACS or an information system: films as they came, answers, documents."""

from __future__ import annotations

import math
import re
import uuid
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Self

from rentgen.records.model import Card
from rentgen.records.predictions import Status
from rentgen.records.studies import StoredPrediction, Urgency

DECIDING_POINTS = ("youden", "sensitivity_0.95")
"""Operating points for finding disease: the lower threshold of those a label has says present or absent."""

UNREMARKABLE = frozenset({"normal", "no finding", "healthy", "negative"})
"""Classes, without case and with blanks for underscores, that say that there is nothing to find."""

_NAMESPACE = uuid.UUID("110a0da9-a8f8-54aa-9166-a4b07e9ab4ea")
_UID = re.compile(r"(0|[1-9][0-9]*)(\.(0|[1-9][0-9]*))+", re.ASCII)


class Kind(StrEnum):
    """The documents that a destination can ask for."""

    STRUCTURED_REPORT = "sr"
    """DICOM Comprehensive 3D SR, TID 1500."""
    SECONDARY_CAPTURE = "sc"
    """DICOM Secondary Capture in colour: the film with its heat map and a burned-in warning; one a film."""
    PRESENTATION_STATE = "pr"
    """DICOM Grayscale Softcopy Presentation State: outline and text over the film; one a film."""
    KEY_OBJECT = "ko"
    """DICOM Key Object Selection: films to read first; none where nothing is urgent."""
    PDF = "pdf"
    """DICOM Encapsulated PDF."""
    FHIR = "fhir"
    """FHIR R4 transaction bundle, JSON."""
    HL7 = "hl7"
    """HL7 v2.5.1 ORU^R01."""


@dataclass(frozen=True, slots=True)
class Document:
    """A result as bytes, ready to be sent.

    Attributes:
        kind: what it is.
        media_type: of the content.
        content: the bytes.
        uid: SOP Instance UID, bundle identifier or message control ID: the same for the same result.
        name: for a file; holds nothing of the patient.
    """

    kind: Kind
    media_type: str
    content: bytes = field(repr=False)
    uid: str
    name: str


@dataclass(frozen=True, slots=True)
class Patient:
    """Whom a film shows, as its header has it; never shown by `repr`.

    Attributes:
        patient_id: PatientID; empty where unknown, as all below.
        issuer: IssuerOfPatientID.
        name: PatientName, in DICOM's form `family^given^middle^prefix^suffix`.
        birth_date: YYYYMMDD.
        sex: M, F or O.
        age: PatientAge, as `004Y`.
    """

    patient_id: str = field(default="", repr=False)
    issuer: str = field(default="", repr=False)
    name: str = field(default="", repr=False)
    birth_date: str = field(default="", repr=False)
    sex: str = field(default="", repr=False)
    age: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Order:
    """The study that a film belongs to, as its header has it.

    Attributes:
        study_instance_uid: of the study.
        study_id: empty where unknown, as all below.
        study_date: YYYYMMDD.
        study_time: HHMMSS, with a fraction perhaps.
        accession_number: of the order.
        referring_physician: in DICOM's form of a name.
        description: StudyDescription.
        timezone: TimezoneOffsetFromUTC, as `+0200`.
    """

    study_instance_uid: str
    study_id: str = field(default="", repr=False)
    study_date: str = field(default="", repr=False)
    study_time: str = field(default="", repr=False)
    accession_number: str = field(default="", repr=False)
    referring_physician: str = field(default="", repr=False)
    description: str = field(default="", repr=False)
    timezone: str = ""

    def __post_init__(self) -> None:
        check_uid("study_instance_uid", self.study_instance_uid)


@dataclass(frozen=True, slots=True)
class SourceImage:
    """What a result needs of the film's DICOM object.

    Attributes:
        sop_class_uid: of the object.
        sop_instance_uid: of the object.
        series_instance_uid: of its series.
        patient: whom it shows.
        order: the study.
        rows: of the matrix as it is stored.
        columns: likewise.
        orientation: EXIF code (1 to 8) of the flip and turn from the stored matrix to the film as it is analysed and
            shown (`Radiograph.orientation`).
        patient_orientation: of the stored matrix, as `("L", "F")`; empty where unknown.
        modality: such as `DX`.
        body_part_examined: such as `CHEST`; empty where unknown, as all below.
        view_position: such as `PA`.
        laterality: R, L, B or U.
        spacing_mm: (between rows, between columns) in the patient, where known.
        instance_number: of the object.
        grey: its grey transformations (Modality LUT, VOI LUT, Presentation LUT shape), as a DICOM data set in Explicit
            VR Little Endian.
    """

    sop_class_uid: str
    sop_instance_uid: str
    series_instance_uid: str
    patient: Patient
    order: Order
    rows: int
    columns: int
    orientation: int = 1
    patient_orientation: tuple[str, ...] = ()
    modality: str = ""
    body_part_examined: str = ""
    view_position: str = ""
    laterality: str = ""
    spacing_mm: tuple[float, float] | None = None
    instance_number: int = 1
    grey: bytes = field(default=b"", repr=False)

    def __post_init__(self) -> None:
        for name in ("sop_class_uid", "sop_instance_uid", "series_instance_uid"):
            check_uid(name, getattr(self, name))
        if self.rows < 1 or self.columns < 1:
            raise ValueError(f"Expected rows and columns of at least 1, but got {self.rows} x {self.columns}.")
        if self.orientation not in range(1, 9):
            raise ValueError(f"Expected `orientation` to be from 1 to 8, but got {self.orientation}.")
        if self.spacing_mm is not None and not all(math.isfinite(step) and step > 0 for step in self.spacing_mm):
            raise ValueError(f"Expected a spacing above 0 mm, but got {self.spacing_mm}.")

    @property
    def native_shape(self) -> tuple[int, int]:
        """(height, width) of the film as it is analysed and shown."""
        return (self.rows, self.columns) if self.orientation < 5 else (self.columns, self.rows)


@dataclass(frozen=True, slots=True)
class ModelIdentity:
    """Who answered.

    Attributes:
        name: of the model.
        version: as people say it.
        sha256: of the bundle, 64 hexadecimal digits.
        heat_maps: their grade, `passed`, `weak` or `failed`; empty where nobody graded them.
    """

    name: str
    version: str
    sha256: str
    heat_maps: str = ""

    def __post_init__(self) -> None:
        if not self.name or not self.version:
            raise ValueError("Expected a model with a name and a version.")
        if not re.fullmatch("[0-9a-f]{64}", self.sha256):
            raise ValueError(f"Expected `sha256` to be 64 hexadecimal digits, but got {self.sha256!r}.")

    @property
    def uuid(self) -> uuid.UUID:
        """Identifies this very model as a device."""
        return uuid.uuid5(_NAMESPACE, self.sha256)

    @classmethod
    def of(cls, card: Card, bundle_id: str) -> Self:
        """Return the identity of a bundle; its version is the day on which it was made and the head of its hash."""
        version = f"{card.created[:10]}-{bundle_id[:12]}"
        return cls(card.name, version, bundle_id, str(card.heat_maps.get("grade", "")))


@dataclass(frozen=True, slots=True, eq=False)
class FilmResult:
    """A film and its answer, or why there is none.

    Attributes:
        source: the film.
        prediction: the answer; None where the film was not analysed.
        not_analysed: why, in words; empty where it was. Holds nothing of the patient.
    """

    source: SourceImage
    prediction: StoredPrediction | None = None
    not_analysed: str = ""

    def __post_init__(self) -> None:
        if (self.prediction is None) == (not self.not_analysed):
            raise ValueError("Expected either a prediction or a reason why the film was not analysed.")

    @property
    def status(self) -> Status:
        """What the answer is worth; `error` where there is none."""
        return Status.ERROR if self.prediction is None else self.prediction.status

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why there is no answer, or why it is in doubt."""
        if self.prediction is None:
            return (self.not_analysed,)
        return self.prediction.reasons or (() if self.status is Status.OK else ("no reason is known",))

    @property
    def urgent(self) -> bool:
        """Whether the film should be read first."""
        return self.prediction is not None and self.prediction.urgency is Urgency.URGENT


@dataclass(frozen=True, slots=True, eq=False)
class StudyResult:
    """What one model says of one study.

    Attributes:
        films: of one study, each once.
        model: who answered.
        created_at: when, with a time zone; documents give this clock's time, so hand it over in the site's zone.
        software: version of Rentgen.
    """

    films: tuple[FilmResult, ...]
    model: ModelIdentity
    created_at: datetime
    software: str

    def __post_init__(self) -> None:
        if not self.films:
            raise ValueError("Expected a result of at least one film.")
        if self.created_at.tzinfo is None:
            raise ValueError("Expected `created_at` to have a time zone.")
        if len({film.source.order.study_instance_uid for film in self.films}) > 1:
            raise ValueError("Expected films of one study, but they name several Study Instance UIDs.")
        if len({film.source.sop_instance_uid for film in self.films}) < len(self.films):
            raise ValueError("Expected each film once, but a SOP Instance UID comes twice.")

    @property
    def first(self) -> SourceImage:
        """The film from which documents take patient and study."""
        return self.films[0].source

    @property
    def urgent(self) -> bool:
        """Whether any film should be read first."""
        return any(film.urgent for film in self.films)

    def identify(self, *parts: str) -> uuid.UUID:
        """Return an identifier of a part of this result, the same whenever it is asked for.

        It changes with the films, the model's hash and what came of each film: what was not analysed at first and is
        analysed later is another document.

        Args:
            parts: which part, such as a document's kind and a film's UID.
        """
        films = sorted(f"{film.source.sop_instance_uid}={film.status}" for film in self.films)
        return uuid.uuid5(_NAMESPACE, "\n".join([self.model.sha256, *films, *parts]))


def check_uid(name: str, value: str) -> None:
    """Raise a ValueError where a value is no DICOM UID; what came is not repeated, it may be anything."""
    if len(value) > 64 or not _UID.fullmatch(value):
        raise ValueError(f"Expected `{name}` to be a DICOM UID: digits and dots, 64 characters at most.")


def is_finding(label: str) -> bool:
    """Return whether a class names something to find.

    Example:
        >>> is_finding("NORMAL"), is_finding("No_Finding"), is_finding("effusion")
        (False, False, True)
    """
    return label.lower().replace("_", " ").strip() not in UNREMARKABLE
