"""A recipe: every setting of a training, as a TOML file and as frozen dataclasses."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from importlib.resources import files
from pathlib import Path
from typing import Any, Self, TypeVar

from rentgen.errors import SettingError
from rentgen.records import Preprocessing

Settings = TypeVar("Settings")

SHIPPED = ("paper",)
"""Recipes that come with the package."""
MAX_CHARACTERS = 100_000


@dataclass(frozen=True, slots=True)
class DataSettings:
    """How the films are shared out.

    Attributes:
        validation: share of the patients, in [0.01, 0.5].
        test: share of the patients, in [0, 0.5].
        seed: of the split.
    """

    validation: float = 0.15
    test: float = 0.15
    seed: int = 0

    def __post_init__(self) -> None:
        _between("data.validation", self.validation, 0.01, 0.5)
        _between("data.test", self.test, 0.0, 0.5)
        _between("data.seed", self.seed, 0, 2**32 - 1)


@dataclass(frozen=True, slots=True)
class BackboneSettings:
    """Which network gives the features, and how.

    Attributes:
        name: a timm model, or `auto`.
        precision: `auto`, `f32` or `bf16`.
        engine: `auto`, `openvino` or `torch`.
    """

    name: str = "auto"
    precision: str = "auto"
    engine: str = "auto"

    def __post_init__(self) -> None:
        _one_of("backbone.precision", self.precision, ("auto", "f32", "bf16"))
        _one_of("backbone.engine", self.engine, ("auto", "openvino", "torch"))


@dataclass(frozen=True, slots=True)
class AugmentSettings:
    """What augmented views may change; each value is the largest change either way.

    Attributes:
        views: augmented copies of each training film, besides the film itself.
        flip: mirror left and right at random. The heart has a side: off for chests.
        rotation_degrees: in [0, 180].
        shift: of the image's side, in [0, 0.5].
        zoom: in [0, 0.5].
        brightness: of the full range, in [0, 0.5].
        contrast: in [0, 0.9].
        gamma: of its logarithm, in [0, 1].
        noise: standard deviation, of the full range, in [0, 0.5].
    """

    views: int = 2
    flip: bool = False
    rotation_degrees: float = 7.0
    shift: float = 0.05
    zoom: float = 0.1
    brightness: float = 0.1
    contrast: float = 0.15
    gamma: float = 0.2
    noise: float = 0.02

    def __post_init__(self) -> None:
        _between("augment.views", self.views, 0, 64)
        _between("augment.rotation_degrees", self.rotation_degrees, 0.0, 180.0)
        for name, high in (("shift", 0.5), ("zoom", 0.5), ("brightness", 0.5), ("contrast", 0.9), ("gamma", 1.0)):
            _between(f"augment.{name}", getattr(self, name), 0.0, high)
        _between("augment.noise", self.noise, 0.0, 0.5)


@dataclass(frozen=True, slots=True)
class HeadSettings:
    """The head and its training.

    Attributes:
        hidden: units of the dense layer.
        dropout: share of the hidden units dropped in training, in [0, 0.95].
        learning_rate: Adam's, in (0, 1].
        batch_size: films per step.
        epochs: at most so many.
        patience: epochs without a lower validation loss before stopping.
        class_weights: weigh classes inversely to their number.
        label_smoothing: in [0, 0.5].
        seed: of initial weights, order and dropout.
    """

    hidden: int = 256
    dropout: float = 0.5
    learning_rate: float = 1e-4
    batch_size: int = 32
    epochs: int = 400
    patience: int = 30
    class_weights: bool = False
    label_smoothing: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        _between("head.hidden", self.hidden, 1, 8192)
        _between("head.dropout", self.dropout, 0.0, 0.95)
        _between("head.learning_rate", self.learning_rate, 1e-8, 1.0)
        _between("head.batch_size", self.batch_size, 1, 65536)
        _between("head.epochs", self.epochs, 1, 100_000)
        _between("head.patience", self.patience, 1, 100_000)
        _between("head.label_smoothing", self.label_smoothing, 0.0, 0.5)
        _between("head.seed", self.seed, 0, 2**32 - 1)


@dataclass(frozen=True, slots=True)
class Recipe:
    """Every setting of a training, in the tables of its TOML file."""

    data: DataSettings = field(default_factory=DataSettings)
    preprocessing: Preprocessing = field(default_factory=lambda: Preprocessing(smooth_px=2.0))
    backbone: BackboneSettings = field(default_factory=BackboneSettings)
    augment: AugmentSettings = field(default_factory=AugmentSettings)
    head: HeadSettings = field(default_factory=HeadSettings)

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """Return plain tables."""
        tables = {name: asdict(getattr(self, name)) for name in ("data", "backbone", "augment", "head")}
        return {
            "data": tables["data"],
            "preprocessing": self.preprocessing.to_dict(),
            "backbone": tables["backbone"],
            "augment": tables["augment"],
            "head": tables["head"],
        }

    @classmethod
    def from_dict(cls, tables: Mapping[str, Any]) -> Self:
        """Return the recipe of parsed TOML; what is not said keeps its default.

        Raises:
            SettingError: an unknown table or key (with the nearest name), or a value that is not allowed.
        """
        defaults = cls()
        names = {item.name: getattr(defaults, item.name) for item in fields(defaults)}
        for name in tables:
            _known("table", name, names)
        return cls(**{name: _build(default, name, tables.get(name, {})) for name, default in names.items()})

    def change(self, table: str, **values: object) -> Self:
        """Return the recipe with other values in one table."""
        return replace(self, **{table: replace(getattr(self, table), **values)})


def load(name_or_path: str | Path) -> Recipe:
    """Return a recipe that ships with the package, by name, or one of your own, by path.

    Raises:
        SettingError: no such recipe, not TOML, an unknown key or a value that is not allowed.

    Example:
        >>> load("paper").head.hidden
        256
    """
    return from_text(text(name_or_path), str(name_or_path))


def from_text(toml: str, name: str = "text") -> Recipe:
    """Return the recipe in a TOML text; errors as of `load`."""
    try:
        return Recipe.from_dict(tomllib.loads(toml))
    except tomllib.TOMLDecodeError as error:
        raise SettingError(f"The recipe {name} is not TOML: {error}.") from error


def text(name_or_path: str | Path) -> str:
    """Return a recipe's TOML text as it was written, comments and all.

    Raises:
        SettingError: no such recipe.
    """
    if str(name_or_path) in SHIPPED:
        return files("rentgen.learn").joinpath("recipes", f"{name_or_path}.toml").read_text(encoding="utf-8")
    path = Path(name_or_path)
    if not path.is_file():
        raise SettingError(
            f"Expected a recipe's name ({', '.join(SHIPPED)}) or a TOML file, but got {str(name_or_path)!r}."
        )
    try:
        with path.open(encoding="utf-8") as file:
            toml = file.read(MAX_CHARACTERS + 1)
    except UnicodeDecodeError as error:
        raise SettingError(f"{path} is no recipe: expected text (TOML), but got something else.") from error
    if len(toml) > MAX_CHARACTERS:
        raise SettingError(f"{path} is no recipe: expected at most {MAX_CHARACTERS} characters of TOML.")
    return toml


def _build(default: Settings, table: str, values: object) -> Settings:
    if not isinstance(values, Mapping):
        raise SettingError(f"Expected a table [{table}] in the recipe, but got {values!r}.")
    defaults = {item.name: getattr(default, item.name) for item in fields(default)}  # type: ignore[arg-type]
    checked = {}
    for name, value in values.items():
        _known(f"key in [{table}]", name, defaults)
        checked[name] = _typed(f"{table}.{name}", value, defaults[name])
    changed: Settings = replace(default, **checked)  # type: ignore[type-var]
    return changed


def _typed(name: str, value: object, default: object) -> object:
    wanted = bool if isinstance(default, bool) else str if isinstance(default, str) else type(default)
    if wanted is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, wanted) or (wanted is int and isinstance(value, bool)):
        raise SettingError(f"Expected {name} in the recipe to be of type {wanted.__name__}, but got {value!r}.")
    return value


def _known(what: str, name: str, allowed: Mapping[str, object]) -> None:
    if name in allowed:
        return
    near = difflib.get_close_matches(name, allowed, n=1)
    hint = f"Did you mean {near[0]!r}?" if near else f"Known are: {', '.join(allowed)}."
    raise SettingError(f"The recipe has an unknown {what}: {name!r}. {hint}")


def _between(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise SettingError(f"Expected {name} to be in [{low}, {high}], but got {value!r}.")


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise SettingError(f"Expected {name} to be one of {', '.join(allowed)}, but got {value!r}.")
