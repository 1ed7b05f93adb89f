"""What is wrong with a set before anyone trains on it: leaks, duplicates, broken files, shortcuts."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from rentgen.data.duplicates import SIDE, Match, find_duplicates
from rentgen.data.split import count_shared_patients
from rentgen.errors import InputError
from rentgen.images.prepare import prepare, to_uint8
from rentgen.images.read import read
from rentgen.parallel.local import imap
from rentgen.records import (
    UNKNOWN,
    Audit,
    DuplicatePair,
    Float64,
    ImageRecord,
    Int64,
    Listing,
    PatientSource,
    Preprocessing,
    Task,
    UInt8,
    truth_of,
)

logger = logging.getLogger(__name__)

SHORTCUT = 0.8
"""AUROC from which on a number that needs no radiologist is worth a finding."""
IMBALANCE = 5
"""How many times larger the largest class may be than the smallest."""
TINY = 30
"""Films of a class in a part below which a figure measured there says little."""

_SMALL = Preprocessing(height=SIDE, width=SIDE)


@dataclass(frozen=True, slots=True)
class Numbers:
    """What can be said of a film without looking at what it shows.

    Attributes:
        width: native pixels.
        height: native pixels.
        aspect: width by height.
        bytes: of the file.
        mean: grey level, 0 to 255.
        contrast: standard deviation of the grey levels.
        sharpness: mean difference between neighbouring native pixels, by the contrast.
    """

    width: int
    height: int
    aspect: float
    bytes: int
    mean: float
    contrast: float
    sharpness: float


@dataclass(frozen=True, slots=True)
class Examined:
    """A film that was read.

    Attributes:
        path: of the file.
        content_hash: SHA-256 of its bytes.
        pixel_hash: SHA-256 of what it shows.
        source_format: `png`, `jpeg`, `tiff` or `dicom`.
        numbers: what can be said of it blindly.
    """

    path: Path
    content_hash: str
    pixel_hash: str
    source_format: str
    numbers: Numbers


@dataclass(frozen=True, slots=True)
class Examination:
    """What reading every file of a set once has brought to light; the parts may change, this does not.

    Attributes:
        films: those that could be read, in the order of the listing.
        unreadable: path to reason.
        matches: pairs of `films`, by index, that show the same.
    """

    films: tuple[Examined, ...]
    unreadable: Mapping[Path, str]
    matches: tuple[Match, ...]

    @property
    def hashes(self) -> dict[Path, str]:
        """Path to SHA-256 of the bytes of each film that could be read."""
        return {film.path: film.content_hash for film in self.films}

    @property
    def pixel_hashes(self) -> dict[Path, str]:
        """Path to SHA-256 of what each film that could be read shows."""
        return {film.path: film.pixel_hash for film in self.films}


def examine(
    listing: Listing, *, progress: Callable[[int, int], None] | None = None, workers: int | None = None
) -> Examination:
    """Return what reading every file of the listing once brings to light.

    Args:
        listing: with or without parts.
        progress: called with the files read so far and their total.
        workers: threads; the number of usable processors by default.
    """
    films: list[Examined] = []
    unreadable: dict[Path, str] = {}
    thumbnails = np.zeros((len(listing), SIDE, SIDE), np.uint8)
    results = imap(_examine_one, [record.path for record in listing.records], workers=workers)
    for done, (record, result) in enumerate(zip(listing.records, results, strict=True), start=1):
        if isinstance(result, str):
            unreadable[record.path] = result
        else:
            film, thumbnails[len(films)] = result
            films.append(film)
        if progress is not None:
            progress(done, len(listing))
    matches = find_duplicates([film.content_hash for film in films], thumbnails[: len(films)])
    logger.info("%s: %d films, %d unreadable, %d pairs", listing.root, len(films), len(unreadable), len(matches))
    return Examination(tuple(films), unreadable, matches)


def audit(listing: Listing, examination: Examination) -> Audit:
    """Return what is wrong, or worth knowing, about a set.

    Args:
        listing: with or without parts.
        examination: of the same films; their parts may have been given since.
    """
    records = {record.path: record for record in listing.records}
    pairs = tuple(_pair(records, examination.films, match) for match in examination.matches)
    parts = {str(record.split or "all") for record in listing.records}
    counts = {part: Counter[str]() for part in sorted(parts)}
    patients: dict[str, set[str]] = {part: set() for part in counts}
    for record in listing.records:
        part = str(record.split or "all")
        counts[part].update(_named(record, listing))
        patients[part].add(record.patient)
    several = listing.task is Task.MULTILABEL
    known = {part: Counter[str]() for part in counts if several}
    for record in listing.records if several else ():
        told = (name for name, value in zip(listing.classes, record.findings, strict=True) if value is not None)
        known[str(record.split or "all")].update(told)
    films = Counter(str(record.split or "all") for record in listing.records)
    shortcuts = _shortcuts(listing, [records[film.path] for film in examination.films], examination.films)
    sources = Counter(record.source for record in listing.records)
    shared = count_shared_patients(listing)
    unreadable = {str(path): reason for path, reason in examination.unreadable.items()}
    return Audit(
        n=len(listing),
        unreadable=unreadable,
        pairs=pairs,
        counts={part: dict(sorted(classes.items())) for part, classes in counts.items()},
        patients={part: len(members) for part, members in patients.items()},
        patient_source=listing.patient_source,
        shared_patients=shared,
        heights=_spread([film.numbers.height for film in examination.films]),
        widths=_spread([film.numbers.width for film in examination.films]),
        formats=dict(Counter(film.source_format for film in examination.films).most_common()),
        shortcuts={name: found.auroc for name, found in shortcuts.items() if found is not None},
        findings=(
            *listing.notes,
            *_find_leaks(shared, pairs, parted=len(parts) > 1),
            *_find_shared_sources(records, pairs),
            *_find_broken(unreadable, len(listing)),
            *_find_shortcuts(shortcuts),
            *(_find_rare(listing, counts, known) if several else _find_counts(counts)),
            *_find_unknown_patients(listing),
        ),
        films=dict(films) if several else {},
        known={part: {name: told[name] for name in listing.classes} for part, told in known.items()},
        sources=dict(sources) if set(sources) - {""} else {},
    )


def _named(record: ImageRecord, listing: Listing) -> tuple[str, ...]:
    """Return the classes that a film counts for."""
    if listing.task is Task.MULTICLASS:
        return (record.label or "unlabelled",)
    return tuple(name for name, value in zip(listing.classes, record.findings, strict=True) if value)


def _shortcuts(
    listing: Listing, records: Sequence[ImageRecord], films: Sequence[Examined]
) -> dict[str, Shortcut | None]:
    """Return for each number of a film what it tells best; of merged sets, what it tells of the findings."""
    several = listing.task is Task.MULTILABEL
    truth = truth_of(records, listing.classes, listing.task) if several else None
    labels = [record.label for record in records]
    found = {}
    for field in fields(Numbers):
        values = [getattr(film.numbers, field.name) for film in films]
        found[field.name] = (
            find_shortcut(values, labels) if truth is None else best_shortcut(values, truth, listing.classes)
        )
    return found


@dataclass(frozen=True, slots=True)
class Shortcut:
    """How well a number alone tells one class from the rest.

    Attributes:
        label: the class that it tells best.
        auroc: in [0.5, 1].
        margin: four standard errors of a number that tells nothing; an AUROC within it of 0.5 may be chance.
    """

    label: str
    auroc: float
    margin: float


def find_shortcut(values: Sequence[float], labels: Sequence[str | None]) -> Shortcut | None:
    """Return the class that a number tells best from the rest, None with fewer than two classes.

    Args:
        values: one for each film.
        labels: one for each film; films without a label are left out.
    """
    classes = sorted({label for label in labels if label is not None})
    if len(classes) < 2:
        return None
    named = np.array(labels, dtype=object)
    truth = np.column_stack([(named == label).astype(np.int64) for label in classes])
    truth[[label is None for label in labels]] = UNKNOWN
    return best_shortcut(values, truth, classes)


def best_shortcut(values: Sequence[float], truth: Int64, classes: Sequence[str]) -> Shortcut | None:
    """Return the class that a number tells best from the rest, None where no class has films on both sides.

    Args:
        values: one for each film.
        truth: (n, k): present, absent or unknown.
        classes: names of the columns.
    """
    found = []
    for label, column in zip(classes, truth.T, strict=True):
        known = column != UNKNOWN
        members = column[known] == 1
        inside, outside = int(members.sum()), int((~members).sum())
        if not (inside and outside):
            continue
        ranks = _ranks(np.asarray(values, dtype=np.float64)[known])
        auroc = (ranks[members].sum() - inside * (inside + 1) / 2) / (inside * outside)
        margin = 4 * np.sqrt((inside + outside + 1) / (12 * inside * outside))
        found.append(Shortcut(label, float(max(auroc, 1 - auroc)), float(margin)))
    return max(found, key=lambda shortcut: shortcut.auroc, default=None)


def describe(audit: Audit) -> str:
    """Return the audit as Markdown that reads well in a terminal.

    Args:
        audit: of a set.
    """
    classes = sorted({label for counts in audit.counts.values() for label in counts})
    rows = [["part", *classes, "films", "patients"]]
    for part, counts in audit.counts.items():
        films = [counts.get(label, 0) for label in classes]
        total = audit.films.get(part, sum(films))
        rows.append([part, *map(str, films), str(total), str(audit.patients[part])])
    for part, numbers in audit.known.items():
        rows.append([f"{part}: known", *(str(numbers.get(label, 0)) for label in classes), "", ""])
    lines = [*_table(rows), ""]
    if audit.sources:
        lines += ["Sources: " + ", ".join(f"{name} {count}" for name, count in audit.sources.items()) + ".", ""]
    exact = sum(pair.exact for pair in audit.pairs)
    lines += [
        f"Sizes: {_range(audit.widths)} wide, {_range(audit.heights)} high. "
        f"Formats: {', '.join(f'{name} {count}' for name, count in audit.formats.items()) or 'none'}.",
        f"Duplicates: {exact} exact, {len(audit.pairs) - exact} near. Unreadable: {len(audit.unreadable)}. "
        f"Patients known by: {audit.patient_source}.",
        "",
    ]
    if audit.shortcuts:
        lines += [*_table([["number", "AUROC alone"], *([n, f"{a:.2f}"] for n, a in audit.shortcuts.items())]), ""]
    lines += [f"{number}. {finding}" for number, finding in enumerate(audit.findings, start=1)] or ["Nothing found."]
    return "\n".join(lines)


def _examine_one(path: Path) -> tuple[Examined, UInt8] | str:
    """Return a film and its small copy, or why it cannot be read."""
    try:
        size = path.stat().st_size
        film = read(path)
    except InputError as error:
        return error.reason
    except OSError as error:
        return error.strerror or type(error).__name__
    pixels = to_uint8(film.pixels)
    height, width = pixels.shape
    contrast = float(pixels.std())
    signed = pixels.astype(np.int16)
    differences = [np.abs(np.diff(signed, axis=axis)) for axis in (0, 1)]
    edges = sum(float(difference.mean()) for difference in differences if difference.size)
    numbers = Numbers(
        width=width,
        height=height,
        aspect=width / height,
        bytes=size,
        mean=float(pixels.mean()),
        contrast=contrast,
        sharpness=edges / contrast if contrast else 0.0,
    )
    return Examined(path, film.content_hash, film.pixel_hash, film.source_format, numbers), prepare(film, _SMALL).pixels


def _pair(records: Mapping[Path, ImageRecord], films: Sequence[Examined], match: Match) -> DuplicatePair:
    first, second = (records[films[index].path] for index in (match.first, match.second))
    return DuplicatePair(
        first=str(first.path),
        second=str(second.path),
        exact=match.exact,
        correlation=match.correlation,
        same_label=_agree(first, second),
        same_split=first.split == second.split,
        same_patient=first.patient == second.patient,
    )


def _agree(first: ImageRecord, second: ImageRecord) -> bool:
    """Return whether two films of one thing are said to show the same; what is unknown contradicts nothing."""
    pairs = zip(first.findings, second.findings, strict=False)
    return first.label == second.label and not any({one, other} == {True, False} for one, other in pairs)


def _spread(values: Sequence[int]) -> tuple[int, int, int]:
    """Return minimum, median and maximum; zeros where there is nothing."""
    return (min(values), int(np.median(values)), max(values)) if values else (0, 0, 0)


def _ranks(values: Float64) -> Float64:
    """Return the ranks, from 1; equal values share the mean of theirs."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return np.asarray((np.cumsum(counts) - (counts - 1) / 2)[inverse], dtype=np.float64)


