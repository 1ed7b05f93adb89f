"""What is wrong with a set before anyone trains on it: leaks, duplicates, broken files, shortcuts."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from rentgen.data.audit_words import (
    find_broken,
    find_counts,
    find_leaks,
    find_rare,
    find_shared_sources,
    find_shortcuts,
    find_unknown_patients,
)
from rentgen.data.duplicates import SIDE, Match, find_duplicates
from rentgen.data.shortcuts import Shortcut, best_shortcut, find_shortcut
from rentgen.data.split import count_shared_patients
from rentgen.errors import InputError
from rentgen.images.prepare import prepare, to_uint8
from rentgen.images.read import read
from rentgen.parallel.pool import HERE, Pool, Work, folder_of, open_nothing
from rentgen.records import (
    Audit,
    DuplicatePair,
    ImageRecord,
    Listing,
    Preprocessing,
    Task,
    UInt8,
    truth_of,
)

logger = logging.getLogger(__name__)

GRAIN = 8
"""Films that a worker elsewhere takes at a time."""
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
    listing: Listing,
    *,
    progress: Callable[[int, int], None] | None = None,
    workers: int | None = None,
    pool: Pool = HERE,
) -> Examination:
    """Return what reading every file of the listing once brings to light.

    Args:
        listing: with or without parts.
        progress: called with the files read so far and their total.
        workers: threads of this process; the number of usable processors by default.
        pool: who reads.
    """
    films: list[Examined] = []
    unreadable: dict[Path, str] = {}
    thumbnails = np.zeros((len(listing), SIDE, SIDE), np.uint8)
    paths = [record.path for record in listing.records]
    work = Work(open_nothing, _examine_one, workers=workers, grain=GRAIN, folder=folder_of(paths))
    results = pool.map(work, paths)
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
            *find_leaks(shared, pairs, parted=len(parts) > 1),
            *find_shared_sources(records, pairs),
            *find_broken(unreadable, len(listing)),
            *find_shortcuts(shortcuts),
            *(find_rare(listing, counts, known) if several else find_counts(counts)),
            *find_unknown_patients(listing),
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


def _examine_one(_: bool, path: Path) -> tuple[Examined, UInt8] | str:
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
