"""What MLflow runs when it loads an exported bundle: code that it copies beside the bundle, in place of a pickle.

Not imported by Rentgen. MLflow runs the file and asks for the object that `set_model` names.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable
from typing import Any

import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel

from rentgen.engine.predictor import Predictor
from rentgen.records import Prediction

FILM = "film"


class RentgenModel(PythonModel):  # type: ignore[misc]
    """Films in, a row for each out. `Predictor` does all of the work."""

    def load_context(self, context: Any) -> None:  # noqa: ANN401
        """Open the bundle; its hashes and golden vectors are checked on the way."""
        self.predictor = Predictor.load(context.artifacts["bundle"])

    def predict(self, context: Any, model_input: pd.DataFrame, params: Any = None) -> pd.DataFrame:  # noqa: ANN401
        """Return status, label, reasons, prediction set and a probability for each class, in the order of the films."""
        classes = self.predictor.card.classes
        films = map(_content, model_input[FILM])
        rows = [self._row(prediction, classes) for prediction in self.predictor.predict_many(films)]
        names = ["status", "label", "reasons", "prediction_set", *(f"p_{label}" for label in classes)]
        table = pd.DataFrame(rows, columns=names)
        # Strict JSON knows no nan; a film that could not be read has null in its place.
        return table.astype(object).where(table.notna(), None) if table.isna().any(axis=None) else table

    @staticmethod
    def _row(prediction: Prediction, classes: Iterable[str]) -> list[str | float]:
        return [
            str(prediction.status),
            prediction.label or "",
            "; ".join(prediction.reasons),
            ", ".join(prediction.prediction_set),
            *(prediction.probabilities.get(label, float("nan")) for label in classes),
        ]


def _content(film: bytes | bytearray | memoryview | str) -> bytes:
    """Return a film's bytes; text is taken for base64, never for a path on the server."""
    if not isinstance(film, str):
        return bytes(film)
    try:
        return base64.b64decode(film, validate=True)
    except ValueError:
        # What is no film gets the status `error`, like any other file that cannot be read.
        return film.encode()


set_model(RentgenModel())
