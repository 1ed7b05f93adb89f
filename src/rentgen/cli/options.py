"""What all commands share: the application, their arguments, and how they are told apart from a library call."""

from __future__ import annotations

import datetime
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import platformdirs
import typer

from rentgen.errors import DataError, MissingExtraError
from rentgen.records import DISCLAIMER, EngineName, Precision

if TYPE_CHECKING:
    from rentgen.engine.predictor import Predictor

app = typer.Typer(
    name="rentgen",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="From a folder of radiographs to a proven classifier. " + DISCLAIMER + "\n\n"
    "Begin with `rentgen demo`: it draws films, trains, judges and explains a model in about two minutes.",
)
data_app = typer.Typer(no_args_is_help=True, help="Sets of films: known ones, and the audit of your own.")
app.add_typer(data_app, name="data")


def cache_folder() -> Path:
    """Return where features and checkpoints are kept between runs."""
    return Path(platformdirs.user_cache_dir("rentgen", appauthor=False))


BundleArgument = Annotated[
    Path,
    typer.Argument(
        metavar="BUNDLE",
        help="A bundle (FILE.rentgen) that `rentgen train` wrote, or the name of one that comes with the package.",
    ),
]
DataArgument = Annotated[
    Path,
    typer.Argument(
        metavar="DATA",
        help="A folder of class folders, a CSV (path,label[,patient,split], or a column for each finding) or a DICOM "
        "tree with a CSV.",
    ),
]
PatternOption = Annotated[
    str | None,
    typer.Option(
        "--patient-pattern",
        help="A regular expression whose first group is the patient in a file name, such as '^(P[0-9]+)_'.",
    ),
]
FindingsOption = Annotated[
    str | None,
    typer.Option(
        "--findings",
        metavar="NAMES",
        help="Of a table with a column for each finding, those to read, by comma: names, or `chestxray14`, `chexpert`, "
        "`common18`.",
    ),
]
PrecisionOption = Annotated[Precision, typer.Option(help="Arithmetic; auto is bf16 where the processor has it.")]
EngineOption = Annotated[EngineName, typer.Option(help="Who runs the graph; onnxruntime is an extra.")]
JsonOption = Annotated[
    str | None, typer.Option("--json", metavar="FILE", help="Write the figures as JSON; - for standard output.")
]
ResamplesOption = Annotated[int, typer.Option(help="Bootstrap resamples of patients.", min=0, max=100_000)]


def open_predictor(bundle: Path, engine: EngineName, precision: Precision, batch_size: int = 1) -> Predictor:
    """Return a predictor of the bundle in a file or of a shipped name."""
    from rentgen.engine.predictor import Predictor

    return Predictor.load(bundle, engine=engine, precision=precision, batch_size=batch_size)


def split_names(names: str | None) -> tuple[str, ...]:
    """Return the names in a list with commas."""
    return tuple(name.strip() for name in (names or "").split(",") if name.strip())


def films_in(paths: list[Path]) -> list[Path]:
    """Return films, and those in folders, in order.

    Raises:
        DataError: there is none.
    """
    from rentgen.data.listing import find_films

    films = [film for path in paths for film in (find_films(path) if path.is_dir() else (path,))]
    if not films:
        raise DataError(f"{', '.join(map(str, paths))}: no films. Expected PNG, JPEG, TIFF or DICOM files.")
    return films


def command_line() -> str:
    """Return the command as it was typed, for cards and reports."""
    return shlex.join(["rentgen", *sys.argv[1:]])


def now() -> str:
    """Return the time, ISO 8601, UTC."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


@contextmanager
def needing(extra: str, purpose: str) -> Iterator[None]:
    """Say which extra is missing, where a module of somebody else's is.

    Args:
        extra: that brings it.
        purpose: what it is needed for.

    Raises:
        MissingExtraError: a module is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if missing.startswith("rentgen"):
            raise
        raise MissingExtraError(missing, extra, purpose) from error
