"""A site's own calibration: probabilities, operating points and doubts fitted to its films, in a new bundle.

The arithmetic is elsewhere: `learn.scaling` (temperature and vector scaling), `evaluate.reliability` (how far
probabilities mean what they say), `evaluate.sets` (prediction sets) and `evaluate.prevalence`.
"""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from rentgen.bundle import Bundle
from rentgen.data.split import find_leak, patient_folds
from rentgen.engine.predictor import Predictor
from rentgen.errors import DataError, SettingError
from rentgen.evaluate.intervals import RESAMPLES
from rentgen.evaluate.measure import evaluate
from rentgen.evaluate.metrics import choose_operating_points
from rentgen.evaluate.prevalence import (
    balance_findings,
    balance_weights,
    estimate_findings,
    estimate_prior,
    parse_findings,
    parse_prevalence,
)
from rentgen.evaluate.reliability import reliability_figures
from rentgen.evaluate.sets import COVERAGE, choose_finding_sets, conformal_threshold, films_needed, measure_coverage
from rentgen.evaluate.several import mean_loss
from rentgen.learn.scaling import Method, Scaling, fit_temperature, fit_vector
from rentgen.learn.site import (
    MIN_FILMS,
    Site,
    check_shared,
    fold_count,
    keep_thin,
    known,
    look,
    remember,
    support,
    thin_findings,
)
from rentgen.records import (
    Calibration,
    Card,
    Conformal,
    FindingSet,
    Float64,
    Int64,
    Listing,
    OperatingPoint,
    Progress,
    Split,
    Status,
    Task,
)


