"""The nouns of films: listed, read, prepared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, Self

import numpy as np

from rentgen.errors import SettingError
from rentgen.records.common import Pixels, UInt8


class Split(StrEnum):
    """Which part of the data an image belongs to."""

    TRAIN = "train"
    """Fits the weights."""
    VALIDATION = "validation"
    """Chooses: early stopping, settings, operating points."""
    TEST = "test"
    """Only measures."""


class Task(StrEnum):
    """How labels and films go together."""

    MULTICLASS = "multiclass"
    """Each film has one class: a softmax answers."""
    MULTILABEL = "multilabel"
    """Each film has any number of findings, some of them unknown perhaps: a sigmoid for each answers."""


class PatientSource(StrEnum):
    """How the patient of an image became known."""

    CSV = "csv"
    """A column of the CSV."""
    DICOM = "dicom"
    """PatientID (0010,0020)."""
    NAME = "name"
    """A pattern over the file name."""
    NONE = "none"
    """Not known for all: an image whose patient nobody knows counts as a patient of its own."""


class ResizeMode(StrEnum):
    """How a film meets the network's fixed input size."""

    SQUASH = "squash"
    """Both axes are scaled on their own; the aspect is lost, no pixel is wasted."""
    PAD = "pad"
    """One scale for both axes; the rest is black."""


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """One image of a set, not yet read.

    Attributes:
        path: where the file is.
        label: its class, or None in a set without labels, and in one of several findings.
        patient: whom it shows; unique to the image where nobody knows.
        split: the part it was given by its source, or None.
        findings: in a set of several findings, one for each of the listing's classes: present, absent, or None where
            nobody knows. Empty elsewhere.
        source: which of several merged sets it comes from; empty where there is one.
    """

    path: Path
    label: str | None
    patient: str = field(repr=False)
    split: Split | None = None
    findings: tuple[bool | None, ...] = ()
    source: str = ""


@dataclass(frozen=True, slots=True)
class Listing:
    """A set of images.

    Attributes:
        root: the folder or CSV it was read from.
        records: the images, in a stable order.
        classes: the distinct labels, sorted; in a set of several findings their names, in the source's order.
        patient_source: how patients became known.
        task: whether a film has one class or several findings.
        notes: what reading found that somebody should know, in words.
    """

    root: Path
    records: tuple[ImageRecord, ...]
    classes: tuple[str, ...]
    patient_source: PatientSource
    task: Task = Task.MULTICLASS
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.records)


@dataclass(frozen=True, slots=True, eq=False)
class Radiograph:
    """A film as a person would see it on a screen.

    Attributes:
        pixels: (height, width), uint8 or uint16 using the type's full range; air is dark and bone is bright.
        content_hash: SHA-256 of the file's bytes, in hexadecimal.
        pixel_hash: SHA-256 of what it shows: the pixels, however they were packed. Empty where nobody asked.
        source_format: `png`, `jpeg`, `tiff` or `dicom`.
        bits: the bits per pixel that the file says are in use.
        orientation: the EXIF code (1 to 8) of the flip and turn that led from the stored matrix to `pixels`.
        spacing_mm: (between rows, between columns) in the patient, None where unknown.
        patient_id: PatientID; never shown.
        study_instance_uid: of the DICOM study.
        series_instance_uid: of the DICOM series.
        sop_instance_uid: of the DICOM object.
        sop_class_uid: of the DICOM object.
        modality: DICOM Modality.
        body_part_examined: DICOM BodyPartExamined.
        view_position: DICOM ViewPosition.
        patient_age_years: from PatientAge, or PatientBirthDate and the date of the study.
        notes: what a careful reader should know: `lossy compression`, `first of 3 windows`, a contradiction.
    """

    pixels: Pixels = field(repr=False)
    content_hash: str
    source_format: str
    bits: int
    orientation: int = 1
    pixel_hash: str = ""
    spacing_mm: tuple[float, float] | None = None
    patient_id: str | None = field(default=None, repr=False)
    study_instance_uid: str | None = field(default=None, repr=False)
    series_instance_uid: str | None = field(default=None, repr=False)
    sop_instance_uid: str | None = field(default=None, repr=False)
    sop_class_uid: str | None = None
    modality: str | None = None
    body_part_examined: str | None = None
    view_position: str | None = None
    patient_age_years: float | None = field(default=None, repr=False)
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.pixels.ndim != 2 or 0 in self.pixels.shape:
            raise ValueError(f"Expected pixels of shape (height, width), but got {self.pixels.shape}.")
        if self.pixels.dtype not in (np.uint8, np.uint16):
            raise ValueError(f"Expected pixels of type uint8 or uint16, but got {self.pixels.dtype}.")

    def without_pixels(self) -> Radiograph:
        """Return a film that says all of itself, its size too, but shows nothing and takes no memory."""
        return replace(self, pixels=np.broadcast_to(np.zeros((), self.pixels.dtype), self.pixels.shape))


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """How a film becomes the network's input; it travels inside the bundle.

    Attributes:
        height: of the input, pixels.
        width: of the input, pixels.
        resize: squash or pad.
        crop_borders: cut black borders away first.
        smooth_px: standard deviation of a Gaussian low-pass on the resized film, input pixels, in [0, 16]; 0 for none.
    """

    height: int = 224
    width: int = 224
    resize: ResizeMode = ResizeMode.SQUASH
    crop_borders: bool = False
    smooth_px: float = 0.0

    def __post_init__(self) -> None:
        for name, value in (("height", self.height), ("width", self.width)):
            if not (isinstance(value, int) and 16 <= value <= 4096):
                raise SettingError(
                    f"Expected preprocessing {name} to be a whole number in [16, 4096], but got {value!r}."
                )
        if not 0 <= self.smooth_px <= 16:
            raise SettingError(f"Expected preprocessing smooth_px to be in [0, 16], but got {self.smooth_px!r}.")
        if self.resize not in tuple(ResizeMode):
            allowed = ", ".join(ResizeMode)
            raise SettingError(f"Expected preprocessing resize to be one of {allowed}, but got {str(self.resize)!r}.")
        object.__setattr__(self, "resize", ResizeMode(self.resize))

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "height": self.height,
            "width": self.width,
            "resize": str(self.resize),
            "crop_borders": self.crop_borders,
            "smooth_px": self.smooth_px,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Return the preprocessing that `to_dict` wrote."""
        return cls(**values)


@dataclass(frozen=True, slots=True)
class Geometry:
    """Where the prepared image's pixels lie in the native film.

    A continuous native coordinate x (0 at the left edge of the first column) and a prepared one u are bound by
    `u = (x - left) * scale_x + offset_x`; the same for rows.

    Attributes:
        native_height: of the film, pixels.
        native_width: of the film, pixels.
        top: first native row kept by the crop.
        left: first native column kept by the crop.
        crop_height: native rows kept.
        crop_width: native columns kept.
        scale_y: prepared pixels per native row.
        scale_x: prepared pixels per native column.
        offset_y: prepared rows of padding above.
        offset_x: prepared columns of padding at the left.
        height: of the prepared image, pixels.
        width: of the prepared image, pixels.
    """

    native_height: int
    native_width: int
    top: int
    left: int
    crop_height: int
    crop_width: int
    scale_y: float
    scale_x: float
    offset_y: float
    offset_x: float
    height: int
    width: int


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """The network's input and the way back.

    Attributes:
        pixels: (height, width) uint8.
        geometry: the way back to native pixels.
    """

    pixels: UInt8 = field(repr=False)
    geometry: Geometry
