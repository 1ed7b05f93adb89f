"""Files that a cloud's own tools take, written from a plan."""

from __future__ import annotations

import json
import string
from collections.abc import Callable, Mapping
from enum import StrEnum
from importlib.resources import files
from pathlib import Path
from typing import Any

from rentgen import __version__
from rentgen.deploy import clusters
from rentgen.deploy import plan as plans
from rentgen.deploy.plan import Plan


class Target(StrEnum):
    """What can be rendered."""

    VERTEX = "vertex"
    """A model, an endpoint, and the model on it."""
    VERTEX_JOB = "vertex-job"
    """A custom training job."""
    VERTEX_VM = "vertex-vm"
    """A Deep Learning VM with its start-up script."""
    AWS_VM = "aws-vm"
    """An EC2 machine of a Deep Learning AMI with its user data."""
    SAGEMAKER = "sagemaker"
    """A model, an endpoint, a training job and a batch transform."""
    AZURE = "azure"
    """An environment, an endpoint, a deployment and a training job."""
    CLOUD_RUN = "cloud-run"
    """A service behind Google's own sign-in."""
    KUBERNETES = "kubernetes"
    """A deployment with probes, keys and a place for its store."""
    RAY_GKE = "ray-gke"
    """A Ray cluster of KubeRay, and a training job on it."""
    RAY_VERTEX = "ray-vertex"
    """A Ray cluster of Vertex AI, and a training job on it."""


class _Template(string.Template):
    """`@name` is filled in: scripts are full of dollar signs."""

    delimiter = "@"


def render(target: Target, plan: Plan) -> dict[str, str]:
    """Return file name to content.

    Args:
        target: what to render.
        plan: of what.
    """
    return _RENDERERS[target](plan)


