"""Commands about what is kept: API keys, the audit trail, studies and their end."""

from __future__ import annotations

import getpass
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Column, Table

from rentgen.cli.options import JsonOption, app
from rentgen.errors import MissingExtraError, SettingError
from rentgen.records.studies import AuditEntry, Principal, Role
from rentgen.terminal import err, out, write_json

if TYPE_CHECKING:
    from rentgen.store.studies import Store

keys_app = typer.Typer(no_args_is_help=True, help="API keys of people and programs that use the service.")
audit_app = typer.Typer(no_args_is_help=True, help="The audit trail: who did what when, and whether it still holds.")
studies_app = typer.Typer(no_args_is_help=True, help="Studies that the service keeps: see, hand out, delete.")
app.add_typer(keys_app, name="keys")
app.add_typer(audit_app, name="audit-log")
app.add_typer(studies_app, name="studies")


class State(StrEnum):
    """Which studies to list."""

    WAITING = "waiting"
    READ = "read"
    ALL = "all"


DatabaseOption = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        help="sqlite:///FILE or postgresql+psycopg://USER@HOST/NAME; by default RENTGEN_DATABASE, else the file of "
        "this user. A password belongs into the variable: others can read a command line.",
    ),
]
StudyArgument = Annotated[str, typer.Argument(metavar="STUDY", help="Its id, as `rentgen studies list` shows it.")]
YesOption = Annotated[bool, typer.Option("--yes", help="Do not ask whether it is meant.")]
PatientFlag = Annotated[
    bool,
    typer.Option(
        "--patient-id",
        help="By the DICOM PatientID, which is asked for, or read from standard input: never given on the command "
        "line, where others could read it.",
    ),
]


@dataclass(frozen=True)
class Place:
    """Where the store is, and what opens it."""

    url: str = field(repr=False)
    key: str | None = field(repr=False)


def place_of(database: str | None) -> Place:
    """Return where the store is, by the settings, or by a URL; the key comes from the settings."""
    try:
        # Also what is needed later, so that it is missed here.
        import rentgen.store.studies  # noqa: F401
        from rentgen import settings
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or "sqlalchemy", "service", "the store") from error
    found = settings.load(database=database)
    return Place(found.database.get_secret_value(), None if found.key is None else found.key.get_secret_value())


@contextmanager
def opened(database: str | None) -> Iterator[Store]:
    """Give the store of the settings, or of a URL."""
    place = place_of(database)
    from rentgen.store.studies import Store

    store = Store.open(place.url, key=place.key)
    try:
        yield store
    finally:
        store.close()


