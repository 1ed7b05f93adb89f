"""Figures of how far a model can be trusted: under stress, and of its heat maps. Drawn as `evaluate.plots` draws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from rentgen.evaluate.plots import FAINT, PALETTE, PAPER, STYLES, draw_svg

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAP_NAMES = {"map": "heat map", "random": "by chance", "centre": "the middle"}


def stress_figure(rows: Sequence[Mapping[str, Any]], metric: str, title: str) -> str:
    """Return a dot with its interval for each kind of film, the films as they are on top and as a line.

    Args:
        rows: of `Robustness.to_dict()`, the first one the films as they are.
        metric: `auroc` or `accuracy`.
        title: its name.
    """
    known = [row for row in rows if row[metric]["value"] is not None]
    alt = f"{title}. " + "; ".join(f"{row['name']}: {row[metric]['value']:.3f}" for row in known)

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        plain = known[0]
        for place, row in enumerate(known):
            found, first = row[metric], row is plain
            colour = PALETTE[0] if not first else PALETTE[1]
            if found["low"] is not None and found["high"] is not None:
                axes.hlines(place, found["low"], found["high"], color=colour, linewidth=2.2, alpha=0.6)
            axes.plot(found["value"], place, "o", color=colour, markeredgecolor=PAPER, markersize=8)
        axes.axvline(plain[metric]["value"], color=FAINT, linewidth=1, linestyle=(0, (1, 2)))
        axes.set_yticks(range(len(known)), ["as they are" if row is plain else row["name"] for row in known])
        axes.invert_yaxis()
        left, right = axes.get_xlim()
        # A tenth at least, so that a thousandth does not look like a fall.
        axes.set_xlim(min(left, 0.91, plain[metric]["value"] - 0.05), min(right, 1.015))
        axes.grid(visible=False, axis="y")
        axes.tick_params(axis="y", length=0)
        axes.set(title=title, xlabel=f"{title}, with its 95 % interval")

    return draw_svg(f"stress-{metric}", alt, draw, size=(5, 4.6))


def follow_figure(kind: str, steps: Sequence[float], lines: Mapping[str, Sequence[float]]) -> str:
    """Return how the named class's probability goes as a film is deleted or inserted, for the map and its baselines.

    Args:
        kind: `deletion` or `insertion`.
        steps: share of the film deleted or inserted.
        lines: `map`, `random` and `centre` to the mean probability at each step.
    """
    title = {"deletion": "Hot places first deleted", "insertion": "Hot places first inserted"}[kind]
    half = len(steps) // 2
    alt = f"{title}. " + "; ".join(
        f"{MAP_NAMES.get(name, name)}: {line[half]:.3f} at {steps[half]:.0%}" for name, line in lines.items()
    )

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for index, (name, line) in enumerate(lines.items()):
            axes.plot(
                np.array(steps) * 100,
                line,
                color=PALETTE[index],
                linestyle=STYLES[index % len(STYLES)],
                label=MAP_NAMES.get(name, name),
            )
        axes.set(title=title, xlabel=f"Part of the film {kind.replace('ion', 'ed')}, %", ylabel="Mean probability")
        axes.legend(loc="best")

    return draw_svg(f"follow-{kind}", alt, draw)