def _find_leaks(shared: int, pairs: Sequence[DuplicatePair], *, parted: bool) -> list[str]:
    findings = []
    if shared:
        findings.append(
            f"{_count(shared, 'patient')} with films in more than one part: figures measured on one part flatter "
            "what was taught on another. Divide the set by patient."
        )
    exact = [pair for pair in pairs if pair.exact]
    near = [pair for pair in pairs if not pair.exact]
    # What is near may still be two films: only a human who looks at both can tell.
    kinds = (
        (exact, "of the same film", ""),
        (near, "of what looks like the same film", "look at both; if it is one, "),
    )
    for chosen, what, look in kinds:
        across = sum(not pair.same_split for pair in chosen)
        if across:
            findings.append(
                f"{_count(across, 'pair')} {what} in different parts: {look}keep each film in one part only."
            )
    for chosen, what, look in kinds:
        strangers = sum(not pair.same_patient for pair in chosen)
        if strangers and not parted:
            findings.append(
                f"{_count(strangers, 'pair')} {what} under two patients: {look}a split by patient alone may tear them "
                "apart."
            )
    for chosen, what, look in kinds:
        torn = sum(not pair.same_label for pair in chosen)
        if torn:
            findings.append(f"{_count(torn, 'pair')} {what} with different labels: {look}one of the two is wrong.")
    for chosen, what, look in kinds:
        if chosen:
            findings.append(f"{_count(len(chosen), 'pair')} {what} in all: {look}those films count twice.")
    return findings


