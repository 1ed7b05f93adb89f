"""Heads tried by Ray Tune: it places the trials; Optuna's study says what to try, what is behind, and remembers.

The study, its sampler and its pruner are those of a search on one machine, and so is the journal: a search that was
begun in one of the ways goes on in the other. Imported by who has a cluster already.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import optuna
import torch
from ray import tune
from ray.tune.search import Searcher
from ray.tune.stopper import Stopper

from rentgen.errors import PeerError
from rentgen.learn.recipe import Recipe
from rentgen.learn.search.bank import Bank, Inner
from rentgen.learn.search.trials import restore_trial, run_trial
from rentgen.records.search import Trial

NOTES = ".tune"
"""Ray Tune's own notes, beside the journal; removed when it is over."""
SO_FAR, LOSS = "so_far", "loss"


class _Asked(Searcher):  # type: ignore[misc]
    """The study as Tune sees it.

    Attributes:
        asked: trials that are tried, by Tune's name for them.
        behind: names of those that the pruner gave up.
    """

    def __init__(
        self,
        study: optuna.Study,
        suggest: Callable[[optuna.Trial], Mapping[str, Any]],
        done: Callable[[optuna.Trial, Trial], None],
    ) -> None:
        super().__init__(metric=LOSS, mode="min")
        self._study, self._draw, self._done = study, suggest, done
        self.asked: dict[str, optuna.Trial] = {}
        self.behind: set[str] = set()

    def suggest(self, trial_id: str) -> dict[str, Any]:
        self.asked[trial_id] = self._study.ask()
        return {"settings": dict(self._draw(self.asked[trial_id]))}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        asked = self.asked.pop(trial_id)
        trial = None if error or not result or SO_FAR not in result else restore_trial(result[SO_FAR])
        if trial is None or not (trial.whole or trial_id in self.behind):
            # Cut off amid its folds, it is neither whole nor behind.
            self._study.tell(asked, state=optuna.trial.TrialState.FAIL)
            return
        self._done(asked, replace(trial, number=asked.number))
        if trial.whole:
            self._study.tell(asked, trial.loss)
        else:
            self._study.tell(asked, state=optuna.trial.TrialState.PRUNED)

    def save(self, checkpoint_path: str) -> None:
        """Write nothing: the journal is what is kept."""

    def restore(self, checkpoint_path: str) -> None:
        """Read nothing."""


class _Behind(Stopper):  # type: ignore[misc]
    """Gives up what the study's pruner calls behind, and everything when the time is over."""

    def __init__(self, searcher: _Asked, over: Callable[[], bool]) -> None:
        self._searcher, self._over = searcher, over

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        trial = restore_trial(result[SO_FAR])
        if trial.whole:
            return True
        asked = self._searcher.asked[trial_id]
        asked.report(trial.loss, len(trial.losses) - 1)
        if asked.should_prune():
            self._searcher.behind.add(trial_id)
            return True
        return False

    def stop_all(self) -> bool:
        return self._over()


def optimize_on_ray(
    study: optuna.Study,
    suggest: Callable[[optuna.Trial], Mapping[str, Any]],
    banks: Mapping[str, Bank],
    inner: Inner,
    base: Recipe,
    *,
    stress_weight: float,
    wanted: int,
    folder: Path,
    over: Callable[[], bool],
    done: Callable[[optuna.Trial, Trial], None],
) -> None:
    """Try heads on the cluster that this process has joined, until so many were tried or the time is over.

    Args:
        study: says what to try, and takes what came.
        suggest: draws `films`, the name of a bank, and the head's settings.
        banks: features by name; each node has them once in Ray's object store.
        inner: films, labels, folds.
        base: recipe of all else.
        stress_weight: share of the stressed films.
        wanted: trials.
        folder: for Ray Tune's notes while it runs.
        over: whether the time for heads is over.
        done: called with each trial that came to its end or was given up, before the study is told.

    Raises:
        PeerError: a trial failed.
    """
    searcher = _Asked(study, suggest, done)
    # Its table and its files are for its own users.
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    logging.getLogger("ray.tune").setLevel(logging.ERROR)
    notes = folder / NOTES
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            results = tune.Tuner(
                tune.with_resources(
                    tune.with_parameters(
                        _attempt, banks=dict(banks), inner=inner, base=base, stress_weight=stress_weight
                    ),
                    {"cpu": 1},
                ),
                tune_config=tune.TuneConfig(search_alg=searcher, num_samples=wanted, reuse_actors=True),
                run_config=tune.RunConfig(
                    name="heads", storage_path=str(notes.absolute()), stop=_Behind(searcher, over), verbose=0
                ),
            ).fit()
    finally:
        shutil.rmtree(notes, ignore_errors=True)
    if results.num_errors:
        told = str(results.errors[0]).strip().splitlines()
        raise PeerError(f"{results.num_errors} trials on Ray failed: {told[-1][:500] if told else ''}")


def _attempt(
    config: Mapping[str, Any], *, banks: Mapping[str, Bank], inner: Inner, base: Recipe, stress_weight: float
) -> None:
    """Try one head, in a process of Ray's, and say after each fold how it does."""
    torch.set_num_threads(1)
    settings = dict(config["settings"])

    def tell(trial: Trial) -> bool:
        tune.report({LOSS: trial.loss, SO_FAR: json.dumps(asdict(trial))})
        return False

    run_trial(banks[settings.pop("films")], inner, base, settings, number=0, stress_weight=stress_weight, behind=tell)