def write(rendered: Mapping[str, str], folder: Path) -> tuple[Path, ...]:
    """Write files into a folder and return their paths; scripts may be run."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, text in rendered.items():
        path = folder / name
        path.write_text(text, encoding="utf-8")
        if name.endswith(".sh"):
            path.chmod(0o755)
        paths.append(path)
    return tuple(paths)


def _filled(names: tuple[str, ...], plan: Plan, **more: object) -> dict[str, str]:
    values = {name: getattr(plan, name) for name in plan.__slots__}
    values |= {"version": __version__, "port": plans.PORT, "grace": plans.GRACE_S} | more
    folder = files("rentgen.deploy").joinpath("templates")
    return {
        name.partition("/")[2]: _Template(folder.joinpath(name).read_text(encoding="utf-8")).substitute(values)
        for name in names
    }


def _json(value: Mapping[str, Any]) -> str:
    return json.dumps(value, indent=2) + "\n"


def _vertex(plan: Plan) -> dict[str, str]:
    model = f"projects/{plan.project}/locations/{plan.region}/models/{plan.name}"
    machine = plans.vertex_machine(plan)
    flags = [f"--machine-type={machine['machineType']}"]
    if plan.gpu:
        flags.append(f"--accelerator=type={machine['acceleratorType'].lower().replace('_', '-')},count=1")
    variables = ",".join(f"{name}={value}" for name, value in plans.environment(plan).items())
    source = [f"--artifact-uri={plan.model}"] if plan.model else [f"--container-env-vars={variables}"]
    script = _filled(("vertex/deploy.sh",), plan, machine=" ".join(flags), source=" ".join(source))
    return script | {
        "model.json": _json({"model": plans.vertex_model(plan)}),
        "endpoint.json": _json({"displayName": plan.name}),
        "deploy.json": _json(plans.vertex_deployed(plan, model)),
    }


def _vertex_job(plan: Plan) -> dict[str, str]:
    job = plans.vertex_job(plan)
    note = "#\n# PyTorch reaches a TPU through torch_xla, which is not in the image: such a job computes on its CPUs.\n"
    return _filled(("vertex-job/submit.sh",), plan, note=note if plan.tpu else "") | {
        "job.json": _json(job),
        "job-spec.json": _json(job["jobSpec"]),
    }


def _sagemaker(plan: Plan) -> dict[str, str]:
    requests = {name: _json(request) for name, request in plans.sagemaker_requests(plan).items()}
    return _filled(("sagemaker/deploy.sh",), plan) | requests


def _vm(kind: str, machines: tuple[str, str]) -> Callable[[Plan], dict[str, str]]:
    def renderer(plan: Plan) -> dict[str, str]:
        machine = plan.machine or machines[plan.gpu]
        gpu = {"vertex-vm": "--maintenance-policy=TERMINATE --metadata=install-nvidia-driver=True"}.get(kind, "")
        return _filled(
            (f"{kind}/start.sh", f"{kind}/create.sh"),
            plan,
            machine=machine,
            gpu_flags=gpu if plan.gpu else "--maintenance-policy=MIGRATE",
            gpus="--gpus all" if plan.gpu else "",
            fetch=_fetch(plan.model),
            models=_model_flags(plan.model),
            serve="serve --model-dir /model" if plan.model.startswith(("gs://", "s3://")) else "serve",
        )

    return renderer


def _fetch(model: str) -> str:
    """Return the shell command that fetches the bundle."""
    if model.startswith("gs://"):
        return f'gcloud storage cp --recursive "{model.rstrip("/")}/*" /var/lib/rentgen/model/'
    if model.startswith("s3://"):
        return f'aws s3 cp --recursive "{model.rstrip("/")}/" /var/lib/rentgen/model/'
    return "# No model was given: the bundle that ships with the package is served."


def _model_flags(model: str) -> str:
    if model.startswith(("gs://", "s3://")):
        return "--volume /var/lib/rentgen/model:/model:ro"
    return "--env RENTGEN_MODELS=pneumonia"


def _azure(plan: Plan) -> dict[str, str]:
    names = ("environment.yml", "train-environment.yml", "endpoint.yml", "deployment.yml", "job.yml", "deploy.sh")
    variables = "\n".join(f'  {name}: "{value}"' for name, value in plans.environment(plan).items())
    return _filled(
        tuple(f"azure/{name}" for name in names),
        plan,
        machine=plan.machine or ("Standard_NC4as_T4_v3" if plan.gpu else "Standard_F4s_v2"),
        served=f"model: {plan.model}" if plan.model else f"environment_variables:\n{variables}",
        films=plan.data or f"azureml:{plan.name}-films:1",
        compute=f"{plan.name}-gpu" if plan.gpu else f"{plan.name}-cpu",
    )


def _cloud_run(plan: Plan) -> dict[str, str]:
    gpu = '              nvidia.com/gpu: "1"\n' if plan.gpu else ""
    return _filled(
        ("cloud-run/service.yaml", "cloud-run/deploy.sh"),
        plan,
        cpu="4",
        memory="16Gi" if plan.gpu else "4Gi",
        gpu_limit=gpu,
        gpu_node="      nodeSelector:\n        run.googleapis.com/accelerator: nvidia-l4\n" if plan.gpu else "",
        gpu_annotation='        run.googleapis.com/gpu-zonal-redundancy-disabled: "true"\n' if plan.gpu else "",
        served=plan.model or "pneumonia",
    )


def _kubernetes(plan: Plan) -> dict[str, str]:
    names = ("deployment.yaml", "job.yaml", "apply.sh")
    return _filled(
        tuple(f"kubernetes/{name}" for name in names),
        plan,
        gpu_limit='              nvidia.com/gpu: "1"\n' if plan.gpu else "",
        served=plan.model if plan.model.startswith("gs://") else "pneumonia",
    )


def _ray_gke(plan: Plan) -> dict[str, str]:
    films, out = _cluster_places(plan)
    machine = clusters.cluster_machine(plan)["machineType"]
    toleration = "            - {key: nvidia.com/gpu, operator: Exists, effect: NoSchedule}\n"
    return _filled(
        tuple(f"ray-gke/{name}" for name in ("raycluster.yaml", "rayjob.yaml", "apply.sh", "Dockerfile")),
        plan,
        machine=machine,
        ray_version=clusters.KUBERAY_VERSION,
        base="gpu" if plan.gpu else "cpu",
        films_bucket=films[0],
        films_options=_mount_options(films[1]),
        out_bucket=out[0],
        out_options=_mount_options(out[1]),
        gpu_limit=', nvidia.com/gpu: "1"' if plan.gpu else "",
        gpu_node="            cloud.google.com/gke-accelerator: nvidia-l4\n" if plan.gpu else "",
        gpu_toleration=toleration if plan.gpu else "",
    )


def _ray_vertex(plan: Plan) -> dict[str, str]:
    films, out = _cluster_places(plan)
    region = plan.region.partition("-")[0]
    filled = _filled(
        tuple(f"ray-vertex/{name}" for name in ("Dockerfile", "create.sh", "submit.template", "delete.sh")),
        plan,
        ray_version=clusters.VERTEX_VERSION,
        ray_tag="-".join(clusters.VERTEX_VERSION.split(".")[:2]),
        base="gpu" if plan.gpu else "cpu",
        docker_region=region if region in clusters.VERTEX_REGIONS else clusters.VERTEX_REGIONS[0],
        films_path="/".join(part for part in ("/gcs", *films) if part),
        out_place="gs://" + "/".join(part for part in out if part),
    )
    # Not yet Python as long as it is a template.
    script = filled.pop("submit.template")
    return filled | {"submit.py": script, "cluster.json": _json(clusters.vertex_cluster(plan))}


def _cluster_places(plan: Plan) -> tuple[tuple[str, str], tuple[str, str]]:
    """Return bucket and folder of the films, and of the results."""
    bucket = f"gs://{plan.project}-rentgen"
    return clusters.bucket_of(plan.data, f"{bucket}/films"), clusters.bucket_of(plan.output, f"{bucket}/{plan.name}")


def _mount_options(folder: str) -> str:
    options = "implicit-dirs,uid=1000,gid=1000"
    return f"{options},only-dir={folder}" if folder else options


_RENDERERS: Mapping[Target, Callable[[Plan], dict[str, str]]] = {
    Target.VERTEX: _vertex,
    Target.VERTEX_JOB: _vertex_job,
    Target.VERTEX_VM: _vm("vertex-vm", ("e2-standard-4", "g2-standard-8")),
    Target.AWS_VM: _vm("aws-vm", ("c6i.xlarge", "g5.xlarge")),
    Target.SAGEMAKER: _sagemaker,
    Target.AZURE: _azure,
    Target.CLOUD_RUN: _cloud_run,
    Target.KUBERNETES: _kubernetes,
    Target.RAY_GKE: _ray_gke,
    Target.RAY_VERTEX: _ray_vertex,
}
