"""Commands for who runs the gateway: how full its queue is, what was given up, and to try that again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Column, Table

from rentgen.cli.options import app
from rentgen.cli.store import place_of
from rentgen.errors import MissingExtraError
from rentgen.terminal import out

if TYPE_CHECKING:
    from rentgen.store.gateway import Queue

gateway_app = typer.Typer(no_args_is_help=True, help="The hospital gateway: its queue and what was given up.")
app.add_typer(gateway_app, name="gateway")

ConfigOption = Annotated[Path, typer.Option("--config", metavar="FILE", help="The gateway's configuration.")]
HERE = Path("gateway.toml")


@contextmanager
def opened(config: Path) -> Iterator[Queue]:
    """Give the queue of a configuration; the key comes from the settings."""
    try:
        from rentgen.gateway.config import load_config
        from rentgen.store.gateway import Queue
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or "sqlalchemy", "gateway", "the gateway") from error
    place = place_of(load_config(config).database or None)
    queue = Queue.open(place.url, key=place.key)
    try:
        yield queue
    finally:
        queue.close()


@gateway_app.command("status")
def status(config: ConfigOption = HERE) -> None:
    """Show how many objects came, and where the steps of their studies stand."""
    with opened(config) as queue:
        counts = queue.counts()
    table = Table("step", "destination", "state", Column("number", justify="right"), title="Queue")
    for (step, destination, state), number in sorted(counts.steps.items()):
        table.add_row(str(step), escape(destination), str(state), str(number))
    out.print(table)
    out.print(
        f"Objects: {counts.objects}, conflicts: {counts.conflicts}, open studies: {counts.open_batches}",
        highlight=False,
    )
    if counts.oldest is not None:
        out.print(f"The oldest unfinished step is due at {counts.oldest:%Y-%m-%d %H:%M:%S} UTC.", highlight=False)


@gateway_app.command("dead-letters")
def dead_letters(config: ConfigOption = HERE) -> None:
    """List the steps that were given up, with the reason of each."""
    with opened(config) as queue:
        letters = queue.dead_letters()
    table = Table(Column("number", justify="right"), "step", "destination", "attempts", "reason", title="Dead letters")
    for letter in letters:
        row = (str(letter.job_id), str(letter.step), letter.destination, str(letter.attempts), letter.reason)
        table.add_row(*map(escape, row))
    out.print(table)


@gateway_app.command("retry")
def retry(
    number: Annotated[int | None, typer.Argument(help="Of a dead letter; all where left out.")] = None,
    destination: Annotated[str | None, typer.Option(help="Only those of a destination.")] = None,
    config: ConfigOption = HERE,
) -> None:
    """Try again what was given up."""
    with opened(config) as queue:
        count = queue.retry(datetime.now(UTC), job_id=number, destination=destination)
    out.print(f"To be tried again: {count}", highlight=False)
