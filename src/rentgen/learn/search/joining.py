"""Several networks together: the winner's head trained alike on others, as long as their mean is surely better.

Networks that were taught otherwise err otherwise, and the mean of their logits errs less (Hansen and Salamon 1990).
They are added one by one, the one that helps most first (Caruana et al., ICML 2004), on the folds that chose the
winner; a network stays only where the loss falls by more than the standard error of its fall, because each costs its
own time with every film.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import reduce

import numpy as np

from rentgen.learn.recipe import Recipe
from rentgen.learn.search.bank import Bank, Inner
from rentgen.learn.search.choosing import Choice
from rentgen.learn.search.space import settle
from rentgen.learn.search.trials import Answers, answer_fold, measure_answers
from rentgen.records import Float64
from rentgen.records.search import Joined


def join(
    choice: Choice, others: Sequence[Bank], inner: Inner, base: Recipe, stress_weight: float
) -> tuple[tuple[str, ...], tuple[Joined, ...]]:
    """Return the networks to answer beside the winner, and what was tried.

    Args:
        choice: the winner among the heads.
        others: features of the same films, shown alike, of other networks.
        inner: films, labels, folds.
        base: recipe of all else.
        stress_weight: share of the stressed films in the loss.
    """
    banks = {bank.sight.backbone: bank for bank in (choice.bank, *others)}
    answers = {
        name: [
            answer_fold(bank, inner, settle(base, bank.sight, choice.trial.settings), fold)
            for fold in range(inner.folds)
        ]
        for name, bank in banks.items()
    }

    def losses(names: Sequence[str]) -> Float64:
        together = [_mean([answers[name][fold] for name in names]) for fold in range(inner.folds)]
        measured = [measure_answers(one, inner, fold, stress_weight) for fold, one in enumerate(together)]
        return np.array([one.loss for one in measured])

    chosen = [choice.bank.sight.backbone]
    now = losses(chosen)
    tried: list[Joined] = []
    while len(chosen) < len(banks):
        found: Mapping[str, Float64] = {name: losses([*chosen, name]) for name in banks if name not in chosen}
        best = min(found, key=lambda name: float(found[name].mean()))
        falls = now - found[best]
        gain, error = float(falls.mean()), float(falls.std(ddof=1) / math.sqrt(len(falls)))
        kept = gain > error
        tried.append(Joined(str(banks[best].sight), tuple(found[best].tolist()), gain, error, kept))
        if not kept:
            break
        chosen.append(best)
        now = found[best]
    return tuple(chosen[1:]), tuple(tried)


def _mean(answers: Sequence[Answers]) -> Answers:
    """Return the mean logits, as the graph of several members has them."""
    fitted, scored = (
        tuple(reduce(np.add, logits) / len(answers) for logits in zip(*groups, strict=True))
        for groups in ([one.fitted for one in answers], [one.scored for one in answers])
    )
    return Answers((fitted[0], fitted[1]), (scored[0], scored[1]))
