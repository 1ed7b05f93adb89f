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
from rentgen.records import Audit, DuplicatePair, Float64, ImageRecord, Listing, PatientSource, Preprocessing, UInt8

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
        counts[part][record.label or "unlabelled"] += 1
        patients[part].add(record.patient)
    labels = [records[film.path].label for film in examination.films]
    shortcuts = {
        field.name: find_shortcut([getattr(film.numbers, field.name) for film in examination.films], labels)
        for field in fields(Numbers)
    }
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
            *_find_leaks(shared, pairs, parted=len(parts) > 1),
            *_find_broken(unreadable, len(listing)),
            *_find_shortcuts(shortcuts),
            *_find_counts(counts),
            *_find_unknown_patients(listing),
        ),
    )


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
    known = np.array([label is not None for label in labels], dtype=bool)
    classes = sorted({label for label in labels if label is not None})
    if len(classes) < 2:
        return None
    ranks = _ranks(np.asarray(values, dtype=np.float64)[known])
    named = np.array(labels, dtype=object)[known]
    found = []
    for label in classes:
        members = named == label
        inside, outside = int(members.sum()), int((~members).sum())
        auroc = (ranks[members].sum() - inside * (inside + 1) / 2) / (inside * outside)
        margin = 4 * np.sqrt((inside + outside + 1) / (12 * inside * outside))
        found.append(Shortcut(label, float(max(auroc, 1 - auroc)), float(margin)))
    return max(found, key=lambda shortcut: shortcut.auroc)


def describe(audit: Audit) -> str:
    """Return the audit as Markdown that reads well in a terminal.

    Args:
        audit: of a set.
    """
    classes = sorted({label for counts in audit.counts.values() for label in counts})
    rows = [["part", *classes, "films", "patients"]]
    for part, counts in audit.counts.items():
        films = [counts.get(label, 0) for label in classes]
        rows.append([part, *map(str, films), str(sum(films)), str(audit.patients[part])])
    lines = [*_table(rows), ""]
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
        same_label=first.label == second.label,
        same_split=first.split == second.split,
        same_patient=first.patient == second.patient,
    )


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
