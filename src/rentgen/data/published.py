"""Labels as publishers write them down, converted to a `labels.csv` that the listing reads."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from rentgen.data.catalog import DataSet, Published
from rentgen.data.listing import DICOM, RASTER
from rentgen.errors import DataError, SettingError
from rentgen.records import ImageRecord, Split

_TB_NAME = re.compile(r"((?:CHNCXR|MCUCXR)_\d+)_([01])")


def write_labels(data_set: DataSet, directory: Path, *, finding: str | None = None) -> Path | None:
    """Return the `labels.csv` written for a set that lies in a folder, None where class folders are enough.

    Args:
        data_set: decides how the published labels are read.
        directory: of the set; its films may lie in any folder below.
        finding: asks for one finding against the rest; only for sets with a published table of findings.

    Raises:
        DataError: the published table, or all of the films, are missing.
        SettingError: the set has no such finding.
    """
    if finding is not None and data_set.published not in (Published.NIH, Published.RSNA):
        raise SettingError(f"Expected no finding for the set {data_set.name!r}, but got {finding!r}.")
    if data_set.published is Published.FOLDERS:
        return None
    if data_set.published is Published.FINDINGS:
        return next(iter(sorted(directory.rglob("labels.csv"))), None)
    records = _READERS[data_set.published](directory, finding)
    if not records:
        raise DataError(f"Expected films of {data_set.title} in {directory}, but none of its published names is there.")
    target = directory / "labels.csv"
    partial = directory / ".labels.csv.part"
    with partial.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(("path", "label", "patient", "split"))
        for record in records:
            path = record.path.relative_to(directory).as_posix()
            writer.writerow((path, record.label, record.patient, record.split or ""))
    partial.replace(target)
    return target


def films_in(directory: Path) -> Iterator[Path]:
    """Yield the films below a folder, by their names' endings, sorted; hidden files and folders are left out."""
    for path in sorted(directory.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(directory).parts)
        if path.suffix.lower() in RASTER | DICOM and not hidden and path.is_file():
            yield path


def _nih(directory: Path, finding: str | None) -> list[ImageRecord]:
    """Return the films of ChestX-ray14, by default with any finding against none."""
    films = {film.name: film for film in films_in(directory)}
    test = {name.strip() for name in _lines(directory, "test_list.txt")}
    records = []
    known: set[str] = set()
    for row in _table(directory, "Data_Entry_2017*.csv", "Image Index", "Finding Labels", "Patient ID"):
        name, findings = row["Image Index"], row["Finding Labels"].split("|")
        known.update(findings)
        if finding is None:
            label = "No Finding" if findings == ["No Finding"] else "Finding"
        else:
            label = finding if finding in findings else f"No {finding}"
        split = None if not test else Split.TEST if name in test else Split.TRAIN
        if name in films:
            records.append(ImageRecord(films[name], label, row["Patient ID"], split))
    _check_finding(finding, known - {"No Finding"})
    return records


def _rsna(directory: Path, finding: str | None) -> list[ImageRecord]:
    """Return the films of the RSNA challenge, by default in three classes; the table has a row for each box."""
    films = {film.stem: film for film in films_in(directory)}
    table = _table(directory, "stage_2_detailed_class_info.csv", "patientId", "class")
    classes = {row["patientId"]: row["class"] for row in table}
    _check_finding(finding, set(classes.values()))
    return [
        ImageRecord(films[key], label if finding in (None, label) else f"No {finding}", key)
        for key, label in classes.items()
        if key in films
    ]


def _tb_names(directory: Path, _: str | None) -> list[ImageRecord]:
    """Return the films of the Shenzhen and Montgomery sets; Montgomery's masks have the films' names."""
    records = []
    for film in films_in(directory):
        match = _TB_NAME.fullmatch(film.stem)
        if match and not any("mask" in part.lower() for part in film.relative_to(directory).parts[:-1]):
            records.append(ImageRecord(film, ("Normal", "Tuberculosis")[int(match[2])], match[1]))
    return records


def _image_folders(directory: Path, _: str | None) -> list[ImageRecord]:
    """Return the films in `.../CLASS/images/`."""
    return [
        ImageRecord(film, film.parts[-3], "")
        for film in films_in(directory)
        if film.parent.name.lower() == "images" and film.parent.parent != directory
    ]


_READERS: Mapping[Published, Callable[[Path, str | None], list[ImageRecord]]] = {
    Published.NIH: _nih,
    Published.RSNA: _rsna,
    Published.TB_NAMES: _tb_names,
    Published.IMAGE_FOLDERS: _image_folders,
}


def _lines(directory: Path, pattern: str) -> list[str]:
    found = sorted(directory.rglob(pattern))
    return found[0].read_text(encoding="utf-8-sig").splitlines() if found else []


def _table(directory: Path, pattern: str, *columns: str) -> Iterator[dict[str, str]]:
    reader = csv.DictReader(_lines(directory, pattern), restval="")
    if not set(columns) <= set(reader.fieldnames or ()):
        raise DataError(
            f"Expected the published file {pattern} in {directory} with the columns {', '.join(columns)},"
            f" but got {', '.join(reader.fieldnames) if reader.fieldnames else 'no such file'}. Fetch it too."
        )
    return reader


def _check_finding(finding: str | None, known: set[str]) -> None:
    if finding is not None and finding not in known:
        raise SettingError(f"Expected finding to be one of {', '.join(sorted(known))}, but got {finding!r}.")
