"""The films of a site that calibrate a bundle: what it says of them, and whether they are enough.

The certificate of the calibrated bundle remembers them as films that chose.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from rentgen.bundle import Bundle
from rentgen.data.split import certify, find_leak
from rentgen.engine.predictor import Predictor
from rentgen.errors import DataError, LeakError
from rentgen.evaluate.judge import judge
from rentgen.learn.scaling import Scaling
from rentgen.records import (
    UNKNOWN,
    Audit,
    Card,
    Float64,
    ImageRecord,
    Int64,
    Listing,
    PatientSource,
    Progress,
    Split,
    SplitCertificate,
    Status,
    Task,
    one_against_rest,
    truth_of,
)

FOLDS = 5
MIN_FILMS = 10
"""Of each class, to calibrate on."""
_NO_AUDIT = Audit(
    n=0,
    unreadable={},
    pairs=(),
    counts={},
    patients={},
    patient_source=PatientSource.NONE,
    shared_patients=0,
    heights=(0, 0, 0),
    widths=(0, 0, 0),
    formats={},
    shortcuts={},
    findings=(),
)
"""Stands in where only the hashes of a certificate are wanted."""


@dataclass(frozen=True, slots=True, eq=False)
class Site:
    """The films that calibrate.

    Attributes:
        records: n films.
        truth: (n,), or (n, k) of several findings.
        logits: (n, k).
        told: (n, k) probabilities of the bundle as it came.
        hashes: (n,) of the content and of the pixels.
        left_out: status to number of films.
        failed: path to reason of films that could not be read.
    """

    records: tuple[ImageRecord, ...]
    truth: Int64
    logits: Float64
    told: Float64
    hashes: tuple[tuple[str, str], ...] = field(repr=False)
    left_out: Mapping[str, int]
    failed: Mapping[str, str]


def look(bundle: Bundle, listing: Listing, needed: int, progress: Progress | None) -> Site:
    """Return what the bundle says of the films that it was made for, after checking that they may calibrate it.

    Args:
        bundle: to be calibrated.
        listing: films with labels.
        needed: films that the promised coverage asks for.
        progress: stage `predictions`.

    Raises:
        DataError: too few films, or of too few patients.
        LeakError: films or patients of the set trained the model.
    """
    card = bundle.card
    judged = judge(Predictor(bundle), listing, resamples=0, gallery=0, progress=progress)
    kept = [
        (record, prediction)
        for record, prediction in zip(judged.records, judged.predictions, strict=True)
        # A film of which the model is not sure is one of its films.
        if prediction.status in (Status.OK, Status.ABSTAIN)
    ]
    left_out = Counter(str(item.status) for item in judged.predictions) - Counter(str(item.status) for _, item in kept)
    truth = truth_of([record for record, _ in kept], card.classes, card.task)
    if card.task is Task.MULTILABEL:
        check_findings(truth, [record.patient for record, _ in kept], card.classes, left_out)
    else:
        check_enough([record for record, _ in kept], card.classes, needed, left_out)
    site = Site(
        records=tuple(record for record, _ in kept),
        truth=truth,
        logits=np.array([item.logits for _, item in kept], np.float64),
        told=np.array([[item.probabilities[label] for label in card.classes] for _, item in kept]),
        hashes=tuple((item.content_hash or "", item.pixel_hash or "") for _, item in kept),
        left_out=left_out,
        failed=judged.evaluation.failed,
    )
    made = bundle.split
    leak = find_leak(
        replace(_taught(made), members=tuple(map(_taught, made.members))),
        [content for content, _ in site.hashes],
        [record.patient for record in site.records],
        listing.patient_source,
        pixels=[pixels for _, pixels in site.hashes],
    )
    if leak.leaky:
        raise LeakError(
            f"{leak.images} of the films and {leak.patients} of their patients trained this model: it is surer of them "
            "than of any others. Calibrate on films that did not."
        )
    return site


def _taught(made: SplitCertificate) -> SplitCertificate:
    """Return the training part of a certificate."""
    return replace(
        made,
        images={Split.TRAIN: made.images.get(Split.TRAIN, ())},
        pixels={Split.TRAIN: made.pixels.get(Split.TRAIN, ())},
        patients={Split.TRAIN: made.patients.get(Split.TRAIN, ())},
    )


def remember(certificate: SplitCertificate, listing: Listing, site: Site) -> SplitCertificate:
    """Return the certificate with the site's films among those that chose; names of patients only where they prove."""
    records = tuple(replace(record, split=Split.VALIDATION) for record in site.records)
    pairs = tuple(zip(records, site.hashes, strict=True))
    new = certify(
        replace(listing, records=records),
        {record.path: content for record, (content, _) in pairs},
        _NO_AUDIT,
        certificate.salt,
        pixels={record.path: pixels for record, (_, pixels) in pairs},
    )
    part = Split.VALIDATION
    # Names of files prove nothing; among identities from a table or a header they would pass for proof.
    proven = certificate.patient_source in (PatientSource.CSV, PatientSource.DICOM)
    weaker = proven and listing.patient_source is PatientSource.NAME
    return replace(
        certificate,
        images={**certificate.images, part: _joined(certificate.images, new.images)},
        pixels={**certificate.pixels, part: _joined(certificate.pixels, new.pixels)},
        patients=certificate.patients
        if weaker
        else {**certificate.patients, part: _joined(certificate.patients, new.patients)},
    )


