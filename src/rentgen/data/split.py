"""Which films train, choose and measure: parts without a patient in common, and the proof of it."""

from __future__ import annotations

import hashlib
import hmac
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path

import numpy as np

from rentgen.errors import DataError, LeakError, SettingError
from rentgen.records import (
    Audit,
    DuplicatePair,
    ImageRecord,
    Int64,
    Leak,
    Listing,
    PatientSource,
    Split,
    SplitCertificate,
    Task,
    strata,
    truth_of,
)


def split(listing: Listing, *, validation: float = 0.15, test: float = 0.15, rng: np.random.Generator) -> Listing:
    """Return the listing with a part for each film: by patient, and each class in its proportion.

    Parts that the source gives are kept. A source with training and test films gets its validation part out of the
    training films; one with training and validation films gets no test part; one with training films only is divided
    like one without parts.

    Args:
        listing: every film with a label.
        validation: share of the films that are divided.
        test: likewise; 0 for no test part.
        rng: decides which patients go where.

    Raises:
        SettingError: a share is out of range.
        DataError: a film has no label, only some films have a part, or a class is too small for the parts.
        LeakError: the source puts one patient into two parts.

    Example:
        >>> records = tuple(ImageRecord(Path(f"{i}.png"), "ab"[i % 2], patient=str(i // 2)) for i in range(200))
        >>> listing = Listing(Path("."), records, ("a", "b"), PatientSource.CSV)
        >>> divided = split(listing, rng=np.random.default_rng(0))
        >>> [len(select(divided, part)) for part in Split]
        [140, 30, 30]
    """
    if not (0 < validation < 1 and 0 <= test < 1 and validation + test < 1):
        raise SettingError(
            "Expected validation in (0, 1), test in [0, 1) and their sum below 1, "
            f"but got validation {validation} and test {test}."
        )
    _require_labels(listing)
    given = {record.split for record in listing.records}
    if None in given and len(given) > 1:
        missing = sum(record.split is None for record in listing.records)
        raise DataError(
            f"{missing} of {len(listing)} films have no part while the others have one. "
            "Give all of them a part, or none."
        )
    if not given & {None, Split.TRAIN}:
        raise DataError(f"Expected training films, but the source gives only: {', '.join(sorted(map(str, given)))}.")
    shares = {Split.TRAIN: 1 - validation - test, Split.VALIDATION: validation, Split.TEST: test}
    if Split.VALIDATION in given:
        divided = listing
    elif Split.TEST in given:
        divided = _divide(listing, {Split.TRAIN: 1 - validation, Split.VALIDATION: validation}, rng)
    else:
        divided = _divide(listing, {part: share for part, share in shares.items() if share > 0}, rng)
    check_split(divided)
    _require_classes(divided)
    return divided


def patient_folds(labels: Int64, patients: Sequence[str], folds: int, rng: np.random.Generator) -> Int64:
    """Return the fold (n,) of each film: films of one patient together, each class in its proportion.

    Args:
        labels: (n,), or (n, k) of several findings.
        patients: (n,) whom each film shows.
        folds: how many.
        rng: deals the patients.
    """
    labels = strata(labels)
    films: dict[str, Counter[int]] = defaultdict(Counter)
    for label, patient in zip(labels.tolist(), patients, strict=True):
        films[patient][label] += 1
    totals = Counter(labels.tolist())
    groups: dict[int, list[str]] = defaultdict(list)
    for patient in sorted(films):
        # By the rarest class, so that a patient with several counts where it is missed most.
        groups[min(films[patient], key=lambda label: (totals[label], label))].append(patient)
    dealt = [groups[label][index] for label in sorted(groups) for index in rng.permutation(len(groups[label]))]
    fold_of = {patient: place % folds for place, patient in enumerate(dealt)}
    return np.array([fold_of[patient] for patient in patients], np.int64)


def keep_together(listing: Listing, pairs: Iterable[DuplicatePair]) -> Listing:
    """Return the listing with the patients made one who share a film, so that a split cannot tear the copies apart.

    Args:
        listing: to be divided.
        pairs: of the same film, from an audit.
    """
    leader: dict[str, str] = {}

    def follow(patient: str) -> str:
        while patient in leader:
            patient = leader[patient]
        return patient

    patients = {str(record.path): record.patient for record in listing.records}
    for pair in pairs:
        first, second = sorted((follow(patients[pair.first]), follow(patients[pair.second])))
        if first != second:
            leader[second] = first
    return replace(
        listing, records=tuple(replace(record, patient=follow(record.patient)) for record in listing.records)
    )


def check_split(listing: Listing) -> None:
    """Check that no patient stands in two parts; nothing to check where nobody knows the patients.

    Raises:
        LeakError: at least one does.
    """
    shared = count_shared_patients(listing)
    if shared:
        raise LeakError(
            f"Patients with films in more than one part: {shared}. A score on one part would flatter what was taught "
            "on another. Correct the parts, or remove them from the source so that Rentgen divides it by patient."
        )


