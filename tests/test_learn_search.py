"""The search: it goes on where it stopped, never looks at the test part, and says what choosing costs."""

from __future__ import annotations

import csv
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from rentgen import bundle as bundles
from rentgen.cli import main
from rentgen.errors import DataError, SettingError, WeightsError
from rentgen.images.phantom import Finding, write_set
from rentgen.images.phantom import write_table as draw_table
from rentgen.learn import recipe as recipes
from rentgen.learn.search.bank import Bank
from rentgen.learn.search.clock import Clock
from rentgen.learn.search.joining import join
from rentgen.learn.search.run import Found, SearchPlan, choose, search
from rentgen.learn.search.space import Sight, backbones_at_hand
from rentgen.learn.search.trials import measure_head, nested_loss, run_trial
from rentgen.parallel.pool import HERE
from rentgen.parallel.ray import Ray
from rentgen.records import Float32, Int64, Split
from rentgen.records.search import Trial

PARTS = ("train", "train", "train", "validation", "test")


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return 120 small drawn films in two classes, two of each patient, with their parts in a table."""
    folder = tmp_path_factory.mktemp("searched")
    write_set(folder / "films", films=60, rng=np.random.default_rng(3), findings=(Finding.NORMAL, Finding.EFFUSION))
    for path in (folder / "films").rglob("*.png"):
        Image.open(path).reduce(4).save(path)
    rows = []
    for name in ("normal", "effusion"):
        for path in sorted((folder / "films" / name).glob("*.png")):
            patient = path.stem.rsplit("_", 1)[0]
            rows.append((f"films/{name}/{path.name}", name, patient, ""))
    patients = {patient: PARTS[place % len(PARTS)] for place, patient in enumerate(dict.fromkeys(r[2] for r in rows))}
    _write_table(folder / "films.csv", [(path, label, who, patients[who]) for path, label, who, _ in rows])
    return folder / "films.csv"


def _write_table(path: Path, rows: list[tuple[str, ...]]) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("path", "label", "patient", "split"), *rows])


@pytest.fixture(scope="module")
def plan(films: Path, tmp_path_factory: pytest.TempPathFactory) -> SearchPlan:
    """Return a search of seconds, which repeats trial by trial."""
    folder = tmp_path_factory.mktemp("search")
    return SearchPlan(
        data=films,
        out=folder / "found.rentgen",
        minutes=60,
        cache=folder / "cache",
        backbones=("test_resnet",),
        sides=(48,),
        weights="random",
        folds=3,
        trials=14,
        sights=2,
        jobs=1,
        tuned=False,
        probed=False,
    )


@pytest.fixture
def fresh(found: Found, plan: SearchPlan, tmp_path: Path) -> SearchPlan:
    """Return the same search without a memory; the network's graph alone, which costs most, is there."""
    shutil.copytree(plan.cache / "graphs", tmp_path / "cache" / "graphs")
    return replace(plan, cache=tmp_path / "cache", out=tmp_path / "fresh.rentgen")


@pytest.fixture(scope="module")
def found(plan: SearchPlan) -> Found:
    """Return what that search finds."""
    return search(plan)


def test_the_winner_leads_the_leaderboard(found: Found) -> None:
    board = found.search.leaderboard
    assert len(found.search.trials) == 14
    assert [trial.loss for trial in board] == sorted(trial.loss for trial in board)
    assert board[0].loss == found.search.chosen_by_folds <= found.search.nested
    recipe = found.training.bundle.card.recipe
    for name, value in board[0].settings.items():
        table, key = name.split(".")
        assert recipe[table][key] == value
    assert len(found.search.opened) == 2
    assert found.search.seconds.keys() == {"audit", "features", "heads", "joining", "tuning", "closing"}


def test_the_test_part_chooses_nothing(found: Found, films: Path, fresh: SearchPlan) -> None:
    with films.open() as file:
        rows = [tuple(row) for row in csv.reader(file)][1:]
    other = {"normal": "effusion", "effusion": "normal"}
    table = films.with_name("wrong.csv")
    _write_table(table, [(p, other[label] if part == "test" else label, who, part) for p, label, who, part in rows])
    wrong = choose(replace(fresh, data=table))
    parts = [record.split for record in wrong.inner.records]
    assert Split.TEST not in parts
    assert len(parts) == sum(part != "test" for *_, part in rows) < len(rows)

    def tried(trials: tuple[Trial, ...]) -> list[tuple[object, ...]]:
        return [(trial.films, dict(trial.settings), trial.losses) for trial in trials]

    assert tried(wrong.trials) == tried(found.search.trials)


