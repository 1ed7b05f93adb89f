"""Figures of a report, as SVG text that stands inside an HTML page and follows its light or dark colours.

Matplotlib draws with its object interface, never through pyplot, and its settings are changed only while a figure is
drawn. Colours are written as CSS variables with a fallback, text stays text, identifiers carry the figure's name, and
the same input gives the same bytes.
"""

from __future__ import annotations

import html
import io
import re
import textwrap
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from rentgen.errors import MissingExtraError
from rentgen.evaluate.weighted import BINS
from rentgen.records import Curve, History, Interval, OperatingPoint

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, FAINT, GRID, PAPER = "#1b2430", "#5b6675", "#d9dfe6", "#fefefe"
PALETTE = ("#0b66a8", "#c2410c", "#0f7a5f", "#8a3fa0", "#8a6100", "#4d5bc4", "#a8325f", "#3f6b1f")
"""Dark enough for a white page (4.5 to 1); line styles help where colour vision does not."""
VARIABLES = {INK: "ink", FAINT: "faint", GRID: "line", PAPER: "paper"} | {
    colour: f"series-{index}" for index, colour in enumerate(PALETTE)
}
"""Colour to the CSS variable that a page may set in its place."""
FONTS = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Noto Sans', 'DejaVu Sans', sans-serif"
STYLES: tuple[str | tuple[int, tuple[float, ...]], ...] = ("-", (0, (6, 2)), (0, (2, 1.5)), (0, (6, 2, 1.5, 2)))
MARKERS = {"youden": "o", "sensitivity_0.95": "^", "specificity_0.95": "s"}
MARKER_NAMES = {"youden": "Youden", "sensitivity_0.95": "sensitivity 0.95", "specificity_0.95": "specificity 0.95"}
SETTINGS: Mapping[str, object] = {
    "svg.fonttype": "none",
    "font.family": ["DejaVu Sans"],
    "font.size": 11.5,
    "axes.titlesize": 12.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 10,
    "axes.labelsize": 11.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "text.color": INK,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "lines.linewidth": 2.0,
    "legend.frameon": False,
    "legend.fontsize": 10.5,
    "figure.facecolor": "none",
}


def history_figure(history: History, metric: str) -> str:
    """Return `loss`, `accuracy`, `recall` or `f1` over the epochs, one line for each part, the best epoch marked."""
    titles = {"loss": "Loss", "accuracy": "Accuracy", "recall": "Recall, macro", "f1": "F1, macro"}
    finals = [f"{part} {getattr(epochs[history.best_epoch], metric):.3f}" for part, epochs in history.parts.items()]
    alt = f"{titles[metric]} over the epochs. At the best epoch, {history.best_epoch + 1}: {', '.join(finals)}."

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for index, (part, epochs) in enumerate(history.parts.items()):
            values = [getattr(epoch, metric) for epoch in epochs]
            few = "o" if len(values) < 12 else ""
            axes.plot(
                range(1, len(values) + 1),
                values,
                color=PALETTE[index],
                linestyle=STYLES[index % len(STYLES)],
                marker=few,
                markersize=4,
                label=part,
            )
        best = history.best_epoch + 1
        axes.axvline(best, color=FAINT, linewidth=1.2, linestyle=(0, (1, 2)), label=f"best epoch: {best}")
        axes.set(title=titles[metric], xlabel="Epoch")
        axes.locator_params(axis="x", integer=True)
        if metric == "loss":
            axes.set_ylim(bottom=0)
        else:
            axes.set_ylim(top=min(1.01, axes.get_ylim()[1]))
        axes.legend(loc="best")

    return draw_svg(f"history-{metric}", alt, draw)


def rate_figure(rates: Sequence[float], losses: Sequence[float], suggestion: float) -> str:
    """Return the loss of a learning-rate range test over the rate, the suggestion marked."""
    alt = f"Loss over the learning rate, from {min(rates):.0e} to {max(rates):.0e}; suggested is {suggestion:.1e}."

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        axes.plot(rates, losses, color=PALETTE[0])
        axes.axvline(
            suggestion, color=FAINT, linewidth=1.2, linestyle=(0, (1, 2)), label=f"suggested: {suggestion:.1e}"
        )
        axes.set(title="Learning-rate range test", xlabel="Learning rate", ylabel="Loss, smoothed", xscale="log")
        axes.set_ylim(bottom=0, top=min(max(losses), 3 * losses[0]))
        axes.legend(loc="best")

    return draw_svg("find-lr", alt, draw)