def count_shared_patients(listing: Listing) -> int:
    """Return how many patients stand in more than one part; 0 where nobody knows the patients."""
    if listing.patient_source is PatientSource.NONE:
        return 0
    parts: dict[str, set[Split]] = defaultdict(set)
    for record in listing.records:
        if record.split is not None:
            parts[record.patient].add(record.split)
    return sum(len(where) > 1 for where in parts.values())


def select(listing: Listing, part: Split) -> Listing:
    """Return the films of one part, which may be none, with the classes of the whole."""
    return replace(listing, records=tuple(record for record in listing.records if record.split is part))


def certify(
    listing: Listing, hashes: Mapping[Path, str], audit: Audit, salt: str, *, pixels: Mapping[Path, str] | None = None
) -> SplitCertificate:
    """Return the proof of which films and patients made a model.

    Args:
        listing: with a part for each film.
        hashes: path to SHA-256 of the file's bytes.
        audit: of the listing.
        salt: hexadecimal, at least 32 digits, fresh for each certificate.
        pixels: path to SHA-256 of what the film shows; without it, a film that was saved again is a new one.

    Raises:
        SettingError: the salt is not hexadecimal or too short.
        DataError: a film has no part or no hash.
    """
    unhashed = [record.path for record in listing.records if record.path not in hashes or record.split is None]
    if unhashed:
        raise DataError(f"{len(unhashed)} films have no part or were not read, {unhashed[0]} for one.")
    key = _parse_salt(salt)
    known = listing.patient_source is not PatientSource.NONE
    parts = {part: select(listing, part).records for part in Split}
    return SplitCertificate(
        salt=salt,
        images={part: tuple(sorted(hashes[record.path] for record in members)) for part, members in parts.items()},
        pixels={
            part: tuple(sorted(pixels[record.path] for record in members)) if pixels else ()
            for part, members in parts.items()
        },
        patients={
            part: tuple(sorted({_hide(record.patient, key) for record in members})) if known else ()
            for part, members in parts.items()
        },
        patient_source=listing.patient_source,
        audit=audit.summary(),
    )


def find_leak(
    certificate: SplitCertificate,
    hashes: Iterable[str],
    patients: Iterable[str],
    patient_source: PatientSource,
    *,
    pixels: Iterable[str] = (),
) -> Leak:
    """Return what a set shares with the films that trained or chose a model; its test films may be met again.

    Of several models that answer as one, the patients are those of whom the strongest evidence tells.

    Args:
        certificate: of the model.
        hashes: SHA-256 of each file of the set.
        pixels: SHA-256 of what each file shows, in the same order.
        patients: of the set, as listed; one may come more than once.
        patient_source: of the set. Patients are compared only where both sides know theirs, and the weaker of the two
            sources is what the leak reports.
    """
    seen = {member for part in (Split.TRAIN, Split.VALIDATION) for member in certificate.images.get(part, ())}
    shown = {member for part in (Split.TRAIN, Split.VALIDATION) for member in certificate.pixels.get(part, ())}
    own = _weaker(patient_source, certificate.patient_source)
    met: dict[PatientSource, set[str]] = defaultdict(set)
    names = set(patients)
    for one in (certificate, *certificate.members):
        key = _parse_salt(one.salt)
        source = _weaker(patient_source, one.patient_source)
        taught = {member for part in (Split.TRAIN, Split.VALIDATION) for member in one.patients.get(part, ())}
        if taught and source is not PatientSource.NONE:
            met[source] |= {patient for patient in names if _hide(patient, key) in taught}
    told = next((source for source in (PatientSource.DICOM, PatientSource.CSV, PatientSource.NAME) if met[source]), own)
    return Leak(
        images=sum(file in seen or film in shown for file, film in zip_longest(hashes, pixels, fillvalue="")),
        patients=len(met[told]),
        patient_source=told,
    )


def meet(
    certificate: SplitCertificate,
    hashes: Sequence[str],
    patients: Sequence[str],
    patient_source: PatientSource,
    *,
    pixels: Sequence[str],
) -> tuple[Split | None, ...]:
    """Return the part in which a model met each film, or its patient, before; None where it never did.

    Training goes before validation, and that before test. Patients whose names only stand in names of files count, too:
    a film that is left out for nothing costs less than one that flatters.

    Args:
        certificate: of the model.
        hashes: (n,) SHA-256 of each file.
        patients: (n,) as listed.
        patient_source: of them.
        pixels: (n,) SHA-256 of what each file shows.
    """
    salted = [
        (_parse_salt(one.salt), {part: frozenset(one.patients.get(part, ())) for part in Split})
        for one in (certificate, *certificate.members)
        if _weaker(patient_source, one.patient_source) is not PatientSource.NONE
    ]
    known = {
        patient: {part for key, parts in salted for part in Split if _hide(patient, key) in parts[part]}
        for patient in set(patients)
    }
    files, shown = (
        {part: frozenset(held.get(part, ())) for part in Split} for held in (certificate.images, certificate.pixels)
    )
    return tuple(
        next((part for part in Split if file in files[part] or film in shown[part] or part in known[patient]), None)
        for file, film, patient in zip(hashes, pixels, patients, strict=True)
    )


