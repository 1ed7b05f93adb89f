"""The nouns that pass from room to room: frozen, checked when they are built, free of foreign objects."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
import numpy.typing as npt

from rentgen.errors import SettingError

UInt8 = npt.NDArray[np.uint8]
Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]
Pixels = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]


class Progress(Protocol):
    """What long work calls to say how far it is."""

    def __call__(self, stage: str, done: int, total: int, note: str = "") -> None:
        """Take the number of things done, out of how many, at which stage; and a few words."""


DISCLAIMER = "Research software. Not a medical device; not for diagnosis on its own."


class Split(StrEnum):
    """Which part of the data an image belongs to."""

    TRAIN = "train"
    """Fits the weights."""
    VALIDATION = "validation"
    """Chooses: early stopping, settings, operating points."""
    TEST = "test"
    """Only measures."""


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


class Status(StrEnum):
    """What a prediction is worth."""

    OK = "ok"
    """A result."""
    OUT_OF_SCOPE = "out_of_scope"
    """The image is not of the kind the model was taught; the scores are still given."""
    ABSTAIN = "abstain"
    """The model does not know."""
    ERROR = "error"
    """The file could not be read."""


class EngineName(StrEnum):
    """Who runs the graph."""

    OPENVINO = "openvino"
    """The default: fastest on a CPU."""
    ONNXRUNTIME = "onnxruntime"
    """For a GPU, or as a second opinion; the extra `onnxruntime`."""


class Precision(StrEnum):
    """The arithmetic of the graph."""

    AUTO = "auto"
    """bf16 where the processor has it, otherwise f32."""
    F32 = "f32"
    """Exact; what golden vectors are made with."""
    BF16 = "bf16"
    """Moves logits by about a hundredth."""


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """One image of a set, not yet read.

    Attributes:
        path: where the file is.
        label: its class, or None in a set without labels.
        patient: whom it shows; unique to the image where nobody knows.
        split: the part it was given by its source, or None.
    """

    path: Path
    label: str | None
    patient: str = field(repr=False)
    split: Split | None = None


@dataclass(frozen=True, slots=True)
class Listing:
    """A set of images.

    Attributes:
        root: the folder or CSV it was read from.
        records: the images, in a stable order.
        classes: the distinct labels, sorted.
        patient_source: how patients became known.
    """

    root: Path
    records: tuple[ImageRecord, ...]
    classes: tuple[str, ...]
    patient_source: PatientSource

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


@dataclass(frozen=True, slots=True, eq=False)
class Prediction:
    """What a model says of one image.

    Attributes:
        path: the file, as it was named by the caller.
        status: what the prediction is worth.
        label: the class with the highest probability; None on an error.
        probabilities: class to probability, in the model's class order; empty on an error.
        reasons: why the status is not `ok`, or a note; in words.
        content_hash: SHA-256 of the file's bytes; None where it could not be read.
        pixel_hash: SHA-256 of the pixels, however they were packed; None where the file could not be read.
        prediction_set: the classes that cannot be ruled out at the bundle's coverage; empty where it has none, or where
            the film is like none of them.
        distance: from the films that taught the model; None where the bundle does not measure it.
        logits: (classes,) before calibration; None on an error.
        activation_maps: (classes, rows, columns) float32, not negative; None unless asked for.
        geometry: of the prepared image; None unless maps were asked for.
    """

    path: str
    status: Status
    label: str | None
    probabilities: Mapping[str, float]
    reasons: tuple[str, ...] = ()
    content_hash: str | None = None
    pixel_hash: str | None = None
    prediction_set: tuple[str, ...] = ()
    distance: float | None = None
    logits: tuple[float, ...] | None = None
    activation_maps: Float32 | None = field(default=None, repr=False)
    geometry: Geometry | None = field(default=None, repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Return the documented JSON object: path, label, probabilities, status, reasons, set and distance."""
        return {
            "path": self.path,
            "label": self.label,
            "probabilities": dict(self.probabilities),
            "status": str(self.status),
            "reasons": list(self.reasons),
            "prediction_set": list(self.prediction_set),
            "distance": self.distance,
        }