def roc_figure(
    curves: Mapping[str, Curve], areas: Mapping[str, Interval], points: Sequence[OperatingPoint] = ()
) -> str:
    """Return ROC curves with the operating points marked.

    Args:
        curves: class to curve.
        areas: class to AUROC, for the legend.
        points: measured on the same set; of several classes only Youden's are drawn, for the eye's sake.
    """
    points = points if len(curves) == 1 else [point for point in points if point.name == "youden"]
    alt = "ROC curves. " + "; ".join(f"{label}: AUROC {areas[label]}" for label in curves)

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        axes.plot([0, 1], [0, 1], color=FAINT, linewidth=1, linestyle=(0, (1, 2)))
        for index, (label, curve) in enumerate(curves.items()):
            colour = PALETTE[index % len(PALETTE)]
            name = f"{_shorten(label)}: {areas[label].value:.3f}"
            axes.plot(curve.x, curve.y, color=colour, linestyle=STYLES[index % len(STYLES)], label=name)
            for point in points:
                if point.label == label:
                    x, y = 1 - point.specificity.value, point.sensitivity.value
                    axes.plot(x, y, MARKERS.get(point.name, "D"), color=colour, markeredgecolor=PAPER, markersize=9)
        for name in dict.fromkeys(point.name for point in points):
            axes.plot([], [], MARKERS.get(name, "D"), color=FAINT, label=MARKER_NAMES.get(name, name))
        _unit_square(axes)
        axes.set(title="ROC curve, with AUROC", xlabel="1 - specificity (false alarms)", ylabel="Sensitivity")
        axes.legend(loc="lower right")

    return draw_svg("roc", alt, draw)


def precision_recall_figure(
    curves: Mapping[str, Curve], areas: Mapping[str, Interval], prevalences: Mapping[str, float]
) -> str:
    """Return precision-recall curves; under a single one, a faint line shows what guessing would reach.

    Args:
        curves: class to curve.
        areas: class to average precision, for the legend.
        prevalences: class to its share of the set.
    """
    alt = "Precision-recall curves. " + "; ".join(f"{label}: average precision {areas[label]}" for label in curves)

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for index, (label, curve) in enumerate(curves.items()):
            colour = PALETTE[index % len(PALETTE)]
            name = f"{_shorten(label)}: {areas[label].value:.3f}"
            axes.plot(curve.x, curve.y, color=colour, linestyle=STYLES[index % len(STYLES)], label=name)
        if len(curves) == 1:
            share = prevalences[next(iter(curves))]
            axes.axhline(share, color=FAINT, linewidth=1, linestyle=(0, (1, 2)), label=f"by guessing: {share:.3f}")
        _unit_square(axes)
        axes.set(title="Precision and recall, with AP", xlabel="Recall (sensitivity)", ylabel="Precision")
        axes.legend(loc="lower left")

    return draw_svg("precision-recall", alt, draw)


def reliability_figure(curve: Curve) -> str:
    """Return the share that was right over the stated confidence, and how many films stand behind each point.

    The bars are Wilson's 95 % intervals, each film counted as independent.

    Source: Wilson, Probable inference, the law of succession, and statistical inference, JASA 22 (1927), 209-212.
    """
    cases = np.array(curve.count, dtype=np.float64)
    x, y = np.array(curve.x), np.array(curve.y)
    alt = "Reliability. " + "; ".join(
        f"confidence {a:.2f}: right {b:.2f} of {n}" for a, b, n in zip(curve.x, curve.y, curve.count, strict=True)
    )

    def draw(figure: Figure) -> None:
        top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
        top.plot([0, 1], [0, 1], color=FAINT, linewidth=1, linestyle=(0, (1, 2)), label="perfect")
        square = 1.959964**2
        centre = (y + square / (2 * cases)) / (1 + square / cases)
        half = np.sqrt(square * (y * (1 - y) / cases + square / (4 * cases**2))) / (1 + square / cases)
        top.vlines(x, centre - half, centre + half, color=PALETTE[0], linewidth=1.4, alpha=0.7)
        top.plot(x, y, "o-", color=PALETTE[0], markeredgecolor=PAPER, markersize=7, label="measured")
        left = max(0.0, float(np.floor((x.min() - 0.02) * 10) / 10))
        top.set(title="Is its confidence deserved?", ylabel="Share right", ylim=(min(left, y.min()) - 0.02, 1.03))
        top.legend(loc="lower right")
        # The bin is known by the mean confidence that lies in it.
        bins = np.clip(np.ceil(x * BINS) - 1, 0, BINS - 1)
        bottom.bar((bins + 0.5) / BINS, cases, width=0.92 / BINS, color=PALETTE[0], alpha=0.75)
        bottom.set(xlabel="Confidence of the class it named", ylabel="Films", xlim=(left, 1.01))
        bottom.locator_params(axis="y", integer=True, nbins=3)
        figure.align_ylabels()

    return draw_svg("reliability", alt, draw)


