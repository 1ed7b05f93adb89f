"""What a folder's place in a tree says of its films: class and part."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rentgen.errors import DataError
from rentgen.records import Split

logger = logging.getLogger(__name__)

SPLITS: Mapping[str, Split] = {
    "train": Split.TRAIN,
    "training": Split.TRAIN,
    "val": Split.VALIDATION,
    "valid": Split.VALIDATION,
    "validation": Split.VALIDATION,
    "test": Split.TEST,
    "testing": Split.TEST,
}

MANY_FOLDERS = 10
"""From more folders than this on, DICOM folders of one patient each are patients, not classes."""


@dataclass(frozen=True, slots=True)
class Found:
    """A film in a tree.

    Attributes:
        path: of the file.
        folders: the names of the folders between the root and the file.
        dicom: whether it is DICOM.
    """

    path: Path
    folders: tuple[str, ...]
    dicom: bool


@dataclass(frozen=True, slots=True)
class Place:
    """A film with what its source says of it.

    Attributes:
        path: of the file.
        label: its class, None where the source gives none.
        split: its part, None where the source gives none.
    """

    path: Path
    label: str | None
    split: Split | None


def parse_split(word: str) -> Split:
    """Return the part that a word names, whatever its case.

    Raises:
        DataError: the word names no part.

    Example:
        >>> parse_split("Val").value
        'validation'
    """
    try:
        return SPLITS[word.strip().lower()]
    except KeyError:
        raise DataError(f"Expected a part of the data, one of {', '.join(SPLITS)}, but got {word!r}.") from None


def gather_classes(labels: Iterable[str | None]) -> tuple[str, ...]:
    """Return the distinct labels, sorted.

    Raises:
        DataError: two labels differ in nothing but case.
    """
    classes = sorted({label for label in labels if label is not None})
    spellings: dict[str, str] = {}
    for label in classes:
        other = spellings.setdefault(label.casefold(), label)
        if other != label:
            raise DataError(f"The classes {other!r} and {label!r} differ in case only. Give both one spelling.")
    return tuple(classes)


def place(root: Path, films: Sequence[Found], patients: Mapping[Path, str]) -> list[Place]:
    """Return the films with the class and part that their folders give them.

    Args:
        root: where the tree begins; for the messages.
        films: all films below it.
        patients: path to PatientID of the DICOM films.

    Raises:
        DataError: the tree mixes layouts, or holds several tasks.
    """
    depth = _skip_wrappers(films)
    here = root.joinpath(*films[0].folders[:depth])
    tops = _groups(films, depth)
    if set(tops) == {None}:
        return [Place(film.path, None, None) for film in films]
    _refuse_loose(here, tops)
    if any(_is_split(top) for top in tops):
        return _place_by_split(here, tops, depth)
    nested = [top for top, members in tops.items() if all(_is_split(_at(film, depth + 1)) for film in members)]
    if nested and len(nested) == len(tops) and all(len(film.folders) == depth + 2 for film in films):
        return [Place(film.path, film.folders[depth], SPLITS[film.folders[depth + 1].lower()]) for film in films]
    if nested:
        raise DataError(
            f"{here} holds several tasks, each with parts of its own: {', '.join(sorted(filter(None, tops)))}. "
            f"Give the folder of one of them, such as {here / str(nested[0])}."
        )
    if _is_patient_tree(tops, depth, patients):
        return [Place(film.path, None, None) for film in films]
    return [Place(film.path, film.folders[depth], None) for film in films]


def _at(film: Found, depth: int) -> str | None:
    return film.folders[depth] if depth < len(film.folders) else None


def _is_split(name: str | None) -> bool:
    return name is not None and name.lower() in SPLITS


def _groups(films: Iterable[Found], depth: int) -> dict[str | None, list[Found]]:
    """Return the films by their folder at a depth; None for those that lie right there."""
    groups: dict[str | None, list[Found]] = {}
    for film in films:
        groups.setdefault(_at(film, depth), []).append(film)
    return groups


def _skip_wrappers(films: Sequence[Found]) -> int:
    """Return how many single folders to go down: those that hold all films, none of them directly."""
    depth = 0
    first = films[0].folders
    while (
        depth + 1 < len(first)
        and not _is_split(first[depth])
        and all(len(film.folders) > depth + 1 and film.folders[depth] == first[depth] for film in films)
    ):
        depth += 1
    return depth


def _refuse_loose(here: Path, groups: Mapping[str | None, Sequence[Found]]) -> None:
    if None in groups and len(groups) > 1:
        raise DataError(
            f"{len(groups[None])} films lie in {here} beside folders of films "
            f"({', '.join(sorted(filter(None, groups))[:5])}), so their class is unknown. "
            "Move them into a class folder."
        )


def _place_by_split(here: Path, tops: Mapping[str | None, Sequence[Found]], depth: int) -> list[Place]:
    placed: list[Place] = []
    for top, films in tops.items():
        if not _is_split(top):
            # Kaggle's chest X-ray archive carries a second copy of itself in a folder of its own.
            if all(any(_is_split(name) for name in film.folders[depth + 1 :]) for film in films):
                logger.warning("%s: left out, it holds parts of its own (%d films)", here / str(top), len(films))
                continue
            raise DataError(
                f"Beside the parts of the data in {here} stands the folder {top!r} with {len(films)} films. "
                "Move it away, or into a part."
            )
        split = parse_split(str(top))
        groups = _groups(films, depth + 1)
        _refuse_loose(here / str(top), groups)
        placed.extend(Place(film.path, _at(film, depth + 1), split) for film in films)
    return placed


def _is_patient_tree(tops: Mapping[str | None, Sequence[Found]], depth: int, patients: Mapping[Path, str]) -> bool:
    """Return whether the folders are patients, as a PACS exports them, rather than classes."""
    films = [film for members in tops.values() for film in members]
    owners = [{patients.get(film.path) for film in members} for members in tops.values()]
    alone = all(len(owner) == 1 and None not in owner for owner in owners)
    nested = all(len(film.folders) > depth + 1 for film in films)
    return alone and len(set.union(*owners)) == len(owners) and (nested or len(owners) > MANY_FOLDERS)
