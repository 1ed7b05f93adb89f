"""From a folder of radiographs to a proven classifier. Research software; not a medical device."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rentgen.bundle import Bundle
    from rentgen.data.listing import list_images
    from rentgen.engine.predictor import Predictor
    from rentgen.errors import RentgenError
    from rentgen.evaluate.judge import judge
    from rentgen.images.prepare import prepare
    from rentgen.images.read import read
    from rentgen.learn.recipe import Recipe
    from rentgen.learn.training import train
    from rentgen.records import Card, Evaluation, Prediction, Preprocessing, Radiograph, Status

__version__ = "0.1.0"

_HOMES = {
    "Bundle": "rentgen.bundle",
    "Card": "rentgen.records",
    "Evaluation": "rentgen.records",
    "Prediction": "rentgen.records",
    "Predictor": "rentgen.engine.predictor",
    "Preprocessing": "rentgen.records",
    "Radiograph": "rentgen.records",
    "Recipe": "rentgen.learn.recipe",
    "RentgenError": "rentgen.errors",
    "Status": "rentgen.records",
    "judge": "rentgen.evaluate.judge",
    "list_images": "rentgen.data.listing",
    "prepare": "rentgen.images.prepare",
    "read": "rentgen.images.read",
    "train": "rentgen.learn.training",
}

__all__ = [
    "Bundle",
    "Card",
    "Evaluation",
    "Prediction",
    "Predictor",
    "Preprocessing",
    "Radiograph",
    "Recipe",
    "RentgenError",
    "Status",
    "judge",
    "list_images",
    "prepare",
    "read",
    "train",
]


def __getattr__(name: str) -> object:
    """Import a public name from its room when it is first asked for: the engine and torch are heavy."""
    if name not in _HOMES:
        raise AttributeError(f"module 'rentgen' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
