"""`rentgen search` beside FLAML on the same films in the same time, and the paper's recipe with neither.

    pip install 'flaml[automl]'
    python bench/search.py FILMS --minutes 30

FLAML (Wang et al., MLSys 2021) has no road from films: it gets the features that a user of it would compute, those of
the paper's recipe, and their time is taken off its minutes. It chooses over folds of patients, among the films that
choose for the search, too; nobody has the test part before the end. Differences are over patients drawn anew, the same
for both.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
from sklearn.metrics import log_loss, roc_auc_score

from rentgen.data.split import select
from rentgen.learn import backbones
from rentgen.learn.features import Film, extract, view_key
from rentgen.learn.frozen import Start
from rentgen.learn.parts import Shared, share_out
from rentgen.learn.recipe import load
from rentgen.learn.search.run import SearchPlan, search
from rentgen.learn.search.space import base_recipe
from rentgen.learn.training import Training, TrainingPlan, train
from rentgen.records import Float64, ImageRecord, Int64, Split, truth_of

RESAMPLES = 1000


def main() -> None:
    """Run all three and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("films", type=Path, help="two classes")
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument(
        "--backbone", default="tf_efficientnet_lite0", help="of FLAML's features and of the paper's recipe"
    )
    parser.add_argument("--weights", help="`random` tries the bench itself")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        _compare(arguments, Path(folder))


def _compare(arguments: argparse.Namespace, folder: Path) -> None:
    shared = share_out(arguments.films, base_recipe(arguments.seed).data)
    test = select(shared.listing, Split.TEST).records
    truth = truth_of(test, shared.listing.classes, shared.listing.task)
    patients = np.unique([record.patient for record in test], return_inverse=True)[1]
    answers = {
        "rentgen search": _search(arguments, shared, folder / "search"),
        "FLAML on features": _flaml(arguments, shared, folder / "flaml"),
        "paper's recipe": _paper(arguments, shared, folder / "paper"),
    }
    print(f"{len(test)} films of {patients.max() + 1} patients in the test part, {arguments.minutes:g} minutes each\n")
    print("| | minutes | accuracy | AUROC | log loss |\n|---|---|---|---|---|")
    for name, (answer, minutes) in answers.items():
        accuracy, area, loss = figures(answer, truth)
        print(f"| {name} | {minutes:.1f} | {accuracy:.3f} | {area:.4f} | {loss:.3f} |")
    own = answers["rentgen search"][0]
    for name in list(answers)[1:]:
        found = difference(own, answers[name][0], truth, patients)
        told = (
            f"{what} {middle:+.4f} ({low:+.4f} to {high:+.4f})"
            for what, (low, middle, high) in zip(("accuracy", "AUROC", "log loss"), found.T, strict=True)
        )
        print(f"\nsearch less {name}: {', '.join(told)}")


def figures(answer: Float64, truth: Int64) -> tuple[float, float, float]:
    """Return accuracy, AUROC and log loss of probabilities (films, 2)."""
    return (
        float((answer.argmax(1) == truth).mean()),
        float(roc_auc_score(truth, answer[:, 1])),
        float(log_loss(truth, answer.clip(1e-6, 1 - 1e-6))),
    )


def difference(one: Float64, other: Float64, truth: Int64, patients: Int64) -> Float64:
    """Return (3, 3): the 2.5th, 50th and 97.5th percentile of the differences of `figures`, patients drawn anew."""
    rng = np.random.default_rng(0)
    films = [np.flatnonzero(patients == patient) for patient in range(patients.max() + 1)]
    found: list[Float64] = []
    while len(found) < RESAMPLES:
        rows = np.concatenate([films[patient] for patient in rng.integers(0, len(films), len(films))])
        if len(np.unique(truth[rows])) == 2:
            found.append(np.subtract(figures(one[rows], truth[rows]), figures(other[rows], truth[rows])))
    result: Float64 = np.percentile(found, [2.5, 50, 97.5], axis=0)
    return result


def _told(training: Training) -> Float64:
    predictions = training.test.predictions if training.test is not None else ()
    return np.array([list(prediction.probabilities.values()) for prediction in predictions])


def _search(arguments: argparse.Namespace, shared: Shared, folder: Path) -> tuple[Float64, float]:
    started = time.monotonic()
    plan = SearchPlan(
        data=arguments.films,
        out=folder / "found.rentgen",
        minutes=arguments.minutes,
        cache=folder / "cache",
        weights=arguments.weights,
        seed=arguments.seed,
        jobs=arguments.jobs,
    )
    found = search(plan).training
    order = {record.path: number for number, record in enumerate(select(found.listing, Split.TEST).records)}
    rows = [order[record.path] for record in select(shared.listing, Split.TEST).records]
    return _told(found)[rows], (time.monotonic() - started) / 60


def _paper(arguments: argparse.Namespace, shared: Shared, folder: Path) -> tuple[Float64, float]:
    started = time.monotonic()
    recipe = load("paper").change("backbone", name=arguments.backbone).change("head", seed=arguments.seed)
    plan = TrainingPlan(
        arguments.films, folder / "paper.rentgen", recipe, folder / "cache", weights=arguments.weights, probed=False
    )
    return _told(train(plan, shared=shared)), (time.monotonic() - started) / 60


def _flaml(arguments: argparse.Namespace, shared: Shared, folder: Path) -> tuple[Float64, float]:
    from flaml import AutoML

    started = time.monotonic()
    recipe = load("paper").change("backbone", name=arguments.backbone).change("augment", views=0)
    size = recipe.preprocessing.height, recipe.preprocessing.width
    start = Start(recipe, backbones.load(recipe.backbone.name, weights=arguments.weights, size=size))
    folder.mkdir()
    store = extract(
        [Film(record.path, shared.examined.hashes[record.path], 0) for record in shared.listing.records],
        start.extractor(folder),
        recipe.preprocessing,
        recipe.augment,
        cache=folder,
    )

    def features(records: tuple[ImageRecord, ...]) -> Float64:
        keys = [view_key(shared.examined.hashes[record.path], 0, recipe.augment, 0) for record in records]
        return store.gather(keys, folder).astype(np.float64)

    teach = tuple(record for part in (Split.TRAIN, Split.VALIDATION) for record in select(shared.listing, part).records)
    automl = AutoML()
    automl.fit(
        features(teach),
        truth_of(teach, shared.listing.classes, shared.listing.task),
        task="classification",
        metric="log_loss",
        time_budget=60 * arguments.minutes - (time.monotonic() - started),
        eval_method="cv",
        n_splits=5,
        split_type="group",
        groups=np.unique([record.patient for record in teach], return_inverse=True)[1],
        n_jobs=arguments.jobs,
        seed=arguments.seed,
        verbose=0,
    )
    answer: Float64 = automl.predict_proba(features(select(shared.listing, Split.TEST).records))
    print(f"FLAML chose {automl.best_estimator}\n")
    return answer, (time.monotonic() - started) / 60


if __name__ == "__main__":
    main()
