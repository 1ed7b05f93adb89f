"""What a cloud tells a training job: where the films are, where the bundle goes, and which options were chosen."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rentgen.deploy.environment import SUFFIX, Platform, find_platform
from rentgen.errors import DataError, SettingError

PARTS = {
    "train": "train", "training": "train",
    "validation": "validation", "valid": "validation", "val": "validation", "eval": "validation",
    "test": "test", "testing": "test",
}  # fmt: skip
"""Channel to part."""
OPTIONS: Mapping[str, type] = {
    "recipe": str, "backbone": str, "weights": str, "epochs": int, "seed": int, "patient_pattern": str, "licence": str,
    "name": str,
}  # fmt: skip
"""What a job may choose, besides places: the options of `rentgen train`, and the bundle's name."""
PLACES = ("data", "out", "test", "report", "cache")
MAX_CONFIG_BYTES = 1 << 20
MAX_FAILURE = 1024
"""Characters that SageMaker keeps of the reason."""


@dataclass(frozen=True, slots=True)
class TrainEnvironment:
    """How to train here. Places are paths, or gs://... where no bucket is mounted.

    Attributes:
        platform: who runs the job.
        sources: part (`train`, `validation`, `test`) to where its films are; one source alone may hold all parts.
        out: the bundle's file.
        checkpoints: folder that outlives the job's machine.
        report: folder of the report.
        logs: folder of the training curves for TensorBoard; None for none.
        failure: file for the reason of a failure; None where the platform reads the log only.
        options: of `rentgen train`.
        leads: whether this machine trains; of several, one does.
    """

    platform: Platform
    sources: Mapping[str, str]
    out: str
    checkpoints: str
    report: str
    logs: str | None = None
    failure: Path | None = None
    options: Mapping[str, str | int] = field(default_factory=dict)
    leads: bool = True


def read_train(environ: Mapping[str, str], root: Path, arguments: Sequence[str] = ()) -> TrainEnvironment:
    """Return how to train, as the platform says it; what stands in the arguments goes before it.

    Args:
        environ: environment variables.
        root: of the file system; `/` but in tests.
        arguments: `--data`, `--out` and the options of `rentgen train`.

    Raises:
        SettingError: an unknown option, or a value that is not allowed.
        DataError: nobody says where the films are.
    """
    platform = find_platform(environ, root)
    given = parse_arguments(arguments)
    told = _told(environ, root) if platform is Platform.SAGEMAKER else _swept(environ)
    options = read_options(told | {name: value for name, value in given.items() if name not in PLACES})
    name = str(options.get("name", "model"))
    places = {name: value for name, value in given.items() if name in PLACES}
    reader = {Platform.SAGEMAKER: _on_sagemaker, Platform.VERTEX: _on_vertex}.get(platform, _elsewhere)
    found: dict[str, Any] = reader(environ, root)
    if "data" in places:
        found["sources"] = {"train": locate(places["data"], root)}
    if "test" in places:
        found["sources"] = found["sources"] | {"test": locate(places["test"], root)}
    if not found["sources"]:
        raise DataError(
            "Nobody says where the films are. Expected --data FOLDER, a channel `train`, or AIP_TRAINING_DATA_URI."
        )
    folder = places.get("out", found.pop("folder"))
    out = folder if folder.endswith(SUFFIX) else f"{folder.rstrip('/')}/{name}{SUFFIX}"
    found["checkpoints"] = locate(places.get("cache", found["checkpoints"]), root)
    report = places.get("report", f"{out.removesuffix(SUFFIX)}-report")
    return TrainEnvironment(
        platform=platform, out=locate(out, root), report=locate(report, root), options=options, **found
    )


def locate(place: str, root: Path) -> str:
    """Return the path of a gs:// place where buckets are mounted at /gcs, as Vertex AI does; else the place itself."""
    mount = root / "gcs"
    if place.startswith("gs://") and mount.is_dir():
        return str(mount / place.removeprefix("gs://"))
    return place


def parse_arguments(arguments: Sequence[str]) -> dict[str, str]:
    """Return `--name value` and `--name=value` as names with underscores to values.

    Raises:
        SettingError: something else stands there, or an unknown name.
    """
    found: dict[str, str] = {}
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        name, equals, value = word.removeprefix("--").partition("=")
        if not word.startswith("--") or not name or (not equals and not rest):
            raise SettingError(f"Expected --NAME VALUE, but got {word!r}. Known are: {_known()}.")
        found[_check(name.replace("-", "_"), (*PLACES, *OPTIONS))] = value if equals else rest.pop(0)
    return found


def read_options(values: Mapping[str, object]) -> dict[str, str | int]:
    """Return the options, each of its own type. Hyperparameters come as strings, some as JSON within the string.

    Raises:
        SettingError: an unknown option, or a value that is not allowed.
    """
    options: dict[str, str | int] = {}
    for raw, value in values.items():
        name = raw.replace("-", "_")
        # SageMaker's SDK and its tuner add their own beside the user's.
        if name.startswith(("sagemaker_", "_")):
            continue
        kind = OPTIONS[_check(name, tuple(OPTIONS))]
        text = _plain(value)
        if kind is int and not text.isdecimal():
            raise SettingError(f"Expected the hyperparameter {name} to be a whole number, but got {text!r}.")
        options[name] = int(text) if kind is int else text
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", str(options.get("name", "model"))):
        raise SettingError("Expected the hyperparameter name to be letters, digits, dots and hyphens, at most 100.")
    return options