def _find_shared_sources(records: Mapping[Path, ImageRecord], pairs: Sequence[DuplicatePair]) -> list[str]:
    """Return that merged sets hold the same films: leaving one of them out would then leave nothing out."""
    ends = (tuple(sorted((records[Path(pair.first)].source, records[Path(pair.second)].source))) for pair in pairs)
    return [
        f"{_count(number, 'pair')} of what looks like the same film in {first} and in {second}: a figure measured on "
        "one of the two sets is not independent of the other."
        for (first, second), number in Counter(end for end in ends if end[0] != end[1]).most_common()
    ]


def _find_broken(unreadable: Mapping[str, str], n: int) -> list[str]:
    if not unreadable:
        return []
    path, reason = next(iter(unreadable.items()))
    return [f"{len(unreadable)} of {_count(n, 'file')} cannot be read; the first is {path}: {reason}."]


def _find_shortcuts(shortcuts: Mapping[str, Shortcut | None]) -> list[str]:
    telling = {
        name: found
        for name, found in shortcuts.items()
        if found is not None and found.auroc >= SHORTCUT and found.auroc - 0.5 > found.margin
    }
    return [
        f"{name} alone tells {found.label} from the rest with AUROC {found.auroc:.2f}: a model may learn the scanner, "
        "not the disease."
        for name, found in sorted(telling.items(), key=lambda item: -item[1].auroc)
    ]


