"""What a trained model knows of its own answers: calibration, prediction sets and the films it is at home with.

All of it is fitted on the validation part, through the graph that is shipped, and measured on the test part.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from rentgen.bundle import Bundle
from rentgen.data.split import patient_folds
from rentgen.engine.predictor import Predictor, measure_replay
from rentgen.engine.session import TOLERANCE, Session
from rentgen.errors import DataError, SettingError
from rentgen.evaluate.metrics import auroc
from rentgen.evaluate.prevalence import balance_weights
from rentgen.evaluate.reliability import reliability_figures
from rentgen.evaluate.sets import choose_finding_sets, conformal_threshold, measure_coverage, measure_finding_sets
from rentgen.evaluate.several import mean_loss
from rentgen.images.corrupt import stress
from rentgen.learn.members import FittedFilms
from rentgen.learn.scaling import Method, Scaling, fit_temperature, fit_vector
from rentgen.learn.settings import AnswerSettings
from rentgen.records import UNKNOWN, Calibration, Card, Conformal, Domain, Float64, Int64, Precision, Task
from rentgen.records.deciding import HALF

FOLDS = 5
BATCH = 8
AUROC_MOVE = 0.002
"""How far bf16 may move the AUROC of a class."""
SAME_CLASS = 0.99
"""Share of the films that bf16 must name as f32 does."""
MARGIN = 1.5
"""A tolerance is what was measured times this: another processor rounds in another order."""


def know(predictor: Predictor, validation: FittedFilms, settings: AnswerSettings) -> Card:
    """Return the predictor's card with calibration, conformal threshold and domain, as far as the recipe asks for them.

    Args:
        predictor: of the draft; its card has none of the three.
        validation: films that neither trained nor test.
        settings: of the recipe.

    Raises:
        DataError: the validation part has too few films for what is asked.
    """
    card = predictor.card
    measures = "distance" in predictor.session.outputs
    answers = predictor.run(validation.images, ("logits", *(("distance",) if measures else ())))
    logits, truth = answers["logits"].astype(np.float64), validation.labels
    patients, weights = validation.patients, np.ones(len(truth))
    if settings.stressed > 0:
        worse = predictor.run(stress(validation.images))["logits"].astype(np.float64)
        logits, truth = np.concatenate([logits, worse]), np.concatenate([truth, truth])
        weights = np.repeat([1 - settings.stressed, settings.stressed], len(patients))
        patients = (*patients, *patients)
    several = card.task is Task.MULTILABEL
    # Each finding is calibrated on its own, at the frequency that it has: there is nothing to balance.
    if settings.balanced and not several:
        weights = balance_weights(truth, np.full(len(card.classes), 1 / len(card.classes)), weights)
    outside = np.array(predictor.probabilities(logits))
    if settings.calibration != Method.NONE:
        calibration, outside = _calibrate(card, settings, logits, truth, weights, patients)
        card = replace(card, calibration=calibration)
    if settings.coverage > 0:
        # The plain films alone, and probabilities that their own patients did not fit.
        plain = len(validation.labels)
        if several:
            sets = choose_finding_sets(outside[:plain], truth[:plain], card.classes, settings.coverage)
            card = replace(card, finding_sets=sets)
        else:
            threshold = conformal_threshold(outside[:plain], truth[:plain], settings.coverage)
            card = replace(card, conformal=Conformal(settings.coverage, threshold, plain))
    if settings.kept > 0 and measures:
        distances = answers["distance"]
        limit = float(np.quantile(distances, settings.kept, method="higher"))
        card = replace(card, domain=Domain(limit, settings.kept, len(distances)))
    return card


def measure_sets(predictor: Predictor, test: FittedFilms) -> Card:
    """Return the card with the coverage of its prediction sets on films that did not choose them."""
    card, conformal = predictor.card, predictor.card.conformal
    if (conformal is None and not card.finding_sets) or not len(test.labels):
        return card
    probabilities = predictor.probabilities(predictor.run(test.images)["logits"])
    rng = np.random.default_rng(0)
    if conformal is None:
        sets = measure_finding_sets(card.finding_sets, probabilities, test.labels, card.classes, test.patients, rng)
        return replace(card, finding_sets=sets)
    found = measure_coverage(probabilities, test.labels, conformal.threshold, test.patients, rng)
    return replace(card, conformal=replace(conformal, measured=found["measured"], single=found["single"]))


def admit_bf16(draft: Bundle, validation: FittedFilms) -> dict[str, dict[str, float]]:
    """Return the tolerances of bf16, where this processor has it and the answers stay what they are in f32.

    A network can move far inside and answer the same: it is the answers that decide, on the validation part. Elsewhere
    the engine's own tolerance holds, and `auto` takes f32 where that is not kept.

    Args:
        draft: with its calibration.
        validation: films that neither trained nor test.
    """
    try:
        rounded = Session(draft.model, precision=Precision.BF16, batch_size=BATCH)
    except SettingError:
        return {}
    exact = Predictor(draft, precision=Precision.F32, batch_size=BATCH)
    smooth_px = draft.card.preprocessing.smooth_px
    images = validation.smoothed(smooth_px).images
    sure, told = (
        exact.probabilities(session.run(images, ("logits",))["logits"]) for session in (exact.session, rounded)
    )
    moves = [
        abs(auroc(sure, validation.labels, label) - auroc(told, validation.labels, label))
        for label in range(len(draft.card.classes))
    ]
    if draft.card.task is Task.MULTILABEL:
        same = float(((sure >= HALF) == (told >= HALF)).mean())
    else:
        same = float((sure.argmax(1) == told.argmax(1)).mean())
    # A finding that no film of the part has, or every one, cannot move.
    if not (np.nanmax([0.0, *moves]) <= AUROC_MOVE and same >= SAME_CLASS):
        return {}
    least = TOLERANCE[Precision.BF16]
    return {"bf16": {name: max(least, MARGIN * value) for name, value in measure_replay(draft, rounded).items()}}


def _calibrate(
    card: Card,
    settings: AnswerSettings,
    logits: Float64,
    truth: Int64,
    weights: Float64,
    patients: Sequence[str],
) -> tuple[Calibration, Float64]:
    """Return the calibration, and probabilities (n, k) that were each fitted without the film's own patient."""
    rng = np.random.default_rng(0)
    several = truth.ndim == 2
    folds = patient_folds(truth, patients, FOLDS, rng)
    smallest = (
        min(int((truth != UNKNOWN).sum(axis=0).min()), len(truth))
        if several
        else min(int((truth == number).sum()) for number in range(len(card.classes)))
    )
    if smallest < 2 * FOLDS:
        what = "of which each finding is known" if several else "of each class"
        raise DataError(
            f"Expected at least {2 * FOLDS} validation films {what} to calibrate on, but got {smallest}. Give "
            'more films, a larger data.validation, or answer.calibration = "none".'
        )
    wanted = tuple(Method(name) for name in ("temperature", "vector")) if settings.calibration == "auto" else ()
    crossed = {}
    for method in wanted or (Method(settings.calibration),):
        crossed[method] = np.empty_like(logits)
        for fold in range(FOLDS):
            inside = folds != fold
            fitted = _fit(method, logits[inside], truth[inside], weights[inside])
            crossed[method][~inside] = fitted.probabilities(logits[~inside])
    losses = {name: mean_loss(values, truth, weights) for name, values in crossed.items()}
    best = min(losses, key=lambda name: losses[name])
    scaling = _fit(best, logits, truth, weights)
    positive = None if card.positive is None else card.classes.index(card.positive)
    none = Scaling(Method.NONE, np.ones(logits.shape[1]), np.zeros(logits.shape[1]), card.task)
    before, after = (
        reliability_figures(values, truth, patients, np.random.default_rng(0), weights=weights, positive=positive)
        for values in (none.probabilities(logits), crossed[best])
    )
    kinds = ["the validation part"]
    kinds += [f"its stress set ({settings.stressed:.0%} of the weight)"] if settings.stressed else []
    kinds += ["classes weighed as equally frequent"] if settings.balanced and not several else []
    return (
        Calibration(
            str(best), tuple(scaling.scale.tolist()), tuple(scaling.bias.tolist()), ", ".join(kinds), len(truth),
            before, after,
        ),
        crossed[best],
    )  # fmt: skip


def _fit(method: Method, logits: Float64, truth: Int64, weights: Float64) -> Scaling:
    fit = fit_vector if method is Method.VECTOR else fit_temperature
    return fit(logits, truth, weights)
