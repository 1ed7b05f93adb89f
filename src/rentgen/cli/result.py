"""A film's result as the documents that a PACS or an information system takes."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rentgen.cli.options import EngineOption, PrecisionOption, app, open_predictor
from rentgen.errors import InputError, MissingExtraError
from rentgen.records import DISCLAIMER, EngineName, Precision
from rentgen.records.results import Kind
from rentgen.terminal import err, out

if TYPE_CHECKING:
    from rentgen.engine.predictor import Predictor
    from rentgen.outputs.documents import Extras
    from rentgen.records.results import StudyResult


@app.command()
def result(
    film: Annotated[Path, typer.Argument(metavar="FILM", help="A radiograph, DICOM.")],
    folder: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder for the documents; made where missing.")],
    model: Annotated[Path, typer.Option(help="A bundle by name or file.")] = Path("pneumonia"),
    kind: Annotated[
        list[Kind] | None, typer.Option(help="A document; again for more.", show_default="all but pdf")
    ] = None,
    precision: PrecisionOption = Precision.AUTO,
    engine: EngineOption = EngineName.OPENVINO,
) -> None:
    """Write what a model says of a DICOM film as DICOM (SR, SC, PR, KO), FHIR and HL7 documents."""
    try:
        from rentgen.outputs.documents import documents
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or "highdicom", "gateway", "rentgen result") from error
    made, extras = _analyse(film, open_predictor(model, engine, precision))
    kinds = kind or [each for each in Kind if each is not Kind.PDF]
    folder.mkdir(parents=True, exist_ok=True)
    for document in documents(made, kinds, extras):
        (folder / document.name).write_bytes(document.content)
        out.print(f"{folder / document.name}", highlight=False, soft_wrap=True)
    err.print(DISCLAIMER)


def _analyse(film: Path, predictor: Predictor) -> tuple[StudyResult, Extras]:
    from pydicom import config, dcmread
    from pydicom.errors import InvalidDicomError

    from rentgen import __version__
    from rentgen.outputs.dicom_common import source_of
    from rentgen.outputs.documents import Extras
    from rentgen.records.results import FilmResult, ModelIdentity, StudyResult
    from rentgen.workflow import analyse, describe

    answer = analyse(film.read_bytes(), predictor, name=str(film), maps=True)
    try:
        # Values of foreign files are checked where they are taken.
        with config.disable_value_validation():
            source = source_of(dcmread(film, stop_before_pixels=True), source=str(film))
    except InvalidDicomError as error:
        raise InputError(film, "only a DICOM film has a study that a result can belong to") from error
    model = ModelIdentity.of(predictor.card, predictor.bundle.bundle_id)
    stored = describe(
        answer.prediction,
        predictor.card,
        bundle_id=predictor.bundle.bundle_id,
        model=predictor.card.name,
        precision=str(predictor.session.precision),
    )
    one = FilmResult(source, stored) if answer.error is None else FilmResult(source, not_analysed=answer.error.reason)
    pixels = {} if answer.film is None else {source.sop_instance_uid: answer.film.pixels}
    return StudyResult((one,), model, datetime.now(UTC).astimezone(), __version__), Extras(pixels=pixels)
