"""What the command line shows: progress bars, tables, one line per film."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress
from rich.table import Column, Table

from rentgen.records import Card, Evaluation, Interval, Prediction, Progress, Task

if TYPE_CHECKING:
    from rentgen.evaluate.shortcuts import Shortcuts
    from rentgen.evaluate.stress import Robustness
    from rentgen.learn.sources import LeftOut

HEADLINE = (
    "accuracy",
    "balanced_accuracy",
    "auroc",
    "recall",
    "precision",
    "specificity",
    "f1",
    "loss",
    "brier",
    "ece",
)
STAGES = {
    "backbone": "Loading backbone",
    "audit": "Auditing films",
    "features": "Computing features",
    "head": "Training (epochs)",
    "trials": "Trying heads",
    "predictions": "Predicting",
    "download": "Downloading",
    "fetch": "Fetching",
    "films": "Films",
    "finetune": "Fine-tuning (steps)",
    "find-lr": "Trying rates",
    "domain": "Learning the domain",
    "members": "Measuring members",
    "stress": "Under stress",
    "shortcuts": "Looking for shortcuts",
    "heat maps": "Grading heat maps",
}

out = Console()
err = Console(stderr=True)


def write_json(values: Mapping[str, Any], destination: str) -> None:
    """Write strict JSON to a file, or to standard output for `-`."""
    with open_text(destination) as stream:
        json.dump(values, stream, ensure_ascii=False, indent=1, allow_nan=False)
        stream.write("\n")


@contextmanager
def open_text(destination: str | None) -> Iterator[Any]:
    """Open a file for text, standard output for `-`, nothing for None."""
    if destination is None:
        yield None
    elif destination == "-":
        yield sys.stdout
    else:
        path = Path(destination)
        path.parent.mkdir(parents=True, exist_ok=True)
        # A name from a foreign file system may hold bytes that are not UTF-8.
        with path.open("w", encoding="utf-8", errors="backslashreplace") as stream:
            yield stream


@contextmanager
def progress_bars(*, to_stderr: bool = False) -> Iterator[Progress]:
    """Give a callback that draws one bar per stage."""
    bars = RichProgress(
        TextColumn("{task.description:<18}"),
        BarColumn(bar_width=12),
        MofNCompleteColumn(),
        TimeRemainingColumn(compact=True, elapsed_when_finished=True),
        TextColumn("{task.fields[note]}", style="dim", table_column=Column(overflow="fold")),
        console=err if to_stderr or not out.is_terminal else out,
        transient=to_stderr,
    )
    tasks: dict[str, TaskID] = {}

    def call(stage: str, done: int, total: int, note: str = "") -> None:
        # A stage that begins anew (predictions of one part, then of the next) gets a bar of its own.
        if stage not in tasks or done < bars.tasks[tasks[stage]].completed:
            tasks[stage] = bars.add_task(STAGES.get(stage, stage), total=total or None, note=note)
        bars.update(tasks[stage], completed=done, total=total or None, note=note)

    with bars:
        yield call


def print_evaluation(found: Evaluation, title: str) -> None:
    """Print the headline figures with their intervals, stamped where they must be."""
    title = escape(f"{title}: {found.n} films{stamp(found.to_dict())}")
    table = Table("metric", "value", "95 % interval", title=title, title_justify="left")
    for name in HEADLINE:
        interval = found.metrics[name]
        table.add_row(name, f"{interval.value:.3f}", f"{interval.low:.3f} - {interval.high:.3f}")
    out.print(table)
    if found.task is Task.MULTILABEL:
        _print_findings_measured(found)
    if found.positive:
        out.print(f"recall, precision, specificity and f1 speak of {escape(found.positive)}", style="dim")


def _print_findings_measured(found: Evaluation) -> None:
    """Print each finding at its own operating point."""
    shares = ("auroc", "recall", "specificity")
    columns = (Column(name, min_width=11) for name in ("AUROC", "sensitivity", "specificity"))
    table = Table("finding", "present", *columns, "ECE")
    for label, values in found.per_class.items():
        cells = [f"{one.value:.3f} ({one.low:.2f}-{one.high:.2f})" for one in (values[name] for name in shares)]
        present = f"{found.support[label]} of {found.known[label]}"
        table.add_row(escape(label), present, *cells, f"{values['ece'].value:.3f}")
    out.print(table)
    out.print(
        "accuracy, loss and brier are over all known pairs of film and finding, the others means over the findings",
        style="dim",
    )


def print_sources(found: Sequence[LeftOut]) -> None:
    """Print what came of leaving each set out: AUROC of each finding on it, by a model of the others."""
    table = Table("finding", *(escape(f"{one.source} ({one.films} films)") for one in found), title_justify="left")
    table.title = "AUROC on a set that was left out of the training"

    def cell(measured: Interval | None) -> str:
        return "-" if measured is None or math.isnan(measured.value) else str(measured)

    for label in dict.fromkeys(label for one in found for label in one.outside.classes):
        table.add_row(escape(label), *(cell(one.outside.per_class.get(label, {}).get("auroc")) for one in found))
    table.add_row("[bold]mean[/]", *(cell(one.outside.metrics["auroc"]) for one in found))
    table.add_row("mean, on the others", *(cell(one.inside.metrics["auroc"]) for one in found))
    out.print(table)
    out.print("On the others: their validation part, which chose the model; it flatters.", style="dim")


def print_robustness(found: Robustness) -> None:
    """Print what the model does on worse films."""
    table = Table("films", "accuracy", "AUROC", "ECE", title=f"Under stress: {found.n} films", title_justify="left")
    for row in found.rows:
        table.add_row(row.name, *(str(row.metrics[name]) for name in ("accuracy", "auroc", "ece")))
    out.print(table)


def print_shortcuts(found: Shortcuts) -> None:
    """Print whether the model looks where it should."""
    table = Table("probe", "value", "limit", "verdict", title=f"Shortcuts: {found.n} films", title_justify="left")
    words = {True: "[green]passes[/]", False: "[red]fails[/]", None: "-"}
    for probe in found.probes:
        table.add_row(escape(probe.name), str(probe.found), escape(probe.limit), words[probe.passes])
    out.print(table)
    verdict = {True: "[green]passed[/]", False: "[red]not passed[/]", None: "cannot be judged on these films"}
    out.print(f"Shortcut report: {verdict[found.passed]}")


def print_doubts(found: Evaluation) -> None:
    """Print to standard error what speaks against the figures: a leak, files that were not read."""
    if found.leak is not None and found.leak.leaky:
        err.print(
            f"[bold white on red] LEAKY [/] {found.leak.images} films and {found.leak.patients} patients of this set "
            "trained or chose the model: these figures are too good. Measure on films it has not seen.",
            highlight=False,
        )
    elif found.leak is not None and found.leak.patients:
        err.print(
            f"Note: {found.leak.patients} patients have the same names in their file names as patients that trained or "
            "chose the model. If both sets come from one source, these figures are too good.",
            style="yellow",
        )
    for path, reason in list(found.failed.items())[:10]:
        err.print(f"[red]not read:[/] {escape(path)}: {escape(reason)}", highlight=False, soft_wrap=True)


def print_findings(findings: Sequence[str]) -> None:
    """Print what the audit wants somebody to do."""
    for finding in findings:
        err.print(f"[yellow]Audit:[/] {escape(finding)}", highlight=False, soft_wrap=True)


def prediction_line(prediction: Prediction) -> str:
    """Return one film's result as a line of the table that `predict` prints."""
    path, reasons = escape(prediction.path), escape("; ".join(prediction.reasons))
    if prediction.label is None:
        return f"[red]{'-':<18} {'':<11}  {prediction.status:<12}[/]  {path}: {reasons}"
    mark = f" ({reasons})" if prediction.reasons else ""
    if prediction.findings is not None:
        mark = f"{_findings_mark(prediction)}{mark}"
    chance = prediction.probabilities[prediction.label]
    return f"{escape(prediction.label):<18} {chance:<11.3f}  {prediction.status:<12}  {path}{mark}"


