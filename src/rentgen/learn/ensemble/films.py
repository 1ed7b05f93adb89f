"""Which films may choose for an ensemble, and which may measure it: those of which no member learned.

Each member's certificate is asked of each film: by its bytes, by its pixels, and by its patient. What any member
trained on is a training film of the ensemble, and is left out. What none trained on, but at least one was chosen by
(its early stopping, its calibration, its thresholds), may choose again, and nothing else: that is what validation
films are for, and a figure on them flatters. What no member met, or only as a test film, measures.

Where there are too few films that chose, half of the unseen patients choose, too, and only the other half measures:
the test part gets smaller, never less honest. The films of one patient, and copies of one film, stay together, and the
member that knows most of one of them speaks for all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from rentgen.data.audit import Examination, audit, examine
from rentgen.data.split import keep_together, meet, patient_folds, select
from rentgen.errors import BundleError, DataError
from rentgen.evaluate.judge import fit_labels
from rentgen.evaluate.sets import films_needed
from rentgen.learn.ensemble.agree import Seat
from rentgen.learn.scaling import Method
from rentgen.learn.settings import AnswerSettings
from rentgen.records import UNKNOWN, Audit, Card, Listing, Progress, Split, Task, truth_of

MIN_FILMS = 10
"""Of each class, to calibrate on; as `learn.knowing` asks for."""


@dataclass(frozen=True, slots=True, eq=False)
class SortedFilms:
    """The readable films of a set, by what the members know of them.

    Attributes:
        listing: with the part of each in the making of the ensemble, and the ensemble's classes.
        examined: what reading them brought.
        audit: of these parts.
        halved: whether half of the unseen patients had to choose.
    """

    listing: Listing
    examined: Examination
    audit: Audit
    halved: bool


def sort_films(
    listing: Listing,
    seats: Sequence[Seat],
    card: Card,
    settings: AnswerSettings,
    *,
    seed: int = 0,
    progress: Progress | None = None,
) -> SortedFilms:
    """Return the films with the parts that they may take; parts that the source gives do not count.

    Args:
        listing: labelled films.
        seats: the members.
        card: of the ensemble, for its classes and task.
        settings: what the films that choose are needed for.
        seed: of the half of the unseen patients, where that is needed.
        progress: stage `audit`.

    Raises:
        DataError: a label that the members do not know; no film that no member learned from; too few to choose by.
        BundleError: a member does not say which films it learned from.
    """
    for seat in seats:
        if not seat.bundle.split.images.get(Split.TRAIN):
            raise BundleError(
                f"{seat.name}: its certificate names no film that it was trained on, so nobody can tell which films it "
                "has not seen. Train it anew."
            )
    listing = fit_labels(listing, card)
    listing = replace(listing, classes=card.classes)
    examined = examine(listing, progress=None if progress is None else lambda done, of: progress("audit", done, of))
    hashes = examined.hashes
    listing = replace(listing, records=tuple(item for item in listing.records if item.path in hashes))
    if not len(listing):
        raise DataError(f"None of the {len(examined.unreadable)} films of {listing.root} could be read.")
    groups = _groups(listing, examined)
    parts = _parts(listing, groups, examined, seats)
    counts = Counter(parts[group] for group in groups)
    if not counts[Split.TEST]:
        raise DataError(
            f"Expected films that no member has seen, to measure on, but of the {len(listing)} films of {listing.root} "
            f"{counts[Split.TRAIN]} are of patients that trained a member, and {counts[Split.VALIDATION]} of ones that "
            "chose one. Give films of other patients; or train the members on one split (the same data and --seed), "
            "and give all of it: its test part is then unseen by each."
        )
    listing = _assign(listing, [parts[group] for group in groups])
    lacking = _lacking(select(listing, Split.VALIDATION), settings)
    halved = bool(lacking)
    if halved:
        listing = _halve(listing, groups, seed)
        lacking = _lacking(select(listing, Split.VALIDATION), settings)
    if lacking or not len(select(listing, Split.TEST)):
        raise DataError(
            f"Expected enough films to choose by that no member was trained on, but {lacking or 'none is left over'} "
            f"({len(listing) - counts[Split.TRAIN]} films of {listing.root} trained none). Give more films, or ask for "
            "less: --calibration none, --coverage 0."
        )
    return SortedFilms(listing, examined, audit(listing, examined), halved)


def _groups(listing: Listing, examined: Examination) -> list[str]:
    """Return a name (n,) that films of one patient share, and those of patients that share a film."""
    pairs = audit(
        replace(listing, records=tuple(replace(item, split=None) for item in listing.records)), examined
    ).pairs
    return [record.patient for record in keep_together(listing, pairs).records]


def _parts(listing: Listing, groups: Sequence[str], examined: Examination, seats: Sequence[Seat]) -> dict[str, Split]:
    """Return the part that each group of films may take: the one of the film that a member knows best."""
    hashes, pixels = examined.hashes, examined.pixel_hashes
    met = [
        meet(
            seat.bundle.split,
            [hashes[record.path] for record in listing.records],
            [record.patient for record in listing.records],
            listing.patient_source,
            pixels=[pixels[record.path] for record in listing.records],
        )
        for seat in seats
    ]
    parts: dict[str, Split] = {}
    order = list(Split)
    for group, each in zip(groups, zip(*met, strict=True), strict=True):
        known = [parts.get(group, Split.TEST), *(part or Split.TEST for part in each)]
        parts[group] = min(known, key=order.index)
    return parts


def _assign(listing: Listing, parts: Sequence[Split]) -> Listing:
    pairs = zip(listing.records, parts, strict=True)
    return replace(listing, records=tuple(replace(record, split=part) for record, part in pairs))


def _halve(listing: Listing, groups: Sequence[str], seed: int) -> Listing:
    """Return the listing with half of the unseen patients among those that choose."""
    unseen = [place for place, record in enumerate(listing.records) if record.split is Split.TEST]
    truth = truth_of([listing.records[place] for place in unseen], listing.classes, listing.task)
    folds = patient_folds(truth, [groups[place] for place in unseen], 2, np.random.default_rng(seed))
    parts = [record.split or Split.TEST for record in listing.records]
    for place, fold in zip(unseen, folds.tolist(), strict=True):
        if fold == 0:
            parts[place] = Split.VALIDATION
    return _assign(listing, parts)


def _lacking(chosen: Listing, settings: AnswerSettings) -> str:
    """Return what the films that choose are too few for, in words; empty where they are enough."""
    needed = MIN_FILMS if settings.calibration != Method.NONE else 1
    truth = truth_of(chosen.records, chosen.classes, chosen.task)
    several = chosen.task is Task.MULTILABEL
    for number, label in enumerate(chosen.classes):
        count = int((truth[:, number] != UNKNOWN).sum() if several else (truth == number).sum())
        if count < needed:
            what = f"of which {label!r} is known" if several else f"of {label!r}"
            return f"there are {count} {what}, and {needed} are needed"
    if settings.coverage > 0 and not several and len(truth) < films_needed(settings.coverage):
        return (
            f"there are {len(truth)}, and a coverage of {settings.coverage:g} needs {films_needed(settings.coverage)}"
        )
    return ""
