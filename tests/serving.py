"""A real service on loopback: a tiny bundle, a socket, a thread."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import httpx
import numpy as np
import uvicorn
from linear import predictor_of, weighing_model

from rentgen import bundle as bundles
from rentgen.engine.predictor import Predictor
from rentgen.records import Card, Interval, OperatingPoint, Task
from rentgen.service.app import create_app
from rentgen.service.cloud import CloudRoutes
from rentgen.service.desk import Desk
from rentgen.settings import Settings, load

CLASSES = ("NORMAL", "PNEUMONIA")
SENSITIVE = OperatingPoint("sensitivity_0.95", "PNEUMONIA", 0.5, Interval(0.95, 0.9, 0.99), Interval(0.9, 0.8, 0.95))


def with_points(card: Card) -> Card:
    """Return the card with an operating point, so that answers have an urgency."""
    return replace(card, operating_points=(SENSITIVE,))


def tiny_bundle(path: Path, *, seed: int = 0, classes: tuple[str, ...] = CLASSES) -> Path:
    """Write the smallest real bundle: it weighs grey values, compiles in milliseconds and knows nothing."""
    weights = np.random.default_rng(seed).normal(size=(len(classes), 12, 12))
    made = predictor_of(weighing_model(weights, np.full((12, 12), 0.4)), classes).bundle
    bundles.write(path, replace(made, card=with_points(made.card)))
    return path


FINDINGS = ("Consolidation", "Nodule", "Effusion", "No Finding")
"""Of the tiny bundle of several: on every film the first is present, the second absent; the third has no point."""


def several_bundle(path: Path, *, seed: int = 0) -> Path:
    """Write the tiny bundle for several findings, whose thresholds decide what it calls present."""
    made = bundles.read(tiny_bundle(path, seed=seed, classes=FINDINGS))
    thresholds = {"Consolidation": 1e-6, "Nodule": 1 - 1e-6, "No Finding": 0.5}
    points = tuple(replace(SENSITIVE, name="youden", label=name, threshold=at) for name, at in thresholds.items())
    card = replace(made.card, task=Task.MULTILABEL, positive=None, operating_points=points)
    bundles.write(path, replace(made, card=card))
    return path


@dataclass(frozen=True)
class Serving:
    """A service that runs."""

    url: str
    desk: Desk
    server: uvicorn.Server

    def predictor(self) -> Predictor:
        """Return the default model, read from its file as another program would: not the one that answers."""
        return Predictor.load(self.desk.models.entry(None).source)

    def client(self, **more: object) -> httpx.Client:
        """Return a client of it."""
        return httpx.Client(base_url=self.url, timeout=30, trust_env=False, **more)  # type: ignore[arg-type]


@contextmanager
def serving(
    folder: Path, *, ready: bool = True, routes: CloudRoutes | None = None, **given: object
) -> Iterator[Serving]:
    """Run a service with a store in the folder; by default with the tiny bundle, and until it is ready.

    Args:
        folder: for the bundle and the store.
        ready: wait until the models answer.
        routes: of a cloud.
        given: settings.
    """
    if "models" not in given:
        given["models"] = (str(tiny_bundle(folder / "tiny.rentgen")),)
    given.setdefault("database", f"sqlite:///{folder / 'store.db'}")
    settings: Settings = load(port=0, drain_s=5, **given)
    app = create_app(settings, routes=routes, draining=lambda: server.should_exit)
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False, timeout_graceful_shutdown=5))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        running = Serving(f"http://127.0.0.1:{listener.getsockname()[1]}", app.state.desk, server)
        try:
            _wait(running, ready)
            yield running
        finally:
            server.should_exit = True
            thread.join(timeout=20)


def _wait(running: Serving, ready: bool) -> None:
    with running.client() as client:
        for _ in range(600):
            if running.server.started and (not ready or client.get("/ping").status_code == 200):
                return
            time.sleep(0.02)
    raise TimeoutError("the service did not become ready")
