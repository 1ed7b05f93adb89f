"""The nouns of what is kept about films that came in: studies, results, feedback, the audit trail."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import IntEnum, StrEnum
from typing import Any

from rentgen.records.common import UInt8
from rentgen.records.films import Geometry
from rentgen.records.predictions import Status


class Role(StrEnum):
    """What a person or a program may do; each may do what those before it may."""

    READER = "reader"
    """Look at studies, results and models; ask for predictions that are not kept."""
    PHYSICIAN = "physician"
    """Add studies, agree or correct."""
    ADMIN = "admin"
    """Reload models, delete studies, export, read the audit trail."""

    def may(self, needed: Role) -> bool:
        """Return whether this role covers another."""
        order = list(Role)
        return order.index(self) >= order.index(needed)


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asks.

    Attributes:
        name: of the key, the token's subject, or `local` on loopback without keys. Stands in the audit trail.
        role: what it may do.
    """

    name: str
    role: Role


@dataclass(frozen=True, slots=True)
class KeyInfo:
    """What is known of an API key; the key itself is not.

    Attributes:
        name: whom it was made for.
        role: what its bearer may do.
        created_at: when, UTC.
        expires_at: from when on it is refused, UTC; None for never.
        revoked_at: when it was revoked, UTC; None where it was not.
    """

    name: str
    role: Role
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None


class Urgency(IntEnum):
    """In which order studies should be read; the smaller, the sooner."""

    URGENT = 0
    """A finding at or above the operating point for finding disease, by an answer that stands."""
    DOUBT = 1
    """No answer that stands: out of scope, abstained, not read at all, or a finding that is in doubt."""
    ROUTINE = 2
    """An answer that stands, without such a finding."""


@dataclass(frozen=True, slots=True)
class Point:
    """A prediction held against one operating point of the bundle.

    Attributes:
        name: of the operating point.
        label: the class whose probability is compared.
        threshold: positive from here on.
        positive: whether the film is.
        sensitivity: value, low, high, as the card has them.
        specificity: likewise.
        undetermined: whether the finding, one of several, can be neither ruled out nor confirmed; None where a film has
            one class.
    """

    name: str
    label: str
    threshold: float
    positive: bool
    sensitivity: Mapping[str, float | None]
    specificity: Mapping[str, float | None]
    undetermined: bool | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "name": self.name,
            "label": self.label,
            "threshold": self.threshold,
            "positive": self.positive,
            "sensitivity": dict(self.sensitivity),
            "specificity": dict(self.specificity),
            "undetermined": self.undetermined,
        }


