"""Whether a model can be trusted, beyond its figures: on worse films, by where it looks, and by what its maps show."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rentgen.engine.predictor import Predictor
from rentgen.evaluate.explain import HeatMapGrade, grade_heat_maps, graph_maps
from rentgen.evaluate.films import load_films
from rentgen.evaluate.shortcuts import Shortcuts, shortcut_report
from rentgen.evaluate.stress import Robustness, stress_report
from rentgen.learn.randomise import randomise
from rentgen.records import Listing, Progress

FILMS = 400
"""Looked at by each of the reports, at most."""


@dataclass(frozen=True, slots=True, eq=False)
class Trust:
    """The three reports.

    Attributes:
        robustness: how it bears worse films.
        shortcuts: whether it looks where it should.
        heat_maps: what its heat maps are worth.
    """

    robustness: Robustness
    shortcuts: Shortcuts
    heat_maps: HeatMapGrade


def probe(predictor: Predictor, listing: Listing, progress: Progress | None = None, *, seed: int = 0) -> Trust:
    """Return what may be believed of a model.

    Args:
        predictor: of the bundle.
        listing: labelled films that did not train it; a sample of patients is taken.
        progress: stages `films`, `stress`, `shortcuts` and `heat maps`.
        seed: of the sample, the resamples and the random weights.
    """
    rng = np.random.default_rng(seed)
    films = load_films(predictor, listing, limit=FILMS, rng=rng, progress=progress)
    maps = graph_maps(randomise(predictor.bundle.model, rng), predictor)
    return Trust(
        stress_report(predictor, films, rng=rng, progress=progress),
        shortcut_report(predictor, films, rng=rng, progress=progress),
        grade_heat_maps(predictor, films, rng=rng, randomised=maps, progress=progress),
    )
