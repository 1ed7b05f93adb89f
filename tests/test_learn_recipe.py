from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
import tomli_w

from rentgen.errors import SettingError
from rentgen.learn.recipe import Recipe, from_text, load, text


def test_the_shipped_recipe_says_every_default() -> None:
    assert load("paper") == Recipe()
    said = tomllib.loads(text("paper"))
    defaults = Recipe().to_dict()
    assert said.pop("finetune") == {"epochs": 0}
    # What only fine-tuning uses is said by its own recipe.
    assert said == {name: defaults[name] for name in ("data", "preprocessing", "backbone", "augment", "head")}


@pytest.mark.parametrize("name", ["fine-tune", "pneumonia"])
def test_the_recipes_of_fine_tuning_say_every_key_of_it(name: str) -> None:
    said = tomllib.loads(text(name))
    assert load(name).finetune.epochs > 0
    for table in ("finetune", "shift", "answer"):
        assert set(said[table]) == set(Recipe().to_dict()[table])


def test_the_card_of_the_shipped_recipe_says_for_whom() -> None:
    card = load("pneumonia").card
    scope = card.scope()
    assert scope is not None
    assert "CHEST" in scope.body_parts
    assert scope.max_age_years == 18
    assert any("Adults" in failure for failure in card.known_failures)
    assert Recipe().card.scope() is None


def test_a_list_of_texts_must_be_one() -> None:
    with pytest.raises(SettingError, match=r"Expected card\.licences in the recipe to be a list of texts, but got 'x'"):
        from_text("[card]\nlicences = 'x'")
    with pytest.raises(SettingError, match=r"Expected answer\.coverage to be in \[0.5, 0.9999\], but got 0.2"):
        from_text("[answer]\ncoverage = 0.2")
    with pytest.raises(SettingError, match=r"Expected finetune\.precision to be one of auto, f32, bf16, but got 'f8'"):
        from_text("[finetune]\nprecision = 'f8'")


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
    with pytest.raises(
        SettingError,
        match="Expected a recipe's name \\(paper, fine-tune, findings, pneumonia\\) or a TOML file, but got 'papper'",
    ):
        load("papper")
