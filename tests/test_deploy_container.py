"""The container's entry point as a process: serves from a bucket, trains, says why it failed, survives a kill."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from clouds import cloud

from rentgen import bundle as bundles
from rentgen.cli import container
from rentgen.deploy import trials
from rentgen.deploy.environment import Platform
from rentgen.deploy.launch import Entry, Place, ask, served
from rentgen.deploy.material import PATIENT, body, film, instance, write_films
from rentgen.deploy.probes import predictions
from rentgen.deploy.trials import made


def run(root: Path, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "rentgen.cli.container", *arguments]
    given = os.environ | {"RENTGEN_ROOT": str(root), "TMPDIR": str(root)} | environ
    return subprocess.run(command, env=given, capture_output=True, text=True, timeout=120)


def test_wrong_use_is_told() -> None:
    found = run(Path("/nonexistent"), "predict", TMPDIR="/tmp")  # noqa: S108
    assert found.returncode == 2
    assert "rentgen-container [serve" in found.stderr


def test_a_directory_without_a_bundle_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "opt/ml/model").mkdir(parents=True)
    found = run(tmp_path)
    assert found.returncode == 1
    assert "holds no bundle" in found.stderr
    assert "Traceback" not in found.stderr


def test_a_wrong_hyperparameter_is_sagemakers_reason_of_failure(tmp_path: Path) -> None:
    config = tmp_path / "opt/ml/input/config"
    config.mkdir(parents=True)
    (tmp_path / "opt/ml/output").mkdir()
    (config / "hyperparameters.json").write_text(json.dumps({"epochs": "ten"}))
    found = run(tmp_path, "train")
    assert found.returncode == 1
    told = (tmp_path / "opt/ml/output/failure").read_text()
    assert told == "Expected the hyperparameter epochs to be a whole number, but got 'ten'."


def test_without_torch_the_missing_extra_is_named(tmp_path: Path) -> None:
    write_films(tmp_path / "films", films=2)
    hide = tmp_path / "hide/torch"
    hide.mkdir(parents=True)
    (hide / "__init__.py").write_text("raise ImportError('no torch', name='torch')")
    out = str(tmp_path / "out")
    found = run(tmp_path, "train", "--data", str(tmp_path / "films"), "--out", out, PYTHONPATH=str(hide.parent))
    assert found.returncode == 1
    assert "pip install 'rentgen[train]'" in found.stderr


def test_only_one_machine_of_a_job_trains(tmp_path: Path) -> None:
    where, _ = trials.job(Platform.SAGEMAKER, tmp_path)
    hosts = {"current_host": "algo-2", "hosts": ["algo-1", "algo-2"]}
    (tmp_path / "opt/ml/input/config/resourceconfig.json").write_text(json.dumps(hosts))
    found = run(tmp_path, "train", **where.environ)
    assert found.returncode == 0
    assert "Another machine" in found.stderr
    assert not made(Platform.SAGEMAKER, tmp_path).exists()


def test_what_is_not_ours_is_told_by_kind_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def explode(found: object) -> None:
        raise KeyError(PATIENT)

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(container, "run_job", explode)
    try:
        assert container.train(["--data", "x"], {}, tmp_path) == 1
    finally:
        signal.signal(signal.SIGTERM, before)
    told = capsys.readouterr().err
    assert "Unexpected KeyError" in told
    assert PATIENT not in told


def test_models_come_from_a_bucket(tmp_path: Path) -> None:
    with cloud() as there:
        there.objects = {"b/m/deep/xr.rentgen": bundles.find("pneumonia").read_bytes(), "b/m/readme.txt": b"x"}
        environ = {
            "AIP_HTTP_PORT": "0", "AIP_STORAGE_URI": "gs://b/m", "AIP_HEALTH_ROUTE": "/health",
            "AIP_PREDICT_ROUTE": "/predict", "STORAGE_EMULATOR_HOST": there.url, "RENTGEN_ROOT": str(tmp_path),
        }  # fmt: skip
        port = free_port()
        where = Place(Platform.VERTEX, tmp_path, port, environ | {"AIP_HTTP_PORT": str(port)}, "/predict", "/health")
        with served(Entry(), where):
            answer = ask(port, "POST", "/predict", body([instance(film())]), {"Content-Type": "application/json"})
    assert answer.status == 200
    assert len(predictions(answer) or ()) == 1


def test_a_bucket_that_refuses_is_told(tmp_path: Path) -> None:
    with cloud() as there:
        there.answers = {"storage": [(403, {"error": {"code": 403, "message": "no right to read"}})]}
        found = run(tmp_path, "serve", AIP_STORAGE_URI="gs://b/m", STORAGE_EMULATOR_HOST=there.url)
    assert found.returncode == 1
    assert "no right to read" in found.stderr


def test_a_vertex_job_without_a_mounted_bucket_leaves_all_in_the_bucket(tmp_path: Path) -> None:
    where, arguments = trials.job(Platform.VERTEX, tmp_path)
    source = tmp_path / "gcs/bucket"
    with cloud() as there:
        for path in (source / "films").rglob("*.png"):
            there.objects[f"bucket/{path.relative_to(source).as_posix()}"] = path.read_bytes()
        recipe = source / "recipe/small.toml"
        recipe.rename(tmp_path / "small.toml")
        (tmp_path / "gcs").rename(tmp_path / "hidden")
        given = [word.replace(str(recipe), str(tmp_path / "small.toml")) for word in arguments]
        found = run(tmp_path, "train", *given, **where.environ, STORAGE_EMULATOR_HOST=there.url)
        assert found.returncode == 0, found.stderr
        names = set(there.objects)
    assert "bucket/job/model/model.rentgen" in names
    assert "bucket/job/model/model-report/report.html" in names
    assert any(name.startswith("bucket/job/tensorboard_log/events.out.tfevents") for name in names)
    assert any(name.startswith("bucket/job/checkpoint/features/") for name in names)


def test_a_killed_job_goes_on_where_it_was(tmp_path: Path) -> None:
    where, arguments = trials.job(Platform.SAGEMAKER, tmp_path, more=trials.FINETUNE)
    folder = tmp_path / "opt/ml/checkpoints"
    before = stopped_after(Entry().start(where, "train", *arguments), folder, 6, signal.SIGKILL)
    assert before >= 6
    process = Entry().start(where, "train", *arguments)
    # A job that began anew would first write a checkpoint of fewer steps.
    after = stopped_after(process, folder, before + 1, signal.SIGTERM, none_below=before)
    assert after > before
    assert process.returncode == container.STOPPED
    assert not made(Platform.SAGEMAKER, tmp_path).exists()
    assert not (tmp_path / "opt/ml/output/failure").exists()


def stopped_after(
    process: subprocess.Popen[str], folder: Path, steps: int, how: signal.Signals, *, none_below: int = 0
) -> int:
    """Stop a job once its checkpoint has so many steps; return the steps of what it left."""
    try:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and process.poll() is None:
            done = [steps_of(path) for path in checkpoints(folder)]
            assert all(number >= none_below for number in done)
            if done and done[0] >= steps:
                process.send_signal(how)
                process.wait(60)
                return steps_of(checkpoints(folder)[0])
            time.sleep(0.02)
        raise TimeoutError(f"no checkpoint of {steps} steps")
    finally:
        process.kill()
        process.wait()


def checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints below a folder where a job works: other files and folders come and go meanwhile."""
    return [Path(place, name) for place, _, names in os.walk(folder) for name in names if name.endswith(".pt")]


def steps_of(path: Path) -> int:
    return int(torch.load(path, weights_only=True)["state"]["step"])


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port
