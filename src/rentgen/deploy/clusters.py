"""Ray clusters of clouds: the request that Vertex AI takes, and where a cluster's nodes see films and results."""

from __future__ import annotations

from typing import Any

from rentgen.deploy.plan import Plan, vertex_machine
from rentgen.errors import SettingError

KUBERAY_VERSION = "2.60.0"
"""Of Ray on GKE: that of constraints.txt, which the tests ran with."""
VERTEX_VERSION = "2.47.1"
"""The newest Ray that Vertex AI has an image of, by google-cloud-aiplatform 2.7 and Google's page on setting it up."""
VERTEX_REGIONS = ("us", "europe", "asia")
"""Where Google keeps these images."""
HEAD, WORKERS = "head-node", "films"


def vertex_cluster(plan: Plan) -> dict[str, Any]:
    """Return a `PersistentResource` of Vertex AI that is a Ray cluster: a head, and workers that come and go.

    Vertex AI keeps at least one worker as long as the cluster is there.
    """
    machine = cluster_machine(plan)
    worker: dict[str, Any] = {
        "id": WORKERS,
        "machineSpec": machine,
        "autoscalingSpec": {"minReplicaCount": 1, "maxReplicaCount": plan.workers},
        "diskSpec": {"bootDiskType": "pd-ssd", "bootDiskSizeGb": 100},
    }
    head: dict[str, Any] = {
        "id": HEAD,
        "machineSpec": {"machineType": "n2-highmem-8"},
        "replicaCount": 1,
        "diskSpec": {"bootDiskType": "pd-ssd", "bootDiskSizeGb": 200},
    }
    return {
        "displayName": plan.name,
        "resourcePools": [head, worker],
        "resourceRuntimeSpec": {
            "raySpec": {
                "resourcePoolImages": {HEAD: plan.train_image, WORKERS: plan.train_image},
                "headNodeResourcePoolId": HEAD,
            }
        },
    }


def cluster_machine(plan: Plan) -> dict[str, Any]:
    """Return a `MachineSpec` of a cluster's workers: 8 cores, with a GPU where one is asked for.

    Raises:
        SettingError: a TPU was asked for.
    """
    if plan.tpu:
        raise SettingError("Expected a Ray cluster of CPUs or GPUs, but a TPU was asked for: leave out --tpu.")
    if plan.gpu:
        return vertex_machine(plan)
    return {"machineType": plan.machine or "n2-standard-8"}


def bucket_of(place: str, fallback: str) -> tuple[str, str]:
    """Return the bucket of a gs:// place, or of the fallback where there is none, and the folder in it.

    Raises:
        SettingError: it is of another store.

    Example:
        >>> bucket_of("gs://hospital/films/2026", "gs://x/y")
        ('hospital', 'films/2026')
    """
    scheme, _, rest = (place or fallback).partition("://")
    if scheme != "gs":
        raise SettingError(f"Expected a gs:// place, which Google's clusters mount, but got {place!r}.")
    bucket, _, folder = rest.strip("/").partition("/")
    return bucket, folder
