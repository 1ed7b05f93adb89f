"""The films of a training, read, audited and shared out by patient."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from rentgen.data.audit import Examination, audit, examine
from rentgen.data.findings import align
from rentgen.data.listing import list_images
from rentgen.data.split import check_split, keep_together, split
from rentgen.errors import DataError, LeakError
from rentgen.learn.settings import DataSettings
from rentgen.parallel.pool import HERE, Pool
from rentgen.records import Audit, Listing, PatientSource, Progress, Split, Task


@dataclass(frozen=True, slots=True)
class Shared:
    """Readable films with their parts.

    Attributes:
        listing: with the patient source of the films that teach.
        test_source: how the patients of the test part became known.
        audit: of these parts.
        examined: what reading them brought.
    """

    listing: Listing
    test_source: PatientSource
    audit: Audit
    examined: Examination


def share_out(
    data: Path,
    settings: DataSettings,
    *,
    test: Path | None = None,
    patient_pattern: str | None = None,
    findings: tuple[str, ...] = (),
    progress: Progress | None = None,
    pool: Pool = HERE,
) -> Shared:
    """Return the readable films with their parts, and their audit.

    Args:
        data: folder or CSV.
        settings: how large the parts are.
        test: films that only measure, in place of a part of `data`.
        patient_pattern: finds the patient in a file name.
        findings: of a table of several findings, those to learn; all of them by default.
        progress: stage `audit`.
        pool: who reads.

    Raises:
        DataError: one class, an empty part, or a test set that does not fit.
        LeakError: a patient or a file is on both sides.
    """
    own = list_images(data, patient_pattern=patient_pattern, findings=findings)
    if len(own.classes) < 2 and own.task is Task.MULTICLASS:
        raise DataError(
            f"Expected at least two classes in {data}, but got {len(own.classes)}: "
            f"{', '.join(own.classes) or 'no labels'}. Give a folder of class folders or a CSV with path,label."
        )
    other = None
    if test is not None:
        other = list_images(test, patient_pattern=patient_pattern)
        other = align(other, own.classes) if own.task is Task.MULTILABEL else other
    everything = own if other is None else _joined(own, other)
    examined = examine(
        everything,
        progress=None if progress is None else lambda done, total: progress("audit", done, total),
        pool=pool,
    )
    hashes = examined.hashes
    own = replace(own, records=tuple(record for record in own.records if record.path in hashes))
    everything = replace(everything, records=tuple(item for item in everything.records if item.path in hashes))
    # Copies of a film must not part, whatever their names say of the patient; where the source parted them, the audit
    # says so.
    inside = {str(record.path) for record in own.records}
    copies = [
        pair
        for pair in audit(everything, examined).pairs
        if pair.same_split and pair.first in inside and pair.second in inside
    ]
    rng = np.random.default_rng(settings.seed)
    divided = split(
        keep_together(own, copies), validation=settings.validation, test=0.0 if other else settings.test, rng=rng
    )
    # Under their own names again: the certificate must know every patient, not one of each group.
    parted = zip(own.records, divided.records, strict=True)
    listing = replace(own, records=tuple(replace(record, split=given.split) for record, given in parted))
    if other is not None:
        measured = tuple(record for record in other.records if record.path in hashes)
        listing = _joined(listing, replace(other, records=measured))
    # Across two sources, names of files are weak evidence: the audit and the judge tell of them, nothing refuses.
    if other is None or other.patient_source is own.patient_source is not PatientSource.NAME:
        check_split(listing)
    source = own.patient_source if other is None else other.patient_source
    return Shared(listing, source, audit(listing, examined), examined)


def _joined(listing: Listing, test: Listing) -> Listing:
    """Return a set with the films of another as its test part.

    Raises:
        DataError: the other has classes of its own, or the set has a test part already.
        LeakError: a file is in both.
    """
    twice = {record.path.resolve() for record in listing.records} & {record.path.resolve() for record in test.records}
    if twice:
        raise LeakError(
            f"{len(twice)} files of the test set are in the training set, too. Give --test other films, or leave it "
            "out: then Rentgen holds a part back."
        )
    unknown = sorted(set(test.classes) - set(listing.classes))
    if unknown:
        raise DataError(f"The test set has classes that the training set has not: {', '.join(unknown)}.")
    if any(record.split is Split.TEST for record in listing.records):
        raise DataError("The training set brings a test part of its own; give either that or --test, not both.")
    members = tuple(replace(record, split=Split.TEST) for record in test.records)
    return replace(listing, records=listing.records + members)
