"""A job's films, however the cloud hands them over, as one folder or table that `rentgen train` reads."""

from __future__ import annotations

import csv
import glob
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from rentgen.errors import DataError

ML_USE = "aiplatform.googleapis.com/ml_use"
PATIENT = "patient"
MAX_LINE = 1 << 20
JSON_LINES = (".jsonl", ".ndjson")


def gather(sources: Mapping[str, str], folder: Path, fetch: Callable[[str], Path]) -> Path:
    """Return what to train on: a folder or a table with all parts.

    Args:
        sources: part (`train`, `validation`, `test`) to a folder, a table, or JSON lines of Vertex AI's import format.
        folder: for links and tables that are made here.
        fetch: gives the local path of a gs:// place.

    Raises:
        DataError: a source is not there or cannot be joined with the others.
    """
    found = {part: _find(place, fetch) for part, place in sources.items()}
    lines = {part: files for part, files in found.items() if files[0].suffix in JSON_LINES or "-000" in files[0].name}
    if lines:
        if len(lines) < len(found):
            raise DataError("Expected all parts as JSON lines, or none, but got some. Give them in one form.")
        return _table(lines, folder / "films.csv", fetch)
    places = {part: _lone_table(files[0]) for part, files in found.items()}
    if len(places) == 1:
        return next(iter(places.values()))
    tables = [path.name for path in places.values() if path.is_file()]
    if tables:
        raise DataError(
            f"Expected parts as folders of class folders, but got tables ({', '.join(tables)}). Give one channel with "
            "one table that has a column `split`."
        )
    joined = folder / "films"
    joined.mkdir(parents=True)
    for part, path in places.items():
        (joined / part).symlink_to(path.resolve(), target_is_directory=True)
    return joined


def _find(place: str, fetch: Callable[[str], Path]) -> list[Path]:
    """Return the folder or file of a place; several files where it has a pattern, as Vertex AI's exports do."""
    local = fetch(place) if place.startswith("gs://") else Path(place)
    if "*" in local.name:
        files = [Path(name) for name in sorted(glob.glob(glob.escape(str(local.parent)) + "/" + local.name))]
        if files:
            return files
    elif local.exists():
        return [local]
    raise DataError("A source of films is not there. Expected a folder of class folders, a table or JSON lines.")


def _lone_table(place: Path) -> Path:
    """Return the one table at the top of a folder, else the folder."""
    tables = sorted(place.glob("*.csv")) if place.is_dir() else []
    return tables[0] if len(tables) == 1 else place


def _table(parts: Mapping[str, list[Path]], table: Path, fetch: Callable[[str], Path]) -> Path:
    """Write a CSV of the films that JSON lines name."""
    table.parent.mkdir(parents=True, exist_ok=True)
    alone = len(parts) == 1
    with table.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("path", "label", "patient", "split"))
        for part, files in parts.items():
            for path in files:
                for uri, label, patient, use in _rows(path):
                    local = str(fetch(uri)) if uri.startswith("gs://") else uri
                    writer.writerow((local, label, patient, (use or "") if alone else part))
    return table


def _rows(path: Path) -> Iterator[tuple[str, str, str, str | None]]:
    """Yield address, class, patient and use of each line of Vertex AI's image classification format.

    Raises:
        DataError: a line is none of it.
    """
    with path.open("rb") as file:
        number = 0
        while line := file.readline(MAX_LINE + 1):
            number += 1
            if not line.strip():
                continue
            try:
                item: Any = json.loads(line) if len(line) <= MAX_LINE else None
                labels = item.get("dataItemResourceLabels") or {}
                yield (
                    str(item["imageGcsUri"]),
                    str(item["classificationAnnotation"]["displayName"]),
                    str(labels.get(PATIENT, "")),
                    _use(labels.get(ML_USE)),
                )
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise DataError(
                    f"{path.name}, line {number}: expected imageGcsUri and classificationAnnotation.displayName, as "
                    "Vertex AI exports them, but got something else."
                ) from error


def _use(value: object) -> str | None:
    """Return a part, as a table names it."""
    return {"training": "train", "train": "train", "validation": "validation", "test": "test"}.get(str(value).lower())
