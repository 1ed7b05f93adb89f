"""`rentgen deidentify`: films without their patients, in a new folder."""

from __future__ import annotations

import csv
import os
import threading
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from rentgen.cli.options import JsonOption, app, films_in
from rentgen.errors import InputError, PeerError, SettingError
from rentgen.outputs.deidentify.dates import Dates
from rentgen.terminal import err, out, progress_bars, write_json

if TYPE_CHECKING:
    from rentgen.outputs.deidentify.dataset import CountWords, Deidentified
    from rentgen.outputs.deidentify.pseudonyms import Pseudonyms

KEY_VARIABLE = "RENTGEN_DEIDENTIFY_KEY"
_COLUMNS = ("source", "file", "patient", "held_back")
_LONGEST_KEY_FILE = 4096
_SAVING = threading.Lock()
"""Films are treated side by side and written one by one: a copy must not meet its twin half written."""


@dataclass(frozen=True)
class Outcome:
    """What became of a film.

    Attributes:
        source: as it was given.
        file: below the folder of the output; None where it was held back.
        patient: what stands for the PatientID; None likewise.
        reason: why it was held back; None where it was not.
    """

    source: Path
    file: Path | None
    patient: str | None
    reason: str | None

    def row(self) -> dict[str, Any]:
        """Return it as plain values by column."""
        file = None if self.file is None else str(self.file)
        return dict(zip(_COLUMNS, (str(self.source), file, self.patient, self.reason), strict=True))


@app.command("deidentify")
def deidentify_films(
    sources: Annotated[list[Path], typer.Argument(metavar="SOURCE...", help="DICOM films, or folders of them.")],
    out_folder: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where the new films go.")],
    key: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help=f"File with the key; without it {KEY_VARIABLE}. Make one: openssl rand -base64 32. "
            "The same key gives the same names again.",
        ),
    ] = None,
    keep_dates: Annotated[
        Dates, typer.Option(help="shifted: by days that are the patient's, intervals stay. zero: emptied.")
    ] = Dates.SHIFTED,
    allow_derived: Annotated[
        bool, typer.Option("--allow-derived", help="Do not hold back films whose Image Type says DERIVED.")
    ] = False,
    no_ocr: Annotated[
        bool, typer.Option("--no-ocr", help="Do not look for words in the picture: somebody has looked at every film.")
    ] = False,
    table: Annotated[
        Path | None,
        typer.Option(metavar="FILE.csv", help="Write which file became which. It leads back: guard it like the key."),
    ] = None,
    json_file: JsonOption = None,
) -> None:
    """Write DICOM radiographs without their patients: new UIDs, pseudonyms, moved dates, no free text, same pixels.

    Only what a reader of films needs is kept (docs/privacy.md). A film in whose picture words may stand is held back,
    and listed with the reason; the exit code is 1 then. Nothing is overwritten.
    """
    from rentgen.images.limits import DEFAULT_LIMITS
    from rentgen.outputs.deidentify.dataset import deidentify
    from rentgen.parallel.local import imap

    pseudonyms = _pseudonyms(key)
    count_words = None if no_ocr else _reader()
    for place in (table, None if json_file in (None, "-") else Path(str(json_file))):
        if place is not None and place.exists():
            raise SettingError(f"{place} is there already, and nothing is overwritten. Give another name.")
    films = films_in(sources)

    def treat(source: Path) -> Outcome:
        try:
            data = _load(source, DEFAULT_LIMITS.max_bytes)
            made = deidentify(
                data,
                pseudonyms,
                dates=keep_dates,
                source=str(source),
                count_words=count_words,
                allow_derived=allow_derived,
            )
            return Outcome(source, _save(made, out_folder, source), made.patient, None)
        except InputError as error:
            return Outcome(source, None, None, error.reason)
        except PeerError as error:
            return Outcome(source, None, None, str(error))

    outcomes = []
    with progress_bars(to_stderr=json_file == "-") as progress:
        for count, outcome in enumerate(imap(treat, films, ahead=4), 1):
            outcomes.append(outcome)
            progress("films", count, len(films))
    held = [outcome for outcome in outcomes if outcome.reason is not None]
    if table is not None:
        _write_table(outcomes, table)
    if json_file is not None:
        if json_file != "-":
            _private(Path(json_file))
        write_json(_summary(outcomes, keep_dates, no_ocr=no_ocr), json_file)
    for outcome in held:
        err.print(
            f"[yellow]held back:[/] {escape(str(outcome.source))}: {escape(str(outcome.reason))}",
            highlight=False,
            soft_wrap=True,
        )
    if json_file != "-":
        out.print(
            f"{len(outcomes) - len(held)} films written to {out_folder}, {len(held)} held back",
            markup=False,
            soft_wrap=True,
        )
    if held:
        raise typer.Exit(1)


