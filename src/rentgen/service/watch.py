"""What an operator watches: metrics for Prometheus, and drift."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import JSONResponse, Response

from rentgen.service.api import Name, Reader
from rentgen.service.cloud import DeskOf
from rentgen.service.problems import responses
from rentgen.service.schemas import DriftOut

router = APIRouter(tags=["health"])


@router.get("/metrics", summary="Metrics for Prometheus", response_class=Response)
def metrics(desk: DeskOf, _: Reader) -> Response:
    """Return all of them in Prometheus' text format."""
    body, content_type = desk.metrics.render()
    return Response(body, headers={"Content-Type": content_type})


@router.get(
    "/v1/models/{name}/drift",
    summary="The last answers of a model against its card",
    response_model=DriftOut,
    responses=responses("not_found", "loading"),
)
async def drift(desk: DeskOf, _: Reader, name: Name) -> Response:
    """Return what has moved: confidence, classes, and films unlike those that taught the model."""
    entry, predictor = desk.models.predictor(name)
    found = desk.drifts.of(entry.name, predictor.card, predictor.bundle.bundle_id)
    return JSONResponse(found.report().to_dict())