def _joined(old: Mapping[Split, tuple[str, ...]], new: Mapping[Split, tuple[str, ...]]) -> tuple[str, ...]:
    return tuple(sorted({*old.get(Split.VALIDATION, ()), *new.get(Split.VALIDATION, ())}))


def check_enough(
    records: Sequence[ImageRecord], classes: Sequence[str], needed: int, left_out: Mapping[str, int]
) -> None:
    """Check that there are films enough of each class, and of several patients.

    Raises:
        DataError: there are not; the message says of what.
    """
    counts = Counter(str(record.label) for record in records)
    without = ", ".join(f"{number} {status}" for status, number in left_out.items())
    told = f" ({sum(left_out.values())} were left out: {without})" if left_out else ""
    for label in classes:
        if counts[label] < MIN_FILMS:
            raise DataError(
                f"Expected at least {MIN_FILMS} films of each class to calibrate on, but got {counts[label]} of "
                f"{label!r}{told}. Add films of it."
            )
        if len({record.patient for record in records if record.label == label}) < 2:
            raise DataError(
                f"Expected films of at least 2 patients of each class, but all of {label!r} are of one. Add films of "
                "others, or give the patients, so that a calibration can be tried on patients that did not fit it."
            )
    if len(records) < needed:
        raise DataError(
            f"Expected at least {needed} films to promise the coverage that was asked for, but got {len(records)}"
            f"{told}. Add films, or ask for less."
        )


def support(truth: Int64, classes: Sequence[str]) -> dict[str, int]:
    """Return how many films show each class."""
    against = one_against_rest(truth, len(classes))
    return {label: int((against[:, index] == 1).sum()) for index, label in enumerate(classes)}


def known(truth: Int64, findings: Sequence[str]) -> dict[str, int]:
    """Return of how many films each of several findings is known."""
    return dict(zip(findings, (truth != UNKNOWN).sum(axis=0).tolist(), strict=True))


def check_shared(prevalence: Iterable[str], thin: Sequence[str]) -> None:
    """Check that no finding of which the site says too little shall be calibrated for a prevalence.

    Raises:
        DataError: one shall.
    """
    asked = [label for label in prevalence if label in thin]
    if asked:
        raise DataError(
            f"Expected at least {MIN_FILMS} films with and {MIN_FILMS} without each finding that has a prevalence, but "
            f"there are fewer of {', '.join(asked)}. Add films, or leave its prevalence out."
        )


def thin_findings(truth: Int64, classes: Sequence[str]) -> tuple[str, ...]:
    """Return the findings with too few films with them, or without, to be calibrated on."""
    enough = ((truth == 1).sum(axis=0) >= MIN_FILMS) & ((truth == 0).sum(axis=0) >= MIN_FILMS)
    return tuple(label for label, kept in zip(classes, enough.tolist(), strict=True) if not kept)


def keep_thin(scaling: Scaling | None, card: Card, thin: Sequence[str]) -> Scaling | None:
    """Return a scaling in which the findings that the site says too little of have the card's."""
    if scaling is None or not thin:
        return scaling
    old = card.calibration
    scale, bias = scaling.scale.copy(), scaling.bias.copy()
    for label in thin:
        place = card.classes.index(label)
        scale[place] = 1.0 if old is None else old.scale[place]
        bias[place] = 0.0 if old is None else old.bias[place]
    return replace(scaling, scale=scale, bias=bias)


def check_findings(truth: Int64, patients: Sequence[str], classes: Sequence[str], left_out: Mapping[str, int]) -> None:
    """Check that at least one finding can be calibrated, and tried on patients that did not fit it.

    Raises:
        DataError: none can.
    """
    if len(thin_findings(truth, classes)) == len(classes) or len(set(patients)) < 2:
        told = f" ({sum(left_out.values())} were left out)" if left_out else ""
        raise DataError(
            f"Expected at least {MIN_FILMS} films with a finding and {MIN_FILMS} without, of 2 patients or more, to "
            f"calibrate on, but none of {', '.join(classes)} has them in {len(truth)} films{told}. Add films."
        )


def fold_count(truth: Int64, patients: Sequence[str]) -> int:
    """Return how many folds there can be so that each class's patients reach all of them."""
    if truth.ndim == 2:
        return min(FOLDS, len(set(patients)))
    of_class: dict[int, set[str]] = defaultdict(set)
    for label, patient in zip(truth.tolist(), patients, strict=True):
        of_class[label].add(patient)
    return min(FOLDS, *(len(members) for members in of_class.values()))
