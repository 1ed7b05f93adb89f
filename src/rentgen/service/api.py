"""REST under `/v1`: predictions, studies, films, models, health."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from importlib.metadata import version
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Path, Query, Request
from starlette.responses import JSONResponse, Response

from rentgen.errors import RentgenError, StoreError
from rentgen.records import DISCLAIMER
from rentgen.records.studies import Principal, Role, StoredImage, Study
from rentgen.service import schemas
from rentgen.service.cloud import DeskOf, instances_schema
from rentgen.service.desk import Answered, Desk
from rentgen.service.incoming import FIELD, MULTIPART, RAW, read_films
from rentgen.service.models import Model
from rentgen.service.problems import Problem, responses
from rentgen.service.schemas import prediction_out, study_out
from rentgen.service.security import needs
from rentgen.store.studies import Store
from rentgen.workflow import belongs_to

router = APIRouter(prefix="/v1")

Reader = Annotated[Principal, Depends(needs(Role.READER))]
Physician = Annotated[Principal, Depends(needs(Role.PHYSICIAN))]
Admin = Annotated[Principal, Depends(needs(Role.ADMIN))]
ModelName = Annotated[
    str | None, Query(description="A model by name; the default one where not given.", max_length=200)
]
Id = Annotated[str, Path(pattern=r"^[A-Za-z0-9_-]{8,64}$", description="Opaque.")]
Name = Annotated[str, Path(max_length=200)]

"""In Accept-Encoding; a weight of 0 says no (RFC 9110, 12.5.3)."""

_FORM = {
    "schema": {
        "type": "object",
        "required": [FIELD],
        "properties": {FIELD: {"type": "array", "items": {"type": "string", "format": "binary"}}},
    }
}
FILM = {"schema": {"type": "string", "format": "binary"}}
_FILMS_BODY = {
    "requestBody": {
        "required": True,
        "content": {MULTIPART: _FORM} | dict.fromkeys(RAW, FILM) | {"application/json": {"schema": instances_schema()}},
    }
}
_FORM_BODY = {"requestBody": {"required": True, "content": {MULTIPART: _FORM}}}
_BUSY = responses("unsupported_type", "unreadable_film", "unsupported_film", "busy", "loading", "draining", "not_found")
STORE = responses("not_found", "store_failed")


@router.post(
    "/predict",
    tags=["predictions"],
    summary="Ask about one or many films; nothing is kept",
    response_model=schemas.PredictOut,
    responses=_BUSY,
    openapi_extra=_FILMS_BODY,
)
async def predict(
    request: Request,
    desk: DeskOf,
    _: Reader,
    model: ModelName = None,
    heatmap: Annotated[bool, Query(description="Put heat maps in, on the model's grid.")] = False,
) -> Response:
    """Return one prediction a film, in order. A single raw film that cannot be read is a 422; among many, an error."""
    desk.models.predictor(model)
    desk.queue.check()
    batch = await read_films(request, max_films=desk.settings.max_films, heatmap=heatmap)
    entry, answered = await desk.answer(request, batch.films, model)
    alone = len(answered) == 1 and not request.headers.get("content-type", "").startswith("application/json")
    if alone and (fault := answered[0].fault):
        raise Problem(422, *fault)
    predictions = [_shown(item) for item in answered]
    return JSONResponse(
        {
            "model": {"name": entry.name, "bundle_id": entry.bundle_id},
            "predictions": predictions,
            "disclaimer": DISCLAIMER,
        }
    )


def _shown(answered: Answered) -> dict[str, Any]:
    own: dict[str, Any] = {} if answered.incoming.id is None else {"id": answered.incoming.id}
    if answered.fault is not None:
        code, detail = answered.fault
        own["error"] = {"code": code, "detail": detail}
    if answered.stored is None:
        return _EMPTY | own
    film = answered.answer.film if answered.answer else None
    content_hash = film.content_hash if film else None
    return prediction_out(answered.stored, content_hash=content_hash, heatmap=answered.incoming.heatmap, **own)


_EMPTY: dict[str, Any] = {
    "content_hash": None,
    "status": "error",
    "label": None,
    "probabilities": {},
    "reasons": [],
    "prediction_set": [],
    "distance": None,
    "points": [],
    "urgency": "doubt",
}


@router.post(
    "/studies",
    tags=["studies"],
    summary="Add films; each is answered and kept as part of a study",
    response_model=schemas.AddedOut,
    status_code=201,
    responses={200: {"model": schemas.AddedOut, "description": "All of it was there already."}, **_BUSY, **STORE},
    openapi_extra=_FORM_BODY,
)
async def add_studies(request: Request, desk: DeskOf, who: Physician, model: ModelName = None) -> Response:
    """Return the studies to which the films belong. The same bytes again change nothing and give the same ids."""
    store = desk.kept()
    desk.models.predictor(model)
    desk.queue.check()
    batch = await read_films(request, max_films=desk.settings.max_films)
    entry, answered = await desk.answer(request, batch.films, model, keep=True)
    study_ids, failed, new = await asyncio.to_thread(_keep, desk, store, entry, answered, who)
    studies = await asyncio.to_thread(lambda: [store.study(study_id) for study_id in study_ids])
    body = {"studies": [_out(desk, study) for study in studies if study is not None], "failed": failed}
    if not study_ids:
        # One bad file is an error; many are a list.
        if len(failed) == 1:
            raise Problem(422, failed[0]["code"], failed[0]["detail"])
        return JSONResponse(body, 200)
    return JSONResponse(body, 201 if new else 200)


def _keep(
    desk: Desk, store: Store, entry: Model, answered: Sequence[Answered], who: Principal
) -> tuple[list[str], list[dict[str, str]], bool]:
    """Return the ids of the studies, the files that could not be read, and whether anything is new."""
    studies: dict[str, None] = {}
    failed = []
    new = False
    for item in answered:
        if item.fault is not None or item.answer is None or item.answer.film is None or item.stored is None:
            code, detail = item.fault or ("unreadable_film", "")
            failed.append({"name": item.incoming.name, "code": code, "detail": detail})
            continue
        film, data = item.answer.film, item.incoming.data
        image_id, _ = store.ids_for(film.content_hash, film.study_instance_uid)
        known = store.find_prediction(image_id, item.stored.bundle_id)
        image, _ = store.add_result(
            film,
            belongs_to(item.stored, image_id),
            content_hash=film.content_hash,
            name=item.incoming.name or "film",
            data=data,
            actor=who,
        )
        new = new or known is None
        studies[image.study_id] = None
    return list(studies), failed, new


def _out(desk: Desk, study: Study) -> dict[str, Any]:
    seen = frozenset(image.image_id for image in study.images if image.file_kept or desk.films.has(image.image_id))
    return study_out(study, viewable=seen)


@router.get(
    "/studies",
    tags=["studies"],
    summary="The worklist, most urgent first",
    response_model=schemas.WorklistOut,
    responses=STORE,
)
async def worklist(
    desk: DeskOf,
    who: Reader,
    state: Annotated[Literal["waiting", "read", "all"], Query()] = "waiting",
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    cursor: Annotated[str | None, Query(max_length=500, description="`next` of the page before.")] = None,
) -> Response:
    """Return a page of studies."""
    waiting = {"waiting": True, "read": False, "all": None}[state]
    store = desk.kept()
    studies, following = await asyncio.to_thread(store.worklist, waiting=waiting, limit=limit, cursor=cursor)
    return JSONResponse({"studies": [_out(desk, study) for study in studies], "next": following})


@router.get(
    "/studies/{study_id}",
    tags=["studies"],
    summary="A study with its results and feedback",
    response_model=schemas.StudyOut,
    responses=STORE,
)
async def get_study(desk: DeskOf, who: Reader, study_id: Id) -> Response:
    """Return all that is known of a study; that it was looked at goes into the audit trail."""
    store = desk.kept()
    study = await asyncio.to_thread(study_of, store, study_id)
    await asyncio.to_thread(store.audit, who, "study.view", study_id)
    return JSONResponse(_out(desk, study))


def study_of(store: Store, study_id: str) -> Study:
    """Return a study.

    Raises:
        Problem: 404, there is none.
    """
    study = store.study(study_id)
    if study is None:
        raise Problem(404, "not_found", "There is no such study.")
    return study


def image_of(store: Store, image_id: str) -> StoredImage:
    """Return a film.

    Raises:
        Problem: 404, there is none.
    """
    image = store.image(image_id)
    if image is None:
        raise Problem(404, "not_found", "There is no such film.")
    return image


@router.put(
    "/studies/{study_id}/read",
    tags=["studies"],
    summary="Mark a study as read, or as waiting again",
    response_model=schemas.StudyOut,
    responses=STORE,
)
async def mark_read(desk: DeskOf, who: Physician, study_id: Id, body: schemas.ReadIn) -> Response:
    """Return the study as it is then."""
    store = desk.kept()
    await asyncio.to_thread(study_of, store, study_id)
    await asyncio.to_thread(store.mark_read, study_id, read=body.read, actor=who)
    return JSONResponse(_out(desk, await asyncio.to_thread(study_of, store, study_id)))


@router.delete(
    "/studies/{study_id}", tags=["studies"], summary="Delete a study for good", status_code=204, responses=STORE
)
async def delete_study(desk: DeskOf, who: Admin, study_id: Id) -> Response:
    """Delete films, results and feedback; the audit trail keeps that it was done."""
    store = desk.kept()
    study = await asyncio.to_thread(study_of, store, study_id)
    await asyncio.to_thread(store.delete_study, study_id, actor=who)
    for image in study.images:
        desk.films.forget(image.image_id)
    return Response(status_code=204)


@router.get("/models", tags=["models"], summary="The models that answer", response_model=schemas.ModelsOut)
async def list_models(desk: DeskOf, _: Reader) -> Response:
    """Return them in the order in which the service was given them."""
    return JSONResponse({"models": [_model_out(desk, entry) for entry in desk.models]})


def _model_out(desk: Desk, entry: Model) -> dict[str, Any]:
    card = None if entry.predictor is None else entry.predictor.card
    return {
        "name": entry.name,
        "bundle_id": entry.bundle_id,
        "state": str(entry.state),
        # The whole reason names files: it is in the log, for the operator.
        "error": None if entry.error is None else "It could not be loaded; the log of the service says why.",
        "title": card and card.name,
        "classes": list(card.classes) if card else [],
        "positive": card and card.positive,
        "task": card and str(card.task),
        "created": card and card.created,
        "default": entry.name == desk.models.default,
    }


@router.get(
    "/models/{name}",
    tags=["models"],
    summary="A model's card",
    response_model=schemas.CardOut,
    responses=responses("not_found", "loading"),
)
async def model_card(desk: DeskOf, _: Reader, name: Name) -> Response:
    """Return what the bundle says of itself."""
    entry, predictor = desk.models.predictor(name)
    return JSONResponse({"name": entry.name, "bundle_id": entry.bundle_id, "card": predictor.card.to_dict()})


@router.post(
    "/models/{name}/reload",
    tags=["models"],
    summary="Read a bundle's file anew",
    response_model=schemas.ModelOut,
    responses=responses("not_found", "conflict"),
)
async def reload_model(desk: DeskOf, who: Admin, name: Name) -> Response:
    """Return the model after its golden vectors have replayed; where they do not, the old one goes on answering."""
    desk.models.entry(name)
    try:
        entry = await asyncio.to_thread(desk.models.reload, name)
    except RentgenError as error:
        raise Problem(409, "conflict", "The bundle could not be loaded; the old one goes on answering.") from error
    if desk.store is not None:
        await asyncio.to_thread(desk.store.audit, who, "model.reload", name, {"bundle_id": entry.bundle_id})
    return JSONResponse(_model_out(desk, entry))


@router.get("/health", tags=["health"], summary="How the service is", response_model=schemas.HealthOut)
async def health(request: Request, desk: DeskOf) -> Response:
    """Return what an operator looks at first; anyone may ask."""
    state = "draining" if request.app.state.draining() else "ready" if desk.models.ready else "loading"
    return JSONResponse(
        {
            "status": state,
            "version": version("rentgen"),
            "models": sum(entry.predictor is not None for entry in desk.models),
            "queue": {"waiting": desk.queue.waiting, "limit": desk.queue.limit},
            "store": await asyncio.to_thread(_store_state, desk.store),
        }
    )


def _store_state(store: Store | None) -> str:
    if store is None:
        return "off"
    try:
        store.check()
    except StoreError:
        return "failed"
    return "ok"