def calibrate(
    bundle: Bundle,
    listing: Listing,
    *,
    method: Method | str = Method.AUTO,
    coverage: float = COVERAGE,
    prevalence: Mapping[str, float] | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
    progress: Progress | None = None,
    command: str = "",
) -> tuple[Bundle, dict[str, Any]]:
    """Return the bundle calibrated on a site's own films, and what came of it in plain JSON values.

    Of several findings, those with fewer than `MIN_FILMS` films with them, or without, keep what the bundle has.

    The network stays as it is. Probabilities, operating points and the threshold of the prediction sets are fitted to
    the films anew, and the certificate remembers these films, their pixels and their patients as ones that chose: an
    evaluation on them is stamped LEAKY from then on. The card's figures of the old test part go, for they were another
    bundle's; `Card.parent` leads to it.

    `before` is what the bundle said as it came. `after`, the choice of `auto` and the measured coverage are
    cross-fitted: each film is judged by a calibration that was fitted without its patient. Operating points are chosen
    on these films with the final calibration, and flatter as such points do.

    Films that the gate doubts or that cannot be read are left out and counted.

    Args:
        bundle: as it was read or trained; it is not changed.
        listing: films with labels that the bundle knows, none of which trained it.
        method: how logits become probabilities.
        coverage: of the prediction sets, in (0, 1).
        prevalence: class to its share where the model will work; the class that is left out gets the rest. Of several
            findings, finding to its share; those that are left out keep the films' own. By default the films' own.
        seed: of the folds and of the bootstrap.
        resamples: of the patients.
        progress: stage `predictions`, films done, films in all.
        command: that is noted in the card.

    Raises:
        DataError: a film without label or with one that the bundle does not know, or too few films of a class.
        LeakError: films or patients of the set trained the model.
        SettingError: the method, the coverage or the prevalence is not allowed.
        BundleError: the graph does not answer as it did where it was made.
    """
    if method not in tuple(Method):
        raise SettingError(f"Expected the method to be one of {', '.join(Method)}, but got {str(method)!r}.")
    classes = bundle.card.classes
    needed = films_needed(coverage)
    several = bundle.card.task is Task.MULTILABEL
    parse = parse_findings if several else parse_prevalence
    prior = None if prevalence is None else parse(prevalence, classes)
    site = look(bundle, listing, needed, progress)
    patients = [record.patient for record in site.records]
    thin = thin_findings(site.truth, classes) if several else ()
    check_shared(prevalence or (), thin)
    balance = balance_findings if several else balance_weights
    counts = np.ones(len(site.truth)) if prior is None else balance(site.truth, prior)

    folds = patient_folds(site.truth, patients, fold_count(site.truth, patients), np.random.default_rng(seed))
    outside = _cross_fit(site, folds, counts, Method(method))
    losses = {name: mean_loss(values, site.truth, counts) for name, values in outside.items()}
    chosen = min(losses, key=lambda name: losses[name])
    scaling = keep_thin(_fit(chosen, site.logits, site.truth, counts), bundle.card, thin)
    final = site.told if scaling is None else scaling.probabilities(site.logits)

    positive = None if bundle.card.positive is None else classes.index(bundle.card.positive)
    before, after = (
        reliability_figures(
            values, site.truth, patients, np.random.default_rng(seed), resamples, weights=counts, positive=positive
        )
        for values in (site.told, outside[chosen])
    )
    points = choose_operating_points(
        final,
        site.truth,
        classes,
        rng=np.random.default_rng(seed),
        patients=patients,
        positive=bundle.card.positive,
        resamples=resamples,
    )
    # What the site's films say too little of stays as it was.
    points = (*(point for point in bundle.card.operating_points if point.label in thin),
              *(point for point in points if point.label not in thin))  # fmt: skip
    # Of probabilities that their films did not fit: the final ones know the films a little too well.
    weights = None if prior is None else counts
    conformal: Conformal | None = None
    sets: tuple[FindingSet, ...] = ()
    if several:
        chosen_sets = choose_finding_sets(outside[chosen], site.truth, classes, coverage)
        sets = (*(item for item in bundle.card.finding_sets if item.label in thin),
                *(item for item in chosen_sets if item.label not in thin))  # fmt: skip
    else:
        threshold = conformal_threshold(outside[chosen], site.truth, coverage, weights=weights)
        conformal = Conformal(coverage, threshold, len(site.truth))
    calibration = bundle.card.calibration
    if scaling is not None:
        calibration = Calibration(
            method=str(chosen),
            scale=tuple(scaling.scale.tolist()),
            bias=tuple(scaling.bias.tolist()),
            fitted_on=_describe(site, patients, prevalence),
            n=len(site.truth),
            before=before,
            after=after,
        )
    result = _assemble(
        bundle, listing, site, final, _Chosen(calibration, conformal, points, sets), seed, resamples, command
    )
    return result, {
        "parent": bundle.bundle_id or None,
        "method": str(chosen),
        "losses": {str(name): loss for name, loss in losses.items()},
        "n": len(site.truth),
        "patients": len(set(patients)),
        "support": support(site.truth, classes),
        **({"known": known(site.truth, classes)} if several else {}),
        "left_out": dict(site.left_out),
        "failed": dict(site.failed),
        "folds": int(folds.max()) + 1,
        "prevalence": None
        if prior is None
        else {label: share for label, share in zip(classes, prior.tolist(), strict=True) if not np.isnan(share)},
        "calibration": None if calibration is None else calibration.to_dict(),
        "before": before,
        "after": after,
        "conformal": None
        if conformal is None
        else conformal.to_dict()
        | (_cross_coverage(outside[chosen], site.truth, folds, coverage, patients, seed, resamples, weights) or {}),
        "finding_sets": [item.to_dict() for item in sets],
        "unchanged": list(thin),
        "operating_points": [point.to_dict() for point in points],
    }


def estimate_prevalence(
    bundle: Bundle,
    labelled: Listing,
    films: Iterable[Path],
    *,
    method: Method | str = Method.AUTO,
    seed: int = 0,
    progress: Progress | None = None,
) -> dict[str, float]:
    """Return each class's share among films without labels, by EM on probabilities calibrated to labelled ones.

    Of several findings, that of each that the labelled films say enough of, on its own.

    The labelled films may hold the classes in any mixture; what they say of films of one class is believed, what they
    say of how common it is is not. Films that cannot be read or are out of scope do not count.

    Args:
        bundle: as of `calibrate`.
        labelled: as of `calibrate`.
        films: without labels, as they come at the site.
        method: as of `calibrate`.
        seed: of the folds.
        progress: stage `predictions`.

    Raises:
        DataError: fewer than `MIN_FILMS` films count; and as of `calibrate`.
    """
    fitted, found = calibrate(bundle, labelled, method=method, seed=seed, resamples=0, progress=progress)
    told = [
        list(prediction.probabilities.values())
        for prediction in Predictor(fitted).predict_many(films)
        if prediction.status in (Status.OK, Status.ABSTAIN)
    ]
    if len(told) < MIN_FILMS:
        raise DataError(
            f"Expected at least {MIN_FILMS} films without labels to estimate the prevalence from, but got {len(told)} "
            "that can be read and are in scope. Give more, or say --prevalence."
        )
    classes = bundle.card.classes
    shares = np.array([found["support"][label] for label in classes], np.float64)
    if bundle.card.task is Task.MULTILABEL:
        kept = [place for place, label in enumerate(classes) if label not in found["unchanged"]]
        given = shares[kept] / [found["known"][classes[place]] for place in kept]
        estimated = estimate_findings(np.array(told)[:, kept], given).tolist()
        return dict(zip((classes[place] for place in kept), estimated, strict=True))
    return dict(zip(classes, estimate_prior(np.array(told), shares / shares.sum()).tolist(), strict=True))


