"""What is rendered is what the clouds' own tools take: judged by their schemas, and scripts by shellcheck."""

from __future__ import annotations

import json
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import pytest
import yaml

from rentgen.cli.deploy import deploy_app
from rentgen.deploy.launch import IMAGE
from rentgen.deploy.plan import Plan, sagemaker_requests, vertex_deployed, vertex_job, vertex_model
from rentgen.deploy.render import Target, render, write
from rentgen.errors import SettingError

PLANS = {
    "plain": Plan(),
    "given": Plan(
        name="xr", image="r/p/xr:1", train_image="r/p/xr@sha256:" + "0" * 64, model="gs://b/m", data="gs://b/f",
        output="gs://b/o", gpu=True,
    ),
}  # fmt: skip
REPOSITORY = Path(__file__).parents[1]
TOOLS = Path(sys.executable).parent


def tool(name: str) -> str:
    found = shutil.which(name) or shutil.which(name, path=str(TOOLS))
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


@pytest.mark.parametrize("target", list(Target))
@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_everything_that_is_rendered_parses(target: Target, plan: Plan, tmp_path: Path) -> None:
    for path in write(render(target, plan), tmp_path):
        text = path.read_text()
        assert not re.search(r"(?<![\w@])@\{?[a-z_]+", text.replace("@sha256", ""))
        if path.suffix == ".json":
            json.loads(text)
        elif path.suffix in (".yml", ".yaml"):
            assert all(yaml.safe_load_all(text))
        elif path.suffix == ".py":
            compile(text, path.name, "exec")
        elif path.name == "Dockerfile":
            assert re.search(r"^FROM \S+$", text, re.MULTILINE)
        else:
            assert path.stat().st_mode & stat.S_IXUSR
            assert text.startswith("#!/usr/bin/env bash\n")
            assert "set -euo pipefail" in text


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_scripts_pass_shellcheck(plan: Plan, tmp_path: Path) -> None:
    shellcheck = tool("shellcheck")
    scripts = [path for target in Target for path in write(render(target, plan), tmp_path / target)]
    found = subprocess.run(
        [shellcheck, *[path for path in scripts if path.suffix == ".sh"]], capture_output=True, text=True
    )
    assert found.returncode == 0, found.stdout


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_vertex_requests_are_googles_messages(plan: Plan) -> None:
    from google.cloud.aiplatform_v1 import types

    model = types.Model.from_json(json.dumps(vertex_model(plan)))
    assert (model.container_spec.health_route, model.container_spec.predict_route) == ("/health", "/predict")
    types.DeployedModel.from_json(json.dumps(vertex_deployed(plan, "m")["deployedModel"]))
    job = types.CustomJob.from_json(json.dumps(vertex_job(plan)))
    assert job.job_spec.scheduling.strategy == types.Scheduling.Strategy.SPOT
    assert job.job_spec.scheduling.restart_job_on_worker_restart


def test_a_tpu_is_asked_for_by_its_machine() -> None:
    machine = vertex_job(Plan(tpu=True))["jobSpec"]["workerPoolSpecs"][0]["machineSpec"]
    assert machine == {"machineType": "ct5lp-hightpu-1t", "tpuTopology": "1x1"}
    assert "torch_xla" in render(Target.VERTEX_JOB, Plan(tpu=True))["submit.sh"]


OPERATIONS = {
    "model.json": "CreateModel", "endpoint-config.json": "CreateEndpointConfig", "endpoint.json": "CreateEndpoint",
    "training-job.json": "CreateTrainingJob", "transform-job.json": "CreateTransformJob",
}  # fmt: skip


@pytest.mark.parametrize("plan", [Plan(), Plan(model="s3://b/model.tar.gz", data="s3://b/f", gpu=True)])
def test_sagemaker_requests_are_amazons(plan: Plan) -> None:
    session = pytest.importorskip("botocore.session").get_session()
    validate = pytest.importorskip("botocore.validate").ParamValidator().validate
    service = session.get_service_model("sagemaker")
    requests = sagemaker_requests(plan)
    assert set(requests) == set(OPERATIONS)
    for name, request in requests.items():
        report = validate(request, service.operation_model(OPERATIONS[name]).input_shape)
        assert not report.has_errors(), report.generate_report()


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_kubernetes_manifests_are_of_its_schemas(plan: Plan) -> None:
    kubernetes = pytest.importorskip("kubernetes_validate")
    rendered = render(Target.KUBERNETES, plan)
    documents = [item for name in ("deployment.yaml", "job.yaml") for item in yaml.safe_load_all(rendered[name])]
    for document in documents:
        kubernetes.validate(document, kubernetes.latest_version(), strict=True)
    pod = documents[1]["spec"]["template"]["spec"]
    container = pod["containers"][0]
    assert container["livenessProbe"]["httpGet"]["path"] == "/livez"
    assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"
    assert pod["terminationGracePeriodSeconds"] > 30
    assert (container["resources"]["limits"].get("nvidia.com/gpu") == "1") is plan.gpu
    assert container["securityContext"]["readOnlyRootFilesystem"]


