"""Commands that make a model, judge it and use it."""

from __future__ import annotations

import json
import logging
import shlex
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer

from rentgen import __version__
from rentgen.cli.options import (
    BundleArgument,
    DataArgument,
    EngineOption,
    FindingsOption,
    JsonOption,
    PatternOption,
    PrecisionOption,
    ResamplesOption,
    app,
    cache_folder,
    command_line,
    films_in,
    now,
    open_predictor,
    split_names,
)
from rentgen.cli.track import MlflowOption, TensorBoardOption, measured, pictures, trackers
from rentgen.records import DISCLAIMER, EngineName, Listing, Precision, Prediction, Progress, Split, Status
from rentgen.terminal import (
    card_table,
    err,
    open_text,
    out,
    prediction_line,
    print_doubts,
    print_evaluation,
    print_findings,
    print_robustness,
    print_shortcuts,
    print_sources,
    progress_bars,
    write_json,
)

if TYPE_CHECKING:
    from rentgen.engine.predictor import Predictor
    from rentgen.evaluate.shortcuts import Shortcuts
    from rentgen.evaluate.stress import Robustness
    from rentgen.learn.training import TrainingPlan
    from rentgen.records.runs import Findings

PROBED_FILMS = 400
"""Looked at by --stress and --shortcuts, at most; whole patients, of each class in turn."""


@app.callback(invoke_without_command=True)
def root(
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log what happens inside.")] = False,
) -> None:
    """Set up what all commands share."""
    if verbose:
        logging.getLogger("rentgen").setLevel(logging.INFO)
    if version:
        out.print(f"rentgen {__version__}", highlight=False)
        raise typer.Exit


@app.command()
def demo(
    directory: Annotated[Path, typer.Option("--out", help="Where films, bundle and report go.")] = Path("rentgen-demo"),
    films: Annotated[int, typer.Option(help="Drawn films of each of the three classes.", min=20)] = 240,
    seed: Annotated[int, typer.Option(help="Of the drawing.")] = 0,
) -> None:
    """Walk the whole road on films drawn for it: draw, audit, train, judge, explain, report.

    Needs nothing but the extra `train`: no data, no network.
    """
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


@app.command()
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
    )
    if find_lr:
        _find_rate(wanted)
        return
    settings = flatten(plan.to_dict()) | {"data": str(data), "test": str(test or ""), "weights": str(weights or "")}
    with follow(trackers(mlflow, tensorboard), RunStart(destination.stem, "train", settings, command)) as followers:
        followers.keep(_train_and_report(wanted, report))


def _train_and_report(plan: TrainingPlan, report: Path | None) -> Findings:
    """Train, print what came of it, write the report."""
    from rentgen.evaluate.report import Report
    from rentgen.evaluate.report import write as write_report
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
        Report(
            card=card,
            evaluation=shown.evaluation,
            title=f"Training report: {card.name}",
            data_path=str(plan.data),
            command=plan.command,
            created=now(),
            audit=result.audit,
            mistakes=shown.mistakes,
            examples=shown.examples,
            robustness=None if result.trust is None else result.trust.robustness,
            shortcuts=None if result.trust is None else result.trust.shortcuts,
            heat_maps=None if result.trust is None else result.trust.heat_maps,
        ),
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
    from rentgen.evaluate.report import check_installed
    from rentgen.learn.training import search_rate

    check_installed()
    with progress_bars() as progress:
        found = search_rate(plan, progress=progress)
    path = plan.out.with_name(f"{plan.out.stem}-find-lr.svg")
    path.write_text(rate_figure(found.rates, found.losses, found.suggestion), encoding="utf-8")
    out.print(f"Suggested: finetune.learning_rate = {found.suggestion:.1e} (a tenth of the rate with the lowest loss)")
    out.print(f"Plot: {path}", markup=False, highlight=False, soft_wrap=True)


