"""What a film's answer says, before it is written in anyone's format: each label present, absent or not assessed.

Absent is said only of a label that was assessed: by an answer that stands, at an operating point of the bundle.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from rentgen.images.prepare import to_native
from rentgen.outputs import codes
from rentgen.outputs.codes import Entry, find
from rentgen.records import DISCLAIMER, Float64, Geometry, Status, UInt8
from rentgen.records.results import DECIDING_POINTS, FilmResult, ModelIdentity, SourceImage, StudyResult, is_finding
from rentgen.records.studies import Point, StoredPrediction

PASSED = "passed"
"""Grade of heat maps whose regions may be shown."""

HALF = 0.5
"""Share of the peak down to which a map belongs to its region."""

_FINE = 96
_MOST_TEXT = 900


class Presence(StrEnum):
    """Whether a film shows what a label names."""

    PRESENT = "present"
    """At or above the operating point."""
    ABSENT = "absent"
    """Below it."""
    UNDETERMINED = "undetermined"
    """The model abstained; or it cannot tell this one of several findings."""
    NOT_ASSESSED = "not assessed"
    """The film is out of scope."""


PRESENCE_CODES = {
    Presence.PRESENT: codes.PRESENT,
    Presence.ABSENT: codes.ABSENT_QUALIFIER,
    Presence.UNDETERMINED: codes.UNDETERMINED,
}
"""As information systems know them; what was not assessed has ways of its own there."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A label and what was found of it.

    Attributes:
        label: as the model has it.
        entry: its codes.
        presence: whether the film shows it; None where the bundle has no operating point for it, so that there is a
            probability and no more.
        probability: calibrated, in [0, 1]; None where the film is out of scope: it would mean nothing.
        point: the operating point that decided; None where none did.
        region: where the heat map peaks: (column, row) in the STORED matrix, continuous, 0 at the outer edge of the
            first pixel, closed by its first point; empty where there is none, or where it may not be shown.
    """

    label: str
    entry: Entry
    presence: Presence | None
    probability: float | None
    point: Point | None
    region: tuple[tuple[float, float], ...] = ()


def findings(film: FilmResult, model: ModelIdentity) -> tuple[Finding, ...]:
    """Return what the answer says of each label, in the model's order; nothing where the film was not analysed.

    Args:
        film: and its answer.
        model: who answered; regions are given only where its heat maps passed their grade.
    """
    stored = film.prediction
    if stored is None or stored.status is Status.ERROR:
        return ()
    return tuple(_finding(label, stored, film.source, model) for label in stored.probabilities)


def _finding(label: str, stored: StoredPrediction, source: SourceImage, model: ModelIdentity) -> Finding:
    point = deciding_point(label, stored.points)
    presence = _presence(stored.status, point)
    region: tuple[tuple[float, float], ...] = ()
    if presence is Presence.PRESENT and is_finding(label) and model.heat_maps == PASSED:
        region = locate(stored, label, source)
    probability = None if stored.status is Status.OUT_OF_SCOPE else stored.probabilities[label]
    return Finding(label, find(label), presence, probability, point, region)


def deciding_point(label: str, points: tuple[Point, ...]) -> Point | None:
    """Return the operating point that says present or absent: the lower of those for finding disease."""
    deciding = [point for point in points if point.label == label and point.name in DECIDING_POINTS]
    return min(deciding, key=lambda point: point.threshold, default=None)


def _presence(status: Status, point: Point | None) -> Presence | None:
    if status not in (Status.OK, Status.ABSTAIN):
        return Presence.NOT_ASSESSED
    if point is None:
        return None
    if status is Status.ABSTAIN or point.undetermined:
        return Presence.UNDETERMINED
    return Presence.PRESENT if point.positive else Presence.ABSENT


def locate(stored: StoredPrediction, label: str, source: SourceImage) -> tuple[tuple[float, float], ...]:
    """Return the outline of a label's heat map at half its peak, in the stored matrix; empty where there is none.

    The outline is the convex hull of the connected part that holds the peak.

    Args:
        stored: with maps.
        label: whose map.
        source: of the film.

    Raises:
        ValueError: the maps lie on a film of another size.
    """
    if stored.maps is None or stored.geometry is None:
        return ()
    geometry = stored.geometry
    if (geometry.native_height, geometry.native_width) != source.native_shape:
        raise ValueError(
            f"Expected maps of a film of {source.native_shape}, "
            f"but they are of one of {(geometry.native_height, geometry.native_width)}."
        )
    corners = _hull(_peak_corners(stored.maps[list(stored.probabilities).index(label)], geometry))
    if len(corners) < 3:
        return ()
    stored_points = to_stored(corners, source)
    points = [(round(float(x), 2), round(float(y), 2)) for x, y in stored_points]
    return (*points, points[0])


def _peak_corners(grid: UInt8, geometry: Geometry) -> Float64:
    """Return native (x, y) of the corners of all fine cells that are connected to the peak, within the film."""
    if not grid.any():
        return np.zeros((0, 2))
    fine = _enlarge(grid)
    peak = np.unravel_index(int(fine.argmax()), fine.shape)
    part = _connected(fine >= HALF * fine.max(), (int(peak[0]), int(peak[1])))
    rows, columns = np.nonzero(part)
    corners = np.concatenate([np.stack([rows + i, columns + j], axis=1) for i in (0, 1) for j in (0, 1)])
    scale = np.array([geometry.height / fine.shape[0], geometry.width / fine.shape[1]])
    native = to_native(corners * scale, geometry)
    native[:, 0] = np.clip(native[:, 0], geometry.top, geometry.top + geometry.crop_height)
    native[:, 1] = np.clip(native[:, 1], geometry.left, geometry.left + geometry.crop_width)
    return native[:, ::-1]


def _enlarge(grid: UInt8) -> Float64:
    """Return a coarse map on a grid of some `_FINE` cells a side, linear between the middles of its cells."""
    fine = grid.astype(np.float64)
    for axis in (0, 1):
        count = fine.shape[axis]
        steps = max(1, _FINE // count) * count
        at = (np.arange(steps) + 0.5) * count / steps - 0.5
        low = np.clip(np.floor(at).astype(np.int64), 0, count - 1)
        high = np.minimum(low + 1, count - 1)
        share = np.clip(at - low, 0.0, 1.0)
        shape = (-1, 1) if axis == 0 else (1, -1)
        share = share.reshape(shape)
        fine = np.take(fine, low, axis) * (1 - share) + np.take(fine, high, axis) * share
    return fine


def _connected(mask: np.ndarray[tuple[int, ...], np.dtype[np.bool_]], start: tuple[int, int]) -> UInt8:
    """Return the part of a mask that can be reached from a place in it, over edges."""
    part = np.zeros(mask.shape, np.uint8)
    waiting = [start]
    while waiting:
        row, column = waiting.pop()
        inside = 0 <= row < mask.shape[0] and 0 <= column < mask.shape[1]
        if inside and mask[row, column] and not part[row, column]:
            part[row, column] = 1
            waiting += [(row + 1, column), (row - 1, column), (row, column + 1), (row, column - 1)]
    return part


def _hull(points: Float64) -> Float64:
    """Return the corners of the convex hull of points (n, 2) in order (Andrew's monotone chain)."""
    ordered = [(float(x), float(y)) for x, y in np.unique(points, axis=0)]
    if len(ordered) < 3:
        return np.array(ordered).reshape(-1, 2)

    def half(way: Iterator[tuple[float, float]]) -> list[tuple[float, float]]:
        chain: list[tuple[float, float]] = []
        for x, y in way:
            while len(chain) > 1 and (
                (chain[-1][0] - chain[-2][0]) * (y - chain[-2][1]) <= (chain[-1][1] - chain[-2][1]) * (x - chain[-2][0])
            ):
                chain.pop()
            chain.append((x, y))
        return chain[:-1]

    return np.array(half(iter(ordered)) + half(reversed(ordered)))


def to_stored(points: Float64, source: SourceImage) -> Float64:
    """Return (x, y) in the stored matrix of points on the film as it is shown: the inverse of `images.limits.orient`.

    Args:
        points: (n, 2), continuous, 0 at the outer edge of the first pixel.
        source: of the film.
    """
    height, width = source.native_shape
    x, y = points[:, 0], points[:, 1]
    if source.orientation in (2, 3, 6, 7):
        x = width - x
    if source.orientation in (3, 4, 7, 8):
        y = height - y
    return np.stack([y, x] if source.orientation >= 5 else [x, y], axis=1)


def sentences(film: FilmResult, model: ModelIdentity) -> tuple[str, ...]:
    """Return what a film's answer says, in English, a sentence a line; nothing of the patient."""
    if film.status is Status.ERROR:
        return (f"Not analysed: {'; '.join(film.reasons)}.",)
    lines = []
    if film.status is Status.OUT_OF_SCOPE:
        lines.append(f"Not assessed, out of scope: {'; '.join(film.reasons)}.")
    if film.status is Status.ABSTAIN:
        lines.append(f"Undetermined, the model abstains: {'; '.join(film.reasons)}.")
    lines += [_sentence(finding) for finding in findings(film, model)]
    return tuple(lines)


def _sentence(finding: Finding) -> str:
    name = finding.entry.primary.meaning
    if finding.probability is None:
        return f"{name}: not assessed."
    percent = f"probability {100 * finding.probability:.1f} %"
    point = finding.point
    if point is None:
        return f"{name}: {percent}."
    if finding.presence is Presence.UNDETERMINED:
        return f"{name}: undetermined ({percent})."
    return f"{name}: {finding.presence} ({percent}; operating point {point.name} at {100 * point.threshold:.1f} %)."


def headline(model: ModelIdentity) -> str:
    """Return who speaks, and what it is worth: the first line of every text."""
    return f"AI result of {model.name} {model.version}, preliminary, not verified by a person."


def impression(result: StudyResult) -> str:
    """Return the whole result in English, a line a sentence, with the disclaimer; nothing of the patient."""
    lines = [headline(result.model)]
    for number, film in enumerate(result.films, 1):
        prefix = f"Film {number}: " if len(result.films) > 1 else ""
        lines += [prefix + shorten(line, _MOST_TEXT) for line in sentences(film, result.model)]
    return "\n".join([*lines, DISCLAIMER])


def shorten(text: str, most: int) -> str:
    """Return a text of at most so many characters, an ellipsis where something is missing.

    Example:
        >>> shorten("a long reason", 9)
        'a long...'
    """
    return text if len(text) <= most else text[: most - 3].rstrip() + "..."
