"""What a search tried and why it chose: one self-contained HTML page, strict JSON, and the winner's recipe."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rentgen.evaluate.plots import FAINT, PALETTE, draw_svg
from rentgen.evaluate.rendering import environment, strict, template, to_toml, write_whole
from rentgen.records import DISCLAIMER
from rentgen.records.search import Joined, Search, Trial

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN = 20
"""Trials in the page's leaderboard; the JSON has all."""


def write(directory: Path, found: Search, *, name: str, data: str, command: str, created: str) -> tuple[Path, ...]:
    """Write search.html, search.json and recipe.toml, and return their paths; each appears whole or not at all.

    Args:
        directory: made if it is not there; the training report of the winner lies there, too.
        found: what the search found.
        name: of the bundle.
        data: where the films are.
        command: that repeats the search.
        created: ISO 8601.
    """
    recipe = to_toml(found.recipe)
    page = environment(autoescape=True).get_template("search.html")
    board = found.leaderboard
    values = {
        "name": name,
        "data": data,
        "command": command,
        "created": created,
        "disclaimer": DISCLAIMER,
        "found": found,
        "opened": sorted(found.opened, key=lambda one: one.loss),
        "headline": headline(found),
        "sentences": _sentences(found),
        "honest": _honest(found),
        "joined": [(one.films, joined_words(one)) for one in found.joined],
        "counts": _counts(found),
        "rows": [_row(rank, trial) for rank, trial in enumerate(board[:SHOWN], 1)],
        "recipe": recipe,
        "figures": _figures(found),
        "style": template("report.css"),
    }
    texts = {
        "search.html": page.render(values),
        "search.json": json.dumps(strict(found.to_dict()), allow_nan=False, ensure_ascii=False, indent=1) + "\n",
        "recipe.toml": recipe + "\n",
    }
    directory.mkdir(parents=True, exist_ok=True)
    for file, text in texts.items():
        write_whole(directory / file, text)
    return tuple(directory / file for file in texts)


def headline(found: Search) -> str:
    """Return the choice in one sentence."""
    for one in found.tuned:
        if one.fate == "chosen":
            epochs = "epoch" if one.epochs == 1 else "epochs"
            return f"{one.films}, fine-tuned for {one.epochs} {epochs}."
    first, beside = found.leaderboard[0].films, [one.films.split(" at ")[0] for one in found.joined if one.kept]
    if beside:
        return f"{first}, frozen, together with {' and '.join(beside)}, each with its own head."
    return f"{first}, frozen, with the best head."


def joined_words(one: Joined) -> str:
    """Return what became of a network that was tried beside the winner."""
    loss = sum(one.losses) / len(one.losses)
    fate = "kept" if one.kept else "not surely better: left out"
    return f"loss {loss:.4f} with it, lower by {one.gain:.4f} ± {one.error:.4f}: {fate}"


def settings_words(settings: Mapping[str, Any]) -> str:
    """Return a trial's settings in one line."""
    return ", ".join(
        f"{name.split('.')[1]} {value:.3g}" if isinstance(value, float) else f"{name.split('.')[1]} {value}"
        for name, value in settings.items()
    )


def _sentences(found: Search) -> list[str]:
    given = 1 - found.stress_weight
    return [
        f"Chosen among {len(found.opened)} ways of showing films and {len(found.trials)} heads, on {found.films} films "
        f"in {found.folds} folds of patients. Every loss is {given:.0%} of the loss on films as they are and "
        f"{found.stress_weight:.0%} of that on the same films as a worse day would show them, over equally frequent "
        "classes, after a calibration on other patients.",
        "The fold that is measured neither taught the head nor stopped its training.",
    ]


def _honest(found: Search) -> list[tuple[str, str]]:
    nested = "not measured" if math.isnan(found.nested) else f"{found.nested:.4f}"
    return [
        ("Loss of the winner on the folds that chose it", f"{found.chosen_by_folds:.4f}"),
        ("Loss when other folds choose", nested),
    ]


def _counts(found: Search) -> str:
    whole = len(found.leaderboard)
    return (
        f"{len(found.trials)} trials; {whole} were measured on all folds, {len(found.trials) - whole} were given up "
        "early because they were behind."
    )


def _row(rank: int, trial: Trial) -> dict[str, Any]:
    return {
        "rank": rank,
        "loss": f"{trial.loss:.4f} ± {trial.error:.4f}",
        "accuracy": f"{trial.accuracy:.3f}",
        "stressed": f"{trial.stressed:.3f}",
        "films": trial.films,
        "settings": settings_words(trial.settings),
    }


def _figures(found: Search) -> dict[str, str]:
    whole = [trial for trial in found.trials if trial.whole]
    figures = {"course": _course(whole)} if whole else {}
    if found.importance:
        figures["importance"] = _importance(found.importance)
    if len(whole) > 2:
        figures["settings"] = _scatter(whole)
    return figures


def _course(whole: Sequence[Trial]) -> str:
    losses = np.array([trial.loss for trial in whole])
    numbers = [trial.number + 1 for trial in whole]
    alt = f"Loss of {len(whole)} trials; the best is {losses.min():.4f}."

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        axes.plot(numbers, losses, "o", color=FAINT, markersize=4)
        axes.step(numbers, np.minimum.accumulate(losses), where="post", color=PALETTE[0])
        axes.set(title="How the search went", xlabel="Trial", ylabel="Loss")
        axes.set_ylim(losses.min() * 0.97, np.quantile(losses, 0.9) * 1.05)

    return draw_svg("course", alt, draw)


def _importance(importance: Mapping[str, float]) -> str:
    ranked = sorted(importance.items(), key=lambda item: item[1])
    names = [name.split(".")[-1].replace("_", " ") for name, _ in ranked]
    alt = "What mattered: " + ", ".join(f"{name} {value:.0%}" for name, (_, value) in zip(names, ranked, strict=True))

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        bars = axes.barh(names, [value for _, value in ranked], color=PALETTE[0])
        axes.bar_label(bars, fmt="%.2f", padding=4)
        axes.margins(x=0.14)
        axes.grid(visible=False, axis="y")
        axes.set(title="What mattered among heads", xlabel="Share")

    return draw_svg("importance", alt, draw)


def _scatter(whole: Sequence[Trial]) -> str:
    names = list(whole[0].settings)
    films = list(dict.fromkeys(trial.films for trial in whole))
    losses = [trial.loss for trial in whole]
    alt = "Loss over " + ", ".join(name.split(".")[1].replace("_", " ") for name in names) + "."

    def draw(figure: Figure) -> None:
        columns = 4
        grid = figure.subplots(math.ceil(len(names) / columns), columns, sharey=True, squeeze=False)
        for place, axes in enumerate(grid.flat):
            if place >= len(names):
                axes.set_axis_off()
                continue
            name = names[place]
            for number, shown in enumerate(films):
                chosen = [trial for trial in whole if trial.films == shown]
                axes.plot(
                    [float(trial.settings[name]) for trial in chosen],
                    [trial.loss for trial in chosen],
                    "o",
                    markersize=3,
                    color=PALETTE[number % len(PALETTE)],
                )
            axes.set_xlabel(name.split(".")[1].replace("_", " "))
            if name in ("head.learning_rate", "head.hidden", "head.batch_size"):
                axes.set_xscale("log")
                axes.minorticks_off()
            axes.set_ylim(min(losses) * 0.97, float(np.quantile(losses, 0.9)) * 1.05)
        figure.suptitle("Loss over each setting")

    return draw_svg("settings", alt, draw, size=(9, 5))
