"""The MLflow model: asked as MLflow asks it, served as MLflow serves it, run in Spark; no pickle in it."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from linear import fitted_model, normal_films, predictor_of
from made import dicom, png
from peers import free_port

from rentgen import bundle as bundles
from rentgen.engine.predictor import Predictor
from rentgen.errors import MissingExtraError, SettingError
from rentgen.export import pyfunc
from rentgen.images.phantom import golden_films
from rentgen.records import DISCLAIMER

needs_mlflow = pytest.mark.skipif(not find_spec("mlflow") or not find_spec("pandas"), reason="mlflow is not installed")
needs_spark = pytest.mark.skipif(
    not find_spec("pyspark") or shutil.which("java") is None, reason="pyspark or Java is not installed"
)
FILMS = [*(png(film) for film in golden_films()), dicom(), b"no film"]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    films = normal_films(24)
    path = tmp_path_factory.mktemp("bundle") / "of any name.rentgen"
    bundles.write(path, predictor_of(fitted_model(films, np.arange(24) % 2)).bundle)
    return path


@pytest.fixture(scope="module")
def exported(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "model"
    assert pyfunc.write_mlflow(source, bundles.read(source), folder) == (folder,)
    return folder


def check(rows: list[dict[str, Any]], source: Path) -> None:
    """Each row says what the bundle's predictor says of the film."""
    predictor = Predictor.load(source)
    for row, film in zip(rows, FILMS, strict=True):
        wanted = predictor.predict(film)
        assert row["status"] == str(wanted.status)
        assert row["label"] == (wanted.label or "")
        assert row["reasons"] == "; ".join(wanted.reasons)
        for label in predictor.card.classes:
            if wanted.label is None:
                assert row[f"p_{label}"] is None
            else:
                assert row[f"p_{label}"] == pytest.approx(wanted.probabilities[label], abs=1e-6)


@needs_mlflow
def test_loaded_by_mlflow_it_answers_as_the_bundle(exported: Path, source: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import mlflow
        import pandas as pd

        model = mlflow.pyfunc.load_model(str(exported))
        answers = model.predict(pd.DataFrame({"film": FILMS}))
    assert model.metadata.signature.inputs.input_names() == ["film"]
    assert model.metadata.signature.outputs.input_names() == list(answers.columns)
    check(answers.to_dict(orient="records"), source)


@needs_mlflow
def test_it_holds_no_pickle_and_names_no_place_of_its_making(exported: Path, source: Path) -> None:
    names = {path.name for path in exported.rglob("*") if path.is_file()}
    assert names == {
        "MLmodel", "README.md", "conda.yaml", "input_example.json", "linear.rentgen", "pyfunc_code.py",
        "python_env.yaml", "requirements.txt", "serving_input_example.json",
    }  # fmt: skip
    assert (exported / "artifacts" / "linear.rentgen").read_bytes() == source.read_bytes()
    told = (exported / "MLmodel").read_text(encoding="utf-8")
    assert not [place for place in (str(source.parent), str(exported.parent), str(pyfunc.CODE.parent)) if place in told]


@needs_mlflow
def test_requirements_are_pinned_and_the_card_is_told(exported: Path, source: Path) -> None:
    required = (exported / "requirements.txt").read_text(encoding="utf-8").split()
    assert f"rentgen=={version('rentgen')}" in required
    assert f"openvino=={version('openvino')}" in required
    assert all("==" in line for line in required)
    told = (exported / "MLmodel").read_text(encoding="utf-8")
    assert bundles.read(source).bundle_id in told
    assert DISCLAIMER in (exported / "README.md").read_text(encoding="utf-8")


@needs_mlflow
def test_a_folder_that_holds_something_is_left_alone(source: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(SettingError, match="expected no folder, or an empty one"):
        pyfunc.write_mlflow(source, bundles.read(source), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_without_mlflow_the_extra_is_named(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pyfunc, "find_spec", lambda _: None)
    with pytest.raises(MissingExtraError, match=r"needs mlflow.*rentgen\[mlflow\]"):
        pyfunc.write_mlflow(source, bundles.read(source), tmp_path / "model")


@pytest.fixture(scope="module")
def served(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Return the URL of `mlflow models serve`."""
    port = free_port()
    folder = tmp_path_factory.mktemp("serving")
    log = (folder / "log").open("w", encoding="utf-8")
    paths = {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
    }
    command = [sys.executable, "-m", "mlflow", "models", "serve", "--env-manager", "local"]
    # Its own session: MLflow starts uvicorn behind a shell, and both must end.
    process = subprocess.Popen(
        [*command, "-m", str(exported), "-h", "127.0.0.1", "-p", str(port)],
        env=os.environ | paths, cwd=folder, stdout=log, stderr=log, start_new_session=True,
    )  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            assert process.poll() is None, (folder / "log").read_text(encoding="utf-8")
            try:
                if httpx.get(f"{url}/ping", timeout=5).status_code == 200:
                    break
            except httpx.TransportError:
                time.sleep(0.1)
        yield url
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)
        log.close()


@needs_mlflow
def test_mlflow_models_serve_answers_films_in_base64(served: str, source: Path) -> None:
    data = [[base64.b64encode(film).decode("ascii")] for film in FILMS]
    body = {"dataframe_split": {"columns": ["film"], "data": data}}
    answer = httpx.post(f"{served}/invocations", json=body, timeout=60)
    assert answer.status_code == 200, answer.text
    # Strict: what could not be computed is null, not NaN.
    values = json.loads(answer.text, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
    check(values["predictions"], source)


@needs_mlflow
@needs_spark
def test_a_spark_udf_answers_films_in_bytes(exported: Path, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYSPARK_PYTHON", sys.executable)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path for path in sys.path if path))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import mlflow
        from pyspark.sql import SparkSession

        spark = (
            SparkSession.builder.master("local[1]")
            .config("spark.ui.enabled", "false")
            .config("spark.driver.host", "127.0.0.1")
            .config("spark.driver.bindAddress", "127.0.0.1")
            .getOrCreate()
        )
        try:
            answer = mlflow.pyfunc.spark_udf(spark, str(exported), env_manager="local")
            table = spark.createDataFrame(
                [(number, film) for number, film in enumerate(FILMS)], "number int, film binary"
            )
            found = table.select("number", answer("film").alias("answer")).select("number", "answer.*").collect()
        finally:
            spark.stop()
    rows = sorted((row.asDict() for row in found), key=lambda row: row["number"])
    check(rows, source)
