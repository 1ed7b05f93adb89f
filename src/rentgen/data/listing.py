"""What films there are: class folders, a CSV, a DICOM tree or a plain folder, as one `Listing`."""

from __future__ import annotations

import csv
import io
import logging
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rentgen.data.chest import Key, Table, locate, parse_value, read_parts, read_published
from rentgen.data.findings import align, apply_exclusion, is_known, wanted_findings
from rentgen.data.labels import Found, Place, gather_classes, parse_split, place
from rentgen.data.patients import identify, is_enough, read_patient_ids
from rentgen.errors import DataError, InputError
from rentgen.images.dicom import SOP_INSTANCE_UID, is_dicom, read_text
from rentgen.parallel.local import imap
from rentgen.records import ImageRecord, Listing, Task

__all__ = ["list_images", "parse_split"]

logger = logging.getLogger(__name__)

RASTER = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff"})
DICOM = frozenset({".dcm", ".dicom"})
JUNK = frozenset({"__macosx", "thumbs.db", "desktop.ini", "dicomdir"})
"""What file managers and disc burners leave behind."""
COMPANIONS = frozenset(
    {".csv", ".htm", ".html", ".json", ".md", ".pdf", ".rst", ".tsv", ".txt", ".xls", ".xlsx", ".xml"}
)
"""Files that nobody expects to be a film; others that are left out earn a warning."""

EXAMPLES = 5
"""How many offenders a message names."""


def list_images(
    source: Path,
    *,
    patient_pattern: str | None = None,
    base: Path | None = None,
    findings: Sequence[str] = (),
) -> Listing:
    """Return the films of a folder or a CSV, with labels, patients and parts where the source tells them.

    A folder is read as class folders (`ROOT/<class>/**`), parts with class folders (`ROOT/{train,val,test}/<class>/**`,
    in any case, `training`, `valid`, `validation` and `testing` too), a DICOM export by patient, or films without
    classes. A single folder around all of that is gone through. Files are films by suffix (PNG, JPEG, TIFF, DICOM) or,
    without a known one, by DICOM's magic.

    A CSV is UTF-8 with a header: `path` or `sop_instance_uid`, then, each optional, `label`, `patient`, `split`,
    `source`; the header's case does not matter. Commas, semicolons or tabs. Without a `label`, every other column that
    holds nothing but 1, 0, -1 (uncertain) and empty cells is a finding, and a film may have several
    (`Task.MULTILABEL`); other columns are ignored. The tables of ChestX-ray14, CheXpert, PadChest and VinDr-CXR are
    read as they were published (`data.chest`).

    The patient comes from the first that tells: the CSV, PatientID, `patient_pattern`, the names of Kermany's set.

    Args:
        source: a folder or a CSV file.
        patient_pattern: regular expression over file names; the group `patient`, or the first one, is the patient.
        base: what the CSV's paths are relative to, or where its UIDs are looked for; its own folder by default.
        findings: the findings to read from a CSV, in this order; by default those that it has.

    Raises:
        DataError: there are no films, a row is wrong, or the layout leaves a class unknown.
        SettingError: the pattern is not a regular expression with a group.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> for name in ("NORMAL", "PNEUMONIA"):
        ...     (folder / name).mkdir()
        ...     _ = (folder / name / "1.png").write_bytes(b"")
        >>> list_images(folder).classes
        ('NORMAL', 'PNEUMONIA')
    """
    given: list[str | None] | None = None
    table = _Cut(())
    wanted = wanted_findings(findings)
    if source.is_dir():
        films = _walk(source)
        if not films:
            raise DataError(
                f"{source} holds no films. Expected PNG, JPEG, TIFF or DICOM files, in one folder for each class."
            )
        dicom = read_patient_ids([film.path for film in films if film.dicom])
        places = place(source, films, dicom)
    elif source.is_file():
        table = _read_table(source, base or source.parent, wanted)
        rows = table.rows
        places = [row.place for row in rows]
        given = [row.patient for row in rows]
        paths = [row.place.path for row in rows]
        dicom = {} if is_enough(given) else read_patient_ids([path for path in paths if _is_dicom(path)])
    else:
        raise DataError(f"{source} is not there. Expected a folder of films or a CSV file.")
    patients, patient_source = identify(
        [film.path for film in places],
        [film.split for film in places],
        given=given,
        dicom=dicom,
        pattern=patient_pattern,
    )
    if not table.classes:
        if wanted:
            raise DataError(f"Expected a table with the findings {', '.join(wanted)}, but {source} has no findings.")
        records = tuple(
            ImageRecord(path=film.path, label=film.label, patient=patient, split=film.split)
            for film, patient in zip(places, patients, strict=True)
        )
        return Listing(source, records, gather_classes(film.label for film in places), patient_source)
    records = tuple(
        ImageRecord(row.place.path, None, patient, row.place.split, row.findings, row.source)
        for row, patient in zip(table.rows, patients, strict=True)
    )
    listing = Listing(source, records, table.classes, patient_source, Task.MULTILABEL, table.notes)
    # First all columns as they are: what `No Finding` excludes may lie outside of what is wanted.
    listing = apply_exclusion(listing)
    return align(listing, wanted) if wanted else listing


