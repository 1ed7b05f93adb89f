"""The routes that the clouds' platforms call: Vertex AI, SageMaker, Azure Machine Learning.

They answer in each platform's own shape, from the same queue and models as `/v1`. A platform asks who the caller is
before it forwards a request, so these routes do not.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from starlette.responses import JSONResponse, Response

from rentgen.records import DISCLAIMER
from rentgen.records.studies import Role
from rentgen.service.desk import Answered, Desk
from rentgen.service.incoming import RAW, read_films
from rentgen.service.problems import Problem, responses
from rentgen.service.schemas import prediction_out
from rentgen.service.security import needs

AUTOML = "vertex-automl"
"""The parameter `format` that asks for the shape of AutoML's answers."""

_MOST_CLASSES = 10_000

VERTEX_DEFAULT = "/v1/endpoints/{endpoint}/deployedModels/{deployed_model}"
"""What Vertex AI takes for the health route where none is set; with `:predict` for predictions."""


@dataclass(frozen=True, slots=True)
class CloudRoutes:
    """Where a platform asks.

    Attributes:
        health: of `AIP_HEALTH_ROUTE`, beside the standing ones.
        predict: of `AIP_PREDICT_ROUTE`, likewise.
        batch: films that a SageMaker batch transform may send side by side.
        max_payload_mb: largest payload of one, MB.
    """

    health: str | None = None
    predict: str | None = None
    batch: int = 8
    max_payload_mb: int = 6


async def desk_of(request: Request) -> Desk:
    """Return what the service has at hand."""
    desk: Desk = request.app.state.desk
    return desk


DeskOf = Annotated[Desk, Depends(desk_of)]


def build(routes: CloudRoutes, *, open_to_all: bool) -> APIRouter:
    """Return the routes.

    Args:
        routes: where the platform asks.
        open_to_all: whether a platform stands in front; otherwise predictions need the role `reader`.
    """
    router = APIRouter(tags=["clouds"])
    guard = [] if open_to_all else [Depends(needs(Role.READER))]
    router.add_api_route(
        "/livez", _live, summary="Whether the process is there", response_class=Response, responses=_EMPTY
    )
    ready = dict.fromkeys(path for path in ("/ping", "/readyz", routes.health) if path)
    for path in ready:
        router.add_api_route(
            path,
            _ready,
            summary="Whether predictions are answered",
            response_class=Response,
            responses=_EMPTY | responses("loading", "draining"),
        )
    router.add_api_route(VERTEX_DEFAULT, _ready, include_in_schema=False)
    predict = dict.fromkeys(path for path in ("/invocations", "/score", routes.predict) if path)
    for path in predict:
        router.add_api_route(
            path,
            _predict,
            methods=["POST"],
            summary="Predictions in the platforms' shape",
            dependencies=guard,
            openapi_extra=_BODY,
            responses=_ANSWERS,
        )
    for path in (VERTEX_DEFAULT, f"{VERTEX_DEFAULT}:predict"):
        router.add_api_route(path, _predict, methods=["POST"], dependencies=guard, include_in_schema=False)

    def parameters() -> JSONResponse:
        return JSONResponse(
            {
                "MaxConcurrentTransforms": routes.batch,
                "BatchStrategy": "MULTI_RECORD",
                "MaxPayloadInMB": routes.max_payload_mb,
            }
        )

    router.add_api_route("/execution-parameters", parameters, summary="How SageMaker's batch transform shall ask")
    router.add_api_route("/model-card", _card, summary="The default model's card", dependencies=guard)
    router.add_api_route("/swagger.json", _openapi, include_in_schema=False)
    return router


async def _live() -> Response:
    return Response(status_code=200)


async def _ready(request: Request, desk: DeskOf) -> Response:
    if request.app.state.draining():
        raise Problem(503, "draining", "The service is being stopped.")
    if not desk.models.ready:
        raise Problem(503, "loading", "The models are being loaded.", headers={"Retry-After": "1"})
    return Response(status_code=200)


async def _card(desk: DeskOf) -> JSONResponse:
    entry, predictor = desk.models.predictor(None)
    return JSONResponse({"name": entry.name, "bundle_id": entry.bundle_id, "card": predictor.card.to_dict()})


async def _openapi(request: Request) -> JSONResponse:
    return JSONResponse(request.app.openapi())


