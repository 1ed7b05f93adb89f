"""The command that chooses a model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from rentgen.cli.options import (
    DataArgument,
    FindingsOption,
    JsonOption,
    PatternOption,
    app,
    cache_folder,
    command_line,
    needing,
    now,
    split_names,
)
from rentgen.cli.places import placed
from rentgen.cli.ray import ProcessesOption, RayCommand, RayOption, open_pool
from rentgen.cli.reporting import write_report
from rentgen.cli.track import MlflowOption, TensorBoardOption, measured, pictures, trackers
from rentgen.terminal import out, print_doubts, print_evaluation, print_findings, progress_bars, write_json

if TYPE_CHECKING:
    from rentgen.learn.search.run import Found, SearchPlan
    from rentgen.records.runs import Findings
    from rentgen.records.search import Search

SHOWN = 8
"""Trials in the printed leaderboard."""


@app.command(cls=RayCommand)
@placed(inputs=("data", "test"), outputs=("destination", "report", "json_file"), cache="cache")
def search(
    data: DataArgument,
    destination: Annotated[Path, typer.Option("--out", metavar="FILE.rentgen", help="The bundle to write.")],
    minutes: Annotated[float, typer.Option(help="For all of it: choosing, training, judging.", min=0.05)] = 30.0,
    backbones: Annotated[
        str | None,
        typer.Option(
            metavar="NAMES", help="timm models to choose among, by comma. Default: those whose weights are at hand."
        ),
    ] = None,
    sides: Annotated[
        str, typer.Option(metavar="PIXELS", help="Heights and widths of the input to choose among, by comma.")
    ] = "224,288",
    weights: Annotated[
        str | None, typer.Option(help="`random` for networks without pretrained weights, to try the command.")
    ] = None,
    trials: Annotated[int, typer.Option(help="At most so many heads.", min=1)] = 1000,
    sights: Annotated[int, typer.Option(help="At most so many ways of showing films.", min=1)] = 24,
    folds: Annotated[int, typer.Option(help="Into which the patients are dealt.", min=3, max=10)] = 5,
    frozen: Annotated[bool, typer.Option("--frozen", help="Fine-tune nothing.")] = False,
    seed: Annotated[int, typer.Option(help="Of the parts, the folds and the sampler.", min=0)] = 0,
    jobs: Annotated[
        int, typer.Option(help="Trials side by side; 0 for one on each processor. 1 repeats trial by trial.", min=0)
    ] = 0,
    test: Annotated[
        Path | None, typer.Option(help="Films that only measure, in place of a part of DATA.", metavar="DATA")
    ] = None,
    report: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where the reports go. Default: beside the bundle.")
    ] = None,
    cache: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help=f"Where features and trials are kept between runs. Default: {cache_folder()}"),
    ] = None,
    patient_pattern: PatternOption = None,
    findings: FindingsOption = None,
    licence: Annotated[
        list[str] | None,
        typer.Option(help="Licence and source of the films, for the card. May be given several times."),
    ] = None,
    json_file: JsonOption = None,
    mlflow: MlflowOption = None,
    tensorboard: TensorBoardOption = None,
    ray: RayOption = None,
    processes: ProcessesOption = None,
) -> None:
    """Choose backbone, preprocessing, head and training within so many minutes, and write the winner.

    A test part is held back by patient before anything is chosen, and measures the winner once. The others choose:
    features are computed once for each way of showing films, hundreds of heads are tried on them over folds of
    patients, and the best networks are fine-tuned as far as the time reaches. The same command goes on where a search
    was stopped.
    """
    with needing("search", "the search"):
        from rentgen.learn.search.run import SearchPlan
    from rentgen.evaluate.rendering import check_installed
    from rentgen.records.runs import RunStart
    from rentgen.tracking.follow import follow

    check_installed()
    command = command_line()
    plan = SearchPlan(
        data=data,
        out=destination,
        minutes=minutes,
        cache=cache or cache_folder(),
        test=test,
        backbones=split_names(backbones),
        sides=_whole_numbers(sides),
        weights=weights,
        patient_pattern=patient_pattern,
        findings=split_names(findings),
        licences=tuple(licence or ()),
        command=command,
        seed=seed,
        folds=folds,
        trials=trials,
        sights=sights,
        jobs=jobs,
        tuned=not frozen,
        pool=open_pool(ray, processes),
    )
    settings = {
        "data": str(data),
        "minutes": f"{minutes:g}",
        "backbones": backbones or "at hand",
        "sides": sides,
        "trials": str(trials),
        "folds": str(folds),
        "seed": str(seed),
        "frozen": str(frozen),
    }
    with follow(trackers(mlflow, tensorboard), RunStart(destination.stem, "search", settings, command)) as followers:
        followers.keep(_search_and_report(plan, report, json_file))


def _whole_numbers(text: str) -> tuple[int, ...]:
    try:
        numbers = tuple(int(one) for one in split_names(text))
    except ValueError:
        numbers = ()
    if not numbers or len(set(numbers)) != len(numbers) or not all(32 <= number <= 2048 for number in numbers):
        raise typer.BadParameter(f"expected sizes in 32 to 2048, each once, such as 224,288; got {text!r}")
    return numbers


def _search_and_report(plan: SearchPlan, report: Path | None, json_file: str | None) -> Findings:
    from rentgen.evaluate.search_report import headline
    from rentgen.evaluate.search_report import write as write_search
    from rentgen.learn.search.run import search as run
    from rentgen.records.runs import Findings, describe

    quiet = json_file == "-"
    with progress_bars(to_stderr=quiet) as progress:
        found = run(plan, progress=progress)
    training, card = found.training, found.training.bundle.card
    shown = training.test or training.validation
    directory = report or plan.out.parent / f"{plan.out.stem}-report"
    files = write_search(
        directory, found.search, name=card.name, data=str(plan.data), command=plan.command, created=now()
    ) + write_report(
        directory,
        "Training report",
        card=card,
        shown=shown,
        audit=training.audit,
        trust=training.trust,
        data=plan.data,
        command=plan.command,
    )
    if json_file is not None:
        write_json({"search": found.search.to_dict(), "evaluation": shown.evaluation.to_dict()}, json_file)
    if not quiet:
        print_findings(training.audit.findings)
        _print_search(found.search)
        out.print(f"Chosen: {headline(found.search)}", markup=False, highlight=False)
        where = "test part, which chose nothing" if training.test else "validation part, which chose: it flatters"
        print_doubts(shown.evaluation)
        print_evaluation(shown.evaluation, f"{plan.out.name} on its {where}")
        for what, path in (("Bundle", plan.out), ("Search", files[0]), ("Report", files[3]), ("Recipe", files[2])):
            out.print(f"{what}: {path}", markup=False, highlight=False, soft_wrap=True)
    return _kept(found, describe(card, training.bundle.bundle_id), (plan.out, *files), Findings)


def _kept(found: Found, note: str, files: tuple[Path, ...], findings: type[Findings]) -> Findings:
    training = found.training
    shown = training.test or training.validation
    figures = {
        "search/chosen_by_folds": found.search.chosen_by_folds,
        "search/nested": found.search.nested,
        "search/trials": float(len(found.search.trials)),
    }
    figures |= {f"search/importance/{name}": value for name, value in found.search.importance.items()}
    return findings(
        curves=training.bundle.card.history.parts,
        metrics=measured(
            validation=training.validation.evaluation,
            test=None if training.test is None else training.test.evaluation,
        )
        | {name: value for name, value in figures.items() if value == value},
        pictures=pictures(shown.mistakes, shown.examples),
        files=files,
        note=note,
    )


def _print_search(found: Search) -> None:
    from rentgen.evaluate.search_report import joined_words, settings_words

    board = found.leaderboard
    table = Table("", "loss", "accuracy", "stressed", "films", title_justify="left")
    table.title = f"Best of {len(found.trials)} heads on {len(found.opened)} ways of showing films"
    for rank, trial in enumerate(board[:SHOWN], 1):
        table.add_row(
            str(rank),
            f"{trial.loss:.4f} ± {trial.error:.4f}",
            f"{trial.accuracy:.3f}",
            f"{trial.stressed:.3f}",
            escape(trial.films),
        )
    out.print(table)
    out.print(f"Head of the first: {settings_words(board[0].settings)}", markup=False, highlight=False)
    for beside in found.joined:
        out.print(f"Beside it, {beside.films}: {joined_words(beside)}", markup=False, highlight=False)
    for one in found.tuned:
        epochs = "epoch" if one.epochs == 1 else "epochs"
        out.print(f"Fine-tuned, {one.epochs} {epochs}: {one.films}: loss {one.loss:.4f}, {one.fate}", highlight=False)
    for sentence in found.left_out:
        out.print(f"Left out. {sentence}", style="yellow", highlight=False)
