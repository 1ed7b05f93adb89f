"""A finished graph is judged: operating points on the part that chooses, figures on both, and what may be trusted."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from rentgen.bundle import Bundle
from rentgen.engine.predictor import Predictor
from rentgen.evaluate.judge import GALLERY, Judgement, judge, judge_again
from rentgen.evaluate.metrics import choose_operating_points
from rentgen.learn.trust import Trust, probe
from rentgen.parallel.pool import HERE, Pool
from rentgen.records import Card, Listing, Precision, Progress, Task, truth_of


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """What came of it.

    Attributes:
        card: with operating points and figures.
        validation: how the bundle did on the part that chose it.
        test: how it did on the part that only measures; None where there is none.
        trust: how it bears worse films, where it looks, and what its heat maps are worth; None where nobody asked.
    """

    card: Card
    validation: Judgement
    test: Judgement | None
    trust: Trust | None


def judge_parts(
    draft: Bundle,
    validation: Listing,
    test: Listing,
    *,
    probed: bool,
    pool: Pool = HERE,
    progress: Progress | None = None,
) -> Judged:
    """Choose operating points on validation, and measure on both parts through the graph that is shipped.

    Args:
        draft: with all but operating points and figures.
        validation: films that choose.
        test: films that only measure; may be empty.
        probed: find out, too, how the model bears worse films, where it looks, and what its heat maps are worth.
        pool: where the films are read and predicted.
        progress: stages `predictions`, and `stress`, `shortcuts` and `heat maps` where it is probed.
    """
    gallery = 0 if len(test) else GALLERY
    chooser = judge(
        Predictor(draft, precision=Precision.F32), validation, gallery=gallery, progress=progress, pool=pool
    )
    pairs = [
        (record, prediction)
        for record, prediction in zip(chooser.records, chooser.predictions, strict=True)
        if prediction.label is not None
    ]
    points = choose_operating_points(
        np.array([list(prediction.probabilities.values()) for _, prediction in pairs]),
        truth_of([record for record, _ in pairs], draft.card.classes, draft.card.task),
        draft.card.classes,
        rng=np.random.default_rng(0),
        patients=[record.patient for record, _ in pairs],
        positive=draft.card.positive,
    )
    draft = replace(draft, card=replace(draft.card, operating_points=points))
    if draft.card.task is Task.MULTILABEL:
        # A finding's recall is that at its own operating point, which was not there before.
        chooser = judge_again(Predictor(draft, precision=Precision.F32), validation, chooser)
    measured = (
        judge(Predictor(draft, precision=Precision.F32), test, progress=progress, pool=pool) if len(test) else None
    )
    card = replace(
        draft.card,
        validation=chooser.evaluation.to_dict(),
        test=None if measured is None else measured.evaluation.to_dict(),
    )
    trust = None
    if probed:
        trust = probe(Predictor(draft, precision=Precision.F32), test if len(test) else validation, progress)
        card = replace(
            card,
            robustness=trust.robustness.to_dict(),
            shortcuts=trust.shortcuts.to_dict(),
            heat_maps=trust.heat_maps.to_dict(),
        )
    return Judged(card, chooser, measured, trust)
