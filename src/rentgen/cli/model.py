"""Commands that judge a model and use it."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer

from rentgen import __version__
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
    now,
    open_predictor,
)
from rentgen.cli.places import placed
from rentgen.cli.ray import RayCommand, RayOption, open_pool
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
    print_robustness,
    print_shortcuts,
    progress_bars,
    write_json,
)

if TYPE_CHECKING:
    from rentgen.engine.predictor import Predictor
    from rentgen.evaluate.shortcuts import Shortcuts
    from rentgen.evaluate.stress import Robustness

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


@app.command(cls=RayCommand)
@placed(inputs=("bundle", "data"), outputs=("report", "json_file"))
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
    ray: RayOption = None,
    mlflow: MlflowOption = None,
    tensorboard: TensorBoardOption = None,
) -> None:
    """Measure a bundle on a labelled set, with 95 % intervals over patients.

    A set that trained or chose the model is stamped LEAKY. `--part test` measures on the part that did neither.
    """
    from rentgen.data.audit import audit, examine
    from rentgen.data.listing import list_images
    from rentgen.evaluate.judge import GALLERY, judge, select_part
    from rentgen.evaluate.rendering import check_installed
    from rentgen.evaluate.report import Report
    from rentgen.evaluate.report import write as write_report
    from rentgen.records.runs import Findings, RunStart, describe
    from rentgen.tracking.follow import follow

    if report is not None:
        check_installed()
    kept_by = trackers(mlflow, tensorboard)
    pool = open_pool(ray)
    predictor = open_predictor(bundle, engine, precision)
    listing = list_images(data, patient_pattern=patient_pattern)
    with progress_bars(to_stderr=json_file == "-") as progress:
        if part is not None:
            hashes = examine(listing, progress=lambda done, total: progress("audit", done, total), pool=pool).hashes
            listing = select_part(listing, predictor, part, hashes)
        found = judge(
            predictor,
            listing,
            seed=seed,
            resamples=resamples,
            gallery=GALLERY if report or kept_by else 0,
            progress=progress,
            pool=pool,
        )
        robustness, looks = _probe(predictor, listing, stress, shortcuts, seed, progress)
        examined = None
        if report is not None:
            examined = examine(listing, progress=lambda done, total: progress("audit", done, total), pool=pool)
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


@app.command(cls=RayCommand)
@placed(inputs=("bundle", "paths"), outputs=("json_file", "heatmaps"))
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
    ray: RayOption = None,
) -> None:
    """Read films and say what the model sees, however many there are.

    A file that cannot be read is reported and the others go on; the exit code is then 1.
    """
    pool = open_pool(ray)
    predictor = open_predictor(bundle, engine, precision, batch_size)
    sources = films_in(paths)
    failed = total = 0
    with open_text(json_file) as stream, progress_bars(to_stderr=True) as progress:
        if json_file is None:
            out.print(f"[bold]{'class':<18} probability  status        film[/]", highlight=False)
        for prediction in predictor.predict_many(sources, maps=heatmaps is not None, pool=pool):
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
