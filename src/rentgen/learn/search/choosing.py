"""The order of trying: first how films are shown and to whom, then the head, by Optuna's sampler and pruner.

What was tried lies in the cache, by the films, labels, folds and space it holds for: the same search goes on from it.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rentgen.errors import MissingExtraError
from rentgen.learn.recipe import Recipe
from rentgen.learn.search.bank import Bank, Inner
from rentgen.learn.search.clock import Clock
from rentgen.learn.search.space import FIRST_HEAD, Sight, suggest_head
from rentgen.learn.search.trials import restore_trial, run_trial
from rentgen.parallel.pool import Pool
from rentgen.parallel.ray import Ray
from rentgen.records.search import Opened, Trial

try:
    import optuna
    from optuna.storages.journal import JournalFileBackend
except ImportError as error:
    raise MissingExtraError(error.name or "optuna", "search", "the search") from error

BEST_SIGHTS = 4
"""Sets of features among which heads are searched."""
STARTUP = 10
"""Trials drawn at random before the sampler learns from them, and before any is given up."""
WORST_STEP = 1.5
"""How much longer than the longest so far a set of features may take before the clock forbids to begin it."""
KEPT = "trial"


def explore(
    open_bank: Callable[[Sight], Bank],
    firsts: Sequence[Sight],
    sides: Sequence[int],
    inner: Inner,
    base: Recipe,
    *,
    stress_weight: float,
    clock: Clock,
    most: int,
    known: Mapping[Sight, Opened],
    alike: Callable[[Sight, Sight], bool],
    told: Callable[[Sight, Opened], None],
) -> dict[Sight, Opened]:
    """Return sets of features, each tried with the first head: one of each backbone, then neighbours of the best.

    Args:
        open_bank: computes one.
        firsts: of each backbone, cheapest first; the first of them is opened whatever the time.
        sides: inputs that may be tried, pixels.
        inner: films, labels, folds.
        base: recipe of all else.
        stress_weight: share of the stressed films.
        clock: says when the time for features is over.
        most: sets.
        known: what an earlier run opened.
        alike: whether two sights show these films alike; the second is then not tried.
        told: called with each new one.
    """
    found: dict[Sight, Opened] = {}

    def attempt(sight: Sight, changed: str) -> bool:
        """Open a set if the time allows; return whether it was."""
        if sight in known:
            found[sight] = known[sight]
            return True
        if found and (len(found) >= most or _expected(sight, found) * WORST_STEP > clock.left("features")):
            return False
        before = clock.elapsed
        trial = run_trial(open_bank(sight), inner, base, FIRST_HEAD, number=0, stress_weight=stress_weight)
        found[sight] = Opened(str(sight), trial.loss, trial.error, clock.elapsed - before, changed)
        told(sight, found[sight])
        return True

    for sight in firsts:
        attempt(sight, "")
    moved = True
    while moved:
        moved = False
        best = min(found, key=lambda sight: found[sight].loss)
        for sight, changed in best.neighbours(sides):
            if sight not in found and not alike(best, sight) and attempt(sight, changed):
                moved = True
                if found[sight].loss < found[best].loss:
                    break
    return found


def _expected(sight: Sight, found: Mapping[Sight, Opened]) -> float:
    """Return the seconds that a set will take: as its backbone's did, by area; else as the dearest did."""
    same = [
        one.seconds * max(1.0, (sight.side / other.side) ** 2)
        for other, one in found.items()
        if other.backbone == sight.backbone
    ]
    return max(same or [one.seconds for one in found.values()])


