"""A search from films to a proven bundle."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import torch

from rentgen import bundle as bundles
from rentgen.errors import SettingError
from rentgen.learn import backbones
from rentgen.learn.backbones import Backbone
from rentgen.learn.frozen import Start
from rentgen.learn.parts import Shared, share_out
from rentgen.learn.recipe import Recipe
from rentgen.learn.search.bank import Bank, Inner, inner_films, open_bank, shown_alike
from rentgen.learn.search.choosing import BEST_SIGHTS, WORST_STEP, Choice, best_of_each, explore, search_heads
from rentgen.learn.search.clock import Clock
from rentgen.learn.search.finalists import Outcome, tune
from rentgen.learn.search.joining import join
from rentgen.learn.search.memory import Memory
from rentgen.learn.search.space import SIDES, Sight, backbones_at_hand, base_recipe, settle
from rentgen.learn.search.trials import nested_loss
from rentgen.learn.training import Training, TrainingPlan, train
from rentgen.parallel.local import cores
from rentgen.parallel.pool import HERE, Pool
from rentgen.records import Progress
from rentgen.records.search import Joined, Opened, Search, Trial

SPACE_VERSION = 1
"""Raise it when the space or the measure changes: trials of another do not compare."""
STRESS_WEIGHT = 0.5
MOST_TRIALS = 1000
MOST_SIGHTS = 24
MOST_FILMS = 20_000
"""Among which is chosen; the final training has them all."""


@dataclass(frozen=True, slots=True)
class SearchPlan:
    """What to search.

    Attributes:
        data: folder or CSV.
        out: the bundle to write.
        minutes: for all of it; what an earlier run of the same search took counts.
        cache: where features, checkpoints and trials are kept.
        test: films that only measure, in place of a part of `data`.
        backbones: networks that may be used; by default those whose weights are at hand.
        sides: of their input, pixels, the first to begin with.
        weights: `random`, or None for the pretrained ones.
        patient_pattern: finds the patient in a file name.
        findings: of a table of several findings, those to learn.
        licences: of the data, in words.
        command: that is noted in the card.
        seed: of parts, folds and sampler.
        folds: into which patients are dealt, in [3, 10].
        trials: at most so many heads.
        sights: at most so many sets of features.
        jobs: trials side by side in this process; the number of usable processors by default.
        tuned: whether the best are fine-tuned.
        probed: as of `TrainingPlan`.
        pool: who reads films, computes features, tries heads, fine-tunes and predicts.
    """

    data: Path
    out: Path
    minutes: float
    cache: Path
    test: Path | None = None
    backbones: tuple[str, ...] = ()
    sides: tuple[int, ...] = SIDES
    weights: str | None = None
    patient_pattern: str | None = None
    findings: tuple[str, ...] = ()
    licences: tuple[str, ...] = ()
    command: str = ""
    seed: int = 0
    folds: int = 5
    trials: int = MOST_TRIALS
    sights: int = MOST_SIGHTS
    jobs: int = 0
    tuned: bool = True
    probed: bool = True
    pool: Pool = HERE

    def __post_init__(self) -> None:
        if not 0 < self.minutes <= 100_000:
            raise SettingError(f"Expected minutes in (0, 100000], but got {self.minutes}.")
        if not 3 <= self.folds <= 10:
            raise SettingError(f"Expected folds in [3, 10], but got {self.folds}.")
        if self.trials < 1 or self.sights < 1:
            raise SettingError("Expected at least one trial and one set of features.")


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """What came of it.

    Attributes:
        search: what was tried and chosen.
        training: the winner, as `train` gives it.
    """

    search: Search
    training: Training


@dataclass(frozen=True, slots=True, eq=False)
class Chosen:
    """What the folds chose, before anything was fine-tuned or measured on the test part.

    Attributes:
        shared: the films with their parts.
        inner: those among which was chosen.
        base: recipe of what was not.
        opened: sets of features.
        trials: heads.
        importance: of the settings.
        choices: best of each set of features, best first.
        also: networks that answer beside the winner's.
        joined: those that were tried.
        clock: the time that is left.
    """

    shared: Shared
    inner: Inner
    base: Recipe
    opened: tuple[Opened, ...]
    trials: tuple[Trial, ...]
    importance: Mapping[str, float]
    choices: tuple[Choice, ...]
    also: tuple[str, ...]
    joined: tuple[Joined, ...]
    clock: Clock


def search(plan: SearchPlan, *, progress: Progress | None = None, told: Callable[[Trial], None] | None = None) -> Found:
    """Choose features, head and training within the time, then train, judge and write the winner.

    The test part is held back before anything is chosen and measures the winner, once. Among the others, patients are
    dealt into folds (`search.trials`).

    Args:
        plan: what to search.
        progress: stages of `train`, and `trials`.
        told: called with each new trial.

    Raises:
        DataError: as of `train`, or too few patients to choose by.
        WeightsError: no backbone can be had.
        BundleError: the bundle cannot be written.
        SettingError: as of `SearchPlan`.
    """
    bundles.check_place(plan.out)
    chosen = choose(plan, progress=progress, told=told)
    inner, clock = chosen.inner, chosen.clock
    outcome = _tune(plan, chosen, progress)
    clock.end("tuning")
    training = train(_training_plan(plan, outcome), shared=chosen.shared, fitted=outcome.fitted, progress=progress)
    clock.end("closing")
    left_out = outcome.left_out
    if len(inner.records) < inner.in_all:
        left_out += (f"Choosing looked at {len(inner.records)} of {inner.in_all} films; the training had them all.",)
    return Found(
        Search(
            opened=chosen.opened,
            trials=chosen.trials,
            importance=chosen.importance,
            folds=inner.folds,
            films=len(inner.records),
            films_in_all=inner.in_all,
            stress_weight=STRESS_WEIGHT,
            chosen_by_folds=chosen.choices[0].trial.loss,
            nested=nested_loss([trial for trial in chosen.trials if trial.whole]),
            joined=chosen.joined,
            frozen_loss=outcome.frozen_loss,
            tuned=outcome.tuned,
            recipe=training.bundle.card.recipe,
            seconds=clock.stages,
            minutes=plan.minutes,
            left_out=left_out,
        ),
        training,
    )


def choose(
    plan: SearchPlan, *, progress: Progress | None = None, told: Callable[[Trial], None] | None = None
) -> Chosen:
    """Return what the folds choose; arguments and errors as of `search`."""
    plan.cache.mkdir(parents=True, exist_ok=True)
    networks = backbones_at_hand(plan.backbones, plan.weights, plan.sides[0])
    base = base_recipe(plan.seed)
    clock = Clock(plan.minutes)
    shared = share_out(
        plan.data,
        base.data,
        test=plan.test,
        patient_pattern=plan.patient_pattern,
        findings=plan.findings,
        progress=progress,
        pool=plan.pool,
    )
    inner = inner_films(shared, plan.folds, MOST_FILMS, plan.seed)
    memory = Memory.open(plan.cache / "searches", _identify(plan, inner, networks))
    clock.end("audit")
    clock.add(memory.seconds)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        opened, banks = _explore(plan, networks, base, inner, memory, clock, progress)
        clock.end("features")
        trials, importance = _try_heads(plan, base, inner, memory, banks, clock, progress, told)
        clock.end("heads")
        choices = best_of_each(trials, banks)
        others = _others(plan, networks, base, inner, memory, choices[0].bank.sight, clock, progress)
        also, joined = join(choices[0], others, inner, base, STRESS_WEIGHT) if others else ((), ())
        clock.end("joining")
    finally:
        torch.set_num_threads(threads)
        memory.keep(clock)
    return Chosen(shared, inner, base, opened, trials, importance, choices, also, joined, clock)


def _identify(plan: SearchPlan, inner: Inner, networks: Mapping[str, Backbone]) -> str:
    """Return what decides every trial of a search."""
    what = [inner.identity, SPACE_VERSION, version("rentgen"), plan.seed, STRESS_WEIGHT, list(plan.sides)]
    what += [[name, network.weights_sha256] for name, network in networks.items()]
    return hashlib.sha256(json.dumps(what).encode()).hexdigest()[:24]


def _tune(plan: SearchPlan, chosen: Chosen, progress: Progress | None) -> Outcome:
    if plan.tuned:
        return tune(
            chosen.choices,
            chosen.also,
            chosen.shared,
            chosen.base,
            stress_weight=STRESS_WEIGHT,
            weights=plan.weights,
            cache=plan.cache,
            pool=plan.pool,
            clock=chosen.clock,
            progress=progress,
        )
    best = chosen.choices[0]
    recipe = settle(chosen.base, best.bank.sight, best.trial.settings).change("backbone", also=chosen.also)
    return Outcome(recipe, None, math.nan, (), ("Fine-tuning: not asked for.",))


def _open(plan: SearchPlan, sight: Sight, base: Recipe, inner: Inner, progress: Progress | None) -> Bank:
    recipe = sight.recipe(base)
    network = backbones.load(
        sight.backbone, weights=plan.weights, size=(sight.side, sight.side), normalise=sight.normalise
    )
    return open_bank(Start(recipe, network), sight, inner, plan.cache, progress, plan.pool)


def _others(
    plan: SearchPlan,
    networks: dict[str, Backbone],
    base: Recipe,
    inner: Inner,
    memory: Memory,
    best: Sight,
    clock: Clock,
    progress: Progress | None,
) -> tuple[Bank, ...]:
    """Return other networks' features of films shown as the winner sees them, as far as the time reaches."""
    found = []
    for name in networks:
        sight = replace(best, backbone=name)
        # What answers together must look at films in the same places.
        if name == best.backbone or networks[name].grid != networks[best.backbone].grid:
            continue
        longest = max(one.seconds for one in memory.opened.values())
        if sight in memory.opened or WORST_STEP * longest < clock.left("joining"):
            found.append(_open(plan, sight, base, inner, progress))
    return tuple(found)


