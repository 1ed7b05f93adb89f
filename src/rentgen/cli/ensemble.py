"""The command that makes one bundle of several."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Column, Table

from rentgen.cli.options import JsonOption, PatternOption, app, command_line, now
from rentgen.records import Split
from rentgen.terminal import err, out, print_doubts, print_evaluation, print_findings, progress_bars, write_json

if TYPE_CHECKING:
    from rentgen.learn.ensemble.make import Ensemble

SHOWN = ("accuracy", "auroc", "loss", "ece")


@app.command()
def ensemble(
    bundles: Annotated[
        list[Path],
        typer.Argument(
            metavar="BUNDLE...",
            help="Two bundles or more, of the same classes and the same preprocessing; or names of ones that ship.",
        ),
    ],
    data: Annotated[
        Path,
        typer.Option(
            "--data",
            metavar="DATA",
            help="Labelled films, as of `rentgen train`: those that no member learned from calibrate and measure.",
        ),
    ],
    destination: Annotated[Path, typer.Option("--out", metavar="FILE.rentgen", help="The bundle to write.")],
    weights: Annotated[
        str,
        typer.Option(help="`equal`, or a positive number for each bundle, by comma, such as 0.6,0.4."),
    ] = "equal",
    calibration: Annotated[
        str, typer.Option(help="auto, none, temperature or vector: of the mean, after each member's own.")
    ] = "auto",
    coverage: Annotated[
        float | None,
        typer.Option(
            help="How often a prediction set shall hold the true class; 0 for no sets. Default: as its members promise."
        ),
    ] = None,
    probe: Annotated[
        bool,
        typer.Option(help="Find out, too, how it bears worse films, where it looks, and what its heat maps are worth."),
    ] = True,
    report: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where the report goes. Default: beside the bundle.")
    ] = None,
    json_file: JsonOption = None,
    seed: Annotated[int, typer.Option(help="Of the half of the unseen patients, where that is needed.", min=0)] = 0,
    patient_pattern: PatternOption = None,
) -> None:
    """Make one bundle of several: each answers as it came, and their probabilities are averaged.

    The result is a bundle like any other. It is calibrated and measured anew: films that trained a member are left out,
    films that chose one may choose again, and only films that none has seen measure. Members that share out DATA alike
    (the same --seed) share a test part.
    """
    from rentgen.evaluate.rendering import check_installed
    from rentgen.learn.ensemble.make import EnsemblePlan, make_ensemble

    check_installed()
    plan = EnsemblePlan(
        members=tuple(bundles),
        data=data,
        out=destination,
        weights=weights,
        calibration=calibration,
        coverage=coverage,
        patient_pattern=patient_pattern,
        seed=seed,
        probed=probe,
        command=command_line(),
    )
    with progress_bars(to_stderr=json_file == "-") as progress:
        result = make_ensemble(plan, progress=progress)
    folder = report or destination.parent / f"{destination.stem}-report"
    written = _write_report(result, plan.data, plan.command, folder)
    print_doubts(result.test.evaluation)
    if json_file is not None:
        write_json(_figures(result), json_file)
    if json_file != "-":
        _print(result, destination)
        out.print(f"Bundle: {destination}", markup=False, highlight=False, soft_wrap=True)
        out.print(f"Report: {written}", markup=False, highlight=False, soft_wrap=True)


def _print(result: Ensemble, destination: Path) -> None:
    print_findings(result.audit.findings)
    counts = {part: sum(record.split is part for record in result.listing.records) for part in Split}
    out.print(
        f"Of {len(result.listing)} films, {counts[Split.TRAIN]} are of patients that trained a member and were left "
        f"out, {counts[Split.VALIDATION]} chose, {counts[Split.TEST]} measured.",
        highlight=False,
    )
    if result.halved:
        err.print(
            "Too few films had chosen the members: half of the unseen patients chose, too, and do not measure.",
            style="yellow",
        )
    print_evaluation(result.test.evaluation, f"{destination.name} on films that no member has seen")
    columns = (Column(name, min_width=11) for name in SHOWN)
    table = Table("on the same films", "weight", *columns)
    for name, weight, found in result.members:
        table.add_row(escape(name), f"{weight:.3f}", *(str(found.metrics[one]) for one in SHOWN))
    ours = result.test.evaluation.metrics
    table.add_row("[bold]together[/]", "", *(str(ours[one]) for one in SHOWN))
    out.print(table)


def _figures(result: Ensemble) -> dict[str, object]:
    """Return what --json writes."""
    return {
        "bundle_id": result.bundle.bundle_id,
        "films": {str(part): sum(record.split is part for record in result.listing.records) for part in Split},
        "halved": result.halved,
        "test": result.test.evaluation.to_dict(),
        "members": [
            {"name": name, "weight": weight, "test": found.to_dict()} for name, weight, found in result.members
        ],
    }


def _write_report(result: Ensemble, data: Path, command: str, folder: Path) -> Path:
    from rentgen.evaluate.report import Report, write

    trust = result.trust
    files = write(
        folder,
        Report(
            card=result.bundle.card,
            evaluation=result.test.evaluation,
            title=f"Report of an ensemble: {result.bundle.card.name}",
            data_path=str(data),
            command=command,
            created=now(),
            audit=result.audit,
            mistakes=result.test.mistakes,
            examples=result.test.examples,
            robustness=None if trust is None else trust.robustness,
            shortcuts=None if trust is None else trust.shortcuts,
            heat_maps=None if trust is None else trust.heat_maps,
        ),
    )
    return files[0]
