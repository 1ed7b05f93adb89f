"""Commands about bundles in use: those that ship, a site's own calibration, and the gate for upgrades."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Column, Table

from rentgen.cli.options import (
    BundleArgument,
    DataArgument,
    EngineOption,
    JsonOption,
    PatternOption,
    PrecisionOption,
    ResamplesOption,
    app,
    command_line,
    films_in,
    open_predictor,
)
from rentgen.errors import SettingError
from rentgen.records import EngineName, Interval, Precision, Task
from rentgen.terminal import err, interval, out, progress_bars, stamp, write_json


@app.command()
def models(json_file: JsonOption = None) -> None:
    """List the bundles that come with the package: what they answer, how well, and for whom they are meant."""
    from rentgen import bundle as bundles

    cards = {name: bundles.read(path).card for name, path in bundles.shipped().items()}
    if json_file is not None:
        write_json({name: card.to_dict() for name, card in cards.items()}, json_file)
    if json_file == "-":
        return
    table = Table(Column("name", no_wrap=True), "classes", "accuracy", "AUROC", "intended use", title="Bundles")
    for name, card in cards.items():
        measured = card.test or card.validation
        table.add_row(
            f"[bold]{escape(name)}[/]",
            escape(", ".join(card.classes)),
            interval(measured["accuracy"]) + stamp(measured),
            interval(measured["auroc"]),
            escape(card.intended_use),
        )
    out.print(table)
    out.print("The whole card: rentgen inspect NAME. To read a film: rentgen predict NAME FILM", highlight=False)


@app.command()
def calibrate(
    bundle: BundleArgument,
    data: DataArgument,
    destination: Annotated[Path, typer.Option("--out", metavar="FILE.rentgen", help="The bundle to write.")],
    method: Annotated[
        str, typer.Option(help="auto, none, temperature or vector; auto takes the best on films that did not fit it.")
    ] = "auto",
    coverage: Annotated[
        float, typer.Option(help="How often a prediction set shall hold the true class, in (0, 1).")
    ] = 0.95,
    prevalence: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CLASS=P", help="Share of a class or finding where the model will work; more of them after commas."
        ),
    ] = None,
    like: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Films without labels, as they come: their prevalence is estimated (EM) and used."
        ),
    ] = None,
    json_file: JsonOption = None,
    resamples: ResamplesOption = 1000,
    seed: Annotated[int, typer.Option(help="Of the folds and the bootstrap.", min=0)] = 0,
    patient_pattern: PatternOption = None,
) -> None:
    """Fit a bundle's probabilities, thresholds and doubts to a site's own labelled films.

    The network stays as it is. The films are remembered as ones that chose: measured on them, the new bundle is LEAKY.
    """
    from rentgen import bundle as bundles
    from rentgen.data.listing import list_images
    from rentgen.learn.calibrate import calibrate as run
    from rentgen.learn.calibrate import estimate_prevalence

    bundles.check_place(destination)
    if prevalence and like:
        raise SettingError("Expected --prevalence or --like, but got both. Say the prevalence, or let it be estimated.")
    shares = _shares(prevalence)
    listing = list_images(data, patient_pattern=patient_pattern)
    with progress_bars(to_stderr=json_file == "-") as progress:
        if like is not None:
            films = films_in([like])
            shares = estimate_prevalence(
                bundles.read(bundle), listing, films, method=method, seed=seed, progress=progress
            )
        result, summary = run(
            bundles.read(bundle),
            listing,
            method=method,
            coverage=coverage,
            prevalence=shares,
            seed=seed,
            resamples=resamples,
            progress=progress,
            command=command_line(),
        )
    bundle_id = bundles.write(destination, replace(result, card=replace(result.card, name=destination.stem)))
    if json_file is not None:
        write_json(summary | {"bundle_id": bundle_id}, json_file)
    if json_file != "-":
        table = Table("", "as it came", "calibrated", title=f"{summary['method']}, {summary['n']} films")
        for name in summary["before"]:
            table.add_row(name, *(str(Interval.from_dict(summary[when][name])) for when in ("before", "after")))
        out.print(table)
        if like is not None and shares is not None:
            told = ", ".join(f"{escape(label)} {share:.3f}" for label, share in shares.items())
            out.print(f"Prevalence, estimated: {told}", highlight=False)
        if summary["left_out"]:
            told = ", ".join(f"{count} {status}" for status, count in summary["left_out"].items())
            err.print(f"Left out: {told}", style="yellow")
        out.print(f"Bundle: {destination}", markup=False, highlight=False, soft_wrap=True)


def _shares(given: list[str] | None) -> dict[str, float] | None:
    """Return class to share of the options CLASS=P,CLASS=P."""
    if not given:
        return None
    parts = (item.split(",") for item in given)
    # A class may have a comma in its name.
    items = [one for item, several in zip(given, parts, strict=True)
             for one in (several if all("=" in part for part in several) else [item])]  # fmt: skip
    try:
        return {label.strip(): float(share) for label, _, share in (item.rpartition("=") for item in items)}
    except ValueError:
        raise SettingError(
            f"Expected --prevalence CLASS=P, such as PNEUMONIA=0.1, but got {', '.join(given)}."
        ) from None


@app.command()
def compare(
    old: BundleArgument,
    new: BundleArgument,
    data: DataArgument,
    json_file: JsonOption = None,
    resamples: Annotated[int, typer.Option(help="Bootstrap resamples of patients.", min=1, max=100_000)] = 1000,
    seed: Annotated[int, typer.Option(help="Of the bootstrap.", min=0)] = 0,
    patient_pattern: PatternOption = None,
    engine: EngineOption = EngineName.OPENVINO,
    precision: PrecisionOption = Precision.AUTO,
) -> None:
    """Say whether NEW may take the place of OLD, measured on the same films; the exit code is 1 where it may not.

    It passes when no operating point of OLD falls below its interval and no class is ranked worse beyond chance.
    """
    from rentgen.data.listing import list_images
    from rentgen.evaluate.compare import compare as run

    predictors = [open_predictor(path, engine, precision) for path in (old, new)]
    listing = list_images(data, patient_pattern=patient_pattern)
    with progress_bars(to_stderr=json_file == "-") as progress:
        found = run(predictors[0], predictors[1], listing, seed=seed, resamples=resamples, progress=progress)
    for name, leak in ((old.name, found.old_leak), (new.name, found.new_leak)):
        if leak is not None and leak.leaky:
            err.print(f"LEAKY: {leak.images} of the films made {name}; they flatter it.", style="yellow")
    if json_file is not None:
        write_json(found.to_dict(), json_file)
    if json_file != "-":
        table = Table("class", "point", "sensitivity old", "new", "specificity old", "new", "verdict")
        for point in found.points:
            ends = [(point.old.sensitivity, point.new and point.new.sensitivity)]
            ends.append((point.old.specificity, point.new and point.new.specificity))
            cells = [str(value) if value else "-" for pair in ends for value in pair]
            table.add_row(escape(point.old.label), point.old.name, *cells, str(point.verdict))
        out.print(table)
        for label, change in found.auroc.items():
            out.print(
                f"AUROC {label}: {change.old} -> {change.new}, difference {change.difference}, "
                f"DeLong p {change.delong_p:.3g}",
                markup=False,
                highlight=False,
            )
        if predictors[0].card.task is Task.MULTILABEL:
            told = f"Same answer for {found.agreement} of the findings of {found.n} films; findings that"
            chance = ""
        else:
            told = f"Same class for {found.agreement} of {found.n} films; films that"
            chance = f", McNemar p {found.mcnemar_p:.3g}"
        out.print(
            f"{told} only old gets right: {found.only_old}, only new: {found.only_new}{chance}",
            markup=False,
            highlight=False,
        )
        out.print("[green]passed[/]" if found.passed else "[red]not passed[/]")
    if not found.passed:
        raise typer.Exit(1)
