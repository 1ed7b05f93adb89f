"""Several sets of several findings made one: aligned by the table of findings, each film with the set it comes from."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from rentgen.data.findings import FINDINGS, align, canonical
from rentgen.errors import DataError, SettingError
from rentgen.records import ImageRecord, Listing, PatientSource, Task

_WEAKEST = (PatientSource.NONE, PatientSource.NAME, PatientSource.DICOM, PatientSource.CSV)


def merge(sets: Mapping[str, Listing], findings: Sequence[str] = ()) -> Listing:
    """Return the films of several sets as one, with findings that all of them spell alike.

    What a set does not name is unknown in its films. A patient of one set is not one of another, even where they have
    the same number. Parts are kept where every film of every set has one.

    Args:
        sets: name to set.
        findings: as `data.findings.wanted_findings` gives them; by default all that any of the sets has.

    Raises:
        DataError: fewer than two sets, a set of one class a film, one without any of the findings, or a file in two.
        SettingError: a set's name is empty.
    """
    if len(sets) < 2:
        raise DataError(f"Expected at least two sets to make one of, but got {len(sets)}.")
    if not all(sets):
        raise SettingError("Expected a name for each set, such as nih=DATA, but got an empty one.")
    names = tuple(findings) or _union(sets.values())
    aligned = {source: align(listing, names) for source, listing in sets.items()}
    records = [
        replace(record, source=source, patient=f"{source}/{record.patient}")
        for source, listing in aligned.items()
        for record in listing.records
    ]
    owner: dict[str, str] = {}
    for record in records:
        other = owner.setdefault(os.path.realpath(record.path), record.source)
        if other != record.source:
            raise DataError(f"{record.path} is a film of {other} and of {record.source}. Leave one of them out.")
    if any(record.split is None for record in records):
        records = [replace(record, split=None) for record in records]
    return Listing(
        root=next(iter(sets.values())).root,
        records=tuple(records),
        classes=names,
        patient_source=min((listing.patient_source for listing in sets.values()), key=_WEAKEST.index),
        task=Task.MULTILABEL,
        notes=tuple(f"{source}: {note}" for source, listing in aligned.items() for note in listing.notes),
    )


def _union(listings: Iterable[Listing]) -> tuple[str, ...]:
    """Return the findings of any of the sets, in the table's order, others after them."""
    order = {entry.name: place for place, entry in enumerate(FINDINGS)}
    names = dict.fromkeys(canonical(name) for listing in listings for name in listing.classes)
    return tuple(sorted(names, key=lambda name: order.get(name, len(order))))


def write_table(listing: Listing, path: Path, records: Sequence[ImageRecord] | None = None) -> None:
    """Write a set of several findings as a CSV that `list_images` reads, with the films where they are.

    Args:
        listing: of several findings.
        path: of the table; written whole or not at all.
        records: those to write; all by default.
    """
    known = listing.patient_source is not PatientSource.NONE
    draft = path.with_name(f".{path.name}.part")
    with draft.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(("path", "patient", "source", "split", *listing.classes))
        for record in listing.records if records is None else records:
            cells = ("" if value is None else int(value) for value in record.findings)
            patient = record.patient if known else ""
            writer.writerow((record.path.resolve(), patient, record.source, record.split or "", *cells))
    draft.replace(path)
