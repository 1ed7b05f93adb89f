"""The nouns of keeping track: what a run was asked, and what it found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rentgen.records.common import DISCLAIMER
from rentgen.records.evaluation import Evaluation, Interval
from rentgen.records.model import Card
from rentgen.records.training import Epoch


@dataclass(frozen=True, slots=True)
class RunStart:
    """What is known before the work.

    Attributes:
        name: of the run.
        task: `train`, `evaluate` or `search`.
        parameters: setting to value; nested tables become `table.setting`.
        command: that repeats the run.
    """

    name: str
    task: str
    parameters: Mapping[str, str]
    command: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Findings:
    """What is known after it.

    Attributes:
        curves: part to epochs.
        metrics: name to number; `test/accuracy`, with `test/accuracy_low` and `test/accuracy_high` for its interval.
        pictures: name to PNG.
        files: to be kept with the run: report and bundle.
        note: Markdown; the run's description.
    """

    curves: Mapping[str, tuple[Epoch, ...]] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    pictures: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    files: tuple[Path, ...] = ()
    note: str = ""


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Return nested tables as one: `{"head": {"epochs": 4}}` is `{"head.epochs": "4"}`."""
    flat: dict[str, str] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = str(value)
    return flat


def figures(found: Evaluation, part: str) -> dict[str, float]:
    """Return an evaluation's metrics under a part's name, each with the ends of its interval; without what is nan."""
    named: dict[str, Interval] = {f"{part}/{name}": value for name, value in found.metrics.items()}
    named |= {
        f"{part}/{name}/{label}": value for label, values in found.per_class.items() for name, value in values.items()
    }
    numbers = {
        f"{name}{end}": number
        for name, value in named.items()
        for end, number in (("", value.value), ("_low", value.low), ("_high", value.high))
    }
    return {name: float(number) for name, number in numbers.items() if number == number} | {f"{part}/n": found.n}


def describe(card: Card, bundle_id: str) -> str:
    """Return a card as Markdown: the description of a run, or of a registered model."""
    measured, part = (
        (card.test, "test") if card.test else (card.validation, "validation (it chose the model: flatters)")
    )
    lines = [f"# {card.name}", DISCLAIMER, card.intended_use, f"Classes: {', '.join(card.classes)}."]
    figures = [
        f"| {name} | {found['value']:.3f} | {found['low']:.3f} - {found['high']:.3f} |"
        for name in ("accuracy", "auroc", "recall", "f1", "ece", "brier")
        if (found := measured.get(name)) and None not in found.values()
    ]
    if figures:
        table = "\n".join([f"| {part} part | value | 95 % interval |", "|---|---|---|", *figures])
        lines.append(table + (f"\n\nMeasured on {measured['n']} films." if "n" in measured else ""))
    lists = (("Known failures", card.known_failures), ("Licences", card.licences))
    lines += [f"{title}:\n\n" + "\n".join(f"- {line}" for line in given) for title, given in lists if given]
    lines.append(f"Bundle: {bundle_id}, made {card.created}.")
    return "\n\n".join(line for line in lines if line) + "\n"
