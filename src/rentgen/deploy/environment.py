"""What a cloud tells the container: its environment variables and mounted folders, read by pure functions.

Only the standard library is imported here, so that the port is bound before anything large is loaded.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from rentgen.errors import BundleError, SettingError

SUFFIX = ".rentgen"
PORT = 8080
MAX_VISITED = 100_000
"""Files and folders looked at in a model directory; a model directory holds a handful."""
VERTEX_DEFAULT = "/v1/endpoints/{AIP_ENDPOINT_ID}/deployedModels/{AIP_DEPLOYED_MODEL_ID}"
"""Health route where none is set; predictions have `:predict` at the end."""
FOLDERS = {
    "sagemaker": Path("opt/ml/model"),
    "azure": Path("var/azureml-app/azureml-models"),
}
"""Where the platforms mount a model, below the root."""


class Platform(StrEnum):
    """Who runs the container."""

    VERTEX = "vertex"
    """Google Vertex AI."""
    SAGEMAKER = "sagemaker"
    """Amazon SageMaker."""
    AZURE = "azure"
    """Azure Machine Learning."""
    LOCAL = "local"
    """Nobody who asks for the caller's name: Docker, Kubernetes, Cloud Run, a virtual machine."""


@dataclass(frozen=True, slots=True)
class ServeEnvironment:
    """How to serve here.

    Attributes:
        platform: who runs the container.
        port: to listen on, 1 to 65535.
        health: route that the platform asks for health; None for the standing ones only.
        predict: route for predictions, likewise.
        models: bundles, by file or name; empty where `storage_uri` is to be downloaded first.
        storage_uri: gs://... with bundles; None otherwise.
        concurrent: requests that a SageMaker batch transform sends side by side, where it says so.
        max_payload_mb: largest of them, MB, likewise.
    """

    platform: Platform
    port: int
    health: str | None
    predict: str | None
    models: tuple[str, ...]
    storage_uri: str | None = None
    concurrent: int | None = None
    max_payload_mb: int | None = None


def read_serve(environ: Mapping[str, str], root: Path, *, model_dir: Path | None = None) -> ServeEnvironment:
    """Return how to serve, as the platform says it.

    Args:
        environ: environment variables.
        root: of the file system; `/` but in tests.
        model_dir: given by the caller; goes before what the platform says.

    Raises:
        SettingError: a variable has a value that is not allowed.
        BundleError: a model directory is given and holds no bundle.
    """
    chosen = _chosen(environ, model_dir)
    storage_uri = environ.get("AIP_STORAGE_URI") or None
    if storage_uri is not None and not storage_uri.startswith("gs://"):
        raise SettingError(f"Expected AIP_STORAGE_URI to be gs://BUCKET/FOLDER, but got {storage_uri!r}.")
    if len(chosen) == 1 and chosen[0].startswith("gs://"):
        storage_uri, chosen = chosen[0], ()
    folder = None if chosen or storage_uri else _model_folder(environ, root)
    if not chosen and not storage_uri:
        chosen = ("pneumonia",) if folder is None else tuple(map(str, find_bundles(folder)))
    health, predict = _routes(environ)
    return ServeEnvironment(
        platform=find_platform(environ, root),
        port=_port(environ),
        health=health,
        predict=predict,
        models=chosen,
        storage_uri=None if chosen else storage_uri,
        concurrent=_count(environ, "SAGEMAKER_MAX_CONCURRENT_TRANSFORMS"),
        max_payload_mb=_count(environ, "SAGEMAKER_MAX_PAYLOAD_IN_MB"),
    )


def find_platform(environ: Mapping[str, str], root: Path) -> Platform:
    """Return who runs the container, by variables first and by mounted folders where there are none."""
    for platform, prefix in (
        (Platform.VERTEX, "AIP_"),
        (Platform.SAGEMAKER, "SAGEMAKER_"),
        (Platform.AZURE, "AZUREML_"),
    ):
        if any(name.startswith(prefix) for name in environ):
            return platform
    if "TRAINING_JOB_NAME" in environ or (root / "opt/ml").is_dir():
        return Platform.SAGEMAKER
    if (root / "var/azureml-app").is_dir():
        return Platform.AZURE
    return Platform.LOCAL


