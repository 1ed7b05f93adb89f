"""A film for the eye: its pixels, pictures of it, and its heat map."""

from __future__ import annotations

import asyncio
import gzip
import io
import re
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Query, Request
from PIL import Image
from starlette.responses import Response

from rentgen.images.overlay import encode_png, heatmap_png, thumbnail
from rentgen.records import Radiograph
from rentgen.records.studies import StoredPrediction
from rentgen.service.api import FILM, STORE, Id, ModelName, Reader, image_of, study_of
from rentgen.service.cloud import DeskOf
from rentgen.service.desk import Desk
from rentgen.service.problems import Problem, responses
from rentgen.store.studies import Store
from rentgen.workflow import native_map

router = APIRouter(prefix="/v1", tags=["films"])

_GZIP = re.compile(r"\bgzip\b(?!\s*;\s*q=0(\.0*)?\s*(,|$))")
_PNG: dict[int | str, dict[str, Any]] = {200: {"content": {"image/png": {"schema": FILM["schema"]}}}}


@router.get(
    "/images/{image_id}/pixels",
    summary="The film's pixels, for a viewer",
    response_class=Response,
    responses={
        200: {
            "description": "Row by row, little endian; air is dark. X-Rows, X-Columns, X-Bits-Allocated say how.",
            "content": {"application/octet-stream": {"schema": FILM["schema"]}},
        },
        **responses("film_gone"),
        **STORE,
    },
)
async def pixels(request: Request, desk: DeskOf, _: Reader, image_id: Id) -> Response:
    """Return 8 or 16 bits a pixel, over the type's whole range."""
    film = await _film(desk, image_id)
    wide = film.pixels.dtype == np.uint16
    headers = {
        "X-Rows": str(film.pixels.shape[0]),
        "X-Columns": str(film.pixels.shape[1]),
        "X-Bits-Allocated": "16" if wide else "8",
        "X-Bits-Stored": str(film.bits),
    }
    body = film.pixels.astype("<u2" if wide else "u1", copy=False).tobytes()
    if _GZIP.search(request.headers.get("accept-encoding", "")):
        body = await asyncio.to_thread(gzip.compress, body, 1)
        headers |= {"Content-Encoding": "gzip", "Vary": "Accept-Encoding"}
    return Response(body, media_type="application/octet-stream", headers=headers)


async def _film(desk: Desk, image_id: str) -> Radiograph:
    image = await asyncio.to_thread(image_of, desk.kept(), image_id)
    return await asyncio.to_thread(desk.film, image)


@router.get(
    "/images/{image_id}/film.png",
    summary="The film as a grey PNG of 8 or 16 bits",
    response_class=Response,
    responses={**_PNG, **responses("film_gone"), **STORE},
)
async def film_png(desk: DeskOf, _: Reader, image_id: Id) -> Response:
    """Return the film in native size."""
    film = await _film(desk, image_id)
    return Response(await asyncio.to_thread(encode_film, film), media_type="image/png")


def encode_film(film: Radiograph) -> bytes:
    """Return the film as a grey PNG of 8 or 16 bits."""
    if film.pixels.dtype == np.uint8:
        return encode_png(film.pixels.astype(np.uint8))
    stream = io.BytesIO()
    Image.fromarray(film.pixels.astype(np.uint16)).save(stream, "PNG", compress_level=1)
    return stream.getvalue()


@router.get(
    "/images/{image_id}/thumbnail.png",
    summary="A small picture of the film",
    response_class=Response,
    responses={**_PNG, **responses("film_gone"), **STORE},
)
async def thumbnail_png(
    desk: DeskOf, _: Reader, image_id: Id, side: Annotated[int, Query(ge=16, le=512)] = 160
) -> Response:
    """Return the film with its longer side at most so many pixels."""
    film = await _film(desk, image_id)
    body = await asyncio.to_thread(lambda: encode_png(thumbnail(film.pixels, side)))
    return Response(body, media_type="image/png")


@router.get(
    "/images/{image_id}/heatmap.png",
    summary="A heat map in the film's own geometry",
    response_class=Response,
    responses={**_PNG, **STORE},
)
async def heatmap(
    desk: DeskOf,
    _: Reader,
    image_id: Id,
    model: ModelName = None,
    label: Annotated[str | None, Query(max_length=100, description="A class; the predicted one by default.")] = None,
) -> Response:
    """Return 8-bit grey, 255 at its maximum, one pixel a pixel of the film."""
    stored = await asyncio.to_thread(_prediction, desk, desk.kept(), image_id, model)
    if stored.maps is None or (label is not None and label not in stored.probabilities):
        raise Problem(404, "not_found", "There is no heat map of that class for this film.")
    async with desk.painting:
        body = await asyncio.to_thread(lambda: heatmap_png(native_map(stored, label)))
    return Response(body, media_type="image/png")


def _prediction(desk: Desk, store: Store, image_id: str, model: str | None) -> StoredPrediction:
    """Return what a model said of a film: the named one as it is now, or the newest answer."""
    image = image_of(store, image_id)
    if model is not None:
        found = store.find_prediction(image_id, desk.models.entry(model).bundle_id or "")
    else:
        study = study_of(store, image.study_id)
        found = next((stored for stored in study.predictions if stored.image_id == image_id), None)
    if found is None:
        raise Problem(404, "not_found", "There is no prediction for this film.")
    return found
