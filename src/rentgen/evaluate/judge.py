"""Judging a bundle on a set of films: predictions, leak, metrics, and the films to look at."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from rentgen.data.findings import align
from rentgen.data.split import find_leak
from rentgen.engine.predictor import Predictor, heat_map
from rentgen.errors import DataError
from rentgen.evaluate.intervals import RESAMPLES
from rentgen.evaluate.measure import evaluate
from rentgen.images.overlay import encode_png, overlay, thumbnail
from rentgen.images.read import read
from rentgen.parallel.pool import HERE, Pool
from rentgen.records import (
    Card,
    Evaluation,
    ImageRecord,
    Listing,
    Mistake,
    Prediction,
    Progress,
    Split,
    Status,
    Task,
    truth_of,
)

GALLERY = 8
"""Films of each kind in a report."""
GALLERY_SIDE = 360


@dataclass(frozen=True, slots=True, eq=False)
class Judgement:
    """What a bundle did on a set.

    Attributes:
        evaluation: the figures.
        records: the films, in the order of the predictions.
        predictions: one per film.
        mistakes: the worst ones, most confident first.
        examples: films it got right, one of each class in turn, to compare.
    """

    evaluation: Evaluation
    records: tuple[ImageRecord, ...]
    predictions: tuple[Prediction, ...]
    mistakes: tuple[Mistake, ...] = ()
    examples: tuple[Mistake, ...] = ()


def judge(
    predictor: Predictor,
    listing: Listing,
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
    gallery: int = GALLERY,
    progress: Progress | None = None,
    pool: Pool = HERE,
) -> Judgement:
    """Return what a bundle does on a labelled set.

    Scores of films that the gate doubts are counted like all others: a gate adds a flag, it never removes a score.
    Films that cannot be read are listed and not counted.

    Args:
        predictor: of the bundle.
        listing: every film with a label that the bundle knows, or with findings of which it knows some.
        seed: of the bootstrap.
        resamples: of the patients.
        gallery: how many mistakes, and how many examples, to draw; 0 for none.
        progress: stage `predictions`, films done, films in all.
        pool: who predicts.

    Raises:
        DataError: a film without label or with one that the bundle does not know; no film could be read.
    """
    listing = fit_labels(listing, predictor.card)
    predictions: list[Prediction] = []
    for prediction in predictor.predict_many((record.path for record in listing.records), pool=pool):
        predictions.append(prediction)
        if progress is not None:
            progress("predictions", len(predictions), len(listing))
    evaluation = _evaluate(predictor, listing, predictions, seed, resamples)
    wrong, right = _choose(listing.records, predictions, predictor.card, gallery)
    return Judgement(
        evaluation=evaluation,
        records=listing.records,
        predictions=tuple(predictions),
        mistakes=tuple(_draw(predictor, record) for record in wrong),
        examples=tuple(_draw(predictor, record) for record in right),
    )


def judge_again(
    predictor: Predictor, listing: Listing, judgement: Judgement, *, seed: int = 0, resamples: int = RESAMPLES
) -> Judgement:
    """Return a judgement with its figures measured anew, as at operating points that were chosen by it.

    Args:
        predictor: with the same probabilities; its card may have other operating points.
        listing: that was judged.
        judgement: what came of it.
        seed: of the bootstrap.
        resamples: of the patients.
    """
    fitted = fit_labels(listing, predictor.card)
    return replace(judgement, evaluation=_evaluate(predictor, fitted, judgement.predictions, seed, resamples))


def select_part(listing: Listing, predictor: Predictor, part: Split, hashes: Mapping[Path, str]) -> Listing:
    """Return the films of a listing that stood in one part when the bundle was made, by their content.

    Args:
        listing: films, whose own parts do not count.
        predictor: of the bundle, whose certificate does.
        part: which.
        hashes: path to SHA-256 of each file.

    Raises:
        DataError: there is none.
    """
    members = set(predictor.bundle.split.images.get(part, ()))
    chosen = tuple(record for record in listing.records if hashes.get(record.path) in members)
    if not chosen:
        raise DataError(
            f"Expected films of the bundle's {part} part ({len(members)} films), but none of the {len(listing)} given "
            "is one of them."
        )
    return replace(listing, records=chosen)


def fit_labels(listing: Listing, card: Card) -> Listing:
    """Return the films with labels that the bundle knows, in its order.

    Raises:
        DataError: a film without label or with one that the bundle does not know; none of its findings.
    """
    if card.task is Task.MULTILABEL:
        return align(listing, card.classes)
    if listing.task is Task.MULTILABEL:
        raise DataError(
            f"Expected one class for each film, of {', '.join(card.classes)}, but the set has several findings."
        )
    unlabelled = sum(record.label is None for record in listing.records)
    if unlabelled:
        raise DataError(
            f"Expected a label for every film, but {unlabelled} of {len(listing)} have none. Give class folders or a "
            "CSV with the columns path,label."
        )
    unknown = sorted({record.label for record in listing.records if record.label is not None} - set(card.classes))
    if unknown:
        raise DataError(
            f"Expected the bundle's classes {', '.join(card.classes)}, but the set also has {', '.join(unknown)}."
        )
    return listing


def _evaluate(
    predictor: Predictor, listing: Listing, predictions: Sequence[Prediction], seed: int, resamples: int
) -> Evaluation:
    read_ones = [
        (record, prediction)
        for record, prediction in zip(listing.records, predictions, strict=True)
        if prediction.status is not Status.ERROR
    ]
    failed = {item.path: "; ".join(item.reasons) for item in predictions if item.status is Status.ERROR}
    if not read_ones:
        first = next(iter(failed.items()), ("the set", "is empty"))
        raise DataError(f"None of the {len(predictions)} films could be read. {first[0]}: {first[1]}")
    card = predictor.card
    return evaluate(
        np.array([[item.probabilities[label] for label in card.classes] for _, item in read_ones]),
        truth_of([record for record, _ in read_ones], card.classes, card.task),
        [record.patient for record, _ in read_ones],
        card.classes,
        rng=np.random.default_rng(seed),
        positive=card.positive,
        operating_points=card.operating_points,
        resamples=resamples,
        leak=find_leak(
            predictor.bundle.split,
            [item.content_hash or "" for _, item in read_ones],
            [record.patient for record, _ in read_ones],
            listing.patient_source,
            pixels=[item.pixel_hash or "" for _, item in read_ones],
        ),
        failed=failed,
        statuses=Counter(str(item.status) for item in predictions),
    )


def _choose(
    records: Sequence[ImageRecord], predictions: Sequence[Prediction], card: Card, count: int
) -> tuple[list[ImageRecord], list[ImageRecord]]:
    """Return the most confident mistakes, and right answers of each class in turn, most confident first."""
    sure = sorted(
        (pair for pair in zip(records, predictions, strict=True) if pair[1].label is not None),
        key=lambda pair: -max(pair[1].probabilities.values()),
    )
    wrong = [record for record, prediction in sure if not _is_right(record, prediction, card)]
    ranks: Counter[str | None] = Counter()
    right: list[tuple[int, ImageRecord]] = []
    for record, prediction in sure:
        if _is_right(record, prediction, card):
            ranks[prediction.label] += 1
            right.append((ranks[prediction.label], record))
    right.sort(key=lambda ranked: ranked[0])
    return wrong[:count], [record for _, record in right[:count]]


def _is_right(record: ImageRecord, prediction: Prediction, card: Card) -> bool:
    """Return whether an answer names the film's class, or contradicts nothing that is known of its findings."""
    if prediction.findings is None:
        return prediction.label == record.label
    pairs = zip(card.classes, record.findings, strict=True)
    return all(known is None or known == (label in prediction.findings) for label, known in pairs)


def _truth_words(record: ImageRecord, card: Card) -> str:
    if card.task is Task.MULTICLASS:
        return record.label or ""
    pairs = zip(card.classes, record.findings, strict=True)
    return ", ".join(label for label, known in pairs if known) or "none of the findings"


def _draw(predictor: Predictor, record: ImageRecord) -> Mistake:
    film = read(record.path)
    prediction = predictor.predict_film(film, name=str(record.path), maps=True)
    heat = heat_map(prediction)
    predicted = prediction.label or ""
    return Mistake(
        path=str(record.path),
        label=_truth_words(record, predictor.card),
        predicted=predicted
        if prediction.findings is None
        else ", ".join(prediction.findings) or "none of the findings",
        probability=prediction.probabilities[predicted],
        film_png=encode_png(thumbnail(film.pixels, GALLERY_SIDE)),
        overlay_png=encode_png(thumbnail(overlay(film.pixels, heat), GALLERY_SIDE)),
    )
