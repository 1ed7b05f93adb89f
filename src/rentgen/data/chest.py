"""The published tables of the large chest sets, read as they are: a row's films, findings and patient.

Formats: ChestX-ray14 (`Data_Entry_2017.csv`; Wang et al., CVPR 2017), CheXpert (`train.csv`; Irvin et al., AAAI 2019),
PadChest (`PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv`; Bustos et al., Medical Image Analysis 66, 2020) and
VinDr-CXR (`image_labels_*.csv` and `annotations_*.csv`, also as Kaggle's `train.csv`; Nguyen et al., Scientific Data 9,
2022).
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from rentgen.data.findings import CHESTXRAY14, NO_FINDING, canonical
from rentgen.errors import DataError
from rentgen.records import Split

Row = Mapping[str, str]
"""Cells by column in lower case."""


class Key(StrEnum):
    """How a row names its film."""

    NAME = "name"
    """The file's name."""
    STEM = "stem"
    """The file's name without its ending."""
    PATH = "path"
    """A path from the folder of the set, or from one above it."""


@dataclass(frozen=True, slots=True)
class Labelled:
    """What a table says of a film.

    Attributes:
        key: names the film.
        findings: those of which something is said: present or absent.
        patient: None where the table does not tell.
    """

    key: str
    findings: Mapping[str, bool]
    patient: str | None = None


@dataclass(frozen=True, slots=True)
class Table:
    """A published table, read.

    Attributes:
        title: of the set.
        key: how rows name films.
        classes: in the table's order.
        films: one for each film that has findings.
        left_out: why rows were left out, to their number.
    """

    title: str
    key: Key
    classes: tuple[str, ...]
    films: tuple[Labelled, ...]
    left_out: Mapping[str, int]


def parse_value(cell: str) -> bool | None:
    """Return whether a cell says present or absent; None for empty and for -1, which says that it is uncertain.

    Raises:
        ValueError: it is neither 1, 0, -1 nor empty.

    Example:
        >>> parse_value("1.0"), parse_value("0"), parse_value("-1.0"), parse_value("")
        (True, False, None, None)
    """
    plain = cell.strip().lower()
    if plain in ("", "nan", "-1", "-1.0", "-1.00"):
        return None
    if plain in ("1", "1.0", "1.00"):
        return True
    if plain in ("0", "0.0", "0.00"):
        return False
    raise ValueError(f"expected 1, 0, -1 or nothing, but got {cell!r}")


def read_published(rows: Iterable[Row], columns: Mapping[str, str]) -> Table | None:
    """Return a published table of several findings, None where the header is of no known one.

    Args:
        rows: cells by column in lower case.
        columns: column in lower case to its spelling.

    Raises:
        DataError: a cell that cannot be right.
    """
    for needed, read in _FORMATS:
        if needed <= set(columns):
            return read(rows, columns)
    return None


def locate(table: Table, base: Path, films: Iterable[Path]) -> dict[str, Path]:
    """Return key to file, for the films of a table that are there.

    Args:
        table: as it was read.
        base: the folder of the set.
        films: all that lie below it.

    Raises:
        DataError: two files have one name.
    """
    if table.key is Key.PATH:
        return dict(_at_paths(table, base))
    found: dict[str, Path] = {}
    wanted = {film.key for film in table.films}
    for film in films:
        key = film.name if table.key is Key.NAME else film.stem
        if key in wanted and found.setdefault(key, film) != film:
            raise DataError(f"{base} holds two files of one name: {found[key]} and {film}. Keep one of them.")
    return found


def read_parts(base: Path) -> dict[str, Split]:
    """Return the part of each film by its name, where ChestX-ray14's lists lie beside the table."""
    lists = (("train_val_list.txt", Split.TRAIN), ("test_list.txt", Split.TEST))
    return {
        name.strip(): part
        for file, part in lists
        if (base / file).is_file()
        for name in (base / file).read_text(encoding="utf-8-sig").splitlines()
        if name.strip()
    }


def _at_paths(table: Table, base: Path) -> Iterator[tuple[str, Path]]:
    for film in table.films:
        parts = Path(film.key).parts
        # The table's paths begin with the name of the set's folder, which may have been renamed since.
        candidates = (base.joinpath(*parts[skip:]) for skip in (0, 1, 2) if skip < len(parts))
        path = next((candidate for candidate in candidates if candidate.is_file()), None)
        if path is not None:
            yield film.key, path


def _chestxray14(rows: Iterable[Row], _: Mapping[str, str]) -> Table:
    films = []
    for row in rows:
        present = {canonical(name) for name in row["finding labels"].split("|")}
        strange = present - {*CHESTXRAY14, NO_FINDING}
        if strange:
            raise DataError(f"{row['image index']}: expected findings of ChestX-ray14, but got {', '.join(strange)}.")
        findings = {name: name in present for name in CHESTXRAY14}
        films.append(Labelled(row["image index"], findings, row["patient id"] or None))
    return Table("ChestX-ray14", Key.NAME, CHESTXRAY14, tuple(films), {})


_CHEXPERT_FIRST = ("path", "sex", "age", "frontal/lateral", "ap/pa")
_CHEXPERT_PATIENT = re.compile(r"patient\d+")


