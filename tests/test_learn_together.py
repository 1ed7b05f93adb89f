"""Several networks that answer together: each with a head of its own, and the mean of their logits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rentgen.engine.predictor import Predictor
from rentgen.errors import SettingError
from rentgen.evaluate.wording import model_words
from rentgen.images.phantom import Finding, write_set
from rentgen.learn.recipe import Recipe, load
from rentgen.learn.training import Training, TrainingPlan, train
from rentgen.records import Precision


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("films")
    write_set(folder, films=24, rng=np.random.default_rng(3), findings=(Finding.NORMAL, Finding.EFFUSION))
    return folder


def run(
    films: Path, folder: Path, name: str, also: tuple[str, ...], weights: str = "random", **changes: object
) -> Training:
    recipe: Recipe = load("paper").change("backbone", name=name, also=also, precision="f32")
    recipe = recipe.change("preprocessing", height=64, width=64).change("augment", views=0).change("head", epochs=8)
    recipe = recipe.change("finetune", **changes)
    out = folder / f"{name}-{len(also)}.rentgen"
    return train(TrainingPlan(films, out, recipe, folder / "cache", weights=weights, probed=False))


def test_the_mean_of_the_logits_answers(films: Path, tmp_path: Path) -> None:
    one, other = (run(films, tmp_path, name, ()) for name in ("test_resnet", "test_efficientnet"))
    both = run(films, tmp_path, "test_resnet", ("test_efficientnet",))
    paths = [record.path for record in both.listing.records][:12]
    logits, first, second = (
        np.array([answer.logits for answer in Predictor(training.bundle, precision=Precision.F32).predict_many(paths)])
        for training in (both, one, other)
    )
    np.testing.assert_allclose(logits, (first + second) / 2, atol=1e-4)
    card = both.bundle.card
    assert [item["name"] for item in card.backbone["also"]] == ["test_efficientnet"]
    assert card.recipe["backbone"]["also"] == ["test_efficientnet"]
    assert [text for name, text in model_words(card) if name == "Backbone"] == [
        "test_resnet, 96 features",
        "test_efficientnet, 256 features",
    ]
    assert sum(line.startswith("Starting weights") for line in card.licences) == 2


def test_each_is_fine_tuned(films: Path, tmp_path: Path) -> None:
    both = run(films, tmp_path, "test_resnet", ("test_efficientnet",), epochs=1, batch_size=8, precision="f32")
    assert len(list((tmp_path / "cache" / "checkpoints").glob("*.pt"))) == 2
    assert both.bundle.golden.embedding.shape[1] == 96 + 256


@pytest.mark.parametrize(
    ("also", "weights", "expected"),
    [
        (
            ("test_vit",),
            "random",
            "the same size to answer together, but they are test_resnet's 2 x 2, test_vit's 4 x 4",
        ),
        (("test_resnet",), "random", r"Expected backbone\.also to name at most 7 other networks than test_resnet"),
        (("test_efficientnet",), "file", "Expected no file of weights with backbone.also"),
    ],
)
def test_networks_that_cannot_answer_together(
    also: tuple[str, ...], weights: str, expected: str, films: Path, tmp_path: Path
) -> None:
    with pytest.raises(SettingError, match=expected):
        run(films, tmp_path, "test_resnet", also, weights)
    assert not list(tmp_path.glob("*.rentgen"))
    assert not list(tmp_path.glob("cache/features/*"))
