"""What to put into a cloud, and the requests that say so: plain dictionaries in each cloud's own words."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from rentgen.errors import SettingError

PORT = 8080
HEALTH, PREDICT = "/health", "/predict"
GRACE_S = 40
"""How long a stopping container is given: it drains for 25 s by default, 30 at most."""

_PATTERNS: Mapping[str, str] = {
    "name": r"[a-z]([a-z0-9-]{0,30}[a-z0-9])?",
    "image": r"[A-Za-z0-9][A-Za-z0-9._/:@-]{0,254}",
    "train_image": r"[A-Za-z0-9][A-Za-z0-9._/:@-]{0,254}",
    "project": r"[a-z0-9][a-z0-9.:-]{0,62}",
    "region": r"[a-z0-9-]{1,40}",
    "model": r"(gs|s3)://[A-Za-z0-9._/-]{3,500}|azureml:[A-Za-z0-9._-]{1,255}(:[A-Za-z0-9._-]{1,30}|@latest)|",
    "data": r"(gs|s3)://[A-Za-z0-9._/-]{3,500}|azureml:[A-Za-z0-9._:/@-]{1,255}|",
    "output": r"(gs|s3)://[A-Za-z0-9._/-]{3,500}|",
    "role": r"arn:aws[a-z-]*:iam::[0-9]{12}:role/[A-Za-z0-9+=,.@_/-]{1,500}",
    "recipe": r"[A-Za-z0-9._/-]{1,200}",
    "machine": r"[A-Za-z0-9._-]{0,60}",
}


@dataclass(frozen=True, slots=True)
class Plan:
    """What to put where. A place that is empty gets the bundle that ships with the package, or a placeholder.

    Attributes:
        name: of model, endpoint and job: letters, digits and hyphens.
        image: that serves.
        train_image: that trains.
        project: of Google Cloud.
        region: of the cloud.
        model: the bundle's folder (gs://, on SageMaker s3://...tar.gz, on Azure azureml:NAME:VERSION).
        data: the films' folder, likewise.
        output: where a job leaves what it made.
        role: that SageMaker takes.
        recipe: of training.
        machine: type; empty for the cloud's default here.
        gpu: give it one.
        tpu: give the job one (Vertex AI only).
        workers: machines of a Ray cluster that read films, at most.
    """

    name: str = "rentgen"
    image: str = "REGISTRY/rentgen:serve"
    train_image: str = "REGISTRY/rentgen:train"
    project: str = "my-project"
    region: str = "europe-west4"
    model: str = ""
    data: str = ""
    output: str = ""
    role: str = "arn:aws:iam::123456789012:role/rentgen"
    recipe: str = "paper"
    machine: str = ""
    gpu: bool = False
    tpu: bool = False
    workers: int = 4

    def __post_init__(self) -> None:
        for item in fields(self):
            pattern = _PATTERNS.get(item.name)
            if pattern is not None and not re.fullmatch(pattern, getattr(self, item.name)):
                raise SettingError(
                    f"Expected {item.name} to be of the form {pattern}, but got {getattr(self, item.name)!r}."
                )
        if self.gpu and self.tpu:
            raise SettingError("Expected a GPU or a TPU, but got both.")
        if not 1 <= self.workers <= 1000:
            raise SettingError(f"Expected 1 to 1000 workers, but got {self.workers}.")


def environment(plan: Plan) -> dict[str, str]:
    """Return the variables that a served container needs beyond the platform's own: none, where a model is given."""
    return {} if plan.model else {"RENTGEN_MODELS": "pneumonia"}


def vertex_model(plan: Plan) -> dict[str, Any]:
    """Return a `Model` of Vertex AI. Routes are set: the documents disagree on the defaults."""
    container: dict[str, Any] = {
        "imageUri": plan.image,
        "ports": [{"containerPort": PORT}],
        "healthRoute": HEALTH,
        "predictRoute": PREDICT,
        "env": [{"name": name, "value": value} for name, value in environment(plan).items()],
    }
    given = {"artifactUri": plan.model} if plan.model else {}
    return {"displayName": plan.name, "containerSpec": container, **given}


def vertex_machine(plan: Plan) -> dict[str, Any]:
    """Return a `MachineSpec` of Vertex AI."""
    if plan.tpu:
        return {"machineType": plan.machine or "ct5lp-hightpu-1t", "tpuTopology": "1x1"}
    if plan.gpu:
        return {
            "machineType": plan.machine or "g2-standard-8", "acceleratorType": "NVIDIA_L4", "acceleratorCount": 1,
        }  # fmt: skip
    return {"machineType": plan.machine or "n1-standard-4"}


