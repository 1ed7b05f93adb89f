"""A set of films as Vertex AI's AutoML imports it, divided by patient: left to itself, AutoML divides by film."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import TextIO

from rentgen.errors import DataError, SettingError
from rentgen.records import Listing, Split

ML_USE = {Split.TRAIN: "TRAINING", Split.VALIDATION: "VALIDATION", Split.TEST: "TEST"}
READABLE = frozenset({".jpg", ".jpeg", ".png", ".gif", ".bmp", ".ico"})
"""What AutoML trains on: no DICOM, no TIFF."""
MAX_BYTES = 30_000_000
LABEL = re.compile(r"[A-Za-z][A-Za-z0-9_]*")


def rows(listing: Listing, prefix: str) -> Iterator[tuple[str, str, str]]:
    """Yield ML_USE, address and class of each film.

    Args:
        listing: with a part for each film.
        prefix: gs://BUCKET/FOLDER where the set's folder lies, films under the same relative names.

    Raises:
        SettingError: the prefix is no gs:// place.
        DataError: AutoML does not read a film, or a film has no class, no part, or lies outside the set.
    """
    if not prefix.startswith("gs://") or len(prefix) <= len("gs://"):
        raise SettingError(f"Expected a prefix gs://BUCKET/FOLDER, but got {prefix!r}.")
    wrong = [label for label in listing.classes if not LABEL.fullmatch(label)]
    if wrong:
        raise DataError(
            f"AutoML takes classes of letters, digits and underscores that begin with a letter, but got "
            f"{', '.join(map(repr, wrong))}. Rename them."
        )
    base = listing.root if listing.root.is_dir() else listing.root.parent
    for record in listing.records:
        if record.label is None or record.split is None:
            raise DataError("Expected a class and a part for every film, but some have none.")
        if record.path.suffix.lower() not in READABLE or record.path.stat().st_size > MAX_BYTES:
            raise DataError(
                f"{record.path}: AutoML trains on JPEG, PNG, GIF, BMP and ICO files of at most 30 MB only. Convert it, "
                "or train with `rentgen train`, which reads DICOM and TIFF."
            )
        try:
            name = PurePosixPath(record.path.resolve().relative_to(base.resolve()).as_posix())
        except ValueError as error:
            raise DataError(f"{record.path} lies outside {base}, so it has no address below {prefix}.") from error
        yield ML_USE[record.split], f"{prefix.rstrip('/')}/{name}", record.label


def write(listing: Listing, prefix: str, file: TextIO) -> int:
    """Write the lines of a set and return their number; errors as of `rows`."""
    writer = csv.writer(file, lineterminator="\n")
    number = 0
    for row in rows(listing, prefix):
        writer.writerow(row)
        number += 1
    return number
