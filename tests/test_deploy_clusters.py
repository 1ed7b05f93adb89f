"""Ray clusters of clouds: judged by Google's messages, Kubernetes' schemas and the fields that KubeRay's types have."""

from __future__ import annotations

import ast
import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

from rentgen.cli import app
from rentgen.cli.deploy import deploy_app
from rentgen.deploy.clusters import KUBERAY_VERSION, VERTEX_VERSION, bucket_of, vertex_cluster
from rentgen.deploy.plan import Plan
from rentgen.deploy.render import Target, render
from rentgen.errors import SettingError

ROOT = Path(__file__).parents[1]
GIVEN = Plan(name="xr", train_image="r/p/xr:ray", data="gs://b/f/2026", output="gs://out", gpu=True, workers=32)
PLANS = {"plain": Plan(), "given": GIVEN}

# Of KubeRay's types (ray-operator/apis/ray/v1: raycluster_types.go, rayjob_types.go), those that are needed here.
CLUSTER_FIELDS = {
    "autoscalerOptions", "enableInTreeAutoscaling", "gcsFaultToleranceOptions", "headGroupSpec",
    "headServiceAnnotations", "managedBy", "rayVersion", "suspend", "workerGroupSpecs",
}  # fmt: skip
HEAD_FIELDS = {"template", "headService", "enableIngress", "rayStartParams", "serviceType"}
WORKER_FIELDS = {
    "groupName", "idleTimeoutSeconds", "maxReplicas", "minReplicas", "numOfHosts", "rayStartParams", "replicas",
    "scaleStrategy", "suspend", "template",
}  # fmt: skip
JOB_FIELDS = {
    "activeDeadlineSeconds", "backoffLimit", "clusterSelector", "deletionPolicy", "entrypoint", "entrypointNumCpus",
    "entrypointNumGpus", "entrypointResources", "jobId", "managedBy", "metadata", "rayClusterSpec", "runtimeEnvYAML",
    "shutdownAfterJobFinishes", "submissionMode", "submitterConfig", "submitterPodTemplate", "suspend",
    "ttlSecondsAfterFinished",
}  # fmt: skip


