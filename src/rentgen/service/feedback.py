"""What a physician says of a result: that it is right, the right class, or each of several findings."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Body
from starlette.responses import JSONResponse, Response

from rentgen.data.findings import NO_FINDING, canonical, is_disease
from rentgen.outputs.wording import finding_presence
from rentgen.records import Status, Task
from rentgen.records.studies import StoredPrediction
from rentgen.service import schemas
from rentgen.service.api import STORE, Id, Physician, image_of, study_of
from rentgen.service.cloud import DeskOf
from rentgen.service.desk import Desk
from rentgen.service.problems import Problem
from rentgen.service.schemas import feedback_out
from rentgen.store.studies import Store

router = APIRouter(prefix="/v1")

_SAID = {"present": True, "absent": False}


@router.post(
    "/images/{image_id}/feedback",
    tags=["feedback"],
    summary="Agree with a result, or correct it",
    response_model=schemas.FeedbackOut,
    status_code=201,
    responses=STORE,
)
async def add_feedback(
    desk: DeskOf,
    who: Physician,
    image_id: Id,
    body: Annotated[
        schemas.FeedbackIn,
        Body(
            examples=[
                {"agree": False, "label": "NORMAL", "comment": "rotated film"},
                {"agree": False, "findings": {"Effusion": True, "Nodule": False}},
            ]
        ),
    ],
) -> Response:
    """Return the feedback as it was kept; the study counts as read."""
    store = desk.kept()
    stored = await asyncio.to_thread(_judged, store, image_id, body.prediction_id)
    label, findings = _said(desk, stored, body)
    feedback = await asyncio.to_thread(
        store.add_feedback,
        image_id,
        prediction_id=stored.prediction_id if stored else None,
        agree=body.agree,
        label=label,
        comment=body.comment,
        actor=who,
        findings=findings,
    )
    return JSONResponse(feedback_out(feedback), 201)


def _judged(store: Store, image_id: str, prediction_id: str | None) -> StoredPrediction | None:
    """Return the prediction of a film that feedback is about: the named one, or the newest."""
    study = study_of(store, image_of(store, image_id).study_id)
    own = [stored for stored in study.predictions if stored.image_id == image_id]
    if prediction_id is None:
        return own[0] if own else None
    found = next((stored for stored in own if stored.prediction_id == prediction_id), None)
    if found is None:
        raise _refusal("Expected prediction_id to be one of this film, but got another.")
    return found


def _said(
    desk: Desk, stored: StoredPrediction | None, body: schemas.FeedbackIn
) -> tuple[str | None, dict[str, bool] | None]:
    """Return the class, or the findings, that feedback stands for.

    Raises:
        Problem: 422, it does not fit the model, or contradicts itself.
    """
    if body.label is not None and body.findings is not None:
        raise _refusal("Expected a label or findings, but got both.")
    names = _finding_names(desk, stored)
    if names is not None:
        return None, _findings(names, {} if stored is None else model_says(stored), body)
    if body.findings is not None:
        raise _refusal("Expected a label and no findings: this model gives each film one class.")
    if body.agree and body.label is not None and stored is not None and body.label != stored.label:
        raise _refusal("Expected no other label than the model's where agree is true.")
    return (body.label if not body.agree or stored is None else stored.label), None


def _findings(names: Sequence[str], told: dict[str, bool], body: schemas.FeedbackIn) -> dict[str, bool] | None:
    """Return what feedback says of a model's findings; None where it says nothing of them."""
    if body.label is not None:
        raise _refusal("Expected findings and no label: this model may find several things on a film.")
    if body.findings is None:
        return told if body.agree else None
    unknown = len(set(body.findings) - set(names))
    if unknown:
        # Names from outside are not repeated: they may be anything.
        raise _refusal(f"Expected findings of this model ({', '.join(names)}), but got {unknown} others.")
    said = {name: body.findings[name] for name in names if name in body.findings}
    present = [name for name, there in said.items() if there]
    nothing = [name for name in present if canonical(name) == NO_FINDING]
    if nothing and any(is_disease(name) for name in present):
        raise _refusal(f"Expected {nothing[0]!r} or another finding to be present, but got both.")
    if body.agree and any(said.get(name, there) is not there for name, there in told.items()):
        raise _refusal("Expected no other findings than the model's where agree is true.")
    return said


def model_says(stored: StoredPrediction) -> dict[str, bool]:
    """Return which of several findings an answer calls present or absent; nothing where it does not stand."""
    if stored.status is not Status.OK:
        return {}
    presence = {name: finding_presence(stored, name) for name in stored.probabilities}
    return {name: _SAID[found] for name, found in presence.items() if found in _SAID}


def _finding_names(desk: Desk, stored: StoredPrediction | None) -> tuple[str, ...] | None:
    """Return the findings of the model that answered, of the default one where none has; None of one class a film."""
    card = desk.models.card_of(None if stored is None else stored.bundle_id)
    if card is not None:
        return card.classes if card.task is Task.MULTILABEL else None
    return tuple(stored.probabilities) if stored is not None and stored.several else None


def _refusal(detail: str) -> Problem:
    return Problem(422, "invalid_request", detail)