def vertex_deployed(plan: Plan, model: str) -> dict[str, Any]:
    """Return a request that deploys a model, given by its resource name, to an endpoint."""
    return {
        "deployedModel": {
            "model": model,
            "displayName": plan.name,
            "dedicatedResources": {"machineSpec": vertex_machine(plan), "minReplicaCount": 1, "maxReplicaCount": 2},
        },
        "trafficSplit": {"0": 100},
    }


def vertex_job(plan: Plan) -> dict[str, Any]:
    """Return a `CustomJob` of Vertex AI that trains; it may be taken away and is started again."""
    output = plan.output or f"gs://{plan.project}-rentgen/{plan.name}"
    data = plan.data or f"gs://{plan.project}-rentgen/films"
    return {
        "displayName": f"{plan.name}-train",
        "jobSpec": {
            "workerPoolSpecs": [
                {
                    "machineSpec": vertex_machine(plan),
                    "replicaCount": 1,
                    "containerSpec": {
                        "imageUri": plan.train_image,
                        "args": ["train", f"--data={data}", f"--recipe={plan.recipe}"],
                    },
                }
            ],
            "scheduling": {"timeout": "86400s", "restartJobOnWorkerRestart": True, "strategy": "SPOT"},
            "baseOutputDirectory": {"outputUriPrefix": output},
        },
    }


def sagemaker_requests(plan: Plan) -> dict[str, dict[str, Any]]:
    """Return file name to request of SageMaker's API."""
    bucket = f"s3://{plan.project}-rentgen"
    output = plan.output or f"{bucket}/{plan.name}"
    container: dict[str, Any] = {"Image": plan.image, "Mode": "SingleModel", "Environment": environment(plan)}
    if plan.model:
        container["ModelDataUrl"] = plan.model
    serve = plan.machine or ("ml.g5.xlarge" if plan.gpu else "ml.c6i.xlarge")
    train = plan.machine or ("ml.g5.xlarge" if plan.gpu else "ml.c6i.2xlarge")
    source = {"S3DataType": "S3Prefix", "S3Uri": plan.data or f"{bucket}/films"}
    return {
        "model.json": {"ModelName": plan.name, "PrimaryContainer": container, "ExecutionRoleArn": plan.role},
        "endpoint-config.json": {
            "EndpointConfigName": plan.name,
            "ProductionVariants": [
                {
                    "VariantName": "all",
                    "ModelName": plan.name,
                    "InitialInstanceCount": 1,
                    "InstanceType": serve,
                    "ContainerStartupHealthCheckTimeoutInSeconds": 240,
                }
            ],
        },
        "endpoint.json": {"EndpointName": plan.name, "EndpointConfigName": plan.name},
        "training-job.json": {
            "TrainingJobName": f"{plan.name}-train",
            "AlgorithmSpecification": {"TrainingImage": plan.train_image, "TrainingInputMode": "File"},
            "RoleArn": plan.role,
            "HyperParameters": {"recipe": plan.recipe},
            "InputDataConfig": [
                {
                    "ChannelName": "training",
                    "DataSource": {"S3DataSource": source | {"S3DataDistributionType": "FullyReplicated"}},
                }
            ],
            "OutputDataConfig": {"S3OutputPath": output},
            "ResourceConfig": {"InstanceType": train, "InstanceCount": 1, "VolumeSizeInGB": 100},
            "StoppingCondition": {"MaxRuntimeInSeconds": 86400, "MaxWaitTimeInSeconds": 90000},
            "EnableManagedSpotTraining": True,
            "CheckpointConfig": {"S3Uri": f"{output}/checkpoints", "LocalPath": "/opt/ml/checkpoints"},
        },
        "transform-job.json": {
            "TransformJobName": f"{plan.name}-batch",
            "ModelName": plan.name,
            "MaxPayloadInMB": 6,
            "BatchStrategy": "SINGLE_RECORD",
            "TransformInput": {"DataSource": {"S3DataSource": source}, "ContentType": "image/png"},
            "TransformOutput": {"S3OutputPath": f"{output}/predictions", "Accept": "application/json"},
            "TransformResources": {"InstanceType": serve, "InstanceCount": 1},
        },
    }