def actor() -> Principal:
    """Return who sits at the command line, for the audit trail."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError):
        # A container may run as a number without a name.
        name = "unknown"
    return Principal(f"command line: {name}", Role.ADMIN)


@keys_app.command("add")
def add_key(
    name: Annotated[str, typer.Argument(help="Whom it is for, such as a person or a program; stands in the trail.")],
    role: Annotated[
        Role,
        typer.Option(
            help="reader: look, and predict without keeping. physician: add studies and judge, too. "
            "admin: delete, export, reload models, too."
        ),
    ],
    days: Annotated[int | None, typer.Option(help="How long it lives; for ever where left out.", min=1)] = None,
    database: DatabaseOption = None,
) -> None:
    """Make an API key and print it, this once: only its hash is kept.

    A program sends it as `Authorization: Bearer KEY`; a person pastes it into the page.
    """
    with opened(database) as store:
        key = store.add_key(name, role, days=days, actor=actor())
    out.print(key, markup=False, highlight=False, soft_wrap=True)
    err.print("Hand it over now: it cannot be shown again.", style="yellow")


@keys_app.command("list")
def list_keys(database: DatabaseOption = None) -> None:
    """List the API keys: for whom, which role, until when. The keys themselves are not known."""
    with opened(database) as store:
        known = store.keys()
    table = Table("name", "role", "made", "expires", "revoked", title="API keys")
    for key in known:
        table.add_row(
            escape(key.name), key.role, _minute(key.created_at), _minute(key.expires_at), _minute(key.revoked_at)
        )
    out.print(table)


@keys_app.command("revoke")
def revoke_key(
    name: Annotated[str, typer.Argument(help="Of the key, as `rentgen keys list` shows it.")],
    database: DatabaseOption = None,
) -> None:
    """Refuse an API key from now on, in every running service of this store."""
    with opened(database) as store:
        store.revoke_key(name, actor=actor())
    out.print(f"Revoked: {name}", markup=False, highlight=False)


@audit_app.command("show")
def show_audit(
    after: Annotated[int, typer.Option(help="Begin behind this number.", min=0)] = 0,
    limit: Annotated[int, typer.Option(help="Most lines.", min=1, max=100_000)] = 1000,
    json_file: JsonOption = None,
    database: DatabaseOption = None,
) -> None:
    """Show the audit trail, the oldest line first. It names studies by opaque ids, and no patients."""
    with opened(database) as store:
        entries = store.audit_entries(after=after, limit=limit)
    if json_file is not None:
        write_json({"entries": [_entry(entry) for entry in entries]}, json_file)
    if json_file == "-":
        return
    table = Table(
        Column("number", justify="right"),
        "at (UTC)",
        "who",
        "what",
        # An id that is cut in two cannot be copied.
        Column("of what", min_width=26),
        "detail",
        title="Audit trail",
    )
    for entry in entries:
        detail = ", ".join(f"{name} {value}" for name, value in entry.detail.items())
        table.add_row(
            str(entry.number),
            _minute(entry.at),
            *map(escape, (entry.actor, entry.action, entry.subject, detail)),
        )
    out.print(table)
    if len(entries) == limit:
        out.print(f"More: rentgen audit-log show --after {entries[-1].number}", highlight=False)


@audit_app.command("verify")
def verify_audit(
    noted: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NUMBER:HASH", help="A line that this command printed before. May be given several times."
        ),
    ] = None,
    database: DatabaseOption = None,
) -> None:
    """Check every line of the audit trail against its hash and the line before; the exit code is 1 where one is broken.

    Write the last line's number and hash down elsewhere, and give them back with `--noted` the next time: so it shows
    when somebody has written the whole trail anew.
    """
    known = _noted(noted)
    with opened(database) as store:
        count = store.verify_audit(known)
        last = store.audit_entries(after=count - 1, limit=1) if count else ()
    out.print(f"[green]sound[/]: {count} lines", highlight=False)
    for entry in last:
        out.print(f"The last: {entry.number}:{entry.hash}", highlight=False, soft_wrap=True)


@studies_app.command("list")
def list_studies(
    state: Annotated[State, typer.Option(help="Those that wait, those that were read, or all.")] = State.WAITING,
    limit: Annotated[int, typer.Option(help="Most studies.", min=1, max=500)] = 50,
    database: DatabaseOption = None,
) -> None:
    """List studies in the order in which they should be read: the most urgent first."""
    waiting = None if state is State.ALL else state is State.WAITING
    with opened(database) as store:
        found, following = store.worklist(waiting=waiting, limit=limit)
    table = Table(
        Column("study", no_wrap=True, min_width=26), "received (UTC)", "urgency", "score", "films", "read (UTC)"
    )
    for study in found:
        table.add_row(
            study.study_id,
            _minute(study.received_at),
            study.urgency.name.lower(),
            f"{study.score:.3f}",
            str(len(study.images)),
            _minute(study.read_at),
        )
    out.print(table)
    if following is not None:
        out.print("There are more: give a larger --limit.", highlight=False)


@studies_app.command("export")
def export_study(
    study: Annotated[str | None, typer.Argument(metavar="STUDY", help="Its id; or give --patient-id.")] = None,
    patient_id: PatientFlag = False,
    json_file: Annotated[str, typer.Option("--json", metavar="FILE", help="Where to; - for standard output.")] = "-",
    films: Annotated[bool, typer.Option(help="With the films' bytes, where they are kept.")] = True,
    database: DatabaseOption = None,
) -> None:
    """Write all that is known of a study, or of all studies of a patient, as JSON.

    It is what a patient has a right to see, and it names the patient's files: guard what is written.
    """
    if (study is None) != patient_id:
        raise SettingError("Expected either STUDY or --patient-id. See: rentgen studies list")
    with opened(database) as store:
        wanted = (study,) if study is not None else store.patient_studies(_ask_patient())
        told = [store.export_study(name, actor=actor(), files=films) for name in wanted]
    _make_private(json_file)
    write_json({"studies": told}, json_file)


@studies_app.command("delete")
def delete_study(study: StudyArgument, yes: YesOption = False, database: DatabaseOption = None) -> None:
    """Delete a study with its films, results and feedback. Its lines of the audit trail stay."""
    if not yes:
        typer.confirm(f"Delete study {study} for good?", abort=True, err=True)
    with opened(database) as store:
        store.delete_study(study, actor=actor())
    out.print(f"Deleted: {study}", markup=False, highlight=False)


@studies_app.command("forget")
def forget(patient_id: PatientFlag = False, database: DatabaseOption = None) -> None:
    """Delete all studies of a patient, on request.

    Studies are found by a keyed hash of PatientID, so only those that came as DICOM; a PNG or JPEG names no patient
    and is deleted by `rentgen studies delete`.
    """
    if not patient_id:
        raise SettingError("Expected --patient-id: the patient is asked for then, and not given on the command line.")
    with opened(database) as store:
        count = store.delete_patient(_ask_patient(), actor=actor())
    out.print(f"Deleted: {count} studies", highlight=False)


@studies_app.command("sweep")
def sweep(
    keep_days: Annotated[int, typer.Option(help="Studies that came before so many days go.", min=1)],
    database: DatabaseOption = None,
) -> None:
    """Delete old studies now. `rentgen serve --keep-days N` does so every hour."""
    with opened(database) as store:
        count = store.sweep(keep_days, actor=actor())
    out.print(f"Deleted: {count} studies", highlight=False)


@studies_app.command("rekey")
def rekey(database: DatabaseOption = None) -> None:
    """Encrypt everything that is kept with a new key; stop the service first.

    The old key comes from RENTGEN_KEY; the new one is asked for, or read from standard input. Make one with
    `openssl rand -base64 32`.
    """
    place = place_of(database)
    from rentgen.store.studies import Store

    if place.key is None:
        raise SettingError("Expected the old key in RENTGEN_KEY. A store without one is encrypted when one is set.")
    Store.change_key(place.url, old=place.key, new=_ask("New key", hide=True), actor=actor())
    out.print("Encrypted with the new key. Set RENTGEN_KEY to it; the old one opens backups from before.")


def _noted(given: list[str] | None) -> dict[int, str]:
    """Return number to hash of the options NUMBER:HASH."""
    found = [re.fullmatch(r"([1-9][0-9]{0,17}):([0-9a-f]{64})", item) for item in given or []]
    if not all(found):
        raise SettingError("Expected --noted NUMBER:HASH, as this command prints it.")
    return {int(item[1]): item[2] for item in found if item}


def _make_private(destination: str) -> None:
    """Make a file that only its owner can read, before anything stands in it."""
    if destination != "-":
        path = Path(destination)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(0o600)
        path.chmod(0o600)


def _ask_patient() -> str:
    patient = _ask("PatientID", hide=False)
    if not patient:
        raise SettingError("Expected a PatientID, but got nothing.")
    return patient


def _ask(what: str, *, hide: bool) -> str:
    """Return a line from the person at the terminal, or from the program before in a pipe."""
    if sys.stdin.isatty():
        return str(typer.prompt(what, hide_input=hide, err=True)).strip()
    return sys.stdin.readline().strip()


def _minute(moment: datetime | None) -> str:
    return "" if moment is None else f"{moment:%Y-%m-%d %H:%M}"


def _entry(entry: AuditEntry) -> dict[str, object]:
    values = {name: getattr(entry, name) for name in entry.__dataclass_fields__}
    return values | {"at": entry.at.isoformat(timespec="microseconds"), "detail": dict(entry.detail)}
