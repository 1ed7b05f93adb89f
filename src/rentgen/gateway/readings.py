"""What a reader says of a film, between the steps of the queue: as a noun, and as the bytes that the queue keeps."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from importlib.metadata import version
from typing import Any

import numpy as np

from rentgen.records import Geometry, Radiograph, Status
from rentgen.records.results import FilmResult, ModelIdentity, Order, Patient, SourceImage, StudyResult
from rentgen.records.studies import Point, StoredPrediction, Urgency

Json = dict[str, Any]
_VERSION = 1


@dataclass(frozen=True, slots=True, eq=False)
class Reading:
    """A film as a reader found it, and its answer, or why there is none.

    Attributes:
        created_at: when, with a time zone.
        model: who answered or, where no route fits, who tells that there is no answer.
        source: what documents need of the film; None where its header cannot be referred to.
        prediction: None where the film was not analysed.
        not_analysed: why, in words; empty where it was.
        film: what it shows, its pixels gone; None where it could not be read.
    """

    created_at: datetime
    model: ModelIdentity
    source: SourceImage | None = None
    prediction: StoredPrediction | None = None
    not_analysed: str = ""
    film: Radiograph | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if (self.prediction is None) == (not self.not_analysed):
            raise ValueError("Expected either a prediction or a reason why the film was not analysed.")


def to_bytes(reading: Reading) -> bytes:
    """Return a reading as JSON."""
    plain = {
        "version": _VERSION,
        "created_at": reading.created_at.isoformat(),
        "model": asdict(reading.model),
        "source": None if reading.source is None else _source_out(reading.source),
        "prediction": None if reading.prediction is None else _prediction_out(reading.prediction),
        "not_analysed": reading.not_analysed,
        "film": None if reading.film is None else _film_out(reading.film),
    }
    return json.dumps(plain, allow_nan=False).encode()


def from_bytes(content: bytes) -> Reading:
    """Return the reading that `to_bytes` was given.

    Raises:
        ValueError: it is none.
    """
    try:
        plain = json.loads(content)
        if plain["version"] != _VERSION:
            raise ValueError("Expected a reading of this version, but got another.")
        return Reading(
            created_at=datetime.fromisoformat(plain["created_at"]),
            model=ModelIdentity(**plain["model"]),
            source=None if plain["source"] is None else _source_in(plain["source"]),
            prediction=None if plain["prediction"] is None else _prediction_in(plain["prediction"]),
            not_analysed=str(plain["not_analysed"]),
            film=None if plain["film"] is None else _film_in(plain["film"]),
        )
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"Expected a film's reading, but got something else ({type(error).__name__}).") from error


def results(readings: Sequence[Reading]) -> tuple[StudyResult, ...]:
    """Return what each model says of its films; a bundle that took another's place meanwhile is another model.

    Args:
        readings: of one study; those of films that documents cannot refer to are left out.
    """
    by_model: dict[ModelIdentity, list[Reading]] = {}
    for reading in readings:
        if reading.source is not None:
            by_model.setdefault(reading.model, []).append(reading)
    return tuple(
        StudyResult(
            films=tuple(_film_result(each) for each in those),
            model=model,
            # Documents give the clock of this place.
            created_at=max(each.created_at for each in those).astimezone(),
            software=version("rentgen"),
        )
        for model, those in by_model.items()
    )


def _film_result(reading: Reading) -> FilmResult:
    if reading.source is None:
        raise ValueError("Expected a reading of a film that documents can refer to.")
    return FilmResult(reading.source, reading.prediction, reading.not_analysed)


def _source_out(source: SourceImage) -> Json:
    return asdict(source) | {"grey": base64.b64encode(source.grey).decode()}


def _source_in(plain: Json) -> SourceImage:
    spacing = plain["spacing_mm"]
    told = {
        "patient": Patient(**plain["patient"]),
        "order": Order(**plain["order"]),
        "patient_orientation": tuple(plain["patient_orientation"]),
        "spacing_mm": None if spacing is None else (float(spacing[0]), float(spacing[1])),
        "grey": base64.b64decode(plain["grey"], validate=True),
    }
    return SourceImage(**(plain | told))


def _prediction_out(stored: StoredPrediction) -> Json:
    maps = stored.maps
    return {
        **{name: getattr(stored, name) for name in _PLAIN},
        "created_at": stored.created_at.isoformat(),
        "probabilities": dict(stored.probabilities),
        "points": [point.to_dict() for point in stored.points],
        "maps": None if maps is None else [list(maps.shape), base64.b64encode(maps.tobytes()).decode()],
        "geometry": None if stored.geometry is None else asdict(stored.geometry),
    }


def _prediction_in(plain: Json) -> StoredPrediction:
    maps = None
    if plain["maps"] is not None:
        shape, content = plain["maps"]
        # A copy, because what is read from bytes cannot be written to.
        maps = np.frombuffer(base64.b64decode(content, validate=True), np.uint8).reshape(shape).copy()
    told = {
        "created_at": datetime.fromisoformat(plain["created_at"]),
        "status": Status(plain["status"]),
        "urgency": Urgency(plain["urgency"]),
        "reasons": tuple(plain["reasons"]),
        "prediction_set": tuple(plain["prediction_set"]),
        "points": tuple(Point(**point) for point in plain["points"]),
        "maps": maps,
        "geometry": None if plain["geometry"] is None else Geometry(**plain["geometry"]),
    }
    return StoredPrediction(**(plain | told))


_PLAIN = (
    "prediction_id",
    "image_id",
    "bundle_id",
    "model",
    "status",
    "label",
    "reasons",
    "prediction_set",
    "distance",
    "urgency",
    "score",
    "precision",
)
_FILM = (
    "content_hash",
    "source_format",
    "bits",
    "orientation",
    "pixel_hash",
    "spacing_mm",
    "patient_id",
    "study_instance_uid",
    "series_instance_uid",
    "sop_instance_uid",
    "sop_class_uid",
    "modality",
    "body_part_examined",
    "view_position",
    "patient_age_years",
    "notes",
)


def _film_out(film: Radiograph) -> Json:
    shape = [*film.pixels.shape, film.pixels.dtype.name]
    return {"shape": shape, **{name: getattr(film, name) for name in _FILM}}


def _film_in(plain: Json) -> Radiograph:
    height, width, kind = plain["shape"]
    spacing = plain["spacing_mm"]
    told = {
        "spacing_mm": None if spacing is None else (float(spacing[0]), float(spacing[1])),
        "notes": tuple(plain["notes"]),
        "pixels": np.broadcast_to(np.zeros((), np.dtype(kind)), (height, width)),
    }
    return Radiograph(**({name: plain[name] for name in _FILM} | told))