def _chexpert(rows: Iterable[Row], columns: Mapping[str, str]) -> Table:
    names = [name for name in columns if name and name not in _CHEXPERT_FIRST]
    spelled = {name: canonical(columns[name]) for name in names}
    films, left_out = [], Counter[str]()
    for row in rows:
        if row["frontal/lateral"].lower() == "lateral":
            left_out["lateral view"] += 1
            continue
        told = {spelled[name]: _value(row["path"], columns[name], row[name]) for name in names}
        patient = _CHEXPERT_PATIENT.search(row["path"])
        findings = {name: value for name, value in told.items() if value is not None}
        films.append(Labelled(row["path"], findings, patient[0] if patient else None))
    return Table("CheXpert", Key.PATH, tuple(spelled.values()), tuple(films), left_out)


_PADCHEST = {
    "Atelectasis": r".*\batelectasis.*",
    "Cardiomegaly": r"cardiomegaly",
    "Consolidation": r"consolidation|air bronchogram",
    "Edema": r"pulmonary edema",
    "Effusion": r"(loculated )?pleural effusion",
    "Emphysema": r"emphysema",
    "Fibrosis": r"pulmonary fibrosis|post radiotherapy changes with fibrosis",
    "Fracture": r".*\bfracture",
    "Hernia": r"hiatal hernia",
    "Infiltration": r"infiltrates|.*interstitial pattern|ground glass pattern|alveolar pattern",
    "Mass": r"mass|pulmonary mass",
    "Nodule": r"nodule|multiple nodules",
    "Pleural_Thickening": r".*\bpleural thickening",
    "Pneumonia": r"(atypical )?pneumonia",
    "Pneumothorax": r"(hydro)?pneumothorax",
    "Support Devices": r".*\bdevice|.*\bpacemaker.*|.*\btube|.*\bcatheter.*|electrical device",
    "Tuberculosis": r"tuberculosis( sequelae)?",
}
"""Finding to what PadChest's labels of it match."""
_PADCHEST_FRONTAL = frozenset({"PA", "AP", "AP_horizontal"})


def _padchest(rows: Iterable[Row], _: Mapping[str, str]) -> Table:
    patterns = {name: re.compile(pattern) for name, pattern in _PADCHEST.items()}
    films, left_out = [], Counter[str]()
    for row in rows:
        labels = {label.strip() for label in re.findall(r"'([^']*)'", row["labels"])} - {""}
        if row["projection"] not in _PADCHEST_FRONTAL:
            left_out["other than a frontal view"] += 1
        elif not labels or labels & {"exclude", "suboptimal study"} or labels == {"unchanged"}:
            left_out["without a label that says anything"] += 1
        else:
            findings = {name: any(map(pattern.fullmatch, labels)) for name, pattern in patterns.items()}
            films.append(Labelled(row["imageid"], {NO_FINDING: labels == {"normal"}, **findings}, row["patientid"]))
    return Table("PadChest", Key.NAME, (NO_FINDING, *_PADCHEST), tuple(films), left_out)


def _vindr_labels(rows: Iterable[Row], columns: Mapping[str, str]) -> Table:
    """Return the global labels: a row for each film and reader in the training table, one a film in the test table."""
    names = [name for name in columns if name and name not in ("image_id", "rad_id")]
    spelled = {name: canonical(columns[name]) for name in names}
    votes: dict[str, list[set[str]]] = defaultdict(list)
    for row in rows:
        marks = {spelled[name]: _value(row["image_id"], columns[name], row[name]) for name in names}
        votes[row["image_id"]].append({name for name, value in marks.items() if value})
    return _by_majority(tuple(spelled.values()), votes)


def _vindr_boxes(rows: Iterable[Row], _: Mapping[str, str]) -> Table:
    """Return what the boxes say: a row for each box of each reader, and one for `No finding`."""
    readers: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    names: dict[str, None] = {}
    for row in rows:
        name = canonical(row["class_name"])
        names[name] = None
        # The test table has one row a box and no reader: their common word.
        readers[row["image_id"]][row.get("rad_id", "")].add(name)
    return _by_majority(tuple(sorted(names)), {image: list(voted.values()) for image, voted in readers.items()})


def _by_majority(classes: tuple[str, ...], votes: Mapping[str, list[set[str]]]) -> Table:
    films = tuple(
        Labelled(image, {name: 2 * sum(name in voted for voted in readers) > len(readers) for name in classes})
        for image, readers in votes.items()
    )
    return Table("VinDr-CXR", Key.STEM, classes, films, {})


def _value(film: str, column: str, cell: str) -> bool | None:
    try:
        return parse_value(cell)
    except ValueError as error:
        raise DataError(f"{film}, column {column!r}: {error}.") from error


_FORMATS: tuple[tuple[frozenset[str], Callable[[Iterable[Row], Mapping[str, str]], Table]], ...] = (
    (frozenset({"image index", "finding labels", "patient id"}), _chestxray14),
    (frozenset({"path", "frontal/lateral", "ap/pa", "no finding"}), _chexpert),
    (frozenset({"imageid", "labels", "patientid", "projection"}), _padchest),
    (frozenset({"image_id", "class_name", "x_min"}), _vindr_boxes),
    (frozenset({"image_id", "no finding"}), _vindr_labels),
)
"""Columns that tell a table, and how it is read."""