def _findings_mark(prediction: Prediction) -> str:
    """Return all findings that are present, those in doubt with a question mark."""
    present = prediction.findings or ()
    named = [
        f"{label} {prediction.probabilities[label]:.3f}{'?' * (label in prediction.undetermined)}" for label in present
    ]
    return escape(f"  present: {', '.join(named) or 'none of the findings'}")


def interval(values: Mapping[str, float | None]) -> str:
    """Return a measured value with its interval, as `Interval.to_dict` gives it, in words."""
    value, low, high = ("?" if values[end] is None else f"{values[end]:.3f}" for end in ("value", "low", "high"))
    return f"{value} ({low} - {high})"


def stamp(measured: Mapping[str, Any]) -> str:
    """Return what must stand behind figures of films that trained or chose the model.

    Args:
        measured: an `Evaluation.to_dict()`.
    """
    return " LEAKY" if measured.get("leaky") else ""


def card_table(card: Card, bundle_id: str) -> Table:
    """Return what a bundle says of itself."""
    table = Table(Column(no_wrap=True), Column(overflow="fold"), title=escape(card.name), show_header=False)
    counts = card.audit.get("films") or {part: sum(classes.values()) for part, classes in card.counts.items()}
    films = ", ".join(f"{part} {number}" for part, number in counts.items())
    what = "Findings" if card.task is Task.MULTILABEL else "Classes"
    measured = card.test or card.validation
    where = "test part" if card.test else "validation part (it chose: this flatters)"
    points = "\n".join(
        f"{point.name} of {point.label}: at least {point.threshold:.3f}; sensitivity {point.sensitivity}, "
        f"specificity {point.specificity}"
        for point in card.operating_points
    )
    fed = card.preprocessing
    made = f"{fed.height} x {fed.width}, {fed.resize}"
    made += ", black borders cut" if fed.crop_borders else ""
    made += f", smoothed by {fed.smooth_px:g} px" if fed.smooth_px else ""
    for name, value in (
        ("Bundle", bundle_id),
        ("Made", f"{card.created} with rentgen {card.software.get('rentgen', '?')}"),
        (what, ", ".join(card.classes) + (f" (positive: {card.positive})" if card.positive else "")),
        ("Input", made),
        ("Backbone", "\n".join(_network_words(one) for one in (card.backbone, *card.backbone.get("also", ())))),
        ("Members", _member_words(card)),
        ("Films", films),
        ("Accuracy", f"{interval(measured['accuracy'])} on its {where}{stamp(measured)}"),
        ("AUROC", interval(measured["auroc"])),
        ("Calibration error", interval(measured["ece"])),
        ("Calibration", _calibration_words(card)),
        ("Operating points", points),
        ("Outside", _outside_words(card)),
        ("Licences", "\n".join(card.licences)),
        ("Intended use", card.intended_use),
        ("Known failures", "\n".join(card.known_failures)),
        ("Parent", card.parent or ""),
        ("Command", card.command),
    ):
        if value:
            table.add_row(f"[bold]{name}[/]", escape(value))
    return table