def reason(error: BaseException, sources: Mapping[str, str]) -> str:
    """Return why a job failed, in at most 1,024 characters; files of the data are not named: a name may be a patient's.

    Args:
        error: that ended it. Only the project's own errors are quoted.
        sources: part to place, whose files are hidden.
    """
    text = str(error) or type(error).__name__
    for part, place in sources.items():
        text = re.sub(re.escape(place) + r"/.*?(?=: |; | and \d+ more| holds |\. |\.?$)", f"<{part}>/...", text)
        text = text.replace(place, f"<{part}>")
    return text[:MAX_FAILURE]


def _check(name: str, known: Sequence[str]) -> str:
    if name in known:
        return name
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"Did you mean {near[0]!r}?" if near else f"Known are: {', '.join(known)}."
    raise SettingError(f"There is no option {name!r} of a training job. {hint}")


def _known() -> str:
    return ", ".join(f"--{name.replace('_', '-')}" for name in (*PLACES, *OPTIONS))


def _plain(value: object) -> str:
    """Return a value as text, without the quotes that SageMaker's SDK puts around strings."""
    text = str(value).strip()
    if len(text) > 1 and text[0] == text[-1] == '"':
        try:
            return str(json.loads(text))
        except ValueError:
            return text
    return text


def _told(environ: Mapping[str, str], root: Path) -> dict[str, object]:
    """Return SageMaker's hyperparameters."""
    return read_config(root / "opt/ml/input/config/hyperparameters.json")


def _swept(environ: Mapping[str, str]) -> dict[str, object]:
    """Return what an Azure sweep chose."""
    prefix = "AZUREML_PARAMETER_"
    swept = {name.removeprefix(prefix).lower(): value for name, value in environ.items() if name.startswith(prefix)}
    # Inputs and outputs are parameters of the job, too; the command line has them.
    return {name: value for name, value in swept.items() if name in OPTIONS}


def read_config(path: Path) -> dict[str, Any]:
    """Return one of SageMaker's configuration files; empty where it is not there.

    Raises:
        SettingError: it is no JSON object, or too large.
    """
    if not path.is_file():
        return {}
    with path.open("rb") as file:
        data = file.read(MAX_CONFIG_BYTES + 1)
    try:
        values = json.loads(data[:MAX_CONFIG_BYTES])
    except ValueError as error:
        raise SettingError(f"Expected {path.name} to be a JSON object, but it is not.") from error
    if not isinstance(values, dict) or len(data) > MAX_CONFIG_BYTES:
        raise SettingError(f"Expected {path.name} to be a JSON object of at most 1 MB, but it is not.")
    return values


def _on_sagemaker(environ: Mapping[str, str], root: Path) -> dict[str, Any]:
    """Return the channels, and where SageMaker looks for what a job leaves."""
    ml = root / "opt/ml"
    told = read_config(ml / "input/config/inputdataconfig.json")
    data = ml / "input/data"
    for name, channel in told.items():
        mode = channel.get("TrainingInputMode") if isinstance(channel, dict) else None
        if mode == "Pipe":
            raise SettingError(f"The channel {name} is in Pipe mode. Expected File or FastFile: films are read twice.")
    names = sorted(told) if told else sorted(path.name for path in data.iterdir()) if data.is_dir() else []
    sources = {PARTS[name.lower()]: str(data / name) for name in names if name.lower() in PARTS}
    # A lone channel is the data, whatever it is called.
    if not sources and len(names) == 1:
        sources = {"train": str(data / names[0])}
    hosts = read_config(ml / "input/config/resourceconfig.json")
    everyone = sorted(map(str, hosts.get("hosts") or ()))
    return {
        "sources": sources,
        "folder": str(ml / "model"),
        "checkpoints": str(ml / "checkpoints"),
        "failure": ml / "output/failure",
        "leads": not everyone or hosts.get("current_host") == everyone[0],
    }


def _on_vertex(environ: Mapping[str, str], root: Path) -> dict[str, Any]:
    """Return what Vertex AI's custom training gives: gs:// places, of which /gcs is the mounted form."""
    names = {"train": "AIP_TRAINING_DATA_URI", "validation": "AIP_VALIDATION_DATA_URI", "test": "AIP_TEST_DATA_URI"}
    sources = {part: locate(environ[name], root) for part, name in names.items() if environ.get(name)}
    if sources and environ.get("AIP_DATA_FORMAT", "jsonl") != "jsonl":
        raise SettingError(f"Expected AIP_DATA_FORMAT to be jsonl, but got {environ['AIP_DATA_FORMAT']!r}.")
    logs = environ.get("AIP_TENSORBOARD_LOG_DIR")
    return {
        "sources": sources,
        "folder": environ.get("AIP_MODEL_DIR") or str(root / "tmp/model"),
        "checkpoints": environ.get("AIP_CHECKPOINT_DIR") or str(root / "tmp/checkpoints"),
        "logs": locate(logs, root) if logs else None,
    }


def _elsewhere(environ: Mapping[str, str], root: Path) -> dict[str, Any]:
    """Return the defaults where arguments say everything: Azure substitutes its inputs and outputs there."""
    return {"sources": {}, "folder": str(root / "tmp/model"), "checkpoints": str(root / "tmp/checkpoints")}
