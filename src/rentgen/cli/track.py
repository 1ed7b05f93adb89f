"""Who keeps track of a run of the command line."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rentgen.errors import MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rentgen.records import Evaluation, Mistake
    from rentgen.tracking.follow import Tracker

logger = logging.getLogger(__name__)

MlflowOption = Annotated[
    str | None,
    typer.Option(
        "--mlflow",
        metavar="URI",
        help="Log the run to this MLflow tracking server. Default: MLFLOW_TRACKING_URI, if it is set.",
    ),
]
TensorBoardOption = Annotated[
    Path | None,
    typer.Option("--tensorboard", metavar="DIR", help="Write curves, figures and films for TensorBoard there."),
]


def trackers(mlflow: str | None, tensorboard: Path | None) -> list[Tracker]:
    """Return who was asked to keep track; without any, nothing of MLflow is loaded.

    Args:
        mlflow: a tracking URI; None looks into the environment.
        tensorboard: a folder.

    Raises:
        MissingExtraError: MLflow was asked for by the option, and is not installed.
    """
    found: list[Tracker] = []
    uri = mlflow or os.environ.get("MLFLOW_TRACKING_URI")
    if uri:
        from rentgen.tracking.mlflow_server import Mlflow

        try:
            found.append(Mlflow(uri))
        except MissingExtraError as error:
            if mlflow:
                raise
            # The environment may mean other programs.
            logger.warning("MLFLOW_TRACKING_URI is set, but this run is not tracked: %s", error)
    if tensorboard is not None:
        from rentgen.tracking.follow import TensorBoard

        found.append(TensorBoard(tensorboard))
    return found


def pictures(mistakes: Sequence[Mistake], examples: Sequence[Mistake]) -> dict[str, bytes]:
    """Return films with their heat maps by a name that says what they show; no file name, which may name a patient."""
    return {
        f"{kind}/{number}_{film.label}_as_{film.predicted}": film.overlay_png
        for kind, films in (("mistakes", mistakes), ("examples", examples))
        for number, film in enumerate(films)
    }


def measured(**parts: Evaluation | None) -> dict[str, float]:
    """Return the figures of each part that there is."""
    from rentgen.records.runs import figures

    return {
        name: value
        for part, found in parts.items()
        if found is not None
        for name, value in figures(found, part).items()
    }
