"""The command that says beforehand what many films cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Column, Table

from rentgen.cli.options import DataArgument, JsonOption, app, cache_folder
from rentgen.terminal import err, out, progress_bars, write_json

if TYPE_CHECKING:
    from rentgen.deploy.cost import Driver, Job, Plan, Prices
    from rentgen.deploy.pace import Measured
    from rentgen.learn.recipe import Recipe


@app.command()
def cost(
    data: DataArgument,
    bundle: Annotated[
        str | None,
        typer.Option(metavar="BUNDLE", help="Predict with this bundle, by file or name. Without one: train."),
    ] = None,
    films: Annotated[int, typer.Option(help="The table ends at so many films.", min=1, max=10**12)] = 10**8,
    workers: Annotated[int, typer.Option(help="Of one core each.", min=1, max=10**6)] = 256,
    sample: Annotated[int, typer.Option(help="Films of DATA that are measured, at most.", min=1)] = 200,
    run_films: Annotated[
        int, typer.Option(help="That one run takes; more are several runs, one after another.", min=1)
    ] = 1_000_000,
    recipe: Annotated[str, typer.Option(help="Of training, as of `rentgen train`.")] = "paper",
    backbone: Annotated[str | None, typer.Option(help="Of training: any timm model.")] = None,
    weights: Annotated[
        str | None, typer.Option(metavar="FILE", help="The backbone's weights: safetensors or torch; or `random`.")
    ] = None,
    batch_size: Annotated[int, typer.Option(help="Of prediction: films per call.", min=1, max=1024)] = 1,
    gpus: Annotated[int, typer.Option(help="That take the network's part.", min=0)] = 0,
    gpu_views: Annotated[
        float, typer.Option("--gpu-views-per-s", help="Views that one of them computes a second: yours to say.", min=0)
    ] = 0.0,
    driver_cores: Annotated[int, typer.Option(help="Of the machine that leads; paid all the time.", min=1)] = 8,
    core_hour: Annotated[float, typer.Option(help="Price of a core's hour, with its memory.", min=0)] = 0.05,
    gpu_hour: Annotated[float, typer.Option(help="Price of a GPU's hour, with its machine.", min=0)] = 1.0,
    gb_month: Annotated[float, typer.Option(help="Price of a gigabyte stored for a month.", min=0)] = 0.02,
    million_reads: Annotated[float, typer.Option(help="Price of a million objects read from a store.", min=0)] = 0.4,
    months: Annotated[float, typer.Option(help="That films, features and answers are stored.", min=0)] = 1.0,
    cache: Annotated[
        Path | None, typer.Option(metavar="DIR", help=f"Where exported networks are. Default: {cache_folder()}")
    ] = None,
    json_file: JsonOption = None,
) -> None:
    """Measure what a film of DATA costs here, and say what many such films would cost.

    Some films are read, prepared and shown to the network by one worker of one thread, as each worker of a cluster is.
    From that and from what giving work out and leading take (measured once, docs/scale.md) comes a table of 1,000 films
    and upwards: time, core-hours, gigabytes, money.

    Prices are yours to give; the defaults are round assumptions of 2026-12-01 in dollars and nobody's quotation.
    Reading from a bucket is slower than from the disk that this measures, another processor is another pace: run it on
    a machine like those that you mean to rent, on films like yours. Fine-tuning is not in the figures.
    """
    from rentgen.deploy.cost import PREDICTING, TRAINING, Job, Prices, plan
    from rentgen.learn import recipe as recipes

    prices = Prices(core_hour, gpu_hour, gb_month, million_reads)
    chosen = recipes.load(recipe)
    if backbone is not None:
        chosen = chosen.change("backbone", name=backbone)
    job = Job(
        films, workers, run_films, 0 if bundle else chosen.head.epochs, gpus, 1 / gpu_views if gpu_views else 0.0,
        driver_cores, months,
    )  # fmt: skip
    measured = _measure(data, bundle, chosen, weights, cache or cache_folder(), sample, batch_size)
    driver = PREDICTING if bundle else TRAINING
    plans = [plan(measured.pace, driver, replace(job, films=size), prices) for size in _sizes(films)]
    if json_file is not None:
        write_json(_document(measured, driver, job, prices, plans, "predict" if bundle else "train"), json_file)
    if json_file != "-":
        _print(measured, plans, job.gpus > 0)
        if chosen.finetune.epochs and not bundle:
            err.print("This recipe fine-tunes: that is not in these figures.", style="yellow")


def _measure(
    data: Path,
    bundle: str | None,
    recipe: Recipe,
    weights: str | None,
    cache: Path,
    sample: int,
    batch_size: int,
) -> Measured:
    from rentgen.deploy.pace import measure_prediction, measure_training

    with progress_bars(to_stderr=True) as progress:
        if bundle is not None:
            return measure_prediction(data, bundle, sample=sample, batch_size=batch_size, progress=progress)
        return measure_training(data, recipe, weights=weights, cache=cache, sample=sample, progress=progress)


def _sizes(films: int) -> list[int]:
    """Return 1,000 and its tenfolds up to a number, and that number."""
    powers = [10**power for power in range(3, 13) if 10**power < films]
    return [*powers, films]


def _document(
    measured: Measured, driver: Driver, job: Job, prices: Prices, plans: Sequence[Plan], what: str
) -> dict[str, Any]:
    return {
        "what": what,
        "network": measured.network,
        "films_measured": measured.films,
        "pace": asdict(measured.pace),
        "driver": asdict(driver),
        "job": asdict(job),
        "prices": asdict(prices),
        "plans": [found.to_dict() for found in plans],
    }


def _print(measured: Measured, plans: Sequence[Plan], gpus: bool) -> None:
    pace = measured.pace
    out.print(f"Measured on {measured.films} films: {measured.network}", markup=False, highlight=False, soft_wrap=True)
    stages = Table(Column("of one film"), Column("one core", justify="right"), title_justify="left")
    if pace.audit_s:
        stages.add_row("read for the audit", f"{pace.audit_s * 1000:.1f} ms")
    stages.add_row(f"read and prepare, {pace.reads:.2f} times", f"{pace.decode_s * 1000:.1f} ms each")
    stages.add_row(f"a view through the network, {pace.views:.2f} of them", f"{pace.view_s * 1000:.1f} ms each")
    stages.add_row("in all", f"{pace.worker_s * 1000:.1f} ms")
    out.print(stages)
    names = ("films", "runs", "hours", "leader alone", "core-hours", *(("GPU-hours",) if gpus else ()))
    names = (*names, "films GB", "features GB", "answers GB", "leader GB", "money")
    table = Table(*(Column(name, justify="right") for name in names))
    for found in plans:
        figures = [f"{found.films:,}", f"{found.runs:,}", _short(found.wall_hours), _short(found.leading_hours)]
        figures += [_short(found.core_hours + found.driver_core_hours)] + ([_short(found.gpu_hours)] if gpus else [])
        sizes = (found.film_gb, found.feature_gb, found.answer_gb, found.driver_gb, found.money)
        table.add_row(*figures, *map(_short, sizes))
    out.print(table)
    out.print(
        f"{plans[-1].workers} workers of one core and one process that leads; {plans[-1].storage_money:,.2f} of the "
        "last sum is storage. An estimate from a measurement here and prices that were given or assumed: no quotation.",
        style="dim",
        highlight=False,
    )


def _short(value: float) -> str:
    """Return a figure with two digits that mean something."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
