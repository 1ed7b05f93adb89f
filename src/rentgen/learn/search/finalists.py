"""The best frozen networks, trained on as a whole: as far as the time reaches, and kept only where that is better."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from rentgen.engine.session import best_precision
from rentgen.learn import backbones
from rentgen.learn.choice import calibrated_loss
from rentgen.learn.export import TorchClassifier
from rentgen.learn.find_rate import find_rate
from rentgen.learn.finetune import FineTuning, answer, finetune
from rentgen.learn.frozen import Start, open_starts
from rentgen.learn.members import FittedFilms, Member, plan_member, read_part
from rentgen.learn.parts import Shared
from rentgen.learn.recipe import Recipe, load
from rentgen.learn.search.choosing import Choice
from rentgen.learn.search.clock import Clock
from rentgen.learn.search.space import BASE, settle
from rentgen.parallel.pool import Pool
from rentgen.records import History, Precision, Progress, Split
from rentgen.records.search import Tuned

MOST_EPOCHS = 10
LEAST_EPOCHS = 3
"""Fewer teach the whole network too little to be worth their time."""
PACE_STEPS = (2, 6)
"""Steps that are timed; the fewer are taken off the more, and with them what only the first step costs."""
CLOSING_S = 30.0
CLOSING_FILMS = 24
"""What follows (graph, calibration, judgement, stress, shortcuts, heat maps) takes about so many seconds, and as long
as so many looks of the network at each film of the validation and test parts."""


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """What fine-tuning brought.

    Attributes:
        recipe: of the winner, frozen or not.
        fitted: what was trained and how that went; None where the frozen network stays.
        frozen_loss: on the validation part, nats; nan where nothing was tuned.
        tuned: candidates.
        left_out: what there was no time for.
    """

    recipe: Recipe
    fitted: tuple[tuple[Member, ...], History] | None
    frozen_loss: float
    tuned: tuple[Tuned, ...]
    left_out: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class _Candidate:
    films: str
    recipe: Recipe
    task: FineTuning
    epoch_s: float


def tune(
    choices: Sequence[Choice],
    also: tuple[str, ...],
    shared: Shared,
    base: Recipe,
    *,
    stress_weight: float,
    weights: str | None,
    cache: Path,
    pool: Pool,
    clock: Clock,
    progress: Progress | None = None,
) -> Outcome:
    """Return the winner after fine-tuning the best, each for an epoch and the best of them to the end.

    Args:
        choices: best of each set of features, best first.
        also: networks that answer beside the frozen winner's.
        shared: the films; those of the test part are not looked at.
        base: recipe of all else.
        stress_weight: share of the stressed films in what is compared.
        weights: as of `backbones.load`.
        cache: where features are.
        pool: who reads films and computes features.
        clock: the time that is left.
        progress: stage `finetune`.
    """
    frozen = settle(base, choices[0].bank.sight, choices[0].trial.settings).change("backbone", also=also)
    with tempfile.TemporaryDirectory(dir=cache, prefix="films-") as scratch:
        first = _candidate(choices[0], shared, base, weights, cache, Path(scratch), pool)
        closing = closing_seconds(shared, (1 + len(also)) * _look_s(first))
        epochs = int((clock.left("tuning") - closing) / first.epoch_s)
        if epochs < LEAST_EPOCHS:
            sentence = (
                f"Fine-tuning: an epoch takes about {first.epoch_s:.0f} s here, and there was time for "
                f"{max(0, epochs)}. Give more minutes."
            )
            return Outcome(frozen, None, float("nan"), (), (sentence,))
        starts = open_starts(frozen, weights)
        standing = [Member(start.backbone, start.train_head(shared, cache, None, pool)[0]) for start in starts]
        before = _loss(standing, first.task, stress_weight)
        candidates, tuned = [first], []
        left_out: tuple[str, ...] = ()
        if epochs >= 3 * LEAST_EPOCHS and len(choices) > 1:
            candidates.append(_candidate(choices[1], shared, base, weights, cache, Path(scratch), pool))
            losses = []
            for candidate in candidates:
                started = time.monotonic()
                losses.append(_train(candidate, 1, stress_weight, pool, progress)[2])
                tuned.append(Tuned(candidate.films, 1, losses[-1], time.monotonic() - started, "behind"))
            first = candidates[int(np.argmin(losses))]
            epochs = int((clock.left("tuning") - closing) / first.epoch_s)
        else:
            left_out = ("A second candidate of fine-tuning: there was time for one.",)
        epochs = min(MOST_EPOCHS, max(1, epochs))
        started = time.monotonic()
        member, history, loss = _train(
            first, epochs, stress_weight, pool, progress, over=lambda: clock.left("tuning") - closing < first.epoch_s
        )
        done = len(history.parts["train"])
        if done < epochs and done - 1 - history.best_epoch < first.task.settings.patience:
            left_out += (f"Fine-tuning: {epochs - done} of {epochs} epochs; it was slower than its first steps.",)
        better = loss < before
        fate = "chosen" if better else "no better"
        tuned.append(Tuned(first.films, done, loss, time.monotonic() - started, fate))
    if not better:
        return Outcome(frozen, None, before, tuple(tuned), left_out)
    recipe = first.recipe.change("finetune", epochs=epochs)
    return Outcome(recipe, ((member,), history), before, tuple(tuned), left_out)


def closing_seconds(shared: Shared, look_s: float) -> float:
    """Return how long the end of a training takes, about.

    Args:
        shared: the films.
        look_s: seconds for one film through the network.
    """
    films = sum(record.split is not Split.TRAIN for record in shared.listing.records)
    return CLOSING_S + CLOSING_FILMS * films * look_s


def _candidate(
    choice: Choice, shared: Shared, base: Recipe, weights: str | None, cache: Path, scratch: Path, pool: Pool
) -> _Candidate:
    """Return what is to be tuned, in the arithmetic that is faster here, and what an epoch of it costs."""
    tables = load(BASE)
    recipe = settle(base, choice.bank.sight, choice.trial.settings)
    recipe = replace(recipe, finetune=replace(tables.finetune, seed=recipe.finetune.seed), shift=tables.shift)
    size = (recipe.preprocessing.height, recipe.preprocessing.width)
    backbone = backbones.load(recipe.backbone.name, weights=weights, size=size, normalise=recipe.backbone.normalise)
    head, _ = Start(recipe, backbone).train_head(shared, cache, None, pool)
    folder = Path(tempfile.mkdtemp(dir=scratch))
    parts = {
        part: read_part(shared.listing, part, shared.examined.hashes, recipe.preprocessing, folder, None, pool)
        for part in (Split.TRAIN, Split.VALIDATION)
    }
    paces = {}
    for precision in ("f32", "bf16") if best_precision() is Precision.BF16 else ("f32",):
        other = recipe.change("finetune", precision=precision)
        task = _task(other, Member(backbone, head), parts, cache)
        paces[precision] = _pace(task), other, task
    step_s, recipe, task = min(paces.values(), key=lambda pace: pace[0])
    steps = max(1, len(task.parts["train"]) // recipe.finetune.batch_size)
    looks = 2 * len(task.parts["validation"]) * step_s / recipe.finetune.batch_size / 2
    return _Candidate(str(choice.bank.sight), recipe, task, steps * step_s + looks)


def _task(recipe: Recipe, start: Member, parts: Mapping[Split, FittedFilms], cache: Path) -> FineTuning:
    empty = replace(
        parts[Split.VALIDATION],
        images=parts[Split.VALIDATION].images[:0],
        labels=parts[Split.VALIDATION].labels[:0],
        identity="",
    )
    return plan_member(recipe, 0, start, {**parts, Split.TEST: empty}, cache)


def _pace(task: FineTuning) -> float:
    """Return the seconds of a step."""
    taken = []
    for steps in PACE_STEPS:
        started = time.monotonic()
        find_rate(task, steps=steps)
        taken.append(time.monotonic() - started)
    return max(1e-4, (taken[1] - taken[0]) / (PACE_STEPS[1] - PACE_STEPS[0]))


def _look_s(candidate: _Candidate) -> float:
    films = len(candidate.task.parts["train"]) + len(candidate.task.parts["validation"])
    # Training a film costs about three looks of torch at it, and the engine needs half of torch's time.
    return candidate.epoch_s / max(1, films) / 6


def _train(
    candidate: _Candidate,
    epochs: int,
    stress_weight: float,
    pool: Pool,
    progress: Progress | None,
    over: Callable[[], bool] | None = None,
) -> tuple[Member, History, float]:
    settings = replace(candidate.task.settings, epochs=epochs)
    task = replace(
        candidate.task,
        settings=settings,
        checkpoint=candidate.task.checkpoint.with_name(f"search-{epochs}-{candidate.task.checkpoint.name}"),
    )
    backbone, head, history = finetune(task, pool=pool, over=over, progress=progress)
    member = Member(backbone, head)
    return member, history, _loss([member], task, stress_weight)


def _loss(members: Sequence[Member], task: FineTuning, stress_weight: float) -> float:
    """Return what fine-tuning chooses epochs by, of any members together."""
    models = [TorchClassifier(member.backbone, member.head) for member in members]
    losses = {}
    for name in ("validation", "stress"):
        part = task.parts[name]
        logits = torch.stack([answer(model, part) for model in models]).mean(0)
        losses[name] = calibrated_loss(logits.numpy(), part.labels)
    return (1 - stress_weight) * losses["validation"] + stress_weight * losses["stress"]
