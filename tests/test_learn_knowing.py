from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import openvino
import pytest

from rentgen import bundle as bundles
from rentgen.cli import main
from rentgen.engine.predictor import Predictor, measure_replay, replay, softmax
from rentgen.engine.session import Session
from rentgen.errors import BundleError, DataError
from rentgen.images.phantom import write_set
from rentgen.images.read import read
from rentgen.learn.domain import LEAST_FILMS, fit_group
from rentgen.learn.recipe import Recipe, load
from rentgen.learn.training import Training, TrainingPlan, train
from rentgen.records import Domain, Precision, Radiograph, Scope, Split, Status


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    """Return fine-tuning on a tiny random network: half a minute."""
    small = load("fine-tune").change("backbone", name="test_efficientnet", precision="f32")
    small = small.change("preprocessing", height=96, width=96).change("head", epochs=8).change("augment", views=0)
    small = small.change("finetune", epochs=2, members=2, precision="f32", batch_size=16, ema=0.9, frozen_stages=1)
    small = small.change("data", validation=0.3, test=0.2)
    return small.change("answer", coverage=0.9, kept=0.95).change("card", body_parts=("CHEST",), known_failures=("x",))


@pytest.fixture(scope="module")
def tuned(films: Path, recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Training:
    """Return two fine-tuned members with all that a bundle can know."""
    folder = tmp_path_factory.mktemp("tuned")
    plan = TrainingPlan(films, folder / "tuned.rentgen", recipe, folder / "cache", weights="random", command="x")
    return train(plan)


def test_the_bundle_knows_what_the_recipe_asked_for(tuned: Training) -> None:
    card = tuned.bundle.card
    assert card.calibration is not None
    assert card.calibration.method in ("temperature", "vector")
    assert set(card.calibration.before) == {"ece", "brier", "loss", "slope", "intercept"}
    assert card.conformal is not None
    assert card.conformal.measured is not None
    assert card.domain is not None
    assert card.scope == Scope(body_parts=("CHEST",))
    assert card.known_failures == ("x",)
    assert card.robustness["rows"][0]["name"] == "none"
    assert card.shortcuts["probes"]
    assert card.heat_maps["grade"] in ("passed", "weak", "failed")
    assert set(card.history.parts) == {"train", "validation", "stress", "test"}


def test_a_card_survives_the_file(tuned: Training, tmp_path: Path) -> None:
    path = tmp_path / "copy.rentgen"
    bundles.write(path, tuned.bundle)
    read_again = bundles.read(path)
    assert read_again.card.to_dict() == tuned.bundle.card.to_dict()
    assert read_again.golden.distance is not None
    np.testing.assert_array_equal(read_again.golden.distance, tuned.bundle.golden.distance)


def test_probabilities_are_those_of_the_calibration(tuned: Training) -> None:
    predictor = Predictor(tuned.bundle, precision=Precision.F32)
    record = tuned.listing.records[0]
    told = predictor.predict(record.path)
    calibration = tuned.bundle.card.calibration
    assert calibration is not None
    assert told.logits is not None
    expected = softmax(np.array(told.logits) * calibration.scale + np.array(calibration.bias))
    np.testing.assert_allclose(list(told.probabilities.values()), expected, atol=1e-6)


def test_about_as_many_validation_films_are_kept_as_were_asked_for(tuned: Training) -> None:
    held = [record.path for record in tuned.listing.records if record.split is Split.VALIDATION]
    domain = tuned.bundle.card.domain
    assert domain is not None
    told = list(Predictor(tuned.bundle, precision=Precision.F32).predict_many(held))
    near = [
        prediction for prediction in told if prediction.distance is not None and prediction.distance <= domain.threshold
    ]
    assert len(near) / len(told) == pytest.approx(domain.kept, abs=0.05)
    assert {prediction.status for prediction in told} <= {Status.OK, Status.ABSTAIN, Status.OUT_OF_SCOPE}


def test_noise_is_far_and_a_film_turned_on_its_head_is_farther_than_it_was(tuned: Training) -> None:
    predictor = Predictor(tuned.bundle, precision=Precision.F32)
    film = read(tuned.listing.records[0].path)
    plain = predictor.predict_film(film)
    grain = np.random.default_rng(0).integers(0, 256, (300, 300)).astype(np.uint8)
    noise = predictor.predict_film(Radiograph(grain, "", "png", 8))
    turned = predictor.predict_film(replace(film, pixels=film.pixels[::-1].copy()))
    assert plain.distance is not None
    assert noise.distance is not None
    assert turned.distance is not None
    # 1 is the distance that a share of the validation films keeps to.
    assert noise.distance > 2
    assert turned.distance > plain.distance


def test_scope_and_sets_decide_the_status(tuned: Training) -> None:
    bundle = tuned.bundle
    film = read(tuned.listing.records[0].path)
    assert bundle.card.conformal is not None
    wide = replace(bundle.card, domain=Domain(1e9, 0.95, 10))
    sure = replace(wide, conformal=replace(bundle.card.conformal, threshold=0.0))
    told = Predictor(replace(bundle, card=sure)).predict_film(film)
    assert told.status is Status.ABSTAIN
    assert told.prediction_set == bundle.card.classes
    assert "the model does not know: at 90% coverage it may be" in told.reasons[0]
    unlike = replace(wide, conformal=replace(bundle.card.conformal, threshold=1.1))
    told = Predictor(replace(bundle, card=unlike)).predict_film(film)
    assert told.status is Status.ABSTAIN
    assert "no class is probable enough" in told.reasons[0]
    hand = replace(film, body_part_examined="HAND")
    told = Predictor(replace(bundle, card=wide)).predict_film(hand)
    assert told.status is Status.OUT_OF_SCOPE
    assert "HAND" in told.reasons[0]
    assert told.label in bundle.card.classes


def test_bf16_is_admitted_by_its_answers_and_held_to_what_was_measured(tuned: Training) -> None:
    if "BF16" not in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip("this processor has no bf16, and asking for it is refused (test_engine_session)")
    bundle = replace(tuned.bundle, card=replace(tuned.bundle.card, tolerances={}))
    session = Session(bundle.model, precision=Precision.BF16)
    measured = measure_replay(bundle, session)
    assert measured["distance"] < 2e-3  # computed in f32 all the same
    tight = {name: value / 2 for name, value in measured.items() if value > 0}
    with pytest.raises(BundleError, match=r"The golden vectors do not replay: .* in bf16"):
        replay(replace(bundle, card=replace(bundle.card, tolerances={"bf16": tight})), session)
    refused = replace(bundle, card=replace(bundle.card, tolerances={"bf16": dict.fromkeys(measured, 0.0)}))
    assert Predictor(refused).session.precision is Precision.F32
    wide = {name: 2 * value + 1e-3 for name, value in measured.items()}
    admitted = replace(bundle, card=replace(bundle.card, tolerances={"bf16": wide}))
    assert Predictor(admitted).session.precision is Precision.BF16


def test_too_few_films_to_calibrate_on_are_named(films: Path, recipe: Recipe, tmp_path: Path) -> None:
    few = recipe.change("finetune", epochs=0).change("data", validation=0.1)
    plan = TrainingPlan(films, tmp_path / "x.rentgen", few, tmp_path / "cache", weights="random")
    with pytest.raises(DataError, match="Expected at least 10 validation films of each class to calibrate on, but got"):
        train(plan)


def test_distances_of_a_group_are_mahalanobis() -> None:
    import torch
    from scipy.spatial.distance import mahalanobis

    rng = np.random.default_rng(0)
    values = rng.normal(size=(4000, 3)) @ np.array([[2.0, 0.3, 0], [0, 1, 0.5], [0, 0, 0.2]])
    labels = (values[:, 0] > 0).astype(np.int64)
    values[labels == 1] += 5
    group = fit_group(values, labels, 1.0)
    raw = group.raw(torch.tensor(values[:20], dtype=torch.float32)).numpy()
    for label in (0, 1):
        part = values[labels == label]
        assert len(part) > LEAST_FILMS
        inverse = np.linalg.inv(np.cov(part.T))
        # Root mean square over the features, so that groups of any width compare.
        expected = [mahalanobis(row, part.mean(0), inverse) / 3**0.5 for row in values[:20]]
        np.testing.assert_allclose(raw[:, label], expected, rtol=0.02)


def test_the_commands_of_a_site(
    tuned: Training, films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = tmp_path / "tuned.rentgen"
    bundles.write(bundle, tuned.bundle)

    def call(*arguments: object) -> tuple[int, str]:
        monkeypatch.setattr("sys.argv", ["rentgen", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            main()
        told = capsys.readouterr()
        return int(stop.value.code or 0), " ".join((told.out + told.err).split())

    code, said = call("inspect", bundle)
    assert code == 0
    assert "abstain" in said
    code, said = call("evaluate", bundle, films, "--part", "test", "--stress", "--shortcuts", "--resamples", 50)
    assert code == 0
    assert "Under stress" in said
    assert "Shortcut report" in said
    code, said = call("models")
    assert code == 0
    assert "pneumonia" in said


def test_the_prevalence_of_films_without_labels_is_estimated(
    tuned: Training, films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle, site = tmp_path / "tuned.rentgen", tmp_path / "site"
    wide = replace(tuned.bundle.card, domain=Domain(1e9, 0.95, 10))
    bundles.write(bundle, replace(tuned.bundle, card=wide))
    write_set(site, films=12, rng=np.random.default_rng(77))
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "one.png").write_bytes(next(site.glob("*/*.png")).read_bytes())

    def call(*arguments: object) -> tuple[int, str]:
        out = tmp_path / "ours.rentgen"
        monkeypatch.setattr(
            "sys.argv", ["rentgen", "calibrate", str(bundle), str(site), "--out", str(out), *map(str, arguments)]
        )
        with pytest.raises(SystemExit) as stop:
            main()
        told = capsys.readouterr()
        return int(stop.value.code or 0), " ".join((told.out + told.err).split())

    code, said = call("--like", films / "normal", "--coverage", 0.8, "--resamples", 0)
    assert code == 0, said
    assert "Prevalence, estimated: consolidation" in said
    code, said = call("--like", films, "--prevalence", "normal=0.5")
    assert code == 1
    assert "Expected --prevalence or --like, but got both" in said
    code, said = call("--like", tmp_path / "none", "--coverage", 0.8)
    assert code == 1
    assert "Expected at least 10 films without labels to estimate the prevalence from, but got" in said


def test_find_lr_draws_and_trains_nothing(
    films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "tiny.toml"
    recipe.write_text(
        """
[preprocessing]
height = 96
width = 96
[augment]
views = 0
[head]
epochs = 2
[finetune]
epochs = 1
precision = "f32"
batch_size = 8
"""
    )
    out = tmp_path / "x.rentgen"
    arguments = ["rentgen", "train", films, "--out", out, "--recipe", recipe, "--backbone", "test_efficientnet"]
    arguments += ["--weights", "random", "--cache", tmp_path / "cache", "--find-lr"]
    monkeypatch.setattr("sys.argv", [str(argument) for argument in arguments])
    with pytest.raises(SystemExit) as stop:
        main()
    assert not stop.value.code
    assert not out.exists()
    assert "Suggested: finetune.learning_rate" in capsys.readouterr().out
    assert "<svg" in (tmp_path / "x-find-lr.svg").read_text()
