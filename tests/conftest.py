"""Fixtures that several test files share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import pytest
from serving import Serving

from rentgen.images.phantom import write_set
from rentgen.learn.recipe import Recipe, load
from rentgen.learn.training import Training, TrainingPlan, train
from rentgen.parallel.ray import connect


@dataclass(frozen=True)
class Trained:
    """A small model and what it came from."""

    data: Path
    bundle: Path
    cache: Path
    recipe: Recipe
    training: Training


@pytest.fixture(scope="module")
def client(served: Serving) -> Iterator[httpx.Client]:
    """Return a client of the service that the test file runs as `served`."""
    with served.client() as found:
        yield found


@pytest.fixture(scope="session")
def cluster() -> Iterator[str]:
    """Start Ray once, with what the workers import by name, and return the address where another may join.

    Once a process: Ray goes on with the first token that it read.
    """
    with pytest.MonkeyPatch.context() as patch:
        # Set by connect, and gone with the cluster.
        for name in ("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_BACKEND_LOG_LEVEL"):
            patch.setenv(name, os.environ.get(name, "0"))
            patch.delenv(name)
        with patch.context() as only:
            only.setenv("PYTHONPATH", f"{Path(__file__).parent}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
            connect()
        # Not before: what connect sets, Ray reads when it is imported.
        import ray

        yield ray.get_runtime_context().gcs_address
        ray.shutdown()


@pytest.fixture(scope="session")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of three classes of drawn films, 36 each, two per patient."""
    folder = tmp_path_factory.mktemp("films")
    write_set(folder, films=36, rng=np.random.default_rng(7))
    return folder


@pytest.fixture(scope="session")
def small_recipe() -> Recipe:
    """Return the paper's recipe on a tiny random network: seconds, not minutes."""
    recipe = load("paper").change("backbone", name="test_resnet", precision="f32")
    return recipe.change("preprocessing", height=96, width=96).change("augment", views=1).change("head", epochs=12)


@pytest.fixture(scope="session")
def trained(films: Path, small_recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Return a bundle trained on the drawn films."""
    folder = tmp_path_factory.mktemp("trained")
    plan = TrainingPlan(
        data=films,
        out=folder / "small.rentgen",
        recipe=small_recipe,
        cache=folder / "cache",
        weights="random",
        command="rentgen train films",
    )
    return Trained(films, plan.out, plan.cache, small_recipe, train(plan))