def test_a_stopped_search_goes_on(found: Found, fresh: SearchPlan) -> None:
    seen: list[Trial] = []

    def stop(trial: Trial) -> None:
        seen.append(trial)
        if len(seen) == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        choose(fresh, told=stop)
    late: list[Trial] = []
    end = choose(fresh, told=late.append)
    assert len(end.trials) == 14
    # None of what was finished is tried again.
    assert len(late) == 14 - len(seen)
    assert {trial.number for trial in late}.isdisjoint(trial.number for trial in seen)
    first = [trial.losses for trial in found.search.trials[:5]]
    assert [trial.losses for trial in end.trials[:5]] == first == [trial.losses for trial in seen]


def test_networks_that_surely_help_answer_beside_the_winner(fresh: SearchPlan) -> None:
    chosen = choose(replace(fresh, backbones=("test_resnet", "test_efficientnet", "test_vit"), trials=3, sights=3))
    first = chosen.choices[0].bank
    # The transformer's map has other places.
    assert {one.films.split(" at ")[0] for one in chosen.joined} <= {"test_resnet", "test_efficientnet"}
    assert len(chosen.joined) == (first.sight.backbone != "test_vit")
    for one in chosen.joined:
        falls = np.array(chosen.choices[0].trial.losses) - np.array(one.losses)
        assert one.gain == pytest.approx(falls.mean())
        assert one.error == pytest.approx(falls.std(ddof=1) / np.sqrt(len(falls)))
        assert one.kept == (one.gain > one.error) == (one.films.split(" at ")[0] in chosen.also)

    # A network with noise for features is left out; another whose features are the labels is not.
    rng = np.random.default_rng(0)
    noise, told = (
        Bank(replace(first.sight, backbone=name), (features, features), features)
        for name, features in (
            ("noise", rng.normal(size=(len(chosen.inner.labels), 8)).astype(np.float16)),
            ("told", np.eye(2, dtype=np.float16)[chosen.inner.labels]),
        )
    )
    also, tried = join(chosen.choices[0], [noise, told], chosen.inner, chosen.base, 0.5)
    assert also == ("told",)
    assert [one.kept for one in tried] == [True, False]


def test_heads_are_tried_by_ray_and_go_on_here(cluster: str, fresh: SearchPlan) -> None:
    there: list[Trial] = []
    wanted = replace(fresh, trials=8, sights=1, pool=Ray(cluster))
    first = choose(wanted, told=there.append)
    assert sorted(trial.number for trial in there) == list(range(8))
    assert sorted(first.trials, key=lambda trial: trial.number) == sorted(there, key=lambda trial: trial.number)
    assert not list((fresh.cache / "searches").glob(".tune*"))
    # Here, the same heads bring the same.
    late: list[Trial] = []
    here = choose(replace(wanted, trials=10, pool=HERE), told=late.append)
    assert here.trials[:8] == first.trials
    assert [trial.number for trial in late] == [8, 9]
    bank = here.choices[0].bank
    for trial in [trial for trial in first.trials if trial.whole][:3]:
        again = run_trial(bank, here.inner, here.base, trial.settings, number=0, stress_weight=0.5)
        np.testing.assert_allclose(again.losses, trial.losses, rtol=1e-5)


def test_time_that_is_over_leaves_the_least(fresh: SearchPlan) -> None:
    short = choose(replace(fresh, minutes=0.01))
    assert len(short.opened) == 1
    assert 1 <= len(short.trials) < 14