def cluster_of(plan: Plan) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return the core objects beside the cluster, and the cluster."""
    documents = list(yaml.safe_load_all(render(Target.RAY_GKE, plan)["raycluster.yaml"]))
    return documents[:-1], documents[-1]


def arguments_of(entrypoint: str) -> Any:  # noqa: ANN401
    """Parse what a job starts as the command line would, and return its parameters."""
    words = shlex.split(entrypoint)
    command = typer.main.get_command(app).commands[words[1]]  # type: ignore[attr-defined]
    return words[0], command.make_context(words[1], words[2:]).params


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_pods_and_policy_are_of_kubernetes_schemas(plan: Plan) -> None:
    kubernetes = pytest.importorskip("kubernetes_validate")
    core, cluster = cluster_of(plan)
    assert {item["kind"] for item in core} == {"ServiceAccount", "PersistentVolumeClaim", "NetworkPolicy"}
    head, worker = cluster["spec"]["headGroupSpec"], cluster["spec"]["workerGroupSpecs"][0]
    pods = [
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"} | group["template"]["metadata"],
         "spec": group["template"]["spec"]}
        for group in (head, worker)
    ]  # fmt: skip
    for document in (*core, *pods):
        kubernetes.validate(document, kubernetes.latest_version(), strict=True)


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_the_cluster_has_the_fields_of_kuberay_and_no_others(plan: Plan) -> None:
    _, cluster = cluster_of(plan)
    job = yaml.safe_load(render(Target.RAY_GKE, plan)["rayjob.yaml"])
    assert (cluster["apiVersion"], cluster["kind"]) == ("ray.io/v1", "RayCluster")
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    spec = cluster["spec"]
    (worker,) = spec["workerGroupSpecs"]
    head = spec["headGroupSpec"]
    for found, known in (
        (spec, CLUSTER_FIELDS), (head, HEAD_FIELDS), (worker, WORKER_FIELDS), (job["spec"], JOB_FIELDS),
    ):  # fmt: skip
        assert set(found) <= known
    # `ray start` takes texts.
    starts = (head["rayStartParams"], worker["rayStartParams"])
    assert all(isinstance(value, str) for start in starts for value in start.values())
    assert (worker["minReplicas"], worker["replicas"], worker["maxReplicas"]) == (0, plan.workers, plan.workers)
    assert job["spec"]["clusterSelector"] == {"ray.io/cluster": cluster["metadata"]["name"]}
    assert job["spec"]["submissionMode"] == "HTTPMode"


def test_head_and_workers_see_films_under_one_path_and_run_one_image() -> None:
    _, cluster = cluster_of(GIVEN)
    templates = [
        cluster["spec"]["headGroupSpec"]["template"],
        cluster["spec"]["workerGroupSpecs"][0]["template"],
    ]
    for template in templates:
        container, volumes = template["spec"]["containers"][0], template["spec"]["volumes"]
        assert container["image"] == "r/p/xr:ray"
        assert {"name": "films", "mountPath": "/films", "readOnly": True} in container["volumeMounts"]
        films = next(volume["csi"] for volume in volumes if volume["name"] == "films")
        assert films["volumeAttributes"]["bucketName"] == "b"
        assert films["volumeAttributes"]["mountOptions"].endswith(",only-dir=f/2026")
        assert template["metadata"]["annotations"] == {"gke-gcsfuse/volumes": "true"}
        assert template["metadata"]["labels"]["app.kubernetes.io/instance"] == "xr"
    limits = templates[1]["spec"]["containers"][0]["resources"]["limits"]
    assert limits["nvidia.com/gpu"] == "1"
    assert "nvidia.com/gpu" not in templates[0]["spec"]["containers"][0]["resources"]["limits"]
    assert templates[1]["spec"]["nodeSelector"]["cloud.google.com/gke-accelerator"] == "nvidia-l4"


def test_only_the_cluster_and_the_operator_reach_its_ports() -> None:
    core, _ = cluster_of(GIVEN)
    policy = next(item["spec"] for item in core if item["kind"] == "NetworkPolicy")
    assert policy["podSelector"]["matchLabels"] == {"app.kubernetes.io/instance": "xr"}
    inside, operator = policy["ingress"]
    assert inside == {"from": [{"podSelector": policy["podSelector"]}]}
    assert operator["ports"] == [{"protocol": "TCP", "port": 8265}]


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_jobs_start_commands_that_there_are(plan: Plan) -> None:
    job = yaml.safe_load(render(Target.RAY_GKE, plan)["rayjob.yaml"])
    program, values = arguments_of(job["spec"]["entrypoint"])
    assert (program, str(values["data"]), values["ray"], str(values["cache"])) == (
        "rentgen",
        "/films",
        "auto",
        "/cache",
    )
    script = render(Target.RAY_VERTEX, plan)["submit.py"]
    entry = re.search(r'entrypoint="(.*?)"\n\s+"(.*?)"', script)
    assert entry is not None
    program, values = arguments_of(entry[1] + entry[2])
    assert (program, values["ray"]) == ("rentgen", "auto")
    assert str(values["data"]).startswith("/gcs/")


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_the_vertex_cluster_is_googles_message(plan: Plan) -> None:
    from google.cloud.aiplatform_v1 import types

    rendered = json.loads(render(Target.RAY_VERTEX, plan)["cluster.json"])
    assert rendered == vertex_cluster(plan)
    resource = types.PersistentResource.from_json(json.dumps(rendered))
    head, workers = resource.resource_pools
    spec = resource.resource_runtime_spec.ray_spec
    assert set(spec.resource_pool_images) == {head.id, workers.id}
    assert set(spec.resource_pool_images.values()) == {plan.train_image}
    assert spec.head_node_resource_pool_id == head.id
    assert (head.replica_count, workers.autoscaling_spec.max_replica_count) == (1, plan.workers)
    assert (workers.machine_spec.accelerator_count == 1) is plan.gpu


def test_the_image_extends_the_newest_that_google_has() -> None:
    # Read and not imported: the module needs BigQuery's client, which nothing here does.
    package = pytest.importorskip("google.cloud.aiplatform")
    source = Path(package.__file__).parent / "vertex_ray/util/_validation_utils.py"
    text = source.read_text()
    table = re.search(r"SUPPORTED_RAY_VERSIONS = immutabledict\(\s*(\{.*?\})\s*\)", text, re.DOTALL)
    assert table is not None
    versions = ast.literal_eval(table[1])
    assert max(versions.values(), key=lambda version: [int(part) for part in version.split(".")]) == VERTEX_VERSION
    image = re.search(r'return f"(\{region\}-docker\S+/ray-cpu\.\S+)"', text)
    assert image is not None
    expected = image[1].format(region="us", ray_version="2-47", python_version="311")
    dockerfile = render(Target.RAY_VERTEX, Plan(region="us-central1"))["Dockerfile"]
    assert f"FROM {expected}\n" in dockerfile
    assert f"'ray=={VERTEX_VERSION}'" in dockerfile
    assert "FROM us-docker" in render(Target.RAY_VERTEX, Plan(region="me-west1"))["Dockerfile"]


def test_kuberay_runs_the_ray_of_the_tests() -> None:
    assert f"ray=={KUBERAY_VERSION}\n" in (ROOT / "constraints.txt").read_text()
    _, cluster = cluster_of(Plan())
    assert cluster["spec"]["rayVersion"] == KUBERAY_VERSION
    assert f"FROM rayproject/ray:{KUBERAY_VERSION}-py311-cpu\n" in render(Target.RAY_GKE, Plan())["Dockerfile"]
    assert "-py311-gpu\n" in render(Target.RAY_GKE, GIVEN)["Dockerfile"]


def test_places_of_other_stores_are_refused() -> None:
    assert bucket_of("", "gs://a/b/") == ("a", "b")
    assert bucket_of("gs://a", "gs://x") == ("a", "")
    with pytest.raises(SettingError, match="Expected a gs:// place"):
        render(Target.RAY_GKE, Plan(data="s3://b/f"))
    with pytest.raises(SettingError, match="leave out --tpu"):
        render(Target.RAY_VERTEX, Plan(tpu=True))
    with pytest.raises(SettingError, match="Expected 1 to 1000 workers, but got 0"):
        Plan(workers=0)


def test_the_command_renders_a_cluster(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    deploy_app(["render", "ray-gke", "--out", str(tmp_path), "--workers", "9"], standalone_mode=False)
    names = {Path(line).name for line in capsys.readouterr().out.split()}
    assert names == {"raycluster.yaml", "rayjob.yaml", "apply.sh", "Dockerfile"}
    assert "maxReplicas: 9\n" in (tmp_path / "raycluster.yaml").read_text()
