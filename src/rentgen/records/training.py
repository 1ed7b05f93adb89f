"""The nouns of making a model: epochs, the audit of the data, the certificate of the split."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from rentgen.records.films import PatientSource, Split


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
        counts: part (or `all` where there is none) to class to number of images; of several findings, in which each is
            present.
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
        films: part to number of images; empty where `counts` add up to it.
        known: of several findings: part to finding to number of images of which it is known; empty elsewhere.
        sources: of merged sets: set to number of images; empty elsewhere.
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
    films: Mapping[str, int] = field(default_factory=dict)
    known: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    sources: Mapping[str, int] = field(default_factory=dict)

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
            "films": dict(self.films),
            "known": {part: dict(numbers) for part, numbers in self.known.items()},
            "sources": dict(self.sources),
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
        members: of an ensemble, what else knows its patients: the certificates of its members, each with a salt of its
            own and without members or films; those films are among `images` and `pixels`. Empty elsewhere.
    """

    salt: str
    images: Mapping[Split, tuple[str, ...]]
    pixels: Mapping[Split, tuple[str, ...]]
    patients: Mapping[Split, tuple[str, ...]]
    patient_source: PatientSource
    audit: Mapping[str, Any]
    members: tuple[SplitCertificate, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values; `members` only where there are some."""
        members = {"members": [member.to_dict() for member in self.members]} if self.members else {}
        return {
            "salt": self.salt,
            "images": {str(part): list(members) for part, members in self.images.items()},
            "pixels": {str(part): list(members) for part, members in self.pixels.items()},
            "patients": {str(part): list(members) for part, members in self.patients.items()},
            "patient_source": str(self.patient_source),
            "audit": dict(self.audit),
            **members,
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
            # One level: a member has none.
            members=tuple(cls.from_dict({**member, "members": ()}) for member in values.get("members", ())),
        )
