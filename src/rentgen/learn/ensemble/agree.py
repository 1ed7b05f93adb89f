"""What bundles must have in common to answer as one, and what they then have."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

from rentgen.bundle import Bundle
from rentgen.errors import SettingError
from rentgen.learn.ensemble.graph import Voice
from rentgen.records import Preprocessing, Scope, Task

MOST = 32
"""Members of one ensemble; what a name is short for is read, prepared and run so many times."""


@dataclass(frozen=True, slots=True, eq=False)
class Seat:
    """A member: the bundle, and what it counts.

    Attributes:
        name: of its file, for messages.
        bundle: as it was read.
        weight: in the mean of the probabilities; all of them sum to 1.
    """

    name: str
    bundle: Bundle
    weight: float

    def voice(self, classes: Sequence[str]) -> Voice:
        """Return the member as the graph hears it.

        Args:
            classes: of the ensemble, in its order.
        """
        card = self.bundle.card
        count = len(card.classes)
        calibration = card.calibration
        return Voice(
            name=self.name,
            model=self.bundle.model,
            order=tuple(card.classes.index(label) for label in classes),
            scale=(1.0,) * count if calibration is None else calibration.scale,
            bias=(0.0,) * count if calibration is None else calibration.bias,
            weight=self.weight,
            threshold=None if card.domain is None else card.domain.threshold,
        )


@dataclass(frozen=True, slots=True)
class Common:
    """What all members have in common.

    Attributes:
        classes: in the first member's order.
        task: one class a film, or several findings.
        positive: the first member's.
        preprocessing: what each is fed.
        scope: films that every member is meant for; None where none says.
    """

    classes: tuple[str, ...]
    task: Task
    positive: str | None
    preprocessing: Preprocessing
    scope: Scope | None


def parse_weights(text: str, count: int) -> tuple[float, ...]:
    """Return a weight for each member, summing to 1.

    Args:
        text: `equal`, or a positive number for each, by comma, in the order of the members.
        count: of members.

    Raises:
        SettingError: another number of weights, or one that is not positive.

    Example:
        >>> parse_weights("3,1", 2)
        (0.75, 0.25)
    """
    if text.strip() == "equal":
        return (1 / count,) * count
    try:
        weights = [float(word) for word in text.split(",")]
    except ValueError:
        weights = []
    if len(weights) != count or not all(weight > 0 and math.isfinite(weight) for weight in weights):
        raise SettingError(
            f"Expected weights: `equal`, or a positive number for each of the {count} members, by comma, such as "
            f"{','.join(['1'] * count)}, but got {text!r}."
        )
    return tuple(weight / math.fsum(weights) for weight in weights)


def agree(seats: Sequence[Seat]) -> Common:
    """Return what the members have in common, after checking that they can answer together.

    Raises:
        SettingError: too few or too many members, one twice, or members of another task, of other classes, of another
            preparation of the film, or for films of which none is meant for all of them.
    """
    if not 2 <= len(seats) <= MOST:
        raise SettingError(
            f"Expected 2 to {MOST} bundles to answer together, but got {len(seats)}. "
            "Train another, with another --seed or --backbone."
        )
    seen: dict[str, str] = {}
    for seat in seats:
        if seat.bundle.bundle_id in seen:
            same = f"{seen[seat.bundle.bundle_id]} and {seat.name}"
            raise SettingError(f"{same} are the same bundle. Give it once, and let it count more with --weights.")
        seen[seat.bundle.bundle_id] = seat.name
    first, *others = seats
    ours = first.bundle.card
    for other in others:
        theirs = other.bundle.card
        who = f"{first.name} and {other.name}"
        if theirs.task is not ours.task:
            raise SettingError(f"Expected members of one task, but {who} have {ours.task} and {theirs.task}.")
        if set(theirs.classes) != set(ours.classes):
            raise SettingError(
                f"Expected members of the same classes, but {first.name} has {', '.join(ours.classes)}, and "
                f"{other.name} has {', '.join(theirs.classes)}."
            )
        apart = differing(ours.preprocessing, theirs.preprocessing)
        if apart:
            raise SettingError(
                f"Expected members that are fed the same prepared film, but {who} differ in {'; '.join(apart)}. Train "
                "one of them anew with the other's `preprocessing`."
            )
    for seat in seats:
        domain = seat.bundle.card.domain
        if domain is not None and domain.threshold <= 0:
            raise SettingError(
                f"{seat.name}: expected a positive threshold of its domain, for distances are compared in units of it, "
                f"but got {domain.threshold:g}. Train it with a larger answer.kept."
            )
    return Common(ours.classes, ours.task, ours.positive, ours.preprocessing, _common_scope(seats))


def differing(ours: Preprocessing, theirs: Preprocessing) -> list[str]:
    """Return the settings that differ, with both values."""
    pairs = [(field.name, getattr(ours, field.name), getattr(theirs, field.name)) for field in fields(Preprocessing)]
    return [f"{name} ({one} and {other})" for name, one, other in pairs if one != other]


def _common_scope(seats: Sequence[Seat]) -> Scope | None:
    """Return the films that every member is meant for."""
    scopes = [(seat.name, seat.bundle.card.scope) for seat in seats]
    given = [(name, scope) for name, scope in scopes if scope is not None]
    if not given:
        return None
    lists = {
        name: _shared(name, [(who, getattr(scope, name)) for who, scope in given])
        for name in ("modalities", "body_parts", "views")
    }
    youngest = _bound(max, [scope.min_age_years for _, scope in given])
    oldest = _bound(min, [scope.max_age_years for _, scope in given])
    if youngest is not None and oldest is not None and youngest > oldest:
        raise SettingError(
            f"Expected members that are meant for some patients in common, but one begins at {youngest:g} years and "
            f"another ends at {oldest:g}."
        )
    return Scope(**lists, min_age_years=youngest, max_age_years=oldest)


def _shared(name: str, given: Sequence[tuple[str, tuple[str, ...]]]) -> tuple[str, ...]:
    """Return the codes that all of those allow who limit them; in the first one's spelling."""
    limiting = [(who, codes) for who, codes in given if codes]
    if not limiting:
        return ()
    left = [code for code in limiting[0][1] if all(_plain(code) in map(_plain, codes) for _, codes in limiting)]
    if not left:
        told = "; ".join(f"{who}: {', '.join(codes)}" for who, codes in limiting)
        raise SettingError(f"Expected members with {name} in common in their scopes, but there is none ({told}).")
    return tuple(left)


def _plain(code: str) -> str:
    # As the gate compares them.
    return " ".join(code.upper().replace("_", " ").split())


def _bound(choose: Callable[[list[float]], float], values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return choose(known) if known else None