def _network_words(network: Mapping[str, Any]) -> str:
    return f"{network['name']}; {network['weights']}; {network['licence']}"


def _member_words(card: Card) -> str:
    """Return what an ensemble is made of; nothing of another bundle."""
    return "\n".join(
        f"{one['name']}, {one['backbone'].get('name', '?')}, weight {one['weight']:.3f}; {one['bundle_id']}"
        for one in card.backbone.get("members", ())
    )


def _calibration_words(card: Card) -> str:
    lines = []
    if card.calibration is not None:
        lines.append(f"{card.calibration.method} scaling, fitted on {card.calibration.fitted_on}")
    if card.conformal is not None:
        held = "" if card.conformal.measured is None else f"; measured {interval(card.conformal.measured)}"
        lines.append(f"prediction sets at {card.conformal.coverage:.0%} coverage{held}; no single class: abstain")
    if card.finding_sets:
        named = ", ".join(item.label for item in card.finding_sets)
        lines.append(f"in doubt at {card.finding_sets[0].coverage:.0%} coverage, each on its own: {named}")
    return "\n".join(lines)


def _outside_words(card: Card) -> str:
    """Return which films the model refuses to answer for."""
    lines = []
    if card.domain is not None:
        lines.append(f"films farther than {card.domain.threshold:.2f} from those that taught it")
    if card.scope is not None:
        for name, values in (("Modality", card.scope.modalities), ("body part", card.scope.body_parts)):
            lines += [f"{name} other than {', '.join(values)}"] if values else []
        lines += [f"views other than {', '.join(card.scope.views)}"] if card.scope.views else []
        low, high = card.scope.min_age_years, card.scope.max_age_years
        lines += [f"patients under {low:g} years"] if low else []
        lines += [f"patients over {high:g} years"] if high else []
    return "\n".join(lines)
