"""Commands that make a model."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer

from rentgen.cli.options import (
    DataArgument,
    FindingsOption,
    JsonOption,
    PatternOption,
    app,
    cache_folder,
    command_line,
    split_names,
)
from rentgen.cli.places import placed
from rentgen.cli.ray import ProcessesOption, RayCommand, RayOption, open_pool
from rentgen.cli.reporting import write_report
from rentgen.cli.track import MlflowOption, TensorBoardOption, measured, pictures, trackers
from rentgen.records import DISCLAIMER
from rentgen.terminal import (
    err,
    out,
    print_doubts,
    print_evaluation,
    print_findings,
    print_sources,
    progress_bars,
    write_json,
)

if TYPE_CHECKING:
    from rentgen.learn.training import TrainingPlan
    from rentgen.records.runs import Findings


@app.command()
def demo(
    directory: Annotated[Path, typer.Option("--out", help="Where films, bundle and report go.")] = Path("rentgen-demo"),
    films: Annotated[int, typer.Option(help="Drawn films of each of the three classes.", min=20)] = 240,
    seed: Annotated[int, typer.Option(help="Of the drawing.")] = 0,
) -> None:
    """Walk the whole road on films drawn for it: draw, audit, train, judge, explain, report.

    Needs nothing but the extra `train`: no data, no network.
    """
    # Imported with the others, it would stand before `train` in --help.
    from rentgen.cli.model import predict
    from rentgen.images.phantom import write_set

    data = directory / f"films-{films}-{seed}"
    if not data.is_dir():
        draft = directory / "films-draft"
        shutil.rmtree(draft, ignore_errors=True)
        rng = np.random.default_rng(seed)
        with progress_bars() as progress:
            write_set(draft, films=films, rng=rng, progress=lambda done, total: progress("films", done, total))
        draft.rename(data)
    bundle = directory / "demo.rentgen"
    report = directory / "report"
    train(data=data, destination=bundle, backbone="tf_efficientnet_lite0", report=report, cache=directory / "cache")
    some = [str(path) for path in sorted(data.glob("*/*_1.png"))[:: max(1, films // 4)][:6]]
    predict(bundle, [Path(path) for path in some], heatmaps=directory / "heatmaps")
    out.print()
    out.print("[bold]Done.[/] Open these:")
    for what, path in (
        ("the report", report / "report.html"),
        ("the bundle", bundle),
        ("heat maps", directory / "heatmaps"),
        ("the films", data),
    ):
        out.print(f"  {what:<12} {path.resolve()}", markup=False, highlight=False, soft_wrap=True)
    out.print(
        f"Next: rentgen predict {shlex.quote(str(bundle))} YOUR_FILM.png\n"
        "Train your own: rentgen train YOUR_FOLDER --out mine.rentgen\n"
        f"The page: rentgen serve --model {shlex.quote(str(bundle))}  (pip install 'rentgen[service]' first)",
        markup=False,
        highlight=False,
    )
    out.print(DISCLAIMER, style="dim")


@app.command(cls=RayCommand)
@placed(inputs=("data", "test", "weights"), outputs=("destination", "report"), cache="cache")
def train(
    data: DataArgument,
    destination: Annotated[Path, typer.Option("--out", metavar="FILE.rentgen", help="The bundle to write.")],
    recipe: Annotated[
        str,
        typer.Option(
            help="`paper` (the study's: a frozen network), `fine-tune` (the whole network, calibrated, abstaining), "
            "`findings` (several a film), `pneumonia` (of the bundle that ships) or a TOML file of your own; see "
            "`rentgen recipe`."
        ),
    ] = "paper",
    backbone: Annotated[
        str | None,
        typer.Option(
            help="Any timm model. Default: resnet50 where its weights can be had, else tf_efficientnet_lite0."
        ),
    ] = None,
    weights: Annotated[
        str | None, typer.Option(metavar="FILE", help="The backbone's weights: safetensors or torch; or `random`.")
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option(help="At most so many, of fine-tuning where the recipe has it, else of the head.", min=1),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of the split, the initial weights and the order.", min=0)] = None,
    test: Annotated[
        Path | None, typer.Option(help="Films that only measure, in place of a part of DATA.", metavar="DATA")
    ] = None,
    report: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where the report goes. Default: beside the bundle.")
    ] = None,
    cache: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help=f"Where features are kept between runs. Default: {cache_folder()}"),
    ] = None,
    patient_pattern: PatternOption = None,
    findings: FindingsOption = None,
    licence: Annotated[
        list[str] | None,
        typer.Option(help="Licence and source of the films, for the card. May be given several times."),
    ] = None,
    find_lr: Annotated[
        bool,
        typer.Option("--find-lr", help="Train nothing: draw how the loss of fine-tuning answers to the learning rate."),
    ] = False,
    ray: RayOption = None,
    processes: ProcessesOption = None,
    mlflow: MlflowOption = None,
    tensorboard: TensorBoardOption = None,
) -> None:
    """Train a classifier on a folder of films, judge it, and write bundle and report.

    The films are shared out by patient: training, validation (which chooses) and test (which only measures). Features
    of the frozen backbone are computed once and cached, so that a second run takes seconds. Fine-tuning keeps
    checkpoints: the same command goes on where a run was stopped.
    """
    from rentgen.learn import recipe as recipes
    from rentgen.learn.training import TrainingPlan
    from rentgen.records.runs import RunStart, flatten
    from rentgen.tracking.follow import follow

    plan = recipes.load(recipe)
    if backbone is not None:
        plan = plan.change("backbone", name=backbone)
    if epochs is not None:
        plan = plan.change("finetune" if plan.finetune.epochs else "head", epochs=epochs)
    if seed is not None:
        plan = plan.change("head", seed=seed).change("data", seed=seed).change("finetune", seed=seed)
    command = command_line()
    wanted = TrainingPlan(
        data=data,
        out=destination,
        recipe=plan,
        cache=cache or cache_folder(),
        test=test,
        weights=weights,
        patient_pattern=patient_pattern,
        licences=tuple(licence or ()),
        command=command,
        findings=split_names(findings),
        pool=open_pool(ray, processes),
    )
    if find_lr:
        _find_rate(wanted)
        return
    settings = flatten(plan.to_dict()) | {"data": str(data), "test": str(test or ""), "weights": str(weights or "")}
    with follow(trackers(mlflow, tensorboard), RunStart(destination.stem, "train", settings, command)) as followers:
        followers.keep(_train_and_report(wanted, report))


def _train_and_report(plan: TrainingPlan, report: Path | None) -> Findings:
    """Train, print what came of it, write the report."""
    from rentgen.learn.training import train as run
    from rentgen.records.runs import Findings, describe

    with progress_bars() as progress:
        result = run(plan, progress=progress)
    card = result.bundle.card
    if card.backbone["name"] != "resnet50" and plan.recipe.backbone.name == "auto":
        err.print(
            f"resnet50's weights could not be had; {card.backbone['name']} was used in its place.", style="yellow"
        )
    print_findings(result.audit.findings)
    shown = result.test or result.validation
    where = (
        "test part, never used in training" if result.test else "validation part, which chose the model: it flatters"
    )
    print_doubts(shown.evaluation)
    print_evaluation(shown.evaluation, f"{plan.out.name} on its {where}")
    files = write_report(
        report or plan.out.parent / f"{plan.out.stem}-report",
        "Training report",
        card=card,
        shown=shown,
        audit=result.audit,
        trust=result.trust,
        data=plan.data,
        command=plan.command,
    )
    out.print(f"Bundle: {plan.out}", markup=False, highlight=False, soft_wrap=True)
    out.print(f"Report: {files[0]}", markup=False, highlight=False, soft_wrap=True)
    return Findings(
        curves=card.history.parts,
        metrics=measured(
            validation=result.validation.evaluation, test=None if result.test is None else result.test.evaluation
        ),
        pictures=pictures(shown.mistakes, shown.examples),
        files=(plan.out, *files),
        note=describe(card, result.bundle.bundle_id),
    )


@app.command()
def sources(
    data: Annotated[Path, typer.Argument(metavar="TABLE.csv", help="With a column `source`: `rentgen data merge`.")],
    directory: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where the bundles go, one for each set.")],
    recipe: Annotated[str, typer.Option(help="As of `rentgen train`.")] = "findings",
    backbone: Annotated[str | None, typer.Option(help="As of `rentgen train`.")] = None,
    weights: Annotated[str | None, typer.Option(metavar="FILE", help="As of `rentgen train`.")] = None,
    findings: FindingsOption = None,
    seed: Annotated[int | None, typer.Option(help="As of `rentgen train`.", min=0)] = None,
    cache: Annotated[Path | None, typer.Option(metavar="DIR", help="As of `rentgen train`.")] = None,
    json_file: JsonOption = None,
) -> None:
    """Leave each set of a merged table out of the training in turn, and measure on it.

    What a model does on a hospital that it never saw is what it will do in the next one; a part of its own sets
    flatters it.
    """
    from rentgen.learn import recipe as recipes
    from rentgen.learn.sources import leave_one_out
    from rentgen.learn.training import TrainingPlan

    plan = recipes.load(recipe)
    if backbone is not None:
        plan = plan.change("backbone", name=backbone)
    if seed is not None:
        plan = plan.change("head", seed=seed).change("data", seed=seed).change("finetune", seed=seed)
    wanted = TrainingPlan(
        data=data,
        out=directory,
        recipe=plan,
        cache=cache or cache_folder(),
        weights=weights,
        command=command_line(),
        findings=split_names(findings),
    )
    with progress_bars(to_stderr=json_file == "-") as progress:
        found = list(leave_one_out(wanted, progress=progress))
    if json_file is not None:
        write_json({"sources": [one.to_dict() for one in found]}, json_file)
    if json_file != "-":
        print_sources(found)
        out.print(f"Bundles: {directory}", markup=False, highlight=False, soft_wrap=True)


def _find_rate(plan: TrainingPlan) -> None:
    """Draw the learning-rate range test beside the bundle that is not made."""
    from rentgen.evaluate.plots import rate_figure
    from rentgen.evaluate.rendering import check_installed
    from rentgen.learn.training import search_rate

    check_installed()
    with progress_bars() as progress:
        found = search_rate(plan, progress=progress)
    path = plan.out.with_name(f"{plan.out.stem}-find-lr.svg")
    path.write_text(rate_figure(found.rates, found.losses, found.suggestion), encoding="utf-8")
    out.print(f"Suggested: finetune.learning_rate = {found.suggestion:.1e} (a tenth of the rate with the lowest loss)")
    out.print(f"Plot: {path}", markup=False, highlight=False, soft_wrap=True)