def test_by_command_with_fine_tuning(
    films: Path, plan: SearchPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rentgen.learn.search.finalists.CLOSING_S", 0.0)
    out, report, figures = tmp_path / "best.rentgen", tmp_path / "report", tmp_path / "search.json"
    words = ["search", str(films), "--out", str(out), "--report", str(report), "--json", str(figures)]
    words += ["--cache", str(plan.cache), "--backbones", "test_resnet", "--weights", "random", "--sides", "48"]
    words += ["--folds", "3", "--trials", "14", "--sights", "2", "--jobs", "1", "--minutes", "60"]
    monkeypatch.setattr(sys, "argv", ["rentgen", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code in (0, None)
    card = bundles.read(out).card
    told = json.loads(figures.read_text())
    assert {"search", "evaluation"} == told.keys()
    assert told["search"]["tuned"]
    assert [one["fate"] for one in told["search"]["tuned"]].count("behind") == 2
    page = (report / "search.html").read_text()
    assert "<script" not in page
    for part in ("Leaderboard of heads", "What choosing costs", "test_resnet at 48 px", "course-", "settings-"):
        assert part in page
    assert (report / "report.html").is_file()
    # The recipe beside it is the winner's, and can be given to `rentgen train`.
    assert recipes.load(report / "recipe.toml").to_dict() == card.recipe


def test_several_findings(fresh: SearchPlan, tmp_path: Path) -> None:
    table = draw_table(tmp_path, films=90, rng=np.random.default_rng(5))
    for film in (tmp_path / "films").iterdir():
        Image.open(film).reduce(4).save(film)
    chosen = choose(replace(fresh, data=table, trials=3, sights=1))
    assert chosen.inner.labels.ndim == 2
    assert np.isfinite(chosen.choices[0].trial.losses).all()


def test_loss_is_that_of_a_calibration_on_other_films() -> None:
    rng = np.random.default_rng(0)
    labels, fitted_labels = rng.integers(0, 2, 4000), rng.integers(0, 2, 4000)

    def logits(truth: Int64, noise: float) -> Float32:
        signal = (2.0 * truth - 1) + rng.normal(0, noise, len(truth))
        return np.stack([-3 * signal, 3 * signal], 1).astype(np.float32)

    fitted, scored = logits(fitted_labels, 1.5), logits(labels, 1.5)
    found = measure_head((fitted, fitted), fitted_labels, (scored, scored), labels, 0.5)
    platt = LogisticRegression(C=1e6, class_weight="balanced").fit(fitted[:, 1:], fitted_labels)
    weights = np.where(labels == 1, 0.5 / labels.mean(), 0.5 / (1 - labels.mean()))
    expected = log_loss(labels, platt.predict_proba(scored[:, 1:]), sample_weight=weights)
    assert found.loss == pytest.approx(expected, abs=2e-3)
    assert found.accuracy == found.stressed


def test_nested_loss_chooses_without_the_fold() -> None:
    def trial(*losses: float) -> Trial:
        return Trial(0, "", {}, losses, 0.0, 0.0, 0.0, whole=True)

    trials = [trial(0.0, 0.9, 0.9), trial(0.5, 0.5, 0.6), trial(0.9, 0.0, 0.8)]
    # Without the first fold the third trial is best (0.9 there), without the second the first (0.9), and without the
    # last again the first (0.9, for 0.45 beats 0.5, and the third draws with it but comes later).
    assert nested_loss(trials) == pytest.approx((0.9 + 0.9 + 0.9) / 3)
    assert nested_loss(trials) > min(one.loss for one in trials)


def test_time_is_shared_out() -> None:
    moment = 0.0
    clock = Clock(10, now=lambda: moment)
    clock.add(60)
    assert clock.left("features") == pytest.approx(0.3 * 600 - 60)
    moment = 100.0
    clock.end("features")
    assert clock.stages == {"features": 100.0}
    assert clock.elapsed == 160
    assert clock.left("tuning") == 440


def test_neighbours_differ_in_one_thing() -> None:
    sight = Sight("a", 224)
    for other, changed in sight.neighbours((224, 288)):
        differing = [name for name in Sight.__slots__ if getattr(sight, name) != getattr(other, name)]
        assert len(differing) == 1
        assert changed.split(" = ")[0] == differing[0]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"minutes": 0}, "minutes"),
        ({"folds": 2}, "folds"),
        ({"trials": 0}, "trial"),
    ],
)
def test_plans_that_cannot_be(plan: SearchPlan, changes: dict[str, int], expected: str) -> None:
    with pytest.raises(SettingError, match=expected):
        replace(plan, **changes)  # type: ignore[arg-type]


def test_too_few_patients(plan: SearchPlan, films: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="100 patients"):
        search(replace(plan, folds=10, cache=tmp_path))


def test_backbones_must_be_at_hand() -> None:
    with pytest.raises(WeightsError, match="no_such_network"):
        backbones_at_hand(("no_such_network",), None, 64)
    with pytest.raises(SettingError, match="once"):
        backbones_at_hand(("test_resnet", "test_resnet"), "random", 64)
