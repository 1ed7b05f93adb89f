"""What films really show, as one array of whole numbers in one of two shapes.

Where a film has one class, truth is (n,): the number of its class. Where it has several findings, truth is (n, k): 1
where a finding is present, 0 where it is absent, `UNKNOWN` where nobody knows. What needs no more than one class
against the rest asks `one_against_rest`, and is the same for both.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rentgen.records.common import Int64
from rentgen.records.films import ImageRecord, Task

UNKNOWN = -1
"""Stands for a finding of which nobody knows whether it is there."""


def truth_of(records: Sequence[ImageRecord], classes: Sequence[str], task: Task) -> Int64:
    """Return the truth of films: (n,), or (n, k) of several findings.

    Args:
        records: each with a label of the classes, or with a finding for each of them.
        classes: in the order of the numbers.
        task: decides the shape.

    Raises:
        ValueError: a film has a label that is not among the classes, or another number of findings.
    """
    if task is Task.MULTICLASS:
        return np.array([classes.index(str(record.label)) for record in records], np.int64)
    if any(len(record.findings) != len(classes) for record in records):
        raise ValueError(f"Expected {len(classes)} findings for each film, but got another number.")
    values = [[UNKNOWN if value is None else int(value) for value in record.findings] for record in records]
    return np.array(values, np.int64).reshape(len(records), len(classes))


def one_against_rest(truth: Int64, classes: int) -> Int64:
    """Return (n, k): 1 where a film has the class, 0 where it has not, `UNKNOWN` where nobody knows.

    Example:
        >>> one_against_rest(np.array([1, 0]), 2).tolist()
        [[0, 1], [1, 0]]
    """
    return truth if truth.ndim == 2 else np.eye(classes, dtype=np.int64)[truth]


def strata(truth: Int64) -> Int64:
    """Return one number (n,) for each film by which films are divided evenly: its class, or its rarest finding.

    Films without any finding have the number of findings for theirs.
    """
    if truth.ndim == 1:
        return truth
    present = truth == 1
    order = np.argsort(present.sum(axis=0), kind="stable")  # the rarest first
    first = present[:, order].argmax(axis=1)
    return np.where(present.any(axis=1), order[first] if len(order) else 0, truth.shape[1]).astype(np.int64)
