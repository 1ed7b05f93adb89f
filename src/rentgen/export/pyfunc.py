"""A bundle as an MLflow model: what `mlflow models serve`, Spark, Databricks, SageMaker and Azure ML take."""

from __future__ import annotations

import contextlib
import io
import shutil
import tempfile
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from rentgen.bundle import SUFFIX, Bundle
from rentgen.engine.predictor import Predictor
from rentgen.errors import BundleError, MissingExtraError, SettingError
from rentgen.export.plain import description, file_stem
from rentgen.images.overlay import encode_png
from rentgen.records.runs import describe

CODE = Path(__file__).with_name("pyfunc_code.py")
PINNED = ("rentgen", "numpy", "openvino", "pandas", "pillow", "pydicom")
"""Packages on which an answer depends; the model asks for the versions that it was checked with."""


def write_mlflow(source: Path, bundle: Bundle, folder: Path) -> tuple[Path, ...]:
    """Write an MLflow model, once it answers the golden films as the bundle does.

    Args:
        source: the bundle's file; it is copied as it is.
        bundle: read from it.
        folder: to be made; MLflow's own layout, and a README.md with the card.

    Raises:
        SettingError: the folder holds something already.
        BundleError: the model deviates; nothing is kept.
        MissingExtraError: mlflow or pandas is not installed.
    """
    for module in ("mlflow", "pandas"):
        if find_spec(module) is None:
            raise MissingExtraError(module, "mlflow", "the export to MLflow")
    if folder.exists() and any(folder.iterdir()):
        raise SettingError(f"{folder}: expected no folder, or an empty one, but it holds something. Name another.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as scratch:
        # Under this name, whatever the file is called: it is part of the model's layout.
        named = Path(scratch) / f"{file_stem(bundle)}{SUFFIX}"
        shutil.copyfile(source, named)
        draft = Path(scratch) / "model"
        _save(named, bundle, draft)
        _forget_places(draft, (named.parent, CODE.parent))
        _check(bundle, draft)
        (draft / "README.md").write_text(
            describe(bundle.card, bundle.bundle_id), encoding="utf-8", errors="backslashreplace"
        )
        if folder.exists():
            folder.rmdir()
        draft.rename(folder)
    return (folder,)


def requirements() -> list[str]:
    """Return what must be installed where the model answers, pinned to what is installed here."""
    return [f"{name}=={version(name)}" for name in PINNED]


def _save(source: Path, bundle: Bundle, folder: Path) -> None:
    with _quiet():
        import mlflow
        import pandas as pd
        from mlflow.models import ModelSignature
        from mlflow.types import ColSpec, DataType, Schema

    outputs = [ColSpec(DataType.string, name) for name in ("status", "label", "reasons", "prediction_set")]
    outputs += [ColSpec(DataType.double, f"p_{label}") for label in bundle.card.classes]
    described = description(bundle, source.name, {})
    kept = ("name", "bundle_id", "classes", "positive", "operating_points", "intended_use", "licences", "disclaimer")
    with _quiet():
        mlflow.pyfunc.save_model(
            folder,
            python_model=str(CODE),
            artifacts={"bundle": str(source)},
            signature=ModelSignature(Schema([ColSpec(DataType.binary, "film")]), Schema(outputs)),
            input_example=_example(pd, bundle),
            pip_requirements=requirements(),
            metadata={
                "rentgen": {name: described[name] for name in kept},
                "description": describe(bundle.card, bundle.bundle_id),
            },
        )


def _forget_places(folder: Path, places: Iterable[Path]) -> None:
    """Take the folders of this machine out of what MLflow noted; it looks for names alone when it loads."""
    noted = folder / "MLmodel"
    text = noted.read_text(encoding="utf-8")
    for place in places:
        text = text.replace(f"{place}/", "")
    noted.write_text(text, encoding="utf-8")


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep MLflow from warning of its own older parts and from drawing bars of its own; its errors come through."""
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


def _example(pd: Any, bundle: Bundle) -> Any:  # noqa: ANN401
    return pd.DataFrame({"film": [encode_png(bundle.golden.films[0])]})


def _check(bundle: Bundle, folder: Path) -> None:
    """Ask the saved model for the golden films as a server would, and compare with the bundle's own predictor."""
    import mlflow
    import pandas as pd

    films = [encode_png(film) for film in bundle.golden.films]
    with _quiet():
        answers = mlflow.pyfunc.load_model(str(folder)).predict(pd.DataFrame({"film": films}))
    # It replays the golden vectors when it is made; the model then has to say what it says.
    predictor = Predictor(bundle)
    for row, prediction in enumerate(predictor.predict_many(films)):
        came = np.array([answers[f"p_{label}"].iloc[row] for label in bundle.card.classes])
        wanted = np.array(list(prediction.probabilities.values()))
        if answers["status"].iloc[row] != str(prediction.status) or not np.allclose(came, wanted, atol=1e-6):
            raise BundleError(
                f"The MLflow model answers golden film {row} with {answers['status'].iloc[row]} {came.tolist()}, the "
                f"bundle with {prediction.status} {wanted.tolist()}. It was deleted."
            )
