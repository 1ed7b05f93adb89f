"""Whom a film shows: from a CSV, from DICOM, from the file's name, or unknown."""

from __future__ import annotations

import logging
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from rentgen.errors import DataError, InputError, SettingError
from rentgen.images.dicom import PATIENT_ID, read_text
from rentgen.parallel.local import imap
from rentgen.records import PatientSource, Split

logger = logging.getLogger(__name__)

ENOUGH = 0.95
"""Share of the films whose patient must be known before the CSV, DICOM or the built-in patterns count as the source."""

PERSON = re.compile(r"person(?P<number>\d+)_(?P<kind>[a-z]*)", re.IGNORECASE)
NORMAL = re.compile(r"(?P<series>NORMAL\d*-)?IM-(?P<number>\d+)-", re.IGNORECASE)
"""The names of Kermany's paediatric set. `NORMAL2-IM-7-…` and `IM-7-…` are two numberings, so two patients."""


def read_patient_ids(paths: Sequence[Path]) -> dict[Path, str]:
    """Return the PatientID of the DICOM files that have one; broken files are left to whoever reads their pixels.

    Args:
        paths: of DICOM files.
    """

    def read_one(path: Path) -> str | None:
        try:
            return read_text(path, PATIENT_ID)
        except InputError:
            return None

    return {path: patient for path, patient in zip(paths, imap(read_one, paths), strict=True) if patient}


def compile_pattern(pattern: str) -> re.Pattern[str]:
    """Return the compiled pattern.

    Args:
        pattern: a regular expression with a group named `patient`, or at least one group.

    Raises:
        SettingError: not a regular expression, or one without a group.
    """
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise SettingError(
            f"Expected the patient pattern to be a regular expression, but {pattern!r}: {error}."
        ) from error
    if not compiled.groups:
        raise SettingError(
            f"Expected the patient pattern to have a group around the patient, such as '(?P<patient>\\d+)_', "
            f"but got {pattern!r}."
        )
    return compiled


def is_enough(patients: Sequence[str | None]) -> bool:
    """Return whether so many of the patients are known that what tells them counts as the source.

    Args:
        patients: one for each film, None or empty where unknown.
    """
    return any(patients) and sum(map(bool, patients)) >= ENOUGH * len(patients)


def identify(
    paths: Sequence[Path],
    splits: Sequence[Split | None],
    *,
    given: Sequence[str | None] | None,
    dicom: Mapping[Path, str],
    pattern: str | None,
) -> tuple[list[str], PatientSource]:
    """Return the patient of each film, and how patients became known.

    The first of these that speaks: the CSV's column, PatientID, the caller's pattern, the built-in patterns. All but
    the caller's pattern must speak for 95 % of the films to be named as the source. Where neither the CSV nor PatientID
    does, each film takes its patient from the first that knows it (the caller's pattern goes before PatientID), so that
    films of a known patient stay together whatever the source is named. A film that nothing is said of is a patient of
    its own.

    Args:
        paths: of the films.
        splits: the parts that the source gives.
        given: the CSV's patient column, None where there is no such column.
        dicom: path to PatientID.
        pattern: over the file name, searched anywhere in it.

    Raises:
        SettingError: the pattern is not a regular expression with a group.
        DataError: the pattern matches no file name.
    """
    compiled = None if pattern is None else compile_pattern(pattern)
    column = given or [None] * len(paths)
    if is_enough(column):
        return _fill(paths, column), PatientSource.CSV
    headers = [dicom.get(path) for path in paths]
    if is_enough(headers):
        return _fill(paths, headers), PatientSource.DICOM
    if compiled is not None:
        return _fill(paths, _merge(column, _by_pattern(paths, compiled), headers)), PatientSource.NAME
    named = _by_kermany(paths, splits)
    known = _merge(column, headers, named)
    if is_enough(named):
        return _fill(paths, known), PatientSource.NAME
    if any(known):
        logger.warning(
            "nothing names the patients of enough of the %d films, so a split may leak: give a CSV with a patient "
            "column, or a pattern",
            len(paths),
        )
    return _fill(paths, known), PatientSource.NONE


def _merge(*sources: Sequence[str | None]) -> Sequence[str | None]:
    """Return the patients by the first source that knows each film.

    A later source that says two films show one patient is believed where an earlier one knows only one of the two: the
    other takes the same name.
    """
    merged, *others = sources
    for other in others:
        names = {theirs: ours for ours, theirs in zip(merged, other, strict=True) if ours and theirs}
        merged = [ours or names.get(theirs or "", theirs) for ours, theirs in zip(merged, other, strict=True)]
    return merged


def _fill(paths: Sequence[Path], patients: Sequence[str | None]) -> list[str]:
    """Return the patients, with a film's own path where its patient is unknown."""
    unknown = sum(not patient for patient in patients)
    if 0 < unknown < len(paths):
        logger.warning("%d of %d films do not say whom they show: each counts as its own patient", unknown, len(paths))
    return [patient or str(path) for path, patient in zip(paths, patients, strict=True)]


def _by_pattern(paths: Sequence[Path], pattern: re.Pattern[str]) -> list[str | None]:
    group: str | int = "patient" if "patient" in pattern.groupindex else 1
    matches = [pattern.search(path.name) for path in paths]
    if not any(matches):
        raise DataError(f"The patient pattern {pattern.pattern!r} matches none of {len(paths)} file names.")
    return [match and match[group] for match in matches]


def _by_kermany(paths: Sequence[Path], splits: Sequence[Split | None]) -> list[str | None]:
    """Return patients by Kermany's names.

    A number usually means one patient, whether the film is called bacterial or viral. The published training and test
    parts each number their own patients, though: there the same number stands in both, but never with the same kind.
    Such a number is told apart by its kind; a true leak, the same number and kind in two parts, stays visible.
    """
    matches = [PERSON.match(path.name) or NORMAL.match(path.name) for path in paths]
    parts: dict[str, set[Split | None]] = defaultdict(set)
    for match, split in zip(matches, splits, strict=True):
        if match and match.re is PERSON:
            parts[match["number"]].add(split)

    def name(match: re.Match[str] | None) -> str | None:
        if match is None:
            return None
        if match.re is NORMAL:
            return f"{(match['series'] or '').upper()}IM-{match['number']}"
        kind = f"-{match['kind'].lower()}" if len(parts[match["number"]]) > 1 else ""
        return f"person{match['number']}{kind}"

    return [name(match) for match in matches]
