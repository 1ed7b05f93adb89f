"""The command that shows the networks that may be trained on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.box import SIMPLE
from rich.markup import escape
from rich.table import Table

from rentgen.cli.options import JsonOption, app
from rentgen.terminal import out, write_json

if TYPE_CHECKING:
    from rentgen.learn.networks import Network


@app.command()
def backbones(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="Of one network: all that is known of it.")
    ] = None,
    json_file: JsonOption = None,
) -> None:
    """Show the networks that were looked at: what taught them, licence, input, pooling, heat map, weights.

    Any other timm model works as well: `rentgen train DATA --backbone NAME`.
    """
    from rentgen.learn.networks import NETWORKS
    from rentgen.learn.weights import ways_out

    if name is not None and name not in NETWORKS:
        raise typer.BadParameter(f"expected one of {', '.join(NETWORKS)}, but got {name!r}")
    rows = [_describe(row) for row in NETWORKS.values() if name in (None, row.name)]
    if json_file is not None:
        write_json({"backbones": rows}, json_file)
    if json_file == "-":
        return
    if name is not None:
        for key, value in rows[0].items():
            out.print(f"{key:<12} {value}", markup=False, highlight=False, soft_wrap=True)
        if not rows[0]["here"]:
            out.print(ways_out(NETWORKS[name]), markup=False, highlight=False, soft_wrap=True)
        return
    table = Table(box=SIMPLE, pad_edge=False)
    # A name that is cut off cannot be given to `train`.
    table.add_column("name", no_wrap=True)
    for heading in ("taught on", "licence", "input", "here"):
        table.add_column(heading)
    for row in rows:
        cells = (escape(str(row[cell])) for cell in ("name", "taught", "licence", "side"))
        table.add_row(*cells, "yes" if row["here"] else "")
    out.print(table)
    out.print(
        "All of one, and where its weights are: rentgen backbones NAME. What each costs: docs/backbones.md.",
        style="dim",
        highlight=False,
    )


def _describe(row: Network) -> dict[str, Any]:
    from rentgen.learn.networks import Pooling
    from rentgen.learn.weights import packaged

    token = row.pooling is Pooling.TOKEN
    return {
        "name": row.name,
        "family": row.family,
        "timm": row.timm,
        "taught": row.taught,
        "licence": row.licence,
        "side": row.side,
        "channels": row.channels,
        "pooling": str(row.pooling),
        "heat_map": "gradient attention" if token else "Grad-CAM",
        "weights": row.origin,
        "here": packaged(row.name),
    }