def confusion_figure(confusion: Sequence[Sequence[int]], classes: Sequence[str]) -> str:
    """Return the confusion matrix: counts, and the share of each true class.

    Args:
        confusion: (k, k); rows are the true classes.
        classes: names of rows and columns.
    """
    counts = np.array(confusion)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    alt = "Confusion matrix. " + "; ".join(
        f"true {classes[row]}, named {classes[column]}: {counts[row, column]}"
        for row, column in np.ndindex(counts.shape)
    )

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        size = {2: 15.0, 3: 13.0, 4: 11.5}.get(len(classes), 9.0)
        for row, column in np.ndindex(counts.shape):
            share = float(shares[row, column])
            colour = PALETTE[0] if row == column else PALETTE[1]
            strength = 0.06 + 0.94 * share
            axes.bar(column, 0.96, width=0.96, bottom=row - 0.48, color=colour, alpha=strength, linewidth=0)
            digits = 1 if len(classes) < 5 else 0
            text = f"{counts[row, column]}\n{share * 100:.{digits}f} %"
            ink = PAPER if share > 0.5 else INK
            axes.text(column, row, text, ha="center", va="center", color=ink, fontsize=size, linespacing=1.5)
        names = [textwrap.fill(_shorten(label, 20), 11 if len(classes) < 4 else 20) for label in classes]
        axes.set_xticks(range(len(classes)), names)
        if len(classes) > 3:
            axes.tick_params(axis="x", labelrotation=30, labelrotation_mode="xtick")
        axes.set_yticks(range(len(classes)), names)
        axes.set(xlim=(-0.5, len(classes) - 0.5), ylim=(len(classes) - 0.5, -0.5))
        axes.set(title="Confusion matrix", xlabel="Named by the model", ylabel="True class")
        axes.grid(visible=False)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)

    return draw_svg("confusion", alt, draw)


def errors_figure(errors: Mapping[str, Mapping[str, Any]]) -> str:
    """Return which findings were missed, or wrongly said, on films that show which others: counts and shares.

    Args:
        errors: finding to `FindingErrors.to_dict()`.
    """
    findings = list(errors)
    kinds = (("missed", "missed_beside", PALETTE[0]), ("wrongly said", "false_alarms_beside", PALETTE[1]))
    cells = [
        (row, f"{label}, {kind}", findings.index(other), errors[label][key][other], colour)
        for place, label in enumerate(findings)
        for row, (kind, key, colour) in enumerate(kinds, 2 * place)
        for other in errors[label][key]
    ]
    alt = "Errors beside other findings. " + "; ".join(
        f"{name} on {cell['n']} of {cell['of']} films with {findings[column]}"
        for _, name, column, cell, _ in cells
        if cell["n"]
    )

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        many = len(findings) > 6
        for row, _, column, cell, colour in cells:
            share = cell["n"] / max(cell["of"], 1)
            axes.bar(column, 0.94, width=0.96, bottom=row - 0.47, color=colour, alpha=0.05 + 0.95 * share, linewidth=0)
            text = "" if not cell["of"] else f"{cell['n']}" if many else f"{cell['n']} of {cell['of']}"
            ink = PAPER if share > 0.5 else INK
            axes.text(column, row, text, ha="center", va="center", color=ink, fontsize=7.5 if many else 9.5)
        names = [_shorten(label, 20) for label in findings]
        axes.set_xticks(range(len(findings)), names, rotation=35, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(2 * len(findings)), [f"{name}, {kind}" for name in names for kind, _, _ in kinds])
        axes.set(xlim=(-0.5, len(findings) - 0.5), ylim=(2 * len(findings) - 0.5, -0.5))
        axes.set(title="Errors beside other findings", xlabel="On films that show")
        axes.grid(visible=False)
        axes.tick_params(length=0, labelsize=8.5 if many else 10)
        axes.spines[:].set_visible(False)

    # Wide enough for the names, high enough for two rows a finding.
    return draw_svg("errors", alt, draw, size=(max(5.0, 2.4 + 0.62 * len(findings)), 1.6 + 0.52 * len(findings)))


