"""The nouns of a search: what was tried, what it brought, and what was chosen."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Trial:
    """One head on one set of features, measured on patients that neither taught it nor stopped it.

    Attributes:
        number: in the order of trying.
        films: backbone and preprocessing, in words.
        settings: `table.key` to value, of the recipe.
        losses: of each fold, nats; fewer than the others have where it was given up early.
        accuracy: of the folds measured, plain films.
        stressed: accuracy of the same films under stress.
        seconds: it took.
        whole: every fold was measured.
    """

    number: int
    films: str
    settings: Mapping[str, Any]
    losses: tuple[float, ...]
    accuracy: float
    stressed: float
    seconds: float
    whole: bool

    @property
    def loss(self) -> float:
        """Return the mean over the folds."""
        return sum(self.losses) / len(self.losses) if self.losses else math.inf

    @property
    def error(self) -> float:
        """Return the standard error of that mean; nan of fewer than two folds."""
        count = len(self.losses)
        if count < 2:
            return math.nan
        return math.sqrt(sum((loss - self.loss) ** 2 for loss in self.losses) / (count - 1) / count)


@dataclass(frozen=True, slots=True)
class Opened:
    """A set of features that was computed, and what it was worth with one plain head.

    Attributes:
        films: backbone and preprocessing, in words.
        loss: mean over the folds, nats.
        error: its standard error.
        seconds: of computing and trying.
        changed: what was changed against the best before; empty for the first of a backbone.
    """

    films: str
    loss: float
    error: float
    seconds: float
    changed: str


@dataclass(frozen=True, slots=True)
class Joined:
    """A network that was tried beside the winner, its head trained alike and their logits averaged.

    Attributes:
        films: backbone and preprocessing, in words.
        losses: of each fold, of all together that were kept before and this one, nats.
        gain: mean over the folds by which the loss fell, nats; negative where it rose.
        error: its standard error.
        kept: the gain is more than its error.
    """

    films: str
    losses: tuple[float, ...]
    gain: float
    error: float
    kept: bool


@dataclass(frozen=True, slots=True)
class Tuned:
    """A candidate of fine-tuning.

    Attributes:
        films: backbone and preprocessing, in words.
        epochs: of training the whole network.
        loss: on the validation part, as trials are measured, nats.
        seconds: it took.
        fate: `chosen`, `behind` (given up after its first epoch) or `no better` than the frozen network.
    """

    films: str
    epochs: int
    loss: float
    seconds: float
    fate: str


@dataclass(frozen=True, slots=True)
class Search:
    """What a search found.

    Attributes:
        opened: sets of features, in the order of computing.
        trials: heads, in the order of trying.
        importance: setting to its share of what mattered among the trials, in [0, 1]; empty where too few were whole.
        folds: into which the patients were dealt.
        films: that the folds hold.
        films_in_all: of the training and validation parts.
        stress_weight: share of the stressed films in every loss.
        chosen_by_folds: mean loss of the winner on the folds that chose it, nats.
        nested: mean loss on each fold of the trial that the other folds would have chosen, nats.
        joined: networks that were tried beside the winner, in that order.
        frozen_loss: of the frozen winner and those that were kept beside it, on the validation part, nats; nan where
            nothing was fine-tuned.
        tuned: candidates of fine-tuning.
        recipe: of the winner.
        seconds: stage to what it took.
        minutes: that were given.
        left_out: what was not done for want of time, one sentence each.
    """

    opened: tuple[Opened, ...]
    trials: tuple[Trial, ...]
    importance: Mapping[str, float]
    folds: int
    films: int
    films_in_all: int
    stress_weight: float
    chosen_by_folds: float
    nested: float
    joined: tuple[Joined, ...]
    frozen_loss: float
    tuned: tuple[Tuned, ...]
    recipe: Mapping[str, Any]
    seconds: Mapping[str, float]
    minutes: float
    left_out: tuple[str, ...]

    @property
    def leaderboard(self) -> tuple[Trial, ...]:
        """Return the whole trials, best first."""
        return tuple(sorted((trial for trial in self.trials if trial.whole), key=lambda trial: trial.loss))

    def to_dict(self) -> dict[str, Any]:
        """Return plain values; what is not a number is None."""
        values = asdict(self)
        values["trials"] = [
            asdict(trial) | {"loss": trial.loss, "error": _number(trial.error)} for trial in self.trials
        ]
        values["opened"] = [asdict(one) | {"error": _number(one.error)} for one in self.opened]
        return values | {name: _number(values[name]) for name in ("frozen_loss", "nested")}


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value