@dataclass(frozen=True, slots=True)
class _Chosen:
    """What the films chose."""

    calibration: Calibration | None
    conformal: Conformal | None
    points: tuple[OperatingPoint, ...]
    sets: tuple[FindingSet, ...] = ()


def _fit(method: Method, logits: Float64, truth: Int64, counts: Float64) -> Scaling | None:
    if method is Method.TEMPERATURE:
        return fit_temperature(logits, truth, counts)
    return fit_vector(logits, truth, counts) if method is Method.VECTOR else None


def _cross_fit(site: Site, folds: Int64, counts: Float64, method: Method) -> dict[Method, Float64]:
    """Return, for each method that is in question, the probabilities (n, k) by fits without the film's patient."""
    tried = (Method.NONE, Method.TEMPERATURE, Method.VECTOR) if method is Method.AUTO else (method,)
    outside = {name: site.told.copy() for name in tried}
    for name in tried:
        for fold in np.unique(folds):
            held = folds == fold
            scaling = _fit(name, site.logits[~held], site.truth[~held], counts[~held])
            if scaling is not None:
                outside[name][held] = scaling.probabilities(site.logits[held])
    return outside


def _cross_coverage(
    outside: Float64,
    truth: Int64,
    folds: Int64,
    coverage: float,
    patients: Sequence[str],
    seed: int,
    resamples: int,
    weights: Float64 | None,
) -> dict[str, dict[str, float | None]] | None:
    """Return `measure_coverage` with thresholds of the other folds; None where these have too few films for one."""
    thresholds = np.empty(len(truth))
    for fold in np.unique(folds):
        held = folds == fold
        try:
            thresholds[held] = conformal_threshold(
                outside[~held], truth[~held], coverage, weights=None if weights is None else weights[~held]
            )
        except DataError:
            return None
    return measure_coverage(
        outside, truth, thresholds, patients, np.random.default_rng(seed), resamples, weights=weights
    )


def _describe(site: Site, patients: Sequence[str], prevalence: Mapping[str, float] | None) -> str:
    balance = "" if prevalence is None else ", weighted to the prevalence where it will work"
    return (
        f"{len(site.truth)} films of {len(set(patients))} patients of the site's own{balance}; the figures with it are "
        "of films that did not fit it (cross-fitted by patient)"
    )


def _assemble(
    bundle: Bundle,
    listing: Listing,
    site: Site,
    final: Float64,
    chosen: _Chosen,
    seed: int,
    resamples: int,
    command: str,
) -> Bundle:
    """Return the bundle with what was chosen, and with a certificate and figures of the films that chose."""
    certificate = remember(bundle.split, listing, site)
    patients = [record.patient for record in site.records]
    old: Card = bundle.card
    evaluation = evaluate(
        final,
        site.truth,
        patients,
        old.classes,
        rng=np.random.default_rng(seed),
        positive=old.positive,
        operating_points=chosen.points,
        resamples=resamples,
        leak=find_leak(
            certificate,
            [content for content, _ in site.hashes],
            patients,
            listing.patient_source,
            pixels=[pixels for _, pixels in site.hashes],
        ),
        failed=site.failed,
    )
    added = Counter(support(site.truth, old.classes))
    validation = Counter(old.counts.get(str(Split.VALIDATION), {})) + added
    card = replace(
        old,
        name=f"{old.name}-calibrated",
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        operating_points=chosen.points,
        validation=evaluation.to_dict(),
        test=None,
        counts={**old.counts, str(Split.VALIDATION): dict(validation)},
        command=command,
        calibration=chosen.calibration,
        conformal=chosen.conformal,
        finding_sets=chosen.sets,
        parent=bundle.bundle_id or None,
    )
    return replace(bundle, card=card, split=certificate, bundle_id="")