def _find_counts(counts: Mapping[str, Counter[str]]) -> list[str]:
    findings = []
    ranking = sum(counts.values(), Counter[str]()).most_common()
    if ranking and ranking[0][1] > IMBALANCE * ranking[-1][1]:
        (large, most), (small, least) = ranking[0], ranking[-1]
        findings.append(
            f"{large} has {most} films and {small} {least}, {most / least:.0f} times fewer: accuracy alone will "
            "flatter; read the recall of each class."
        )
    for part, classes in counts.items():
        few = [f"{_count(classes[label], 'film')} of {label}" for label, _ in ranking if classes[label] < TINY]
        if few:
            where = "The set" if part == "all" else f"The {part} part"
            findings.append(f"{where} has only {', '.join(few)}: figures measured there say little.")
    return findings


def _find_rare(listing: Listing, counts: Mapping[str, Counter[str]], known: Mapping[str, Counter[str]]) -> list[str]:
    """Return which findings have too few films, with or without them, to measure anything by."""
    findings = []
    for part, present in counts.items():
        where = "The set" if part == "all" else f"The {part} part"
        few = [f"{_count(present[name], 'film')} with {name}" for name in listing.classes if present[name] < TINY]
        few += [
            f"{_count(known[part][name] - present[name], 'film')} without {name}"
            for name in listing.classes
            if known[part][name] - present[name] < TINY
        ]
        if few:
            findings.append(f"{where} has only {', '.join(few)}: figures measured there say little.")
    return findings


def _find_unknown_patients(listing: Listing) -> list[str]:
    # A film that nothing is said of has its path for a patient.
    paths = {str(record.path) for record in listing.records}
    unknown = sum(record.patient in paths for record in listing.records)
    if 0 < unknown < len(listing):
        what = f"Nobody knows whom {unknown} of {len(listing)} films show, so each of those counts as its own patient"
    elif listing.patient_source is not PatientSource.NONE or not listing.records:
        return []
    elif unknown:
        what = "Nobody knows whom the films show, so each counts as its own patient"
    else:
        what = "No single source names the patients, so one may go by two names"
    return [f"{what} and a split may leak. Give a CSV with a patient column, or a pattern over the file names."]


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _range(spread: tuple[int, int, int]) -> str:
    low, median, high = spread
    return f"{low}" if low == high else f"{low} to {high} (median {median})"


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a Markdown table whose first row is the header."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    padded = [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in rows]
    header, *body = [f"| {' | '.join(cells)} |" for cells in padded]
    return [header, f"|{'|'.join('-' * (width + 2) for width in widths)}|", *body]