def _natural(text: str) -> tuple[list[str | int], str]:
    """Return a sort key that puts `film10` after `film9`."""
    pieces = re.split(r"([0-9]+)", text)
    return [int(piece) if index % 2 else piece.casefold() for index, piece in enumerate(pieces)], text


def _is_dicom(path: Path) -> bool:
    """Return whether a file is DICOM: by its suffix, or by its first bytes where the suffix says nothing."""
    suffix = path.suffix.lower()
    if suffix in DICOM or suffix in RASTER or suffix in COMPANIONS:
        return suffix in DICOM
    if not path.is_file():  # a dangling link, a pipe
        return False
    try:
        with path.open("rb") as file:
            return is_dicom(file.read(4096))
    except OSError as error:
        raise DataError(f"{path}: this file cannot be read ({error.strerror}).") from error


def find_films(folder: Path) -> tuple[Path, ...]:
    """Return every film below a folder, in natural order, whatever the folders mean.

    Raises:
        DataError: a folder or file cannot be read.
    """
    return tuple(film.path for film in _walk(folder))


def _walk(root: Path) -> list[Found]:
    """Return the films below a folder in natural order; links are followed, each folder is entered once."""

    def fail(error: OSError) -> None:
        raise DataError(f"{error.filename}: this folder cannot be read ({error.strerror}).") from error

    films: list[Found] = []
    ignored: Counter[str] = Counter()
    seen: set[str] = set()
    for folder, folders, files in os.walk(root, onerror=fail, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted((name for name in folders if _wanted(name)), key=_natural)
        here = Path(folder)
        below = here.relative_to(root).parts
        for name in sorted(filter(_wanted, files), key=_natural):
            path = here / name
            dicom = _is_dicom(path)
            if dicom or path.suffix.lower() in RASTER:
                films.append(Found(path, below, dicom))
            elif path.suffix.lower() not in COMPANIONS:
                ignored[path.suffix.lower() or "no suffix"] += 1
    if ignored:
        kinds = ", ".join(f"{suffix} {count}" for suffix, count in ignored.most_common(EXAMPLES))
        logger.warning("%s: %d files are of no kind that is read and were left out (%s)", root, ignored.total(), kinds)
    return films


def _wanted(name: str) -> bool:
    return not name.startswith(".") and name.lower() not in JUNK


@dataclass(frozen=True, slots=True)
class _Row:
    place: Place
    patient: str | None
    findings: tuple[bool | None, ...] = ()
    source: str = ""


@dataclass(frozen=True, slots=True)
class _Cut:
    """What a CSV says: its rows, the findings that it has, and what is worth saying of it."""

    rows: tuple[_Row, ...]
    classes: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def _read_table(table: Path, base: Path, wanted: Sequence[str]) -> _Cut:
    """Return the rows of a CSV, with the paths resolved and checked."""
    reader = _open_table(table)
    columns = {(name or "").strip().lower(): name for name in reader.fieldnames or ()}
    published = read_published((row for _, row in _cells(table, reader, columns)), columns)
    if published is not None:
        return _locate_films(table, base, published)
    key = next((name for name in ("path", "sop_instance_uid", "sopinstanceuid") if name in columns), None)
    if key is None:
        raise DataError(
            f"{table}: expected a header with a column 'path' or 'sop_instance_uid', but got "
            f"{', '.join(repr(name) for name in reader.fieldnames or ()) or 'an empty file'}."
        )
    cells = list(_cells(table, reader, columns))
    if not cells:
        raise DataError(f"{table} has a header but no rows.")
    keys = [row.get(key, "") for _, row in cells]
    _refuse(table, "have no " + key, [f"row {line}" for (line, _), name in zip(cells, keys, strict=True) if not name])
    paths = [base / name for name in keys] if key == "path" else _find_objects(table, base, cells, keys)
    _check_paths(table, [line for line, _ in cells], paths)
    rows = []
    # A column of labels has the last word, unless findings were asked for by name.
    names = {} if "label" in columns and not wanted else _finding_columns(table, cells, columns)
    for (line, row), path in zip(cells, paths, strict=True):
        try:
            split = parse_split(row["split"]) if row.get("split") else None
        except DataError as error:
            raise DataError(f"{table}, row {line}: {error}") from error
        patient = row.get("patient") or row.get("patient_id") or None
        findings = tuple(parse_value(row[name]) for name in names)
        rows.append(_Row(Place(path, row.get("label") or None, split), patient, findings, row.get("source", "")))
    return _Cut(tuple(rows), tuple(names.values()))


_NO_FINDINGS = frozenset(
    {"", "path", "sop_instance_uid", "sopinstanceuid", "label", "patient", "patient_id", "split", "source"}
    | {"age", "sex", "male", "female", "view", "width", "height", "index", "id", "unnamed: 0"}
)
"""Columns that are no finding, whatever they hold."""


def _finding_columns(
    table: Path, cells: Sequence[tuple[int, Mapping[str, str]]], columns: Mapping[str, str]
) -> dict[str, str]:
    """Return the columns that are findings, in lower case, to their spelling.

    Raises:
        DataError: a column that is named as a finding holds something else.
    """
    names = {}
    for name, spelling in columns.items():
        if name in _NO_FINDINGS:
            continue
        strange = None
        for line, row in cells:
            try:
                parse_value(row[name])
            except ValueError as error:
                strange = f"row {line}, column {spelling!r}: {error}"
                break
        if strange is None and any(row[name] for _, row in cells):
            names[name] = spelling.strip()
        elif strange is not None and is_known(name):
            raise DataError(f"{table}, {strange}.")
    return names


def _locate_films(table: Path, base: Path, published: Table) -> _Cut:
    """Return the rows of a published table whose films are there."""
    films = () if published.key is Key.PATH else tuple(film.path for film in _walk(base))
    found = locate(published, base, films)
    if not found:
        raise DataError(
            f"{table} is a table of {published.title}, but none of its {len(published.films)} films lies below {base}. "
            "Unpack them there."
        )
    parts = read_parts(base)
    rows = tuple(
        _Row(
            Place(found[film.key], None, parts.get(film.key)),
            film.patient,
            tuple(film.findings.get(name) for name in published.classes),
        )
        for film in published.films
        if film.key in found
    )
    reasons = dict(published.left_out) | {"film is not there": len(published.films) - len(rows)}
    told = ", ".join(f"{count} ({reason})" for reason, count in reasons.items() if count)
    return _Cut(rows, published.classes, (f"{published.title}: rows left out: {told}.",) if told else ())


def _open_table(table: Path) -> csv.DictReader[str]:
    try:
        text = table.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{table} is not a table in UTF-8. Expected a folder of films, or a CSV saved as UTF-8."
        ) from error
    except OSError as error:
        raise DataError(f"{table}: this file cannot be read ({error.strerror}).") from error
    header = text.partition("\n")[0]
    # Spreadsheets write semicolons where the comma separates decimals.
    return csv.DictReader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=header.count))


