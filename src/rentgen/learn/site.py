"""Whether a site's films are enough to calibrate on, and for which of several findings."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

from rentgen.errors import DataError
from rentgen.learn.scaling import Scaling
from rentgen.records import (
    Card,
    ImageRecord,
    Int64,
    one_against_rest,
)

FOLDS = 5
MIN_FILMS = 10
"""Of each class, to calibrate on."""


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