def find_bundles(folder: Path) -> tuple[Path, ...]:
    """Return the bundles below a folder, sorted; links are followed.

    Raises:
        BundleError: the folder is not there, holds no bundle, or far more files than a model directory does.
    """
    if folder.is_file():
        return (folder,)
    if not folder.is_dir():
        raise BundleError(
            f"Expected a model directory at {folder}, but there is none. Check the model that is mounted."
        )
    found: list[Path] = []
    visited = 0
    seen: set[str] = set()
    for place, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        visited += len(folders) + len(files)
        if visited > MAX_VISITED:
            raise BundleError(f"{folder} holds more than {MAX_VISITED} files. Expected a directory with a bundle.")
        found.extend(Path(place) / name for name in files if name.endswith(SUFFIX) and not name.startswith("."))
    if not found:
        raise BundleError(
            f"{folder} holds no bundle (*{SUFFIX}), at any depth. Upload what `rentgen train` wrote; to serve a bundle "
            "that comes with the package all the same, set RENTGEN_MODELS to its name."
        )
    return tuple(sorted(found))


def _chosen(environ: Mapping[str, str], model_dir: Path | None) -> tuple[str, ...]:
    """Return the models that a person named, rather than the platform."""
    if model_dir is not None:
        return tuple(map(str, find_bundles(model_dir)))
    return tuple(name.strip() for name in environ.get("RENTGEN_MODELS", "").split(",") if name.strip())


def _model_folder(environ: Mapping[str, str], root: Path) -> Path | None:
    """Return the model directory that the platform gives; None where it gives none."""
    if (root / FOLDERS["sagemaker"]).is_dir():
        return root / FOLDERS["sagemaker"]
    if environ.get("AZUREML_MODEL_DIR"):
        return Path(environ["AZUREML_MODEL_DIR"])
    if (root / FOLDERS["azure"]).is_dir():
        return root / FOLDERS["azure"]
    return None


def _routes(environ: Mapping[str, str]) -> tuple[str | None, str | None]:
    """Return the routes for health and predictions."""
    default = None
    if environ.get("AIP_ENDPOINT_ID") and environ.get("AIP_DEPLOYED_MODEL_ID"):
        default = VERTEX_DEFAULT.format_map(environ)
    health = environ.get("AIP_HEALTH_ROUTE") or default
    predict = environ.get("AIP_PREDICT_ROUTE") or (default and f"{default}:predict")
    for name, route in (("AIP_HEALTH_ROUTE", health), ("AIP_PREDICT_ROUTE", predict)):
        if route is not None and (not route.startswith("/") or any(letter in route for letter in "{}?# ")):
            raise SettingError(f"Expected {name} to be a path such as /predict, but got {route!r}.")
    return health, predict


def _port(environ: Mapping[str, str]) -> int:
    # Cloud Run alone says PORT; elsewhere a PORT may belong to something else (Kubernetes sets SERVICE_PORT variables).
    names = ("AIP_HTTP_PORT", "SAGEMAKER_BIND_TO_PORT", *(("PORT",) if "K_SERVICE" in environ else ()), "RENTGEN_PORT")
    for name in names:
        if environ.get(name):
            if not environ[name].isdecimal() or not 0 < int(environ[name]) < 65536:
                raise SettingError(f"Expected {name} to be a port from 1 to 65535, but got {environ[name]!r}.")
            return int(environ[name])
    return PORT


def _count(environ: Mapping[str, str], name: str) -> int | None:
    """Return a whole number that the platform gives; None where it gives none or leaves it to the container."""
    value = environ.get(name, "")
    if not value:
        return None
    if not value.isdecimal():
        raise SettingError(f"Expected {name} to be a whole number, but got {value!r}.")
    return int(value) or None


def serve_options(found: ServeEnvironment, environ: Mapping[str, str]) -> dict[str, object]:
    """Return what the settings should be here; what a person set by RENTGEN_... stays as it is.

    On a platform that asks who the caller is, the service does not ask again, and keeps nothing: instances come and go.

    Args:
        found: how to serve.
        environ: environment variables.
    """
    # In a container every address is the container's own; the platform stands in front.
    options: dict[str, object] = {"host": environ.get("RENTGEN_HOST") or "0.0.0.0", "port": found.port}  # noqa: S104
    if found.models:
        options["models"] = found.models
    if found.platform is not Platform.LOCAL:
        if not environ.get("RENTGEN_AUTH"):
            options["auth"] = "platform"
        if not environ.get("RENTGEN_STORE") and not environ.get("RENTGEN_DATABASE"):
            options["store"] = False
    if found.max_payload_mb is not None and not environ.get("RENTGEN_MAX_BODY_MB"):
        # MB may be meant as 2 ** 20 bytes, and headers come on top.
        options["max_body_mb"] = max(200.0, found.max_payload_mb * 1.1)
    return options
