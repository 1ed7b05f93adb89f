"""The hospital gateway: run it, check it, and see to what it could not deliver."""

from __future__ import annotations

import gc
import logging
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Column, Table

from rentgen.cli.options import JsonOption, PrecisionOption, app, needing
from rentgen.cli.store import actor, place_of
from rentgen.errors import PeerError, SettingError
from rentgen.records import DISCLAIMER, Precision
from rentgen.terminal import err, out, write_json

if TYPE_CHECKING:
    from rentgen.gateway.nouns import CheckResult, GatewayConfig
    from rentgen.store.gateway import Counts, Queue

gateway_app = typer.Typer(
    no_args_is_help=True,
    help="The hospital gateway: films in from modality and PACS, results back to PACS and information system.\n\n"
    "Begin with `rentgen gateway demo`; then `rentgen gateway example > gateway.toml`, edit it, and "
    "`rentgen gateway check`.",
)
app.add_typer(gateway_app, name="gateway")

ConfigOption = Annotated[
    Path,
    typer.Option(
        "--config", "-c", metavar="FILE", help="Its configuration; `rentgen gateway example` prints one to begin with."
    ),
]
CONFIG = Path("gateway.toml")
_ALARM_S = 900.0
_LOOK_S = 0.2


@gateway_app.command()
def example() -> None:
    """Print a configuration to begin with, every key explained."""
    from importlib.resources import files

    print_ = out.file.write
    print_((files("rentgen.gateway") / "example.toml").read_text("utf-8"))


@gateway_app.command()
def run(
    config: ConfigOption = CONFIG,
    dry_run: Annotated[
        bool | None,
        typer.Option(
            "--dry-run/--deliver", help="Do everything but deliver, or deliver.", show_default="as configured"
        ),
    ] = None,
    precision: PrecisionOption = Precision.AUTO,
) -> None:
    """Receive films, analyse them, and deliver the results, until a signal says stop.

    What was begun is finished; all else waits in the database and goes on at the next start.
    """
    told = _loaded(config)
    key = place_of(told.database).key
    with needing("gateway", "the gateway"):
        from rentgen.gateway.run import Gateway
        from rentgen.service.logs import configure
        from rentgen.settings import load

    configure(load().log_format)
    if dry_run is not None:
        told = replace(told, dry_run=dry_run)
    signals: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: signals.append(number))
    with Gateway(told, key=key, precision=precision) as gateway:
        err.print(f"Rentgen's gateway {told.ae_title} listens on {told.host}:{gateway.port} (DICOM)", highlight=False)
        if gateway.http_port is not None:
            err.print(f"and on {told.host}:{gateway.http_port} (STOW-RS, /healthz, /metrics)", highlight=False)
        if told.dry_run:
            err.print("[yellow]Dry run: nothing is delivered.[/]", highlight=False)
        err.print(DISCLAIMER, style="dim")
        # What was loaded stays: the garbage collector need not walk through it again and again.
        gc.freeze()
        # The system may hand a signal to any thread, and its handler then runs when this one wakes.
        while not signals:
            time.sleep(_LOOK_S)
        err.print("Stopping: what is in hand is finished.", highlight=False)


@gateway_app.command()
def check(config: ConfigOption = CONFIG, json_file: JsonOption = None) -> None:
    """Ask every peer, and look at disk, database, certificates, models and the readers' bounds.

    The exit code is 1 where something is wrong.
    """
    told = _loaded(config)
    key = place_of(told.database).key
    with needing("gateway", "the gateway"):
        from rentgen.gateway.check import check_all

    # Its own words on a peer that is not there say less than the finding.
    logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)
    found = [*check_all(told, key=key), *_check_readers(told)]
    if json_file is not None:
        write_json({"checks": [{"name": each.name, "ok": each.ok, "detail": each.detail} for each in found]}, json_file)
    if json_file != "-":
        table = Table("", "what", Column("finding", overflow="fold"), title="The gateway, as it is configured")
        for each in found:
            table.add_row("[green]✓[/]" if each.ok else "[red]✗[/]", escape(each.name), escape(each.detail))
        out.print(table)
    if not all(each.ok for each in found):
        raise typer.Exit(1)


@gateway_app.command()
def status(
    config: ConfigOption = CONFIG,
    alarm: Annotated[
        bool,
        typer.Option(
            "--alarm",
            help="Exit with 2 where there are dead letters or a step is overdue for 15 minutes: for monitors.",
        ),
    ] = False,
    json_file: JsonOption = None,
) -> None:
    """Show what came in, what waits where, and what was given up."""
    with _queue(config) as queue:
        counts = queue.counts()
        dead = len(queue.dead_letters(limit=100_000))
    overdue_s = 0.0 if counts.oldest is None else max(0.0, (datetime.now(UTC) - counts.oldest).total_seconds())
    if json_file is not None:
        write_json(_plain(counts, dead, overdue_s), json_file)
    if json_file != "-":
        _show(counts, dead, overdue_s)
    if alarm and (dead or overdue_s > _ALARM_S):
        raise typer.Exit(2)


@gateway_app.command("dead-letters")
def dead_letters(config: ConfigOption = CONFIG, json_file: JsonOption = None) -> None:
    """List what was given up, and why; `retry` tries again, `discard` drops it."""
    with _queue(config) as queue:
        found = queue.dead_letters()
    if json_file is not None:
        write_json(
            {
                "dead_letters": [
                    {
                        "job": each.job_id,
                        "step": each.step,
                        "destination": each.destination,
                        "attempts": each.attempts,
                        "reason": each.reason,
                    }
                    for each in found
                ]
            },
            json_file,
        )
    if json_file == "-":
        return
    if not found:
        out.print("Nothing was given up.")
        return
    table = Table("job", "step", "destination", "attempts", Column("reason", overflow="fold"), title="Dead letters")
    for each in found:
        told = (str(each.job_id), each.step, each.destination, str(each.attempts), each.reason)
        table.add_row(*map(escape, told))
    out.print(table)
    out.print("Again: rentgen gateway retry JOB, or --destination NAME, or --all", highlight=False, markup=False)


