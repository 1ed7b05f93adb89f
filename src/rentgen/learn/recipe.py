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
from rentgen.learn.settings import (
    AnswerSettings,
    AugmentSettings,
    BackboneSettings,
    CardSettings,
    DataSettings,
    FineTuneSettings,
    HeadSettings,
    ShiftSettings,
)
from rentgen.records import Preprocessing

Settings = TypeVar("Settings")

SHIPPED = ("paper", "fine-tune", "findings", "pneumonia")
"""Recipes that come with the package."""
MAX_CHARACTERS = 100_000


@dataclass(frozen=True, slots=True)
class Recipe:
    """Every setting of a training, in the tables of its TOML file."""

    data: DataSettings = field(default_factory=DataSettings)
    preprocessing: Preprocessing = field(default_factory=lambda: Preprocessing(smooth_px=2.0))
    backbone: BackboneSettings = field(default_factory=BackboneSettings)
    augment: AugmentSettings = field(default_factory=AugmentSettings)
    head: HeadSettings = field(default_factory=HeadSettings)
    finetune: FineTuneSettings = field(default_factory=FineTuneSettings)
    shift: ShiftSettings = field(default_factory=ShiftSettings)
    answer: AnswerSettings = field(default_factory=AnswerSettings)
    card: CardSettings = field(default_factory=CardSettings)

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """Return plain tables."""
        return {
            item.name: self.preprocessing.to_dict()
            if item.name == "preprocessing"
            else {
                name: list(value) if isinstance(value, tuple) else value
                for name, value in asdict(getattr(self, item.name)).items()
            }
            for item in fields(self)
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
    if isinstance(default, tuple):
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise SettingError(f"Expected {name} in the recipe to be a list of texts, but got {value!r}.")
        return tuple(value)
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
