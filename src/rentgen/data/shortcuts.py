"""Numbers that need no radiologist, and how much they tell of the classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rentgen.records import (
    UNKNOWN,
    Float64,
    Int64,
)

SHORTCUT = 0.8
"""AUROC from which on a number that needs no radiologist is worth a finding."""


@dataclass(frozen=True, slots=True)
class Shortcut:
    """How well a number alone tells one class from the rest.

    Attributes:
        label: the class that it tells best.
        auroc: in [0.5, 1].
        margin: four standard errors of a number that tells nothing; an AUROC within it of 0.5 may be chance.
    """

    label: str
    auroc: float
    margin: float


def find_shortcut(values: Sequence[float], labels: Sequence[str | None]) -> Shortcut | None:
    """Return the class that a number tells best from the rest, None with fewer than two classes.

    Args:
        values: one for each film.
        labels: one for each film; films without a label are left out.
    """
    classes = sorted({label for label in labels if label is not None})
    if len(classes) < 2:
        return None
    named = np.array(labels, dtype=object)
    truth = np.column_stack([(named == label).astype(np.int64) for label in classes])
    truth[[label is None for label in labels]] = UNKNOWN
    return best_shortcut(values, truth, classes)


def best_shortcut(values: Sequence[float], truth: Int64, classes: Sequence[str]) -> Shortcut | None:
    """Return the class that a number tells best from the rest, None where no class has films on both sides.

    Args:
        values: one for each film.
        truth: (n, k): present, absent or unknown.
        classes: names of the columns.
    """
    found = []
    for label, column in zip(classes, truth.T, strict=True):
        known = column != UNKNOWN
        members = column[known] == 1
        inside, outside = int(members.sum()), int((~members).sum())
        if not (inside and outside):
            continue
        ranks = _ranks(np.asarray(values, dtype=np.float64)[known])
        auroc = (ranks[members].sum() - inside * (inside + 1) / 2) / (inside * outside)
        margin = 4 * np.sqrt((inside + outside + 1) / (12 * inside * outside))
        found.append(Shortcut(label, float(max(auroc, 1 - auroc)), float(margin)))
    return max(found, key=lambda shortcut: shortcut.auroc, default=None)


def _ranks(values: Float64) -> Float64:
    """Return the ranks, from 1; equal values share the mean of theirs."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return np.asarray((np.cumsum(counts) - (counts - 1) / 2)[inverse], dtype=np.float64)