@dataclass(frozen=True, slots=True)
class Interval:
    """A measured value and its 95 % interval; nan where it cannot be measured.

    Attributes:
        value: on the whole set.
        low: lower end.
        high: upper end.
    """

    value: float
    low: float
    high: float

    def to_dict(self) -> dict[str, float | None]:
        """Return value, low and high; None for nan, which JSON does not know."""
        return {
            name: None if np.isnan(number) else float(number)
            for name, number in (("value", self.value), ("low", self.low), ("high", self.high))
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, float | None]) -> Self:
        """Return the interval that `to_dict` wrote."""
        return cls(**{name: np.nan if number is None else number for name, number in values.items()})

    def __str__(self) -> str:
        return f"{self.value:.3f} ({self.low:.3f}-{self.high:.3f})"


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """A threshold with a name, for one class against the rest.

    Attributes:
        name: `youden`, `sensitivity_0.95` or `specificity_0.95`.
        label: the class whose probability is compared with the threshold.
        threshold: positive when the probability is at least this.
        sensitivity: measured where the threshold was chosen, or on the set under evaluation.
        specificity: likewise.
    """

    name: str
    label: str
    threshold: float
    sensitivity: Interval
    specificity: Interval

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "name": self.name,
            "label": self.label,
            "threshold": self.threshold,
            "sensitivity": self.sensitivity.to_dict(),
            "specificity": self.specificity.to_dict(),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Return the operating point that `to_dict` wrote."""
        return cls(
            name=values["name"],
            label=values["label"],
            threshold=values["threshold"],
            sensitivity=Interval.from_dict(values["sensitivity"]),
            specificity=Interval.from_dict(values["specificity"]),
        )


@dataclass(frozen=True, slots=True)
class Curve:
    """Points of a plot.

    Attributes:
        x: abscissae.
        y: ordinates.
        count: how many cases stand behind each point (reliability curve), or empty.
    """

    x: tuple[float, ...]
    y: tuple[float, ...]
    count: tuple[int, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {"x": list(self.x), "y": list(self.y)} | ({"count": list(self.count)} if self.count else {})


@dataclass(frozen=True, slots=True)
class Leak:
    """What a set under evaluation shares with the making of the model.

    Attributes:
        images: how many of its images trained or chose the model (the same bytes, or the same pixels).
        patients: how many of its patients did.
        patient_source: how the patients became known; names of files are weak evidence across sources.
    """

    images: int
    patients: int
    patient_source: PatientSource

    @property
    def leaky(self) -> bool:
        """Whether the figures must be stamped LEAKY."""
        named = self.patient_source in (PatientSource.CSV, PatientSource.DICOM)
        return self.images > 0 or (named and self.patients > 0)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "leaky": self.leaky,
            "images": self.images,
            "patients": self.patients,
            "patient_source": str(self.patient_source),
        }


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """What was measured on one set.

    Attributes:
        classes: in the model's order.
        positive: the class that recall, precision, F1 and specificity speak of; None where they are macro averages
            (three or more classes).
        n: images measured.
        patients: distinct patients among them.
        metrics: `accuracy`, `balanced_accuracy`, `recall`, `precision`, `specificity`, `f1`, `macro_recall`,
            `macro_precision`, `macro_specificity`, `macro_f1`, `auroc`, `average_precision`, `loss`, `brier`, `ece`.
        per_class: class to `recall`, `precision`, `specificity`, `f1`, `auroc`, `average_precision`.
        support: class to number of images.
        confusion: rows are the true classes, columns the predicted ones.
        roc: class to curve of sensitivity (y) over 1 - specificity (x).
        precision_recall: class to curve of precision (y) over recall (x).
        reliability: mean confidence (x), share that was right (y), cases.
        operating_points: measured on this set at thresholds chosen elsewhere.
        resamples: bootstrap resamples of patients.
        leak: what the set shares with the making of the model; None where that is unknown.
        failed: path to reason of the files that could not be read; they are not in `n`.
        statuses: status to number of images.
    """

    classes: tuple[str, ...]
    positive: str | None
    n: int
    patients: int
    metrics: Mapping[str, Interval]
    per_class: Mapping[str, Mapping[str, Interval]]
    support: Mapping[str, int]
    confusion: tuple[tuple[int, ...], ...]
    roc: Mapping[str, Curve]
    precision_recall: Mapping[str, Curve]
    reliability: Curve
    operating_points: tuple[OperatingPoint, ...] = ()
    resamples: int = 0
    leak: Leak | None = None
    failed: Mapping[str, str] = field(default_factory=dict)
    statuses: Mapping[str, int] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return the documented JSON object: each metric with value, low and high, `n`, and all else above."""
        return {name: interval.to_dict() for name, interval in self.metrics.items()} | {
            "n": self.n,
            "patients": self.patients,
            "classes": list(self.classes),
            "positive": self.positive,
            "per_class": {
                label: {name: interval.to_dict() for name, interval in values.items()}
                for label, values in self.per_class.items()
            },
            "support": dict(self.support),
            "confusion": [list(row) for row in self.confusion],
            "roc": {label: curve.to_dict() for label, curve in self.roc.items()},
            "precision_recall": {label: curve.to_dict() for label, curve in self.precision_recall.items()},
            "reliability": self.reliability.to_dict(),
            "operating_points": [point.to_dict() for point in self.operating_points],
            "resamples": self.resamples,
            "leak": None if self.leak is None else self.leak.to_dict(),
            "leaky": None if self.leak is None else self.leak.leaky,
            "failed": dict(self.failed),
            "statuses": dict(self.statuses),
        }


