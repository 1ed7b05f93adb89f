"""Vertex AI itself: upload a model, deploy it, train, ask, take it away again; through Google's own client."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rentgen.deploy import plan as plans
from rentgen.deploy.plan import Plan
from rentgen.deploy.storage import translated
from rentgen.errors import InputError, MissingExtraError, PeerError, SettingError

if TYPE_CHECKING:
    from google.auth.credentials import Credentials
    from google.cloud import aiplatform_v1

MAX_REQUEST_BYTES = 1_500_000
"""Of a request to a shared public endpoint."""
CALL_S = 60.0
UPLOAD_S, DEPLOY_S = 1800.0, 3600.0
POLL_S = 30.0
ENDED = ("JOB_STATE_SUCCEEDED", "JOB_STATE_FAILED", "JOB_STATE_CANCELLED", "JOB_STATE_EXPIRED")


@dataclass(frozen=True, slots=True)
class Clients:
    """Google's clients that are used.

    Attributes:
        models: uploads.
        endpoints: deploys.
        jobs: trains.
        predictions: asks.
    """

    models: aiplatform_v1.ModelServiceClient
    endpoints: aiplatform_v1.EndpointServiceClient
    jobs: aiplatform_v1.JobServiceClient
    predictions: aiplatform_v1.PredictionServiceClient


def connect(region: str, *, api_endpoint: str | None = None, credentials: Credentials | None = None) -> Clients:
    """Return clients of a region, over HTTP.

    Args:
        region: such as europe-west4.
        api_endpoint: address in place of the region's own.
        credentials: in place of the machine's own.

    Raises:
        MissingExtraError: google-cloud-aiplatform is not installed.
        PeerError: there are no credentials.
    """
    try:
        from google.cloud import aiplatform_v1
    except ImportError as error:
        raise MissingExtraError("google-cloud-aiplatform", "gcp", "Vertex AI") from error
    options = {"api_endpoint": api_endpoint or f"{region}-aiplatform.googleapis.com"}
    with translated("Vertex AI"):
        given: dict[str, Any] = {"credentials": credentials, "client_options": options, "transport": "rest"}
        return Clients(
            aiplatform_v1.ModelServiceClient(**given),
            aiplatform_v1.EndpointServiceClient(**given),
            aiplatform_v1.JobServiceClient(**given),
            aiplatform_v1.PredictionServiceClient(**given),
        )


def upload(clients: Clients, plan: Plan) -> str:
    """Return the resource name of a model that was uploaded.

    Raises:
        PeerError: Vertex AI refused or failed.
    """
    from google.cloud.aiplatform_v1 import types

    model = types.Model.from_json(json.dumps(plans.vertex_model(plan)))
    with translated("Uploading the model"):
        operation = clients.models.upload_model(parent=_parent(plan), model=model, timeout=CALL_S)
        return str(_ended(operation, UPLOAD_S).model)


def deploy(clients: Clients, plan: Plan, model: str, *, endpoint: str | None = None) -> str:
    """Return the resource name of the endpoint that a model is on; a new one unless one is given.

    Raises:
        PeerError: Vertex AI refused or failed.
        SettingError: a name of another form.
    """
    from google.cloud.aiplatform_v1 import types

    request = plans.vertex_deployed(plan, resource(plan, "models", model))
    deployed = types.DeployedModel.from_json(json.dumps(request["deployedModel"]))
    with translated("Deploying the model"):
        if endpoint is None:
            wanted = types.Endpoint(display_name=plan.name)
            made = clients.endpoints.create_endpoint(parent=_parent(plan), endpoint=wanted, timeout=CALL_S)
            endpoint = str(_ended(made, UPLOAD_S).name)
        place = resource(plan, "endpoints", endpoint)
        operation = clients.endpoints.deploy_model(
            endpoint=place, deployed_model=deployed, traffic_split=request["trafficSplit"], timeout=CALL_S
        )
        _ended(operation, DEPLOY_S)
    return place


def train(
    clients: Clients,
    plan: Plan,
    *,
    wait: bool = True,
    progress: Callable[[str], None] | None = None,
    poll_s: float = POLL_S,
) -> str:
    """Return the resource name of a training job: submitted, and ended where it is waited for.

    Args:
        clients: of Vertex AI.
        plan: what to train.
        wait: until it ends.
        progress: called with its state whenever that changes.
        poll_s: between two looks.

    Raises:
        PeerError: Vertex AI refused, or the job ended otherwise than well; its log says why.
    """
    from google.cloud.aiplatform_v1 import types

    wanted = types.CustomJob.from_json(json.dumps(plans.vertex_job(plan)))
    with translated("The training job"):
        job = clients.jobs.create_custom_job(parent=_parent(plan), custom_job=wanted, timeout=CALL_S)
        name = str(job.name)
        seen = ""
        while wait:
            if job.state.name != seen:
                seen = job.state.name
                if progress is not None:
                    progress(seen)
            if seen in ENDED:
                break
            time.sleep(poll_s)
            job = clients.jobs.get_custom_job(name=name, timeout=CALL_S)
    if wait and seen != "JOB_STATE_SUCCEEDED":
        raise PeerError(f"The training job {name} ended as {seen}: {str(job.error.message)[:500] or 'see its log'}")
    return name


def predict(clients: Clients, plan: Plan, endpoint: str, films: Sequence[Path]) -> Iterator[dict[str, Any]]:
    """Yield what an endpoint says of each film, in order; as many films go into a request as it may hold.

    Raises:
        InputError: a film cannot be read or is too large for a request.
        PeerError: Vertex AI refused or failed, or answered with another number of predictions.
    """
    from google.protobuf import json_format, struct_pb2

    place = resource(plan, "endpoints", endpoint)
    for group in batches(films):
        instances = [json_format.ParseDict(instance, struct_pb2.Value()) for instance in group]
        with translated("The endpoint"):
            answer = clients.predictions.predict(endpoint=place, instances=instances, timeout=CALL_S)
        if len(answer.predictions) != len(group):
            raise PeerError(f"The endpoint answered {len(answer.predictions)} predictions to {len(group)} films.")
        yield from (json_format.MessageToDict(value) for value in type(answer).pb(answer).predictions)


def batches(films: Sequence[Path]) -> Iterator[list[dict[str, str]]]:
    """Yield instances in groups that fit into a request.

    Raises:
        InputError: a film cannot be read or fits into none.
    """
    group: list[dict[str, str]] = []
    size = 0
    for path in films:
        try:
            content = base64.b64encode(path.read_bytes()).decode()
        except OSError as error:
            raise InputError(path, f"this file cannot be read ({error.strerror}).") from error
        length = len(content) + 100
        if length > MAX_REQUEST_BYTES:
            raise InputError(
                path,
                f"{length / 1e6:.1f} MB as base64, and a shared endpoint of Vertex AI takes 1.5 MB. Save it with "
                "lossless compression (JPEG 2000 or JPEG-LS), send it to a dedicated endpoint, or run a batch.",
            )
        if group and size + length > MAX_REQUEST_BYTES:
            yield group
            group, size = [], 0
        group.append({"content": content})
        size += length
    if group:
        yield group


def undeploy(clients: Clients, plan: Plan, endpoint: str) -> int:
    """Take every model off an endpoint, delete it, and return how many models were on it.

    Raises:
        PeerError: Vertex AI refused or failed.
    """
    place = resource(plan, "endpoints", endpoint)
    with translated("Taking the model away"):
        found = clients.endpoints.get_endpoint(name=place, timeout=CALL_S)
        deployed = [str(item.id) for item in found.deployed_models]
        for identifier in deployed:
            operation = clients.endpoints.undeploy_model(endpoint=place, deployed_model_id=identifier, timeout=CALL_S)
            _ended(operation, UPLOAD_S)
        _ended(clients.endpoints.delete_endpoint(name=place, timeout=CALL_S), UPLOAD_S)
    return len(deployed)


def resource(plan: Plan, kind: str, name: str) -> str:
    """Return the whole resource name of an id, or of a whole name.

    Raises:
        SettingError: it is neither.
    """
    whole = name if name.startswith("projects/") else f"{_parent(plan)}/{kind}/{name}"
    parts = whole.split("/")
    if len(parts) != 6 or parts[4] != kind or not all(parts):
        raise SettingError(f"Expected an id, or projects/.../{kind}/ID, but got {name!r}.")
    return whole


def _parent(plan: Plan) -> str:
    return f"projects/{plan.project}/locations/{plan.region}"


def _ended(operation: Any, timeout_s: float) -> Any:  # noqa: ANN401
    """Return what a long-running operation gave, waiting for it."""
    return operation.result(timeout=timeout_s)
