"""What an audit says in words: each finding names what is wrong and what to do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from rentgen.data.shortcuts import SHORTCUT, Shortcut
from rentgen.records import (
    Audit,
    DuplicatePair,
    ImageRecord,
    Listing,
    PatientSource,
)

IMBALANCE = 5
"""How many times larger the largest class may be than the smallest."""
TINY = 30
"""Films of a class in a part below which a figure measured there says little."""


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


def find_leaks(shared: int, pairs: Sequence[DuplicatePair], *, parted: bool) -> list[str]:
    """Return what is wrong where patients or films stand on both sides of a split."""
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


def find_shared_sources(records: Mapping[Path, ImageRecord], pairs: Sequence[DuplicatePair]) -> list[str]:
    """Return that merged sets hold the same films: leaving one of them out would then leave nothing out."""
    ends = (tuple(sorted((records[Path(pair.first)].source, records[Path(pair.second)].source))) for pair in pairs)
    return [
        f"{_count(number, 'pair')} of what looks like the same film in {first} and in {second}: a figure measured on "
        "one of the two sets is not independent of the other."
        for (first, second), number in Counter(end for end in ends if end[0] != end[1]).most_common()
    ]


def find_broken(unreadable: Mapping[str, str], n: int) -> list[str]:
    """Return that files cannot be read."""
    if not unreadable:
        return []
    path, reason = next(iter(unreadable.items()))
    return [f"{len(unreadable)} of {_count(n, 'file')} cannot be read; the first is {path}: {reason}."]


def find_shortcuts(shortcuts: Mapping[str, Shortcut | None]) -> list[str]:
    """Return which numbers tell the classes without a radiologist."""
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


def find_counts(counts: Mapping[str, Counter[str]]) -> list[str]:
    """Return which classes are rare, or missing from a part."""
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


def find_rare(listing: Listing, counts: Mapping[str, Counter[str]], known: Mapping[str, Counter[str]]) -> list[str]:
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


def find_unknown_patients(listing: Listing) -> list[str]:
    """Return that patients are not known."""
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