@app.command()
def evaluate(
    bundle: BundleArgument,
    data: DataArgument,
    report: Annotated[Path | None, typer.Option(metavar="DIR", help="Write report.html, .md and .json there.")] = None,
    json_file: JsonOption = None,
    part: Annotated[
        Split | None,
        typer.Option(help="Only the films that stood in this part when the bundle was made (known by their content)."),
    ] = None,
    shortcuts: Annotated[
        bool, typer.Option("--shortcuts", help="Ask, too, whether the model looks where it should; takes a minute.")
    ] = False,
    stress: Annotated[
        bool, typer.Option("--stress", help="Measure, too, on worse films: darker, blurred, turned, packed, ...")
    ] = False,
    resamples: ResamplesOption = 1000,
    seed: Annotated[int, typer.Option(help="Of the bootstrap.", min=0)] = 0,
    patient_pattern: PatternOption = None,
    engine: EngineOption = EngineName.OPENVINO,
    precision: PrecisionOption = Precision.AUTO,
    mlflow: MlflowOption = None,
    tensorboard: TensorBoardOption = None,
) -> None:
    """Measure a bundle on a labelled set, with 95 % intervals over patients.

    A set that trained or chose the model is stamped LEAKY. `--part test` measures on the part that did neither.
    """
    from rentgen.data.audit import audit, examine
    from rentgen.data.listing import list_images
    from rentgen.evaluate.judge import GALLERY, judge, select_part
    from rentgen.evaluate.report import Report, check_installed
    from rentgen.evaluate.report import write as write_report
    from rentgen.records.runs import Findings, RunStart, describe
    from rentgen.tracking.follow import follow

    if report is not None:
        check_installed()
    kept_by = trackers(mlflow, tensorboard)
    predictor = open_predictor(bundle, engine, precision)
    listing = list_images(data, patient_pattern=patient_pattern)
    with progress_bars(to_stderr=json_file == "-") as progress:
        if part is not None:
            hashes = examine(listing, progress=lambda done, total: progress("audit", done, total)).hashes
            listing = select_part(listing, predictor, part, hashes)
        found = judge(
            predictor,
            listing,
            seed=seed,
            resamples=resamples,
            gallery=GALLERY if report or kept_by else 0,
            progress=progress,
        )
        robustness, looks = _probe(predictor, listing, stress, shortcuts, seed, progress)
        examined = None
        if report is not None:
            examined = examine(listing, progress=lambda done, total: progress("audit", done, total))
    figures = found.evaluation
    print_doubts(figures)
    if json_file is not None:
        more = {"robustness": robustness, "shortcuts": looks}
        write_json(
            figures.to_dict() | {name: found.to_dict() for name, found in more.items() if found is not None}, json_file
        )
    if json_file != "-":
        print_evaluation(figures, f"{bundle.name} on {data}" + (f" ({part} part)" if part else ""))
        if robustness is not None:
            print_robustness(robustness)
        if looks is not None:
            print_shortcuts(looks)
    files: tuple[Path, ...] = ()
    if report is not None and examined is not None:
        files = write_report(
            report,
            Report(
                card=predictor.card,
                evaluation=figures,
                title=f"Evaluation report: {predictor.card.name}",
                data_path=str(data),
                command=command_line(),
                created=now(),
                audit=audit(listing, examined),
                mistakes=found.mistakes,
                examples=found.examples,
                robustness=robustness,
                shortcuts=looks,
            ),
        )
        err.print(f"Report: {files[0]}", markup=False, highlight=False, soft_wrap=True)
    settings = {"bundle": predictor.bundle.bundle_id, "data": str(data), "part": str(part or "all"), "seed": str(seed)}
    settings |= {"engine": str(engine), "precision": str(predictor.session.precision), "resamples": str(resamples)}
    with follow(kept_by, RunStart(predictor.card.name, "evaluate", settings, command_line())) as followers:
        followers.keep(
            Findings(
                metrics=measured(**{part or "all": figures}),
                pictures=pictures(found.mistakes, found.examples),
                files=files,
                note=describe(predictor.card, predictor.bundle.bundle_id),
            )
        )


def _probe(
    predictor: Predictor, listing: Listing, stress: bool, shortcuts: bool, seed: int, progress: Progress
) -> tuple[Robustness | None, Shortcuts | None]:
    """Return the reports that were asked for."""
    if not (stress or shortcuts):
        return None, None
    from rentgen.evaluate.films import load_films
    from rentgen.evaluate.shortcuts import shortcut_report
    from rentgen.evaluate.stress import stress_report

    rng = np.random.default_rng(seed)
    films = load_films(predictor, listing, limit=PROBED_FILMS, rng=rng, progress=progress)
    return (
        stress_report(predictor, films, rng=rng, progress=progress) if stress else None,
        shortcut_report(predictor, films, rng=rng, progress=progress) if shortcuts else None,
    )


