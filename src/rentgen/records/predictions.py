"""What a model says of one film, and how it is run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from rentgen.records.common import Float32
from rentgen.records.films import Geometry


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


@dataclass(frozen=True, slots=True, eq=False)
class Prediction:
    """What a model says of one image.

    Attributes:
        path: the file, as it was named by the caller.
        status: what the prediction is worth.
        label: the class with the highest probability; None on an error. Of several findings, the one that stands
            highest above its operating point, or, where none is present, the class that says so if there is one.
        probabilities: class to probability, in the model's class order; empty on an error.
        reasons: why the status is not `ok`, or a note; in words.
        content_hash: SHA-256 of the file's bytes; None where it could not be read.
        pixel_hash: SHA-256 of the pixels, however they were packed; None where the file could not be read.
        prediction_set: the classes that cannot be ruled out at the bundle's coverage; empty where it has none, or where
            the film is like none of them. Of several findings, all that cannot be ruled out.
        distance: from the films that taught the model; None where the bundle does not measure it.
        logits: (classes,) before calibration; None on an error.
        activation_maps: (classes, rows, columns) float32, not negative; None unless asked for.
        geometry: of the prepared image; None unless maps were asked for.
        findings: of several, those present at their own operating points; None where a film has one class.
        undetermined: of several findings, those that can be neither ruled out nor confirmed.
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
    findings: tuple[str, ...] | None = None
    undetermined: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the documented JSON object: path, label, probabilities, status, reasons, set, distance, findings."""
        several = {"findings": list(self.findings or ()), "undetermined": list(self.undetermined)}
        return {
            "path": self.path,
            "label": self.label,
            "probabilities": dict(self.probabilities),
            "status": str(self.status),
            "reasons": list(self.reasons),
            "prediction_set": list(self.prediction_set),
            "distance": self.distance,
            **(several if self.findings is not None else {}),
        }