async def _predict(request: Request, desk: DeskOf) -> Response:
    desk.queue.check()
    batch = await read_films(request, max_films=desk.settings.max_films)
    shape = _shape(batch.parameters)
    _, answered = await desk.answer(request, batch.films, None)
    raw = request.headers.get("content-type", "").partition(";")[0].strip().lower() in RAW
    if raw and (fault := answered[0].fault):
        raise Problem(422, *fault)
    predictions = [shape(item) for item in answered]
    accept = request.headers.get("accept", "")
    if "jsonlines" in accept or "ndjson" in accept:
        lines = "".join(json.dumps(prediction, separators=(",", ":")) + "\n" for prediction in predictions)
        return Response(lines, media_type="application/jsonlines")
    return JSONResponse({"predictions": predictions, "disclaimer": DISCLAIMER})


def _shape(parameters: Mapping[str, Any]) -> Callable[[Answered], dict[str, Any]]:
    """Return how an answer is written: ours, or that of Vertex AI's AutoML, for its clients.

    Raises:
        Problem: 422 for parameters of the wrong kind.
    """
    if parameters.get("format") != AUTOML:
        return cloud_prediction
    threshold, most = parameters.get("confidenceThreshold", 0.0), parameters.get("maxPredictions", 10)
    # Numbers of a protobuf are floats; a bool is a number of Python only.
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in (threshold, most))
    if not (numbers and 0 <= threshold <= 1 and 1 <= most <= _MOST_CLASSES and most % 1 == 0):
        raise Problem(
            422,
            "invalid_request",
            f"Expected confidenceThreshold to be in [0, 1] and maxPredictions to be a whole number in [1, "
            f"{_MOST_CLASSES}], but got other values.",
        )
    return partial(automl_prediction, threshold=threshold, most=int(most))


def automl_prediction(answered: Answered, *, threshold: float, most: int) -> dict[str, Any]:
    """Return one answer as an image classification model of AutoML writes it, the most probable class first.

    Args:
        answered: what the model says.
        threshold: probability below which a class is left out.
        most: classes at most.
    """
    if answered.fault is not None or answered.stored is None:
        return cloud_prediction(answered)
    ranked = sorted(answered.stored.probabilities.items(), key=lambda item: -item[1])
    named = [(label, value) for label, value in ranked if value >= threshold][:most]
    labels = [label for label, _ in named]
    return {"ids": labels, "displayNames": labels, "confidences": [value for _, value in named]}


def cloud_prediction(answered: Answered) -> dict[str, Any]:
    """Return one answer, or the error that stands in its place."""
    own = {} if answered.incoming.id is None else {"id": answered.incoming.id}
    if answered.fault is not None:
        code, detail = answered.fault
        return own | {"error": {"code": code, "detail": detail}}
    film = answered.answer.film if answered.answer else None
    return prediction_out(
        answered.stored,  # type: ignore[arg-type]
        content_hash=film.content_hash if film else None,
        heatmap=answered.incoming.heatmap,
        **own,
    )


def instances_schema() -> dict[str, Any]:
    """Return the JSON schema of a body with instances."""
    content = {"type": "string", "format": "byte", "description": "Base64 of a DICOM, PNG, JPEG or TIFF file."}
    instance = {
        "title": "Instance",
        "type": "object",
        "required": ["content"],
        "properties": {
            "content": content,
            "mimeType": {"type": "string", "description": "Not needed: the bytes decide."},
            "id": {"type": "string", "description": "Comes back with the answer."},
            "heatmap": {"type": "boolean", "default": False},
        },
    }
    return {
        "type": "object",
        "required": ["instances"],
        "properties": {
            "instances": {
                "type": "array",
                "minItems": 1,
                # The empty schema at the end is meant: a bad instance has its error in its place, not the request.
                "items": {"anyOf": [instance, content | {"title": "Bare base64"}, {"title": "Answered with an error"}]},
            },
            "parameters": {
                "type": ["object", "null"],
                "properties": {"heatmap": {"description": "true for heat maps of all films.", "default": False}},
            },
        },
        "examples": [
            {
                "instances": [{"content": "iVBORw0KGgo=", "mimeType": "image/png", "id": "first", "heatmap": True}],
                "parameters": {"heatmap": False},
            }
        ],
    }


_EMPTY: dict[int | str, dict[str, Any]] = {200: {"description": "Yes; the body is empty."}}
_FILM = {"schema": {"type": "string", "format": "binary"}}
_BODY = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": instances_schema()}}
        | dict.fromkeys(RAW, _FILM)
        | {"application/jsonlines": {"schema": {"type": "string"}}},
    }
}
_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "One prediction an instance, in order; one that is no film has an `error` in its place.",
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["predictions"],
                    "properties": {"predictions": {"type": "array", "items": {"type": "object"}}},
                }
            },
            "application/jsonlines": {"schema": {"type": "string"}},
        },
    },
    **responses("invalid_request", "unreadable_film", "unsupported_film", "unsupported_type", "busy", "loading"),
}
