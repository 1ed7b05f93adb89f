"""What physicians said as a set that can be trained on: a zip with tables, and the films where they are kept.

Films with a class and films with findings cannot stand in one table: the findings have `feedback.csv` to themselves
where there is no other feedback, and `feedback-findings.csv` beside it.
"""

from __future__ import annotations

import csv
import io
import tempfile
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from typing import IO, TYPE_CHECKING

from rentgen.errors import InputError, PeerError
from rentgen.images.read import Limits, read
from rentgen.outputs.wording import finding_presence
from rentgen.records.studies import Feedback, StoredImage, StoredPrediction
from rentgen.service.pictures import encode_film
from rentgen.store.studies import Store

if TYPE_CHECKING:
    from rentgen.outputs.deidentify.dataset import CountWords

COLUMNS = ("path", "label", "patient", "agree", "model_label", "probability", "status", "bundle_id", "received_at")
"""Of a table of classes. `rentgen train` reads the first three and leaves the others alone."""
BESIDE_FINDINGS = ("agree", "model_findings", "status", "bundle_id", "received_at")
"""Of a table of findings, behind `path`, `patient` and a column for each finding; none of them reads as a finding."""

_CELLS = {True: "1", False: "0", None: ""}


def pack_feedback(store: Store, limits: Limits, count_words: CountWords | None = None) -> IO[bytes]:
    """Return an open temporary file with the zip, at its beginning.

    Only films of which a physician has said a class or findings, and whose file is kept, have a row in `feedback.csv`;
    films in whose picture words may stand are in `held-back.csv`, the others in `without-films.csv`: nothing is lost
    silently.

    Args:
        store: with feedback.
        limits: on what a film may ask for.
        count_words: reads pictures; None leaves words in them unseen, but for what headers say.
    """
    # It brings the standard's tables along, half a second that a start need not wait for.
    from rentgen.outputs.deidentify.dataset import find_words

    file = tempfile.TemporaryFile()  # noqa: SIM115
    tables = {name: _Tables() for name in ("feedback", "without-films", "held-back")}
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for image, stored, feedback in store.all_feedback():
            path = f"films/{image.image_id}.png"
            data = store.file(image.image_id) if image.file_kept and (feedback.label or feedback.findings) else None
            row = _row(image, stored, feedback)
            if data is None:
                tables["without-films"].add(row | {"path": path if data else image.image_id}, stored, feedback)
                continue
            try:
                film = read(data, name=image.image_id, limits=limits)
                words = find_words(data, film, count_words, allow_derived=True, limits=limits)
            except (InputError, PeerError):
                tables["without-films"].add(row | {"path": path}, stored, feedback)
                continue
            if words is not None:
                tables["held-back"].add(row, stored, feedback)
                continue
            archive.writestr(path, encode_film(film))
            tables["feedback"].add(row | {"path": path}, stored, feedback)
        for name, table in tables.items():
            for file_name, text in table.texts(name):
                archive.writestr(file_name, text)
    file.seek(0)
    return file


def _row(image: StoredImage, stored: StoredPrediction | None, feedback: Feedback) -> dict[str, object]:
    """Return the cells of a film by column, but for findings; the path is its id."""
    return {
        "path": image.image_id,
        "label": feedback.label or "",
        "patient": image.patient or image.study_id,
        "agree": feedback.agree,
        "model_label": stored.label if stored else "",
        "model_findings": "; ".join(_present(stored)) if stored else "",
        "probability": f"{stored.probabilities.get(stored.label or '', 0.0):.6f}" if stored else "",
        "status": str(stored.status) if stored else "",
        "bundle_id": stored.bundle_id if stored else "",
        "received_at": image.received_at.isoformat(),
    }


def _present(stored: StoredPrediction) -> list[str]:
    return [name for name in stored.probabilities if finding_presence(stored, name) == "present"]


class _Tables:
    """Rows in memory, a few hundred bytes a film: those with a class, and those with findings."""

    def __init__(self) -> None:
        self._classes: list[Mapping[str, object]] = []
        self._findings: list[Mapping[str, object]] = []
        # Ordered as they came: of one model, as its card has them.
        self._names: dict[str, None] = {}

    def add(self, row: Mapping[str, object], stored: StoredPrediction | None, feedback: Feedback) -> None:
        if feedback.findings is None:
            self._classes.append(row)
            return
        names = dict.fromkeys((*(stored.probabilities if stored else ()), *feedback.findings))
        self._names |= names
        self._findings.append({**row, **{name: _CELLS[feedback.findings.get(name)] for name in names}})

    def texts(self, name: str) -> list[tuple[str, str]]:
        """Return name and text of the tables that there are; one without rows where there is none."""
        of_classes = (f"{name}.csv", _text(COLUMNS, self._classes))
        if not self._findings:
            return [of_classes]
        # A finding by the name of one of our own columns has it.
        beside = [column for column in BESIDE_FINDINGS if column not in self._names]
        text = _text(("path", "patient", *self._names, *beside), self._findings)
        return [of_classes, (f"{name}-findings.csv", text)] if self._classes else [(f"{name}.csv", text)]


def _text(columns: Sequence[str], rows: Iterable[Mapping[str, object]]) -> str:
    stream = io.StringIO(newline="")
    writer = csv.DictWriter(stream, columns, restval="", extrasaction="ignore")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()