@gateway_app.command()
def retry(
    job: Annotated[int | None, typer.Argument(metavar="JOB", help="As `dead-letters` shows it.")] = None,
    destination: Annotated[str | None, typer.Option(help="All of a destination.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="All that were given up.")] = False,
    config: ConfigOption = CONFIG,
) -> None:
    """Try again what was given up; the same documents with the same identifiers, so that nothing arrives twice."""
    if (job is not None) + (destination is not None) + everything != 1:
        raise SettingError("Expected one of JOB, --destination NAME or --all; see `rentgen gateway dead-letters`.")
    with _queue(config) as queue:
        count = queue.retry(datetime.now(UTC), job_id=job, destination=destination, actor=actor())
    if not count:
        raise SettingError("There is no such dead letter; see `rentgen gateway dead-letters`.")
    out.print(f"Tried again: {count}. A running gateway takes them up at once.", highlight=False)


@gateway_app.command()
def discard(
    job: Annotated[int, typer.Argument(metavar="JOB", help="As `dead-letters` shows it.")],
    config: ConfigOption = CONFIG,
) -> None:
    """Drop a dead letter for good; who did it stands in the audit trail."""
    with _queue(config) as queue:
        count = queue.discard(job, datetime.now(UTC), actor=actor())
    if not count:
        raise SettingError("There is no such dead letter; see `rentgen gateway dead-letters`.")
    out.print("Dropped.")


@gateway_app.command()
def demo(
    folder: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="Keep what was made in this folder.", show_default="nowhere"),
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Leave all of it running until Ctrl-C, to look at.")] = False,
) -> None:
    """Start a PACS (Orthanc), the gateway and the page, send two films, show what comes back, and stop all of it.

    It needs Orthanc with its DICOMweb plug-in, and dcmtk. Orthanc listens for DICOM on all addresses of this machine
    meanwhile; it has no setting for less.
    """
    with needing("gateway", "the gateway"):
        # Also what is needed later, so that it is missed here.
        import rentgen.gateway.run
        import rentgen.service.app  # noqa: F401
        from rentgen.cli.gateway_demo import show
    show(folder, keep=keep)


def _loaded(path: Path) -> GatewayConfig:
    """Return a configuration, its database that of the settings where it names none."""
    with needing("gateway", "the gateway"):
        from rentgen.gateway.config import load_config

    if not path.is_file():
        raise SettingError(
            f"There is no {path}. Make one with `rentgen gateway example > gateway.toml`, or name yours with --config."
        )
    config = load_config(path)
    return replace(config, database=place_of(config.database or None).url)


def _check_readers(config: GatewayConfig) -> list[CheckResult]:
    from rentgen.gateway.nouns import CheckResult
    from rentgen.gateway.sandbox import Bounds, Sandbox

    names = list(dict.fromkeys(route.model for route in config.routes))
    with Sandbox(names, bounds=Bounds(config.reader_memory_mb, config.reader_timeout_s)) as sandbox:
        try:
            models = sandbox.open()
            escapes = sandbox.prove()
        except (SettingError, PeerError) as error:
            return [CheckResult("models", False, str(error))]
    told = ", ".join(f"{name} is {model.name} {model.version}" for name, model in models.items())
    if escapes:
        loose = (
            f"a reader can {', '.join(escapes)}: run it on Linux (x86-64 or ARM64), or in a container that forbids it"
        )
        return [CheckResult("models", True, told), CheckResult("readers", False, loose)]
    costs = f"{config.reader_memory_mb:g} MB and {config.reader_timeout_s:g} s a film"
    bound = f"no network, no programs, no change of files; {costs}"
    return [CheckResult("models", True, told), CheckResult("readers", True, bound)]


def _show(counts: Counts, dead: int, overdue_s: float) -> None:
    out.print(
        f"Objects received: {counts.objects}; put aside, for another has their UID: {counts.conflicts}; "
        f"studies that wait for more: {counts.open_batches}",
        highlight=False,
    )
    from rentgen.store.gateway import State

    rows = dict.fromkeys((step, destination) for step, destination, _ in counts.steps)
    table = Table("step", "destination", *(Column(state, justify="right") for state in State), title="Steps")
    for step, destination in rows:
        numbers = [str(counts.steps.get((step, destination, state), 0)) for state in State]
        table.add_row(step, escape(destination), *numbers)
    out.print(table)
    if overdue_s > 1:
        out.print(f"The oldest step that is not done has been due for {overdue_s:.0f} s.", highlight=False)
    if dead:
        out.print(f"[red]Given up: {dead}[/]. See: rentgen gateway dead-letters", highlight=False)


def _plain(counts: Counts, dead: int, overdue_s: float) -> dict[str, object]:
    return {
        "objects": counts.objects,
        "conflicts": counts.conflicts,
        "open_batches": counts.open_batches,
        "dead_letters": dead,
        "overdue_s": round(overdue_s, 3),
        "steps": [
            {"step": step, "destination": destination, "state": state, "count": count}
            for (step, destination, state), count in counts.steps.items()
        ],
    }


@contextmanager
def _queue(config: Path) -> Iterator[Queue]:
    place = place_of(_loaded(config).database)
    from rentgen.store.gateway import Queue

    queue = Queue.open(place.url, key=place.key)
    try:
        yield queue
    finally:
        queue.close()