def test_azure_has_routes_probes_and_a_job(tmp_path: Path) -> None:
    rendered = render(Target.AZURE, Plan(name="xr", model="azureml:xr:3"))
    environment, deployment, job = (
        yaml.safe_load(rendered[f"{name}.yml"]) for name in ("environment", "deployment", "job")
    )
    routes = {name: route["path"] for name, route in environment["inference_config"].items()}
    assert routes == {"liveness_route": "/livez", "readiness_route": "/readyz", "scoring_route": "/score"}
    assert deployment["model"] == "azureml:xr:3"
    assert deployment["request_settings"]["request_timeout_ms"] <= 180_000
    assert job["command"].startswith("rentgen-container train --data ${{inputs.films}} --out ${{outputs.model}}")
    check_by_azure(rendered, tmp_path)


def check_by_azure(rendered: dict[str, str], folder: Path) -> None:
    try:
        from azure.ai import ml  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        return
    write(rendered, folder)
    ml.load_environment(folder / "environment.yml")
    ml.load_online_deployment(folder / "deployment.yml")
    ml.load_job(folder / "job.yml")


def test_cloud_run_leaves_sign_in_to_google() -> None:
    service: dict[str, Any] = yaml.safe_load(render(Target.CLOUD_RUN, PLANS["given"])["service.yaml"])
    spec = service["spec"]["template"]["spec"]
    variables = {item["name"]: item["value"] for item in spec["containers"][0]["env"]}
    assert variables == {"RENTGEN_AUTH": "platform", "RENTGEN_STORE": "false", "RENTGEN_MODELS": "gs://b/m"}
    assert spec["nodeSelector"] == {"run.googleapis.com/accelerator": "nvidia-l4"}
    assert "allow-unauthenticated" not in render(Target.CLOUD_RUN, PLANS["given"])["deploy.sh"]


def test_machines_serve_on_loopback_only() -> None:
    for target in (Target.VERTEX_VM, Target.AWS_VM):
        script = render(target, Plan())["start.sh"]
        assert "RENTGEN_HOST=127.0.0.1" in script
        assert "--gpus" not in script
        assert "--gpus all" in render(target, Plan(gpu=True))["start.sh"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", 'x"; rm -rf /'),
        ("image", "a b"),
        ("model", "file:///x"),
        ("region", "$(id)"),
        ("role", "me"),
        ("data", "gs://b/`id`"),
    ],
)
def test_what_does_not_belong_into_a_script_is_refused(field: str, value: str) -> None:
    with pytest.raises(SettingError, match=f"Expected {field} to be of the form"):
        Plan(**cast(dict[str, Any], {field: value}))


def test_a_gpu_and_a_tpu_are_one_too_many() -> None:
    with pytest.raises(SettingError, match="a GPU or a TPU"):
        Plan(gpu=True, tpu=True)


def test_the_command_writes_the_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    deploy_app(["render", "sagemaker", "--out", str(tmp_path / "out"), "--gpu"], standalone_mode=False)
    assert {Path(line).name for line in capsys.readouterr().out.split()} == {*OPERATIONS, "deploy.sh"}
    with pytest.raises(SettingError, match="Expected vertex, vertex-job"):
        deploy_app(["render", "heroku", "--out", str(tmp_path)], standalone_mode=False)


def test_the_dockerfile_keeps_the_contract() -> None:
    text = (REPOSITORY / "Dockerfile").read_text()
    assert 'ENTRYPOINT ["rentgen-container"]' in text
    assert "HEALTHCHECK NONE" in text
    assert not re.search(r"^\s*(ENV)?\s*AIP_|tini|dumb-init", text, re.MULTILINE)
    assert re.search(r"^ARG PYTHON=3\.11-slim", text, re.MULTILINE)
    assert re.search(r"^USER \d+:\d+$", text, re.MULTILINE)
    # The check of the contracts starts the entry point with the image's own environment.
    assert dict(re.findall(r"^\s+([A-Z_]+)=(\S+)", text.partition("AS base")[2], re.MULTILINE)) == IMAGE
    assert text.rstrip().rpartition("FROM base AS ")[2].startswith("serve")


def test_the_dockerfile_passes_hadolint() -> None:
    found = subprocess.run([tool("hadolint"), REPOSITORY / "Dockerfile"], capture_output=True, text=True)
    assert found.returncode == 0, found.stdout
