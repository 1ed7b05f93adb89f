"""The nouns that pass from room to room: frozen, checked when they are built, free of foreign objects."""

from __future__ import annotations

from rentgen.records.common import DISCLAIMER, Float32, Float64, Int64, Pixels, Progress, UInt8
from rentgen.records.deciding import deciding_threshold, deciding_thresholds, present_findings
from rentgen.records.evaluation import Curve, Evaluation, FindingErrors, Interval, Leak, Mistake, OperatingPoint
from rentgen.records.films import (
    Geometry,
    ImageRecord,
    Listing,
    PatientSource,
    Prepared,
    Preprocessing,
    Radiograph,
    ResizeMode,
    Split,
    Task,
)
from rentgen.records.model import Calibration, Card, Conformal, Domain, FindingSet, Scope
from rentgen.records.predictions import EngineName, Precision, Prediction, Status
from rentgen.records.training import Audit, DuplicatePair, Epoch, History, SplitCertificate
from rentgen.records.truth import UNKNOWN, one_against_rest, strata, truth_of

__all__ = [
    "DISCLAIMER",
    "UNKNOWN",
    "Audit",
    "Calibration",
    "Card",
    "Conformal",
    "Curve",
    "Domain",
    "DuplicatePair",
    "EngineName",
    "Epoch",
    "Evaluation",
    "FindingErrors",
    "FindingSet",
    "Float32",
    "Float64",
    "Geometry",
    "History",
    "ImageRecord",
    "Int64",
    "Interval",
    "Leak",
    "Listing",
    "Mistake",
    "OperatingPoint",
    "PatientSource",
    "Pixels",
    "Precision",
    "Prediction",
    "Prepared",
    "Preprocessing",
    "Progress",
    "Radiograph",
    "ResizeMode",
    "Scope",
    "Split",
    "SplitCertificate",
    "Status",
    "Task",
    "UInt8",
    "deciding_threshold",
    "deciding_thresholds",
    "one_against_rest",
    "present_findings",
    "strata",
    "truth_of",
]