@dataclass(frozen=True, slots=True, eq=False)
class Mistake:
    """An image that the model got wrong, to be looked at.

    Attributes:
        path: the file.
        label: the true class.
        predicted: the model's class.
        probability: of the predicted class.
        film_png: the film, small, as PNG.
        overlay_png: the same with the predicted class's heat map, as PNG.
    """

    path: str
    label: str
    predicted: str
    probability: float
    film_png: bytes = field(repr=False)
    overlay_png: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Epoch:
    """Loss, accuracy, macro recall and macro F1 of one part after one epoch.

    Attributes:
        loss: mean cross-entropy, nats.
        accuracy: in [0, 1].
        recall: macro average, in [0, 1].
        f1: macro average, in [0, 1].
    """

    loss: float
    accuracy: float
    recall: float
    f1: float


@dataclass(frozen=True, slots=True)
class History:
    """How training went.

    Attributes:
        parts: `train`, `validation` and, where one was given, `test`; each with one entry per epoch. The test part is
            recorded only; nothing looks at it.
        best_epoch: index (from 0) of the epoch whose weights were kept: the lowest validation loss.
        seconds: wall time of the loop.
    """

    parts: Mapping[str, tuple[Epoch, ...]]
    best_epoch: int
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values: part to metric to list over epochs."""
        return {
            "parts": {
                part: {
                    name: [getattr(epoch, name) for epoch in epochs] for name in ("loss", "accuracy", "recall", "f1")
                }
                for part, epochs in self.parts.items()
            },
            "best_epoch": self.best_epoch,
            "seconds": self.seconds,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Return the history that `to_dict` wrote."""
        parts = {
            part: tuple(
                Epoch(*numbers)
                for numbers in zip(*(metrics[name] for name in ("loss", "accuracy", "recall", "f1")), strict=True)
            )
            for part, metrics in values["parts"].items()
        }
        return cls(parts=parts, best_epoch=values["best_epoch"], seconds=values["seconds"])


@dataclass(frozen=True, slots=True)
class DuplicatePair:
    """Two images of a set that show the same film.

    Attributes:
        first: path.
        second: path.
        exact: the same bytes; otherwise the same film by perceptual hash and correlation.
        correlation: Pearson's, of small copies; 1.0 for exact pairs.
        same_label: whether the labels agree.
        same_split: whether both stand in the same part.
        same_patient: whether both have the same patient.
    """

    first: str
    second: str
    exact: bool
    correlation: float
    same_label: bool
    same_split: bool
    same_patient: bool