def _cells(
    table: Path, reader: csv.DictReader[str], columns: Mapping[str, str]
) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield line number and cells, by column in lower case, without the blanks around them."""
    try:
        for row in reader:
            if None in row:
                raise DataError(f"{table}, row {reader.line_num}: more cells than the header has columns.")
            yield reader.line_num, {name: (row[spelling] or "").strip() for name, spelling in columns.items()}
    except csv.Error as error:
        raise DataError(f"{table}, row {reader.line_num}: {error}.") from error


def _refuse(table: Path, what: str, offenders: Sequence[str]) -> None:
    if offenders:
        more = f" and {len(offenders) - EXAMPLES} more" if len(offenders) > EXAMPLES else ""
        raise DataError(f"{table}: {len(offenders)} rows {what}: {'; '.join(offenders[:EXAMPLES])}{more}.")


def _check_paths(table: Path, lines: Sequence[int], paths: Sequence[Path]) -> None:
    first: dict[str, int] = {}
    missing, repeated = [], []
    for line, path in zip(lines, paths, strict=True):
        if not path.is_file():
            missing.append(f"row {line}, {path}")
        earlier = first.setdefault(os.path.realpath(path), line)
        if earlier != line:
            repeated.append(f"row {line}, as in row {earlier}, {path}")
    _refuse(table, "name a file that is not there", missing)
    _refuse(table, "name a file that an earlier row names", repeated)


def _find_objects(table: Path, base: Path, cells: Sequence[tuple[int, object]], uids: Sequence[str]) -> list[Path]:
    """Return the DICOM file of each SOPInstanceUID, looked for below `base`."""
    films = [film.path for film in _walk(base) if film.dicom]
    found = dict(zip(imap(_read_uid, films), films, strict=True))
    absent = [f"row {line}, {uid}" for (line, _), uid in zip(cells, uids, strict=True) if uid not in found]
    _refuse(table, f"name an object that is not below {base}", absent)
    return [found[uid] for uid in uids]


def _read_uid(path: Path) -> str | None:
    """Return the SOPInstanceUID of a DICOM file, None where it has none or is broken."""
    try:
        return read_text(path, SOP_INSTANCE_UID)
    except InputError:
        return None