def _explore(
    plan: SearchPlan,
    networks: dict[str, Backbone],
    base: Recipe,
    inner: Inner,
    memory: Memory,
    clock: Clock,
    progress: Progress | None,
) -> tuple[tuple[Opened, ...], tuple[Bank, ...]]:
    def begin(sight: Sight) -> Bank:
        return _open(plan, sight, base, inner, progress)

    def alike(one: Sight, other: Sight) -> bool:
        if (one.backbone, one.normalise) != (other.backbone, other.normalise):
            return False
        return shown_alike(inner, one.recipe(base).preprocessing, other.recipe(base).preprocessing)

    def note(sight: Sight, one: Opened) -> None:
        memory.opened[sight] = one
        memory.keep(clock)

    found = explore(
        begin,
        [Sight(name, plan.sides[0]) for name in networks],
        plan.sides,
        inner,
        base,
        stress_weight=STRESS_WEIGHT,
        clock=clock,
        most=plan.sights,
        known=dict(memory.opened),
        alike=alike,
        told=note,
    )
    best = sorted(found, key=lambda sight: found[sight].loss)[:BEST_SIGHTS]
    banks = tuple(begin(sight) for sight in best)
    return tuple(found.values()), banks


def _try_heads(
    plan: SearchPlan,
    base: Recipe,
    inner: Inner,
    memory: Memory,
    banks: tuple[Bank, ...],
    clock: Clock,
    progress: Progress | None,
    told: Callable[[Trial], None] | None,
) -> tuple[tuple[Trial, ...], dict[str, float]]:
    count, best = 0, float("inf")

    def note(trial: Trial) -> None:
        nonlocal count, best
        count += 1
        best = min(best, trial.loss) if trial.whole else best
        memory.keep(clock)
        if progress is not None:
            left = max(0, round(clock.left("heads")))
            progress("trials", count, plan.trials, f"best loss {best:.4f}, {left // 60} min {left % 60:02d} s left")
        if told is not None:
            told(trial)

    return search_heads(
        banks,
        inner,
        base,
        stress_weight=STRESS_WEIGHT,
        seed=plan.seed,
        journal=memory.journal,
        identity=memory.identity,
        clock=clock,
        most=plan.trials,
        jobs=plan.jobs or cores(),
        pool=plan.pool,
        told=note,
    )


def _training_plan(plan: SearchPlan, outcome: Outcome) -> TrainingPlan:
    return TrainingPlan(
        data=plan.data,
        out=plan.out,
        recipe=outcome.recipe,
        cache=plan.cache,
        test=plan.test,
        weights=plan.weights,
        patient_pattern=plan.patient_pattern,
        licences=plan.licences,
        command=plan.command,
        findings=plan.findings,
        probed=plan.probed,
        pool=plan.pool,
    )
