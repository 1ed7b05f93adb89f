"""Members for an ensemble: fitted in milliseconds, with certificates that say what they were fitted on."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from linear import FED, fitted_model, predictor_of, weighing_model

from rentgen import bundle as bundles
from rentgen.bundle import Bundle
from rentgen.cli import main
from rentgen.data.audit import audit, examine
from rentgen.data.split import certify, select, split
from rentgen.engine.predictor import Predictor
from rentgen.images.prepare import fit
from rentgen.images.read import read
from rentgen.records import Calibration, Card, Float64, Listing, Split, Task, UInt8, truth_of

SALTS = ("a1" * 16, "b2" * 16, "c3" * 16)


def divided(listing: Listing, seed: int = 0, *, validation: float = 0.3, test: float = 0.3) -> Listing:
    """Return the listing with parts."""
    return split(listing, validation=validation, test=test, rng=np.random.default_rng(seed))


def images(listing: Listing) -> UInt8:
    """Return the films as the linear model is fed them."""
    return np.stack([fit(read(record.path), FED).pixels for record in listing.records])


def write_member(
    path: Path,
    listing: Listing,
    number: int,
    *,
    classes: tuple[str, ...] | None = None,
    change: Callable[[Card], Card] = lambda card: card,
    model: bytes | None = None,
) -> Bundle:
    """Write a linear model of the training part of a listing, and return it as it is read again.

    Args:
        path: of the bundle.
        listing: with parts.
        number: of the member: its salt, and which half of the training films it is fitted on.
        classes: in the order of its logits; the listing's by default.
        change: what else its card says.
        model: another graph.
    """
    classes = classes or listing.classes
    taught = select(listing, Split.TRAIN)
    half = replace(taught, records=taught.records[number % 2 :: 2])
    truth = truth_of(half.records, classes if listing.task is Task.MULTICLASS else listing.classes, listing.task)
    if model is None and listing.task is Task.MULTICLASS:
        model = fitted_model(images(half), truth, len(classes))
    if model is None:
        rng = np.random.default_rng(number)
        model = weighing_model(rng.normal(size=(len(classes), 12, 12)) * 0.2, np.full((12, 12), 0.4))
    made = predictor_of(model, classes).bundle
    examined = examine(listing)
    certificate = certify(
        listing, examined.hashes, audit(listing, examined), SALTS[number], pixels=examined.pixel_hashes
    )
    card = change(replace(made.card, name=path.stem, task=listing.task, backbone={"name": f"linear{number}"}))
    bundles.write(path, replace(made, card=card, split=certificate))
    return bundles.read(path)


def calibrated(*scale: float, bias: tuple[float, ...] | None = None) -> Callable[[Card], Card]:
    """Return what gives a card a calibration."""
    found = Calibration("vector", scale, bias or (0.0,) * len(scale), "by hand", 1)
    return lambda card: replace(card, calibration=found)


def probabilities(bundle: Bundle, listing: Listing, classes: tuple[str, ...]) -> Float64:
    """Return what a bundle's `predict` says of films, with the classes in an order."""
    predictor = Predictor(bundle, precision="f32", batch_size=8)  # type: ignore[arg-type]
    told = list(predictor.predict_many(record.path for record in listing.records))
    return np.array([[one.probabilities[label] for label in classes] for one in told])


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> int:
    """Run the command line, and return its exit code."""
    monkeypatch.setattr(sys, "argv", ["rentgen", *map(str, arguments)])
    try:
        main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0