@dataclass(frozen=True, slots=True)
class Audit:
    """What is wrong, or worth knowing, about a set before anyone trains on it.

    Attributes:
        n: images listed.
        unreadable: path to reason.
        pairs: exact and near duplicates.
        counts: part (or `all` where there is none) to class to number of images.
        patients: part to number of distinct patients.
        patient_source: how patients became known.
        shared_patients: how many patients stand in more than one part.
        heights: minimum, median and maximum, native pixels.
        widths: likewise.
        formats: file format to number of images.
        shortcuts: a number that needs no radiologist (`width`, `height`, `aspect`, `bytes`, `mean`, `contrast`,
            `sharpness`) to the AUROC with which it alone tells the classes apart (the best class against the rest, in
            [0.5, 1]).
        findings: what a reader should do something about, in words, worst first.
    """

    n: int
    unreadable: Mapping[str, str]
    pairs: tuple[DuplicatePair, ...]
    counts: Mapping[str, Mapping[str, int]]
    patients: Mapping[str, int]
    patient_source: PatientSource
    shared_patients: int
    heights: tuple[int, int, int]
    widths: tuple[int, int, int]
    formats: Mapping[str, int]
    shortcuts: Mapping[str, float]
    findings: tuple[str, ...]

    def summary(self) -> dict[str, Any]:
        """Return plain JSON values without the paths of single images."""
        across = [pair for pair in self.pairs if not pair.same_split]
        return {
            "n": self.n,
            "unreadable": len(self.unreadable),
            "exact_duplicates": sum(pair.exact for pair in self.pairs),
            "near_duplicates": sum(not pair.exact for pair in self.pairs),
            "duplicates_across_parts": len(across),
            "duplicates_across_labels": sum(not pair.same_label for pair in self.pairs),
            "shared_patients": self.shared_patients,
            "patient_source": str(self.patient_source),
            "counts": {part: dict(classes) for part, classes in self.counts.items()},
            "patients": dict(self.patients),
            "heights": list(self.heights),
            "widths": list(self.widths),
            "formats": dict(self.formats),
            "shortcuts": dict(self.shortcuts),
            "findings": list(self.findings),
        }

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values, with paths."""
        return self.summary() | {
            "unreadable": dict(self.unreadable),
            "pairs": [
                {
                    "first": pair.first,
                    "second": pair.second,
                    "exact": pair.exact,
                    "correlation": pair.correlation,
                    "same_label": pair.same_label,
                    "same_split": pair.same_split,
                    "same_patient": pair.same_patient,
                }
                for pair in self.pairs
            ],
        }


@dataclass(frozen=True, slots=True)
class SplitCertificate:
    """Proof of which images and patients made a model, without naming a patient.

    Attributes:
        salt: hexadecimal; patients are hashed with it.
        images: part to sorted SHA-256 of the members' bytes.
        pixels: part to sorted SHA-256 of the members' pixels: the same film saved again is known by them.
        patients: part to sorted salted hashes of its patients.
        patient_source: how patients became known.
        audit: `Audit.summary()` of the split set.
    """

    salt: str
    images: Mapping[Split, tuple[str, ...]]
    pixels: Mapping[Split, tuple[str, ...]]
    patients: Mapping[Split, tuple[str, ...]]
    patient_source: PatientSource
    audit: Mapping[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "salt": self.salt,
            "images": {str(part): list(members) for part, members in self.images.items()},
            "pixels": {str(part): list(members) for part, members in self.pixels.items()},
            "patients": {str(part): list(members) for part, members in self.patients.items()},
            "patient_source": str(self.patient_source),
            "audit": dict(self.audit),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Return the certificate that `to_dict` wrote."""
        return cls(
            salt=values["salt"],
            images={Split(part): tuple(members) for part, members in values["images"].items()},
            pixels={Split(part): tuple(members) for part, members in values["pixels"].items()},
            patients={Split(part): tuple(members) for part, members in values["patients"].items()},
            patient_source=PatientSource(values["patient_source"]),
            audit=values["audit"],
        )