def search_heads(
    banks: Sequence[Bank],
    inner: Inner,
    base: Recipe,
    *,
    stress_weight: float,
    seed: int,
    journal: Path,
    identity: str,
    clock: Clock,
    most: int,
    jobs: int,
    pool: Pool,
    told: Callable[[Trial], None],
) -> tuple[tuple[Trial, ...], dict[str, float]]:
    """Return heads that were tried on the best sets of features, and what mattered among them.

    Args:
        banks: the best sets, in a fixed order.
        inner: films, labels, folds.
        base: recipe of all else.
        stress_weight: share of the stressed films.
        seed: of the sampler.
        journal: the file in which trials are kept.
        identity: of the search.
        clock: says when the time for heads is over.
        most: trials, those of an earlier run counted.
        jobs: trials side by side; with one, the same trials come in the same order.
        pool: where it is Ray, its cluster tries them, as many side by side as it has processors.
        told: called with each new trial.
    """
    by_name = {str(bank.sight): bank for bank in banks}
    names = tuple(by_name)
    with _quiet():
        storage = optuna.storages.JournalStorage(JournalFileBackend(str(journal)))
        study = optuna.create_study(
            study_name=f"{identity}-{'|'.join(sorted(names))}",
            storage=storage,
            load_if_exists=True,
            sampler=optuna.samplers.TPESampler(seed=seed, multivariate=True, n_startup_trials=STARTUP),
            pruner=optuna.pruners.MedianPruner(n_startup_trials=STARTUP, n_warmup_steps=0),
        )
        # A trial that was cut off amid its folds is neither whole nor behind: it is left as it is.
        finished = [trial for trial in study.trials if KEPT in trial.user_attrs]
        if not study.trials:
            for name in names:
                study.enqueue_trial({"films": name, **FIRST_HEAD})

        def draw(trial: optuna.Trial) -> dict[str, Any]:
            return {"films": trial.suggest_categorical("films", names), **suggest_head(trial)}

        tried = len(finished)

        def keep(trial: optuna.Trial, done: Trial) -> None:
            nonlocal tried
            tried += 1
            trial.set_user_attr(KEPT, json.dumps(asdict(done)))
            told(done)

        def attempt(trial: optuna.Trial) -> float:
            settings = draw(trial)

            def behind(so_far: Trial) -> bool:
                if so_far.whole:
                    return False
                trial.report(so_far.loss, len(so_far.losses) - 1)
                return trial.should_prune()

            bank = by_name[settings.pop("films")]
            done = run_trial(
                bank, inner, base, settings, number=trial.number, stress_weight=stress_weight, behind=behind
            )
            keep(trial, done)
            if not done.whole:
                raise optuna.TrialPruned
            return done.loss

        def over() -> bool:
            return clock.left("heads") <= 0 and tried > 0

        def stop(study: optuna.Study, _: optuna.trial.FrozenTrial) -> None:
            if over():
                study.stop()

        wanted = most - len(finished)
        if wanted > 0 and not over():
            if isinstance(pool, Ray) and pool.inside:
                # It needs Ray, which few have.
                from rentgen.learn.search.on_ray import optimize_on_ray

                optimize_on_ray(
                    study,
                    draw,
                    by_name,
                    inner,
                    base,
                    stress_weight=stress_weight,
                    wanted=wanted,
                    folder=journal.parent,
                    over=over,
                    done=keep,
                )
            else:
                study.optimize(attempt, n_trials=wanted, n_jobs=jobs, callbacks=[stop])
        trials = tuple(restore_trial(trial.user_attrs[KEPT]) for trial in study.trials if KEPT in trial.user_attrs)
        return trials, _importance(study)


def _importance(study: optuna.Study) -> dict[str, float]:
    """Return how much each setting decides whether a trial is among the best (PED-ANOVA, Watanabe et al. 2023)."""
    whole = [trial for trial in study.trials if trial.state is optuna.trial.TrialState.COMPLETE]
    if len(whole) < 2 * STARTUP:
        return {}
    try:
        found: Mapping[str, float] = optuna.importance.get_param_importances(
            study, evaluator=optuna.importance.PedAnovaImportanceEvaluator()
        )
    except (ValueError, RuntimeError):  # all trials alike, or a setting that never varied
        return {}
    return {name: float(value) for name, value in found.items()}


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Optuna's own lines, and its warnings of what it calls experimental, off the terminal."""
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(level)


@dataclass(frozen=True, slots=True)
class Choice:
    """What the folds choose.

    Attributes:
        trial: the winner.
        bank: its features.
    """

    trial: Trial
    bank: Bank


def best_of_each(trials: Sequence[Trial], banks: Sequence[Bank]) -> tuple[Choice, ...]:
    """Return the best whole trial of each set of features, best first."""
    by_name = {str(bank.sight): bank for bank in banks}
    best: dict[str, Trial] = {}
    for trial in trials:
        if trial.whole and (trial.films not in best or trial.loss < best[trial.films].loss):
            best[trial.films] = trial
    ranked = sorted(best.values(), key=lambda trial: trial.loss)
    return tuple(Choice(trial, by_name[trial.films]) for trial in ranked)
