"""Runs on an MLflow tracking server."""

from __future__ import annotations

import logging
import os
import re
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from importlib.metadata import version
from typing import Any
from urllib.parse import urlsplit

from rentgen.errors import MissingExtraError, PeerError
from rentgen.records.runs import Findings, RunStart

EXPERIMENT = "rentgen"
"""Where no MLFLOW_EXPERIMENT_NAME is set."""
PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "20"}
"""MLflow's own is seven tries of two minutes: a dead server would hold a training up for a quarter of an hour."""

QUIET = {"MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true", "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false"}
"""Standard output is the command's own: it may be JSON."""

_STRANGE = re.compile(r"[^\w\-. /:]")
_SECRET = re.compile(r"://[^/\s]*@")
_MAX_VALUE = 500
_BATCH = 900
_PARAMETERS = 100
"""More, one request cannot carry (MLflow's `log-batch`)."""


class Mlflow:
    """A tracking server, by its URI."""

    def __init__(self, uri: str) -> None:
        """Load MLflow's client; the server is not asked yet.

        Raises:
            MissingExtraError: mlflow is not installed.
        """
        try:
            with _manners(), warnings.catch_warnings():
                # Of MLflow's own parts, on import; nothing that who trains could act on.
                warnings.simplefilter("ignore")
                from mlflow import MlflowClient
        except ImportError as error:
            raise MissingExtraError(error.name or "mlflow", "mlflow", "keeping track with MLflow") from error
        self._uri = uri
        self._make_client = MlflowClient
        self._client: Any = None
        self._run_id = ""

    def begin(self, run: RunStart) -> None:
        """Open a run with its parameters.

        Raises:
            PeerError: the server cannot be reached, or refuses.
        """
        with self._asking():
            from mlflow.entities import Param

            self._client = self._make_client(tracking_uri=self._uri)
            name = os.environ.get("MLFLOW_EXPERIMENT_NAME", EXPERIMENT)
            experiment = self._client.get_experiment_by_name(name)
            number = experiment.experiment_id if experiment else self._client.create_experiment(name)
            tags = {"rentgen.task": run.task, "rentgen.version": version("rentgen"), "rentgen.command": run.command}
            self._run_id = self._client.create_run(number, run_name=run.name, tags=tags).info.run_id
            given = [Param(_plain(key), value[:_MAX_VALUE]) for key, value in run.parameters.items()]
            for start in range(0, len(given), _PARAMETERS):
                self._client.log_batch(self._run_id, params=given[start : start + _PARAMETERS])

    def keep(self, found: Findings) -> None:
        """Send curves, figures, description and files.

        Raises:
            PeerError: the server cannot be reached, or refuses.
        """
        with self._asking():
            from mlflow.entities import Metric

            now = int(time.time() * 1000)
            points = [
                Metric(_plain(f"{part}/{item.name}_per_epoch"), getattr(epoch, item.name), now, step)
                for part, epochs in found.curves.items()
                for step, epoch in enumerate(epochs)
                for item in fields(epoch)
            ]
            points += [Metric(_plain(name), value, now, 0) for name, value in found.metrics.items()]
            points = [point for point in points if point.value == point.value]
            for start in range(0, len(points), _BATCH):
                self._client.log_batch(self._run_id, metrics=points[start : start + _BATCH])
            if found.note:
                self._client.set_tag(self._run_id, "mlflow.note.content", found.note)
            for path in found.files:
                self._client.log_artifact(self._run_id, str(path))

    def end(self, *, failed: bool) -> None:
        """Close the run.

        Raises:
            PeerError: the server cannot be reached, or refuses.
        """
        with self._asking():
            self._client.set_terminated(self._run_id, "FAILED" if failed else "FINISHED")

    @contextmanager
    def _asking(self) -> Iterator[None]:
        """Translate whatever the client raises, and hold it to our patience."""
        try:
            with _manners(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                yield
        except Exception as error:
            # MLflow's client raises its own, those of requests, of SQLAlchemy and of each artefact store.
            raise PeerError(f"The MLflow server {_shown(self._uri)} failed: {_first_line(error)}") from error


@contextmanager
def _manners() -> Iterator[None]:
    """Set what the environment does not say of MLflow's patience and talk, and take it back."""
    own = {name: value for name, value in (PATIENCE | QUIET).items() if name not in os.environ}
    os.environ.update(own)
    # Each of its tries is a warning of its own; ours, after the last, says it once.
    chatter = logging.getLogger("urllib3.connectionpool")
    level = chatter.level
    chatter.setLevel(logging.ERROR)
    try:
        yield
    finally:
        chatter.setLevel(level)
        for name in own:
            os.environ.pop(name, None)


def _plain(name: str) -> str:
    """Return a name of letters that MLflow allows."""
    return _STRANGE.sub("_", name)[:250]


def _shown(uri: str) -> str:
    """Return a URI without user and password."""
    parts = urlsplit(uri)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="").geturl()


def _first_line(error: BaseException) -> str:
    """Return what went wrong, without the user and password that a URI in it may hold."""
    lines = str(error).strip().splitlines() or [""]
    return _SECRET.sub("://", f"{type(error).__name__}: {lines[0]}")[:300]