@dataclass(frozen=True, slots=True)
class Calibration:
    """From logits to probabilities that mean what they say: `softmax(logits * scale + bias)`.

    Attributes:
        method: `none`, `temperature` (one scale, no bias) or `vector` (one of each for each class; Guo et al. 2017).
        scale: one for each class, positive.
        bias: one for each class.
        fitted_on: which films, in words.
        n: how many.
        before: `ece`, `brier`, `loss`, `slope` and `intercept` of these films without it, as `Interval.to_dict` gives
            them.
        after: the same with it.
    """

    method: str
    scale: tuple[float, ...]
    bias: tuple[float, ...]
    fitted_on: str
    n: int
    before: Mapping[str, Mapping[str, float | None]] = field(default_factory=dict)
    after: Mapping[str, Mapping[str, float | None]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(self.scale) != len(self.bias) or not all(value > 0 for value in self.scale):
            raise ValueError(f"Expected a positive scale and a bias for each class, but got {self.scale}, {self.bias}.")

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self) | {"scale": list(self.scale), "bias": list(self.bias)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Return the calibration that `to_dict` wrote."""
        return cls(**{**values, "scale": tuple(values["scale"]), "bias": tuple(values["bias"])})


@dataclass(frozen=True, slots=True)
class Conformal:
    """Prediction sets that hold the true class as often as was asked for (split conformal prediction).

    Attributes:
        coverage: asked for, in (0, 1).
        threshold: a class is in the set when its calibrated probability is at least this.
        n: films that decided it.
        measured: share of the test part's films whose set held the true class, as `Interval.to_dict` gives it; None
            where there was no such part.
        single: share of the test part's films with exactly one class in the set; likewise.
    """

    coverage: float
    threshold: float
    n: int
    measured: Mapping[str, float | None] | None = None
    single: Mapping[str, float | None] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Return what `to_dict` wrote."""
        return cls(**values)


@dataclass(frozen=True, slots=True)
class Scope:
    """The films that a model is meant for, as a DICOM header can tell; an empty tuple or None does not limit.

    Attributes:
        modalities: DICOM Modality, such as `CR` and `DX`.
        body_parts: DICOM BodyPartExamined.
        views: DICOM ViewPosition.
        min_age_years: of the patient.
        max_age_years: of the patient.
    """

    modalities: tuple[str, ...] = ()
    body_parts: tuple[str, ...] = ()
    views: tuple[str, ...] = ()
    min_age_years: float | None = None
    max_age_years: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Return the scope that `to_dict` wrote."""
        lists = {name: tuple(values.get(name, ())) for name in ("modalities", "body_parts", "views")}
        return cls(**lists, min_age_years=values.get("min_age_years"), max_age_years=values.get("max_age_years"))


@dataclass(frozen=True, slots=True)
class Domain:
    """How far from the films that taught it a film may lie; the graph's `distance` is compared with it.

    Attributes:
        threshold: the largest distance that is still inside.
        kept: share of the validation films that it keeps, as it was asked for.
        n: validation films that decided it.
    """

    threshold: float
    kept: float
    n: int

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Return the domain that `to_dict` wrote."""
        return cls(**values)


@dataclass(frozen=True, slots=True)
class Card:
    """What a bundle says of itself.

    Attributes:
        name: of the model.
        created: when, ISO 8601, UTC.
        classes: in the order of the graph's logits.
        positive: the class that two-class metrics speak of; None with three or more.
        preprocessing: how films become inputs.
        backbone: `name`, `weights` (where they came from), `weights_sha256`, `licence`, `features` (their number).
        recipe: the training recipe, as TOML tables.
        history: how training went.
        operating_points: chosen on the validation part.
        validation: `Evaluation.to_dict()` of the validation part: it chose, so it flatters.
        test: `Evaluation.to_dict()` of the test part, or None where there was none.
        counts: part to class to number of images.
        audit: `Audit.summary()`.
        intended_use: in words.
        licences: of the data and the starting weights, in words.
        software: package to version.
        command: that repeats the training.
        calibration: of the logits; None where the bare softmax is the answer.
        conformal: when the model says that it does not know; None where it never does.
        scope: films it is meant for; None where any film is.
        domain: how far from its training films it still answers; None where it does not ask.
        robustness: how it bears worse films: `evaluate.stress`'s plain values, or empty.
        shortcuts: whether it looks where it should: `evaluate.shortcuts`'s plain values, or empty.
        heat_maps: what its heat maps are worth: `evaluate.explain`'s plain values, or empty.
        known_failures: in words.
        parent: id of the bundle it was calibrated from; None for one that was trained.
        tolerances: precision to output to how far it may stand from the golden one, relative to its largest value (or
            1): measured where the bundle was made, and only where answers stay what they are. What is not named has the
            engine's own.
    """

    name: str
    created: str
    classes: tuple[str, ...]
    positive: str | None
    preprocessing: Preprocessing
    backbone: Mapping[str, Any]
    recipe: Mapping[str, Any]
    history: History
    operating_points: tuple[OperatingPoint, ...]
    validation: Mapping[str, Any]
    test: Mapping[str, Any] | None
    counts: Mapping[str, Mapping[str, int]]
    audit: Mapping[str, Any]
    intended_use: str
    licences: tuple[str, ...]
    software: Mapping[str, str]
    command: str
    calibration: Calibration | None = None
    conformal: Conformal | None = None
    scope: Scope | None = None
    domain: Domain | None = None
    robustness: Mapping[str, Any] = field(default_factory=dict)
    shortcuts: Mapping[str, Any] = field(default_factory=dict)
    heat_maps: Mapping[str, Any] = field(default_factory=dict)
    known_failures: tuple[str, ...] = ()
    parent: str | None = None
    tolerances: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "name": self.name,
            "created": self.created,
            "classes": list(self.classes),
            "positive": self.positive,
            "preprocessing": self.preprocessing.to_dict(),
            "backbone": dict(self.backbone),
            "recipe": dict(self.recipe),
            "history": self.history.to_dict(),
            "operating_points": [point.to_dict() for point in self.operating_points],
            "validation": dict(self.validation),
            "test": None if self.test is None else dict(self.test),
            "counts": {part: dict(classes) for part, classes in self.counts.items()},
            "audit": dict(self.audit),
            "intended_use": self.intended_use,
            "licences": list(self.licences),
            "software": dict(self.software),
            "command": self.command,
            **{
                name: None if (part := getattr(self, name)) is None else part.to_dict()
                for name in ("calibration", "conformal", "scope", "domain")
            },
            "robustness": dict(self.robustness),
            "shortcuts": dict(self.shortcuts),
            "heat_maps": dict(self.heat_maps),
            "known_failures": list(self.known_failures),
            "parent": self.parent,
            "tolerances": {precision: dict(limits) for precision, limits in self.tolerances.items()},
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Return the card that `to_dict` wrote; what a card of an earlier version does not say keeps its default."""
        fields = dict(values)
        fields["classes"] = tuple(values["classes"])
        fields["preprocessing"] = Preprocessing.from_dict(values["preprocessing"])
        fields["history"] = History.from_dict(values["history"])
        fields["operating_points"] = tuple(OperatingPoint.from_dict(point) for point in values["operating_points"])
        fields["licences"] = tuple(values["licences"])
        fields["known_failures"] = tuple(values.get("known_failures", ()))
        for name, build in (
            ("calibration", Calibration.from_dict),
            ("conformal", Conformal.from_dict),
            ("scope", Scope.from_dict),
            ("domain", Domain.from_dict),
        ):
            if values.get(name) is not None:
                fields[name] = build(values[name])
        return cls(**fields)
