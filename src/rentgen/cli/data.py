"""Commands about sets of films: `rentgen data ...`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Column, Table

from rentgen.cli.options import DataArgument, FindingsOption, JsonOption, PatternOption, data_app, split_names
from rentgen.cli.places import placed
from rentgen.cli.ray import RayCommand, RayOption, open_pool
from rentgen.errors import SettingError
from rentgen.terminal import out, progress_bars, write_json


@data_app.command("list")
def data_list() -> None:
    """List the known sets: what they are, what they weigh, and their licence."""
    from rentgen.data.catalog import DATA_SETS, Client

    table = Table(Column("name", no_wrap=True), "films", "size", "classes", "licence", title="Known sets")
    for item in DATA_SETS:
        drawn = item.client is Client.GENERATED
        size = f"{item.approx_bytes / 1e9:.1f} GB" if item.approx_bytes else "?"
        table.add_row(
            f"[bold]{item.name}[/]",
            f"{item.images:,}" if item.images else "any" if drawn else "?",
            "none" if drawn else size,
            ", ".join(item.classes) or "?",
            item.licence or "unknown",
        )
    out.print(table)
    out.print(
        "Fetch one: rentgen data get NAME DIR. What is known to be wrong with each: docs/datasets.md", highlight=False
    )


@data_app.command("get")
def data_get(
    name: Annotated[str, typer.Argument(help="As `rentgen data list` names it.")],
    directory: Annotated[Path, typer.Argument(help="Where the films go.")],
    finding: Annotated[
        str | None, typer.Option(help="One finding against the rest, where the set has a table of findings.")
    ] = None,
    films: Annotated[int, typer.Option(help="Films to draw, of each class or in all (phantoms only).", min=1)] = 200,
    seed: Annotated[int, typer.Option(help="Of the drawing (phantom only).", min=0)] = 0,
    dicom: Annotated[bool, typer.Option("--dicom", help="Draw DICOM files, not PNG (phantom only).")] = False,
) -> None:
    """Fetch a known set, or say exactly how to fetch it by hand."""
    from rentgen.data.catalog import Client, find
    from rentgen.data.fetch import GetOptions, get

    found = find(name)
    stage = "films" if found.client is Client.GENERATED else "download"
    with progress_bars() as progress:
        ready = get(
            found,
            directory,
            progress=lambda done, total: progress(stage, done, total),
            options=GetOptions(finding=finding, films=films, seed=seed, dicom=dicom),
        )
    out.print(f"{found.title}: {found.licence or 'licence unknown'}", markup=False, highlight=False)
    out.print(
        f"Next: rentgen train {shlex.quote(str(ready))} --out {directory.resolve().name}.rentgen",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )


@data_app.command("audit", cls=RayCommand)
@placed(inputs=("data",), outputs=("json_file",))
def data_audit(
    data: DataArgument,
    json_file: JsonOption = None,
    patient_pattern: PatternOption = None,
    findings: FindingsOption = None,
    ray: RayOption = None,
) -> None:
    """Look for unreadable files, duplicates, patients on both sides, imbalance and shortcuts before training."""
    from rentgen.data.audit import audit, examine
    from rentgen.data.audit_words import describe
    from rentgen.data.listing import list_images

    pool = open_pool(ray)
    listing = list_images(data, patient_pattern=patient_pattern, findings=split_names(findings))
    with progress_bars(to_stderr=json_file == "-") as progress:
        examined = examine(listing, progress=lambda done, total: progress("audit", done, total), pool=pool)
    found = audit(listing, examined)
    if json_file is not None:
        write_json(found.to_dict(), json_file)
    if json_file != "-":
        out.print(describe(found), markup=False, highlight=False, soft_wrap=True)


@data_app.command("merge")
def data_merge(
    sets: Annotated[
        list[str],
        typer.Argument(metavar="NAME=DATA...", help="Sets of several findings, each with the name it shall have."),
    ],
    destination: Annotated[Path, typer.Option("--out", metavar="FILE.csv", help="The table to write.")],
    findings: FindingsOption = None,
    patient_pattern: PatternOption = None,
) -> None:
    """Make one table of several sets: findings aligned by name, each film with the set it comes from.

    `rentgen data audit` then looks across the sets, too, and `rentgen sources` leaves each of them out in turn.
    """
    from rentgen.data.findings import wanted_findings
    from rentgen.data.listing import list_images
    from rentgen.data.merge import merge, write_table

    named = {}
    for text in sets:
        name, separator, path = text.partition("=")
        if not (name and separator and path) or name in named:
            raise SettingError(
                f"Expected NAME=DATA, each name once, such as nih=Data_Entry_2017.csv, but got {text!r}."
            )
        named[name] = list_images(Path(path), patient_pattern=patient_pattern)
    merged = merge(named, wanted_findings(split_names(findings)))
    write_table(merged, destination)
    table = Table("finding", *named, title=f"{len(merged)} films; present / known", title_justify="left")
    for column, finding in enumerate(merged.classes):
        cells = []
        for name in named:
            values = [record.findings[column] for record in merged.records if record.source == name]
            known = sum(value is not None for value in values)
            cells.append(f"{sum(value is True for value in values)} / {known}" if known else "-")
        table.add_row(escape(finding), *cells)
    out.print(table)
    for note in merged.notes:
        out.print(note, markup=False, highlight=False, soft_wrap=True)
    out.print(f"Table: {destination}", markup=False, highlight=False, soft_wrap=True)