def counts_figure(counts: Mapping[str, Mapping[str, int]]) -> str:
    """Return how many films of each class stand in each part."""
    classes = list(dict.fromkeys(label for part in counts.values() for label in part))
    alt = "Films of each class. " + "; ".join(
        f"{part}: " + ", ".join(f"{label} {number}" for label, number in values.items())
        for part, values in counts.items()
    )

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        height = 0.8 / max(1, len(classes))
        for index, label in enumerate(classes):
            numbers = [part.get(label, 0) for part in counts.values()]
            places = np.arange(len(counts)) + (index - (len(classes) - 1) / 2) * height
            colour = PALETTE[index % len(PALETTE)]
            bars = axes.barh(places, numbers, height=height * 0.9, color=colour, label=_shorten(label))
            axes.bar_label(bars, padding=4, fontsize=10.5 if len(classes) < 6 else 8)
        axes.set_yticks(range(len(counts)), list(counts))
        axes.invert_yaxis()
        axes.margins(x=0.14)
        axes.grid(visible=False, axis="y")
        axes.tick_params(axis="y", length=0)
        axes.locator_params(axis="x", integer=True, nbins=5)
        axes.set(title="Films of each class", xlabel="Films")
        figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=min(3, len(classes)))

    return draw_svg("counts", alt, draw)


def _unit_square(axes: Axes) -> None:
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))


def _shorten(label: str, most: int = 22) -> str:
    text = "".join(letter if letter.isprintable() else " " for letter in label)
    text = text if len(text) <= most else text[: most - 1] + "…"
    # A dollar sign would start matplotlib's formula language.
    return text.replace("$", r"\$")


def draw_svg(name: str, alt: str, draw: Callable[[Figure], None], *, size: tuple[float, float] = (5, 4)) -> str:
    """Return the drawn figure as one `<svg>` element.

    Args:
        name: goes into every identifier, so that figures can share a page.
        alt: what the figure shows, for those who do not see it.
        draw: puts the axes on the empty figure.
        size: width and height, inches.
    """
    try:
        from matplotlib import style
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("matplotlib", "report", "the report") from error
    stream = io.StringIO()
    with warnings.catch_warnings(), style.context(["default", {**SETTINGS, "svg.hashsalt": name}]):
        # The reader's own fonts draw the text; matplotlib's only measures it.
        warnings.filterwarnings("ignore", "Glyph .* missing from font", UserWarning)
        figure = Figure(figsize=size, layout="constrained")
        draw(figure)
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(stream, format="svg", metadata=nothing)
    text = stream.getvalue()
    text = text[text.index("<svg") :].strip()
    text = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>\s*", "", text, count=1, flags=re.DOTALL)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = text.replace('href="#', f'href="#{name}-').replace("url(#", f"url(#{name}-")
    text = text.replace("'DejaVu Sans'", FONTS)
    for colour, variable in VARIABLES.items():
        text = text.replace(colour, f"var(--{variable}, {colour})")
    # The page gives the size; the first tag's own would not shrink on a phone.
    first, rest = text.split(">", 1)
    first = re.sub(r' (width|height)="[^"]*"', "", first)
    first += ' style="stroke-linejoin: round; stroke-linecap: butt"'
    return f'{first} role="img" aria-label="{html.escape(alt, quote=True)}">{rest}'