@dataclass(frozen=True, slots=True)
class StoredImage:
    """A film that came in, without its pixels.

    Attributes:
        image_id: opaque, the same for the same bytes; stands in addresses.
        study_id: of the study it belongs to.
        content_hash: SHA-256 of the file's bytes.
        pixel_hash: SHA-256 of what it shows; None where it could not be read.
        name: of the file as it was given: may name a patient, so it is shown to people and never logged.
        source_format: `png`, `jpeg`, `tiff`, `dicom`; None where it could not be read.
        rows: native pixels; None where it could not be read.
        columns: native pixels; None where it could not be read.
        bits: in use, per pixel; None where it could not be read.
        spacing_mm: (between rows, between columns), where known.
        modality: DICOM Modality, where known.
        body_part_examined: DICOM BodyPartExamined, where known.
        view_position: DICOM ViewPosition, where known.
        notes: what a careful reader should know of how it was read.
        received_at: when, UTC.
        file_kept: whether the file itself is in the store.
        patient: keyed hash of PatientID, the same for all films of a patient in this store; None where nobody knows.
    """

    image_id: str
    study_id: str
    content_hash: str
    pixel_hash: str | None
    name: str = field(repr=False)
    source_format: str | None
    rows: int | None
    columns: int | None
    bits: int | None
    spacing_mm: tuple[float, float] | None
    modality: str | None
    body_part_examined: str | None
    view_position: str | None
    notes: tuple[str, ...]
    received_at: datetime
    file_kept: bool = False
    patient: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class StoredPrediction:
    """What one bundle said of one film.

    Attributes:
        prediction_id: opaque; one per film and bundle.
        image_id: of the film.
        bundle_id: SHA-256 of the bundle.
        model: the bundle's name in the service.
        created_at: when, UTC.
        status: what it is worth.
        label: the most probable class, or the finding that stands for several; None on an error.
        probabilities: class to calibrated probability.
        reasons: for doubt, in words.
        prediction_set: classes that cannot be ruled out.
        distance: from the films that taught the model.
        points: the bundle's operating points, each with this film's side of it.
        urgency: of this answer.
        score: the highest probability of a class with an operating point, in [0, 1]: orders studies of one urgency.
        precision: of the arithmetic.
        maps: (classes, rows, columns) uint8, each class's activation over its own maximum; None where there is none.
        geometry: where the maps lie on the film.
    """

    prediction_id: str
    image_id: str
    bundle_id: str
    model: str
    created_at: datetime
    status: Status
    label: str | None
    probabilities: Mapping[str, float]
    reasons: tuple[str, ...]
    prediction_set: tuple[str, ...]
    distance: float | None
    points: tuple[Point, ...]
    urgency: Urgency
    score: float
    precision: str
    maps: UInt8 | None = field(default=None, repr=False)
    geometry: Geometry | None = None

    @property
    def several(self) -> bool:
        """Whether the film may have several findings, each with an operating point of its own."""
        return any(point.undetermined is not None for point in self.points)


@dataclass(frozen=True, slots=True)
class Feedback:
    """What a physician says of a prediction.

    Attributes:
        feedback_id: opaque.
        image_id: of the film.
        prediction_id: that it judges; None where there was none.
        agree: whether the model's class is right.
        label: the right class: the model's own, or the correction; None where the physician does not say, and of
            several findings.
        comment: free words; may name a patient, so it is never logged.
        actor: who said it.
        created_at: when, UTC.
        findings: of several, each that is present (True) or absent (False); of one that is left out the physician
            cannot tell. None where a film has one class, and where nothing is said of its findings.
    """

    feedback_id: str
    image_id: str
    prediction_id: str | None
    agree: bool
    label: str | None
    comment: str = field(repr=False)
    actor: str
    created_at: datetime
    findings: Mapping[str, bool] | None = None


@dataclass(frozen=True, slots=True)
class Study:
    """A study with all that is known of it.

    Attributes:
        study_id: opaque, the same for the same DICOM study, or for the same single file; stands in addresses.
        received_at: when its first film came, UTC.
        urgency: of its most urgent newest prediction; DOUBT where there is none.
        score: of that prediction, in [0, 1].
        read_at: when a physician gave the last feedback or marked it read, UTC; None for one that waits.
        images: its films, in the order of arrival.
        predictions: of its films, newest first.
        feedback: of its films, newest first.
    """

    study_id: str
    received_at: datetime
    urgency: Urgency
    score: float
    read_at: datetime | None
    images: tuple[StoredImage, ...]
    predictions: tuple[StoredPrediction, ...]
    feedback: tuple[Feedback, ...]


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One line of the audit trail.

    Attributes:
        number: counts from 1 without a gap.
        at: when, UTC.
        actor: who.
        action: what, as `study.add`, `study.view`, `feedback.add`, `study.delete`, `model.reload`, `key.add`.
        subject: of what: an opaque id, never a patient's name or number.
        detail: plain JSON values, likewise.
        previous: hash of the entry before; 64 zeros for the first.
        hash: SHA-256 over all of the above in canonical JSON.
    """

    number: int
    at: datetime
    actor: str
    action: str
    subject: str
    detail: Mapping[str, Any]
    previous: str
    hash: str
