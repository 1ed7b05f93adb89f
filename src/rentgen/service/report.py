"""A study's report as PDF."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import APIRouter, Query
from starlette.responses import Response

from rentgen.images.overlay import overlay
from rentgen.outputs.pdf import FilmReport, StudyReport, report_pdf
from rentgen.outputs.wording import Language
from rentgen.records import Pixels, Status
from rentgen.records.results import is_finding
from rentgen.records.studies import StoredImage, StoredPrediction, Study
from rentgen.service.api import Id, Reader, study_of
from rentgen.service.cloud import DeskOf
from rentgen.service.desk import Desk
from rentgen.service.problems import Problem, responses
from rentgen.workflow import native_map

router = APIRouter(prefix="/v1")


@router.get(
    "/studies/{study_id}/report.pdf",
    tags=["studies"],
    summary="A study's report",
    response_class=Response,
    responses={
        200: {"content": {"application/pdf": {"schema": {"type": "string", "format": "binary"}}}},
        **responses("not_found", "store_failed"),
    },
)
async def report(
    desk: DeskOf,
    who: Reader,
    study_id: Id,
    language: Annotated[Language, Query(description="Of the words.")] = Language.EN,
) -> Response:
    """Return a page for each film; a film that is no longer here is told of, without its picture."""
    store = desk.kept()
    body = await asyncio.to_thread(lambda: report_pdf(_gather(desk, study_of(store, study_id), language)))
    await asyncio.to_thread(store.audit, who, "study.report", study_id)
    return Response(
        body, media_type="application/pdf", headers={"Content-Disposition": f'inline; filename="{study_id}.pdf"'}
    )


def _gather(desk: Desk, study: Study, language: Language) -> StudyReport:
    films = tuple(_film(desk, study, image) for image in study.images)
    return StudyReport(study.study_id, study.received_at, study.read_at, films, language)


def _film(desk: Desk, study: Study, image: StoredImage) -> FilmReport:
    stored = next((one for one in study.predictions if one.image_id == image.image_id), None)
    card = None if stored is None else desk.models.card_of(stored.bundle_id)
    picture, heat_label = _picture(desk, image, stored)
    return FilmReport(
        image=image,
        prediction=stored,
        picture=picture,
        heat_label=heat_label,
        feedback=tuple(one for one in study.feedback if one.image_id == image.image_id),
        calibrated=card is None or card.calibration is not None,
        limits=card.known_failures if card is not None else (),
    )


def _picture(desk: Desk, image: StoredImage, stored: StoredPrediction | None) -> tuple[Pixels | None, str | None]:
    """Return the film, with the heat map of the finding named where the answer stands, and that class.

    Evidence for "normal", or over a film that was refused, would only mislead.
    """
    try:
        film = desk.film(image)
    except Problem:
        return None, None
    if stored is None or stored.maps is None or stored.label is None:
        return film.pixels, None
    if stored.status is not Status.OK or not is_finding(stored.label):
        return film.pixels, None
    return overlay(film.pixels, native_map(stored)), stored.label
