"""Vertex AI through Google's own client, against a stand-in on loopback."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from clouds import Cloud, cloud
from google.auth.credentials import AnonymousCredentials
from google.cloud.aiplatform_v1 import types
from made import png
from PIL import Image

from rentgen.cli.deploy import deploy_app
from rentgen.deploy import vertex
from rentgen.deploy.plan import Plan
from rentgen.deploy.vertex import Clients, connect
from rentgen.errors import InputError, PeerError, SettingError

PLAN = Plan(
    name="xr", image="r/xr:1", train_image="r/xr:train", project="p", region="r", model="gs://b/m", data="gs://b/films",
    output="gs://b/out",
)  # fmt: skip
PARENT = "projects/p/locations/r"
PACKAGE = "type.googleapis.com/google.cloud.aiplatform.v1"


@pytest.fixture
def there() -> Iterator[Cloud]:
    with cloud() as stand_in:
        yield stand_in


@pytest.fixture
def clients(there: Cloud) -> Clients:
    return connect("r", api_endpoint=there.url, credentials=AnonymousCredentials())  # type: ignore[no-untyped-call]


def pending(number: int) -> tuple[int, dict[str, Any]]:
    return 200, {"name": f"{PARENT}/operations/{number}"}


def ended(number: int, kind: str, **values: object) -> tuple[int, dict[str, Any]]:
    return 200, {
        "name": f"{PARENT}/operations/{number}",
        "done": True,
        "response": {"@type": f"{PACKAGE}.{kind}", **values},
    }


EMPTY = {"done": True, "response": {"@type": "type.googleapis.com/google.protobuf.Empty"}}


def test_a_model_is_uploaded_and_its_name_comes_when_the_operation_ends(there: Cloud, clients: Clients) -> None:
    there.answers = {
        r"POST .*/models:upload$": [pending(1)],
        r"GET .*/operations/1$": [pending(1), ended(1, "UploadModelResponse", model=f"{PARENT}/models/77")],
    }
    assert vertex.upload(clients, PLAN) == f"{PARENT}/models/77"
    model = types.Model.from_json(json.dumps(there.bodies(r"models:upload$")[0]["model"]))
    assert model.container_spec.image_uri == "r/xr:1"
    assert (model.container_spec.health_route, model.container_spec.predict_route) == ("/health", "/predict")
    assert [port.container_port for port in model.container_spec.ports] == [8080]
    assert model.artifact_uri == "gs://b/m"


def test_a_model_goes_onto_a_new_endpoint(there: Cloud, clients: Clients) -> None:
    endpoint = f"{PARENT}/endpoints/5"
    there.answers = {
        r"POST .*/endpoints$": [ended(2, "Endpoint", name=endpoint)],
        r"POST .*/endpoints/5:deployModel$": [ended(3, "DeployModelResponse")],
    }
    assert vertex.deploy(clients, Plan(name="xr", project="p", region="r", gpu=True), "77") == endpoint
    sent = there.bodies("deployModel")[0]
    machine = sent["deployedModel"]["dedicatedResources"]["machineSpec"]
    assert sent["deployedModel"]["model"] == f"{PARENT}/models/77"
    assert types.AcceleratorType(machine["acceleratorType"]) == types.AcceleratorType.NVIDIA_L4
    assert sent["trafficSplit"] == {"0": 100}


def test_a_job_is_watched_until_it_ends(there: Cloud, clients: Clients) -> None:
    name = f"{PARENT}/customJobs/9"
    states = ["JOB_STATE_PENDING", "JOB_STATE_RUNNING", "JOB_STATE_RUNNING", "JOB_STATE_SUCCEEDED"]
    there.answers = {
        r"POST .*/customJobs$": [(200, {"name": name, "state": "JOB_STATE_QUEUED"})],
        r"GET .*/customJobs/9$": [(200, {"name": name, "state": state}) for state in states],
    }
    seen: list[str] = []
    assert vertex.train(clients, PLAN, progress=seen.append, poll_s=0) == name
    assert seen == ["JOB_STATE_QUEUED", *dict.fromkeys(states)]
    job = types.CustomJob.from_json(json.dumps(there.bodies("customJobs$")[0]))
    container = job.job_spec.worker_pool_specs[0].container_spec
    assert list(container.args) == ["train", "--data=gs://b/films", "--recipe=paper"]
    assert job.job_spec.base_output_directory.output_uri_prefix == "gs://b/out"


def test_a_job_that_fails_is_an_error_that_says_why(there: Cloud, clients: Clients) -> None:
    failed = {
        "name": f"{PARENT}/customJobs/9",
        "state": "JOB_STATE_FAILED",
        "error": {"code": 3, "message": "one class"},
    }
    there.answers = {r"POST .*/customJobs$": [(200, failed)]}
    with pytest.raises(PeerError, match=r"ended as JOB_STATE_FAILED: one class"):
        vertex.train(clients, PLAN, poll_s=0)


def test_films_are_asked_about_in_requests_that_fit(there: Cloud, clients: Clients, tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}.png" for number in range(3)]
    for path in paths:
        path.write_bytes(bytes(700_000))
    there.answers = {r":predict$": [(200, {"predictions": [{"label": str(number)}]}) for number in range(3)]}
    assert [item["label"] for item in vertex.predict(clients, PLAN, "5", paths)] == ["0", "1", "2"]
    assert [len(body["instances"]) for body in there.bodies(":predict$")] == [1, 1, 1]
    paths[0].write_bytes(bytes(1_200_000))
    with pytest.raises(InputError, match=r"1\.6 MB as base64, .* takes 1\.5 MB"):
        list(vertex.predict(clients, PLAN, "5", paths))
    with pytest.raises(InputError, match="cannot be read"):
        list(vertex.predict(clients, PLAN, "5", [tmp_path / "none.png"]))


def test_another_number_of_predictions_is_no_answer(there: Cloud, clients: Clients, tmp_path: Path) -> None:
    paths = [tmp_path / "a.png", tmp_path / "b.png"]
    for path in paths:
        path.write_bytes(b"film")
    there.answers = {r":predict$": [(200, {"predictions": [{"label": "one"}]})]}
    with pytest.raises(PeerError, match="1 predictions to 2 films"):
        list(vertex.predict(clients, PLAN, "5", paths))


def test_an_endpoint_is_emptied_and_deleted(there: Cloud, clients: Clients) -> None:
    endpoint = f"{PARENT}/endpoints/5"
    operation = {"name": f"{PARENT}/operations/4"}
    there.answers = {
        r"GET .*/endpoints/5$": [(200, {"name": endpoint, "deployedModels": [{"id": "1"}, {"id": "2"}]})],
        r"POST .*:undeployModel$": [ended(4, "UndeployModelResponse")],
        r"DELETE .*/endpoints/5$": [(200, operation | EMPTY)],
    }
    assert vertex.undeploy(clients, PLAN, endpoint) == 2
    assert [body["deployedModelId"] for body in there.bodies("undeployModel")] == ["1", "2"]
    assert there.asked[-1][0] == "DELETE"


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ((403, {"error": {"code": 403, "message": "no right", "status": "PERMISSION_DENIED"}}), "no right"),
        ((500, b"<html>"), "Uploading the model refused or failed"),
        (
            (200, {"name": f"{PARENT}/operations/1", "done": True, "error": {"code": 9, "message": "no image"}}),
            "no image",
        ),
    ],
)
def test_what_google_refuses_is_a_peer_error(
    there: Cloud, clients: Clients, answer: tuple[int, Any], message: str
) -> None:
    there.answers = {r"models:upload$": [answer]}
    with pytest.raises(PeerError, match=message):
        vertex.upload(clients, PLAN)


def test_nobody_there_is_a_peer_error() -> None:
    nobody = connect("r", api_endpoint="http://127.0.0.1:9", credentials=AnonymousCredentials())  # type: ignore[no-untyped-call]
    with pytest.raises(PeerError, match="refused or failed"):
        vertex.undeploy(nobody, PLAN, "5")


@pytest.mark.parametrize("name", ["a/b", "projects/p/locations/r/models/1", "projects/p/locations/r/endpoints/"])
def test_a_name_of_another_form_is_refused(name: str) -> None:
    with pytest.raises(SettingError, match="Expected an id"):
        vertex.resource(PLAN, "endpoints", name)


def run(*arguments: str) -> None:
    deploy_app(["vertex", *arguments], standalone_mode=False)


def test_the_command_prints_what_it_would_send(capsys: pytest.CaptureFixture[str]) -> None:
    run("upload", "--project", "p", "--model", "gs://b/m", "--dry-run")
    assert json.loads(capsys.readouterr().out)["model"]["artifactUri"] == "gs://b/m"
    run("train", "--data", "gs://b/films", "--output", "gs://b/out", "--project", "p", "--tpu", "--dry-run")
    machine = json.loads(capsys.readouterr().out)["jobSpec"]["workerPoolSpecs"][0]["machineSpec"]
    assert machine["tpuTopology"] == "1x1"
    run("deploy", "--project", "p", "--model", "1", "--dry-run")
    assert json.loads(capsys.readouterr().out)["deployedModel"]["model"].endswith("/models/1")


def test_the_commands_call_the_cloud(there: Cloud, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    film = tmp_path / "film.png"
    film.write_bytes(png(Image.new("L", (8, 8))))
    place = ("--project", "p", "--region", "r", "--api-endpoint", there.url)
    there.answers = {
        r"models:upload$": [ended(1, "UploadModelResponse", model=f"{PARENT}/models/77")],
        r":predict$": [(200, {"predictions": [{"label": "NORMAL"}]})],
    }
    run("upload", *place)
    run("predict", str(film), "--endpoint", "5", *place)
    printed = capsys.readouterr().out
    assert f"{PARENT}/models/77" in printed
    assert json.loads(printed.splitlines()[-1]) == {"path": str(film), "label": "NORMAL"}


def test_no_google_library_is_loaded_before_it_is_needed() -> None:
    code = "import rentgen.cli.deploy, rentgen.deploy.vertex, sys; sys.exit('google.api_core' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