def _weaker(one: PatientSource, other: PatientSource) -> PatientSource:
    """Return what a patient found in two sources is worth as evidence."""
    return next((source for source in (PatientSource.NONE, PatientSource.NAME) if source in (one, other)), one)


def _parse_salt(salt: str) -> bytes:
    try:
        key = bytes.fromhex(salt)
    except ValueError:
        key = b""
    if len(key) < 16:
        raise SettingError("Expected the salt to be at least 32 hexadecimal digits.")
    return key


def _hide(patient: str, key: bytes) -> str:
    return hmac.new(key, patient.encode(), hashlib.sha256).hexdigest()


def _require_labels(listing: Listing) -> None:
    if listing.task is Task.MULTILABEL and listing.records:
        return
    unlabelled = sum(record.label is None for record in listing.records)
    if unlabelled or not listing.records:
        raise DataError(
            f"Expected a class for every film, but {unlabelled} of {len(listing)} have none. "
            "Put the films into one folder for each class, or give a CSV with a label column."
        )


def _divide(listing: Listing, shares: Mapping[Split, float], rng: np.random.Generator) -> Listing:
    """Return the listing with its training films (those without a part count as such) divided by patient."""
    labels: list[str] = [str(record.label) for record in listing.records]
    if listing.task is Task.MULTILABEL:
        truth = truth_of(listing.records, listing.classes, listing.task)
        labels = [f"{number:09d}" for number in strata(truth).tolist()]
    films: dict[str, Counter[str]] = defaultdict(Counter)
    for record, label in zip(listing.records, labels, strict=True):
        if record.split in (None, Split.TRAIN):
            films[record.patient][label] += 1
    totals = Counter[str]()
    for counted in films.values():
        # In place: a sum of counters copies all strata for each patient.
        totals.update(counted)
    groups: dict[str, list[str]] = defaultdict(list)
    for patient in sorted(films):
        # By the rarest class, so that a patient with several counts where it is missed most.
        groups[min(films[patient], key=lambda label: (totals[label], label))].append(patient)

    part_of: dict[str, Split] = {}
    for label in sorted(groups):
        members = [groups[label][index] for index in rng.permutation(len(groups[label]))]
        part_of |= _deal(members, {patient: films[patient].total() for patient in members}, shares)
    return replace(listing, records=tuple(_assign(record, part_of) for record in listing.records))


def _assign(record: ImageRecord, part_of: Mapping[str, Split]) -> ImageRecord:
    if record.split in (None, Split.TRAIN):
        return replace(record, split=part_of[record.patient])
    return record


def _deal(patients: Sequence[str], films: Mapping[str, int], shares: Mapping[Split, float]) -> dict[str, Split]:
    """Return a part for each patient of one stratum: patients with many films first, each to the emptiest part.

    How full a part is counts patients and films alike, so both come out in proportion; half of the newcomer is added
    (Sainte-Laguë), so that small parts are neither favoured nor starved. Every part gets a patient where there are as
    many patients as parts.
    """
    total = sum(films.values())
    fullness = dict.fromkeys(shares, 0.0)
    part_of: dict[str, Split] = {}
    for dealt, patient in enumerate(sorted(patients, key=lambda patient: -films[patient])):
        size = films[patient] / total + 1 / len(patients)
        empty = [part for part in shares if not fullness[part]]
        open_parts = empty if empty and len(patients) - dealt <= len(empty) else list(shares)
        part = min(open_parts, key=lambda part: fullness[part] + size / 2 / shares[part])
        part_of[patient] = part
        fullness[part] += size / shares[part]
    return part_of


def _require_classes(listing: Listing) -> None:
    """Check that each part has films of each class; of several findings, that the training part has both kinds."""
    if listing.task is Task.MULTILABEL:
        truth = truth_of(select(listing, Split.TRAIN).records, listing.classes, listing.task)
        for name, column in zip(listing.classes, truth.T, strict=True):
            present, absent = int((column == 1).sum()), int((column == 0).sum())
            if not (present and absent):
                raise DataError(
                    f"The train part has {present} films with {name!r} and {absent} without: nothing can be learned of "
                    "it. Add films, or leave the finding out with --findings."
                )
        return
    patients: dict[str, set[str]] = defaultdict(set)
    films: dict[Split, Counter[str]] = defaultdict(Counter)
    for record in listing.records:
        if record.split is not None:
            patients[str(record.label)].add(record.patient)
            films[record.split][str(record.label)] += 1
    for part in sorted(films):
        for label in listing.classes:
            if not films[part][label]:
                total = sum(counts[label] for counts in films.values())
                raise DataError(
                    f"The {part} part has no film of {label!r}: the set has {total} films of it from "
                    f"{len(patients[label])} patients, and each of {len(films)} parts needs at least one patient. "
                    "Add films, leave the class out, or ask for fewer parts."
                )
