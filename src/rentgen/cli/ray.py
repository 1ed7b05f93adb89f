"""The option that sends long work to Ray, for every command that has some."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from rentgen.errors import SettingError

if TYPE_CHECKING:
    from rentgen.parallel.pool import Pool

BARE = "local"
"""What `--ray` without an address means."""
_ADDRESS = re.compile(r"local|auto|ray://[^/\\\s]+|[\w.\[\]:-]+:[0-9]{1,5}", re.ASCII)

RayOption = Annotated[
    str | None,
    typer.Option(
        "--ray",
        metavar="[ADDRESS]",
        help="Share the work out by Ray: alone, on this machine; with `auto`, HOST:PORT or `ray://HOST:10001`, on a "
        "cluster that is there. Needs the extra `ray`.",
    ),
]

ProcessesOption = Annotated[
    int | None,
    typer.Option(
        "--processes",
        min=1,
        help="With --ray: so many processes fine-tune together, each with its share of every batch. By default one for "
        "each GPU of the cluster, or for each node where there is none.",
    ),
]


class RayCommand(TyperCommand):
    """A command whose `--ray` may stand alone."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:  # noqa: ANN401
        """Parse after giving a `--ray` that stands alone its address."""
        return super().parse_args(ctx, with_address(args))


def with_address(args: list[str]) -> list[str]:
    """Return the arguments with an address behind each `--ray` that has none.

    What follows is its address only where it looks like one: DATA may follow, too.

    Example:
        >>> with_address(["--ray", "films", "--out", "a.rentgen"])
        ['--ray=local', 'films', '--out', 'a.rentgen']
    """
    done: list[str] = []
    rest = list(args)
    while rest:
        argument = rest.pop(0)
        if argument == "--":
            return [*done, argument, *rest]
        if argument == "--ray":
            argument = f"--ray={rest.pop(0) if rest and _ADDRESS.fullmatch(rest[0]) else BARE}"
        done.append(argument)
    return done


def open_pool(address: str | None, processes: int | None = None) -> Pool:
    """Return who does the long work; a cluster is joined at once, so that one that is not there costs nothing.

    Raises:
        SettingError: not an address, or processes without one.
        MissingExtraError: Ray is not installed.
        PeerError: there is no such cluster.
    """
    from rentgen.parallel.pool import HERE

    if address is None and processes is not None:
        raise SettingError("Expected --ray with --processes: alone, they are processes on this machine.")
    if address is None:
        return HERE
    if not _ADDRESS.fullmatch(address):
        raise SettingError(
            f"Expected `--ray` alone, or with auto, HOST:PORT or ray://HOST:10001 behind it, but got {address!r}."
        )
    from rentgen.parallel.ray import Ray, connect

    connect(address)
    return Ray(address, processes=processes)
