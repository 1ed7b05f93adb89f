"""From a folder of radiographs to a proven classifier. Research software; not a medical device."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rentgen.bundle import read as read_bundle
    from rentgen.data.listing import list_images
    from rentgen.engine.predictor import Predictor, heat_map
    from rentgen.errors import RentgenError
    from rentgen.evaluate.judge import judge
    from rentgen.images.prepare import prepare
    from rentgen.images.read import read
    from rentgen.learn.recipe import Recipe
    from rentgen.learn.recipe import load as load_recipe
    from rentgen.learn.training import TrainingPlan, train
    from rentgen.records import Prediction, Preprocessing, Radiograph

__version__ = "0.1.0"

_HOMES = {
    "Prediction": ("rentgen.records", "Prediction"),
    "Predictor": ("rentgen.engine.predictor", "Predictor"),
    "Preprocessing": ("rentgen.records", "Preprocessing"),
    "Radiograph": ("rentgen.records", "Radiograph"),
    "Recipe": ("rentgen.learn.recipe", "Recipe"),
    "RentgenError": ("rentgen.errors", "RentgenError"),
    "TrainingPlan": ("rentgen.learn.training", "TrainingPlan"),
    "heat_map": ("rentgen.engine.predictor", "heat_map"),
    "judge": ("rentgen.evaluate.judge", "judge"),
    "list_images": ("rentgen.data.listing", "list_images"),
    "load_recipe": ("rentgen.learn.recipe", "load"),
    "prepare": ("rentgen.images.prepare", "prepare"),
    "read": ("rentgen.images.read", "read"),
    "read_bundle": ("rentgen.bundle", "read"),
    "train": ("rentgen.learn.training", "train"),
}

__all__ = [
    "Prediction",
    "Predictor",
    "Preprocessing",
    "Radiograph",
    "Recipe",
    "RentgenError",
    "TrainingPlan",
    "heat_map",
    "judge",
    "list_images",
    "load_recipe",
    "prepare",
    "read",
    "read_bundle",
    "train",
]


def __getattr__(name: str) -> object:
    """Import a public name from its room when it is first asked for: the engine and torch are heavy."""
    if name not in _HOMES:
        raise AttributeError(f"module 'rentgen' has no attribute {name!r}")
    home, own_name = _HOMES[name]
    return getattr(import_module(home), own_name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