def _pseudonyms(file: Path | None) -> Pseudonyms:
    """Return those of the key in a file, or in the environment."""
    from rentgen.outputs.deidentify.pseudonyms import Pseudonyms

    if file is not None:
        try:
            with file.open("rb") as stream:
                text = stream.read(_LONGEST_KEY_FILE).decode("ascii", "replace")
        except OSError as error:
            raise SettingError(f"{file}: the key cannot be read ({error.strerror}).") from error
        return Pseudonyms.parse(text)
    given = os.environ.get(KEY_VARIABLE, "")
    if not given:
        raise SettingError(
            f"Expected a key: --key FILE, or {KEY_VARIABLE}. Make one with: openssl rand -base64 32 > deidentify.key"
        )
    return Pseudonyms.parse(given)


def _reader() -> CountWords:
    from rentgen.outputs.deidentify.burned_in import Tesseract

    found = Tesseract.find()
    if found is None:
        raise SettingError(
            "Words in the picture are looked for with tesseract, which is not installed (Debian: tesseract-ocr). "
            "Install it; or look at every film yourself, and say so with --no-ocr."
        )
    return found.count_words


def _load(path: Path, most: int) -> bytes:
    """Return a file's bytes; too many are told apart later, by their number."""
    try:
        with path.open("rb") as stream:
            return stream.read(most + 1)
    except OSError as error:
        raise InputError(path, "the file cannot be opened; check the path and the permission to read it") from error


def _save(made: Deidentified, folder: Path, source: Path) -> Path:
    """Return where a film went, below the folder: its names are the new UIDs.

    Raises:
        InputError: another film is there already.
    """
    file = Path(made.study_instance_uid, f"{made.sop_instance_uid}.dcm")
    path = folder / file
    path.parent.mkdir(parents=True, exist_ok=True)
    with _SAVING:
        # The same film again, from a copy or an earlier run, is no conflict.
        if path.exists():
            if path.read_bytes() != made.data:
                raise InputError(source, f"another film with the same new UID is there already: {file}")
            return file
        part = path.with_suffix(".part")
        part.write_bytes(made.data)
        part.replace(path)
    return file


def _private(path: Path) -> None:
    """Make a file that only its owner can read, before anything stands in it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(0o600, exist_ok=False)


def _write_table(outcomes: Iterable[Outcome], path: Path) -> None:
    _private(path)
    with path.open("w", encoding="utf-8", errors="backslashreplace", newline="") as stream:
        writer = csv.DictWriter(stream, _COLUMNS)
        writer.writeheader()
        writer.writerows(outcome.row() for outcome in outcomes)


def _summary(outcomes: list[Outcome], dates: Dates, *, no_ocr: bool) -> dict[str, Any]:
    reasons = Counter(outcome.reason for outcome in outcomes if outcome.reason is not None)
    return {
        "written": len(outcomes) - reasons.total(),
        "held_back": reasons.total(),
        "dates": str(dates),
        "ocr": not no_ocr,
        "reasons": dict(reasons),
        "films": [outcome.row() for outcome in outcomes],
    }
