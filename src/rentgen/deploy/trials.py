"""What a training job must do on a cloud: leave a bundle, say why it failed, stop when told and go on."""

from __future__ import annotations

import importlib.util
import json
import signal
import subprocess
import time
from pathlib import Path

from rentgen.deploy.environment import Platform
from rentgen.deploy.job import MAX_FAILURE
from rentgen.deploy.launch import Entry, Place
from rentgen.deploy.material import PATIENT, RECIPE, write_films, write_poison
from rentgen.deploy.probes import Finding

TRAIN_S = 300.0
STOP_S = 120.0
MISSING = Finding("not looked at: training needs the extra `train`, which is not installed", None)
FINETUNE = """[finetune]
epochs = 400
unfreeze_epochs = 0.0
patience = 400
stress_weight = 0.0
batch_size = 8
"""


def can_train() -> bool:
    """Return whether what training needs is installed."""
    return all(importlib.util.find_spec(name) is not None for name in ("torch", "timm", "onnx", "onnxscript"))


def job(platform: Platform, root: Path, *, poisoned: bool = False, more: str = "") -> tuple[Place, tuple[str, ...]]:
    """Lay out a training job as the platform does; return its place and arguments."""
    data = root / "gcs/bucket/films" if platform is Platform.VERTEX else root / "mnt/films"
    if platform is Platform.SAGEMAKER:
        data = root / "opt/ml/input/data/training"
    write = write_poison if poisoned else write_films
    data.parent.mkdir(parents=True)
    write(data)
    recipe = data.parent / "recipe/small.toml"
    recipe.parent.mkdir()
    recipe.write_text(RECIPE + more, encoding="utf-8")
    options = {"recipe": str(recipe), "weights": "random", "seed": "3"}
    environ = {"RENTGEN_ROOT": str(root)}
    if platform is Platform.SAGEMAKER:
        _configure(root, options)
        return Place(platform, root, 0, environ | {"TRAINING_JOB_NAME": "check"}, "", ""), ()
    arguments = [f"--{name}={value}" for name, value in options.items()]
    if platform is Platform.VERTEX:
        for name in ("MODEL", "CHECKPOINT", "TENSORBOARD_LOG"):
            environ[f"AIP_{name}_DIR"] = f"gs://bucket/job/{name.lower()}"
        environ |= {"CLOUD_ML_JOB_ID": "1"}
        return Place(platform, root, 0, environ, "", ""), ("--data=gs://bucket/films", *arguments)
    out = root / "mnt/outputs/model"
    environ |= {"AZUREML_RUN_ID": "check", "AZUREML_PARAMETER_films": str(data)}
    return Place(platform, root, 0, environ, "", ""), ("--data", str(data), "--out", str(out), *arguments)


def _configure(root: Path, options: dict[str, str]) -> None:
    ml = root / "opt/ml"
    config = ml / "input/config"
    config.mkdir(parents=True)
    # As SageMaker's SDK writes them: JSON within strings.
    told = {name: json.dumps(value) for name, value in options.items()} | {"sagemaker_program": '"x"'}
    (config / "hyperparameters.json").write_text(json.dumps(told), encoding="utf-8")
    mode = {"TrainingInputMode": "File", "S3DistributionType": "FullyReplicated"}
    (config / "inputdataconfig.json").write_text(json.dumps({"training": mode, "recipe": mode}), encoding="utf-8")
    hosts = {"current_host": "algo-1", "hosts": ["algo-1"], "network_interface_name": "eth0"}
    (config / "resourceconfig.json").write_text(json.dumps(hosts), encoding="utf-8")
    for name in ("model", "output", "checkpoints"):
        (ml / name).mkdir()


def made(platform: Platform, root: Path) -> Path:
    """Return where the platform looks for the model."""
    return root / {
        Platform.SAGEMAKER: "opt/ml/model/model.rentgen",
        Platform.VERTEX: "gcs/bucket/job/model/model.rentgen",
    }.get(platform, "mnt/outputs/model/model.rentgen")


def run(entry: Entry, where: Place, arguments: tuple[str, ...]) -> tuple[int | None, float]:
    """Return exit code and seconds of a job; None where it did not end."""
    began = time.perf_counter()
    process = entry.start(where, "train", *arguments)
    try:
        return process.wait(TRAIN_S), time.perf_counter() - began
    except subprocess.TimeoutExpired:
        return None, TRAIN_S
    finally:
        process.kill()
        process.wait()


def trains(entry: Entry, platform: Platform, root: Path) -> Finding:
    """Look at what a job leaves."""
    if not can_train():
        return MISSING
    where, arguments = job(platform, root)
    code, seconds = run(entry, where, arguments)
    bundle = made(platform, root)
    report = bundle.parent / "model-report/report.html"
    size = bundle.stat().st_size if bundle.is_file() else 0
    told = f"exit code {code} after {seconds:.0f} s; bundle of {size / 1e3:.0f} kB, report {report.is_file()}"
    return Finding(told, code == 0 and size > 0 and report.is_file())


def poisoned(entry: Entry, platform: Platform, root: Path) -> Finding:
    """Look at a job whose films are none: it ends with an error that names no file, since a name may be a patient's."""
    if not can_train():
        return MISSING
    where, arguments = job(platform, root, poisoned=True)
    code, _ = run(entry, where, arguments)
    failure = root / "opt/ml/output/failure"
    told = failure.read_text(encoding="utf-8") if failure.is_file() else ""
    wanted = 0 < len(told) <= MAX_FAILURE if platform is Platform.SAGEMAKER else True
    left = made(platform, root).exists()
    words = (
        f"exit code {code}; failure of {len(told)} characters"
        if platform is Platform.SAGEMAKER
        else f"exit code {code}"
    )
    return Finding(words, code not in (0, None) and wanted and PATIENT not in told and not left)


def resumes(entry: Entry, platform: Platform, root: Path) -> Finding:
    """Look at a job that is told to stop while it trains: how soon it goes, and whether its checkpoint stays."""
    if not can_train():
        return MISSING
    where, arguments = job(platform, root, more=FINETUNE)
    process = entry.start(where, "train", *arguments)
    base = root / ("gcs/bucket/job/checkpoint" if platform is Platform.VERTEX else "opt/ml/checkpoints")
    base = root / "tmp/checkpoints" if platform is Platform.AZURE else base
    began = time.perf_counter()
    while process.poll() is None and time.perf_counter() - began < TRAIN_S and not list(base.rglob("*.pt")):
        time.sleep(0.05)
    began = time.perf_counter()
    process.send_signal(signal.SIGTERM)
    try:
        code: int | None = process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        code = None
    finally:
        process.kill()
        process.wait()
    kept = len(list(base.rglob("*.pt")))
    told = f"gone after {time.perf_counter() - began:.1f} s, exit code {code}; {kept} checkpoint kept"
    return Finding(told, code not in (0, None) and kept > 0)
