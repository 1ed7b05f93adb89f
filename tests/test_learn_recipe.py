from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
import tomli_w

from rentgen.errors import SettingError
from rentgen.learn.recipe import Recipe, from_text, load, text


def test_the_shipped_recipe_says_every_default() -> None:
    assert load("paper") == Recipe()
    assert tomllib.loads(text("paper")) == Recipe().to_dict()


def test_a_recipe_survives_toml(tmp_path: Path) -> None:
    recipe = Recipe().change("head", epochs=7, class_weights=True).change("preprocessing", resize="pad")
    path = tmp_path / "mine.toml"
    path.write_text(tomli_w.dumps(recipe.to_dict()))
    assert load(path) == recipe


def test_what_is_not_said_keeps_its_default(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("[head]\nlearning_rate = 1\n")
    assert load(path) == Recipe().change("head", learning_rate=1.0)


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        ("[head]\ndropuot = 0.4", "unknown key in \\[head\\]: 'dropuot'. Did you mean 'dropout'"),
        ("[heads]\ndropout = 0.4", "unknown table: 'heads'. Did you mean 'head'"),
        ("[head]\nzzz = 1", "Known are: hidden"),
        ("[head]\nepochs = 'many'", "Expected head.epochs in the recipe to be of type int, but got 'many'"),
        ("[head]\nepochs = true", "Expected head.epochs in the recipe to be of type int, but got True"),
        ("[head]\ndropout = 1.5", "Expected head.dropout to be in \\[0.0, 0.95\\], but got 1.5"),
        (
            "[backbone]\nengine = 'abacus'",
            "Expected backbone.engine to be one of auto, openvino, torch, but got 'abacus'",
        ),
        ("[preprocessing]\nresize = 'fold'", "Expected preprocessing resize to be one of squash, pad, but got 'fold'"),
        ("[preprocessing]\nheight = 2", "Expected preprocessing height to be a whole number in \\[16, 4096\\]"),
        ("head = 3", "Expected a table \\[head\\]"),
        ("[head", "is not TOML"),
    ],
)
def test_a_wrong_recipe_is_refused_with_what_to_do(toml: str, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        from_text(toml)


def test_an_unknown_recipe_is_refused() -> None:
    with pytest.raises(SettingError, match="Expected a recipe's name \\(paper\\) or a TOML file, but got 'papper'"):
        load("papper")