@app.command()
def predict(
    bundle: BundleArgument,
    paths: Annotated[list[Path], typer.Argument(metavar="PATH...", help="Films, or folders of films.")],
    json_file: Annotated[
        str | None,
        typer.Option("--json", metavar="FILE", help="One JSON object a line, as results come; - for standard output."),
    ] = None,
    heatmaps: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write the film with its heat map, in native size, as PNG.")
    ] = None,
    batch_size: Annotated[int, typer.Option(help="Films per call of the engine.", min=1, max=1024)] = 1,
    engine: EngineOption = EngineName.OPENVINO,
    precision: PrecisionOption = Precision.AUTO,
) -> None:
    """Read films and say what the model sees, however many there are.

    A file that cannot be read is reported and the others go on; the exit code is then 1.
    """
    predictor = open_predictor(bundle, engine, precision, batch_size)
    sources = films_in(paths)
    failed = total = 0
    with open_text(json_file) as stream, progress_bars(to_stderr=True) as progress:
        if json_file is None:
            out.print(f"[bold]{'class':<18} probability  status        film[/]", highlight=False)
        for prediction in predictor.predict_many(sources, maps=heatmaps is not None):
            total += 1
            failed += prediction.status is Status.ERROR
            if heatmaps is not None and prediction.label is not None:
                _write_overlay(prediction, heatmaps, total)
            if stream is not None:
                print(json.dumps(prediction.to_dict(), ensure_ascii=False), file=stream, flush=True)
            if json_file is None:
                out.print(prediction_line(prediction), highlight=False, soft_wrap=True)
            progress("predictions", total, max(total, len(sources)))
    if json_file not in (None, "-"):
        out.print(f"{total - failed} results in {json_file}", markup=False, highlight=False, soft_wrap=True)
    if json_file != "-":
        if heatmaps is not None:
            out.print(f"Heat maps in {heatmaps}", markup=False, highlight=False, soft_wrap=True)
        out.print(DISCLAIMER, style="dim")
    if failed:
        err.print(f"[red]{failed} of {total} files could not be read.[/]")
        raise typer.Exit(1)


@app.command()
def inspect(
    bundle: BundleArgument,
    verify: Annotated[bool, typer.Option("--verify", help="Replay the golden vectors, too.")] = False,
    json_file: Annotated[
        str | None, typer.Option("--json", metavar="FILE", help="Write the whole card as JSON; - for standard output.")
    ] = None,
    engine: EngineOption = EngineName.OPENVINO,
    precision: PrecisionOption = Precision.AUTO,
) -> None:
    """Show what a bundle says of itself; every hash is checked on the way."""
    from rentgen import bundle as bundles

    read = bundles.read(bundle)
    card = read.card
    if json_file is not None:
        write_json(card.to_dict() | {"bundle_id": read.bundle_id}, json_file)
        if json_file == "-":
            return
    out.print(card_table(card, read.bundle_id))
    if verify:
        predictor = open_predictor(bundle, engine, precision)
        out.print(f"Golden vectors replay in {predictor.session.precision} with {predictor.session.engine}.")
    out.print(DISCLAIMER, style="dim")


@app.command()
def recipe(
    name: Annotated[str, typer.Argument(help="A recipe that ships with the package, or a file.")] = "paper",
) -> None:
    """Print a recipe as TOML, to begin one of your own: `rentgen recipe paper > mine.toml`."""
    from rentgen.learn import recipe as recipes

    out.print(recipes.text(name), markup=False, highlight=False, soft_wrap=True, end="")


def _write_overlay(prediction: Prediction, folder: Path, number: int) -> None:
    from rentgen.engine.predictor import heat_map
    from rentgen.images.overlay import CAPTION, encode_png, overlay
    from rentgen.images.read import read

    folder.mkdir(parents=True, exist_ok=True)
    painted = overlay(read(prediction.path).pixels, heat_map(prediction), caption=CAPTION)
    # A file name has at most 255 bytes on most systems.
    stem = Path(prediction.path).stem.encode(errors="surrogateescape")[:120].decode(errors="ignore")
    label = str(prediction.label).replace("/", "_").encode()[:100].decode(errors="ignore")
    (folder / f"{number:06d}-{stem}-{label}.png").write_bytes(encode_png(painted))
