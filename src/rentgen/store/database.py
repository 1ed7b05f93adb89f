"""The connection: SQLite or PostgreSQL made ready, transactions, and foreign errors in our words."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any, Self, cast

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.engine.url import URL, make_url
from sqlalchemy.exc import ArgumentError, DataError, DBAPIError, IntegrityError, OperationalError, SQLAlchemyError
from sqlalchemy.pool import ConnectionPoolEntry

from rentgen.errors import MissingExtraError, RentgenError, SettingError, StoreError
from rentgen.store.schema import HEAD, Base

BUSY_S = 15
"""How long a writer waits for others."""

POSTGRESQL_OPTIONS = "-c timezone=UTC -c lock_timeout=15s -c idle_in_transaction_session_timeout=60s"
_OPEN_LOCK = 0x52454E5447454E
"""Of PostgreSQL's advisory locks, ours: one process at a time changes the tables."""

SQLITE_PRAGMAS = (
    f"PRAGMA busy_timeout = {BUSY_S * 1000}",
    "PRAGMA foreign_keys = ON",
    # What is deleted is overwritten with zeros, and nothing readable goes to temporary files.
    "PRAGMA secure_delete = ON",
    "PRAGMA temp_store = MEMORY",
    # What was answered for is on the disk, also after a power cut.
    "PRAGMA synchronous = FULL",
)


class Database:
    """One database, for any number of threads: each transaction has a connection of its own.

    Raises:
        SettingError: the URL is of another kind.
        StoreError: on any failure of the database, here and in every method.
    """

    def __init__(self, url: str) -> None:
        self._url = _checked(url)
        self.is_sqlite = self._url.get_backend_name() == "sqlite"
        # SQLite's writers wait by sleeping: those of one process queue here instead, and none is passed over.
        self._writer = threading.Lock() if self.is_sqlite else contextlib.nullcontext()
        self._engine = self._sqlite() if self.is_sqlite else self._postgresql()

    @classmethod
    def open(cls, url: str) -> Self:
        """Return the database with its tables as this version needs them."""
        database = cls(url)
        try:
            database._prepare()
        except BaseException:
            database.close()
            raise
        return database

    def __repr__(self) -> str:
        return f"Database({self._url.render_as_string(hide_password=True)})"

    def close(self) -> None:
        """Let all connections go."""
        self._engine.dispose()

    @contextlib.contextmanager
    def reading(self) -> Iterator[Connection]:
        """Give a connection for questions."""
        with translated(), self._engine.begin() as connection:
            yield connection

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[Connection]:
        """Give a connection for many questions about one and the same state."""
        with translated(), self._engine.connect() as connection:
            if not self.is_sqlite:
                connection = connection.execution_options(isolation_level="REPEATABLE READ")
            with connection.begin():
                yield connection

    @contextlib.contextmanager
    def writing(self, *, lasting: bool = True) -> Iterator[Connection]:
        """Give a connection whose changes are kept together or not at all.

        Args:
            lasting: they are on the disk at the end; otherwise a power cut, though not a kill, may undo them, with all
                that came after: for what is then done again. The wait for the disk is most of a small transaction.
        """
        with self._writer, translated(), self._engine.connect() as connection:
            connection = connection.execution_options(writes=True, lasting=lasting)
            with connection.begin():
                if not lasting and not self.is_sqlite:
                    connection.exec_driver_sql("SET LOCAL synchronous_commit = off")
                yield connection

    @contextlib.contextmanager
    def alone(self) -> Iterator[Connection]:
        """Give a connection for changes that no other process makes at the same time."""
        with self.writing() as connection:
            if not self.is_sqlite:
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_OPEN_LOCK)))
            yield connection

    def forget(self) -> None:
        """Empty SQLite's write-ahead log, which still holds what was deleted.

        A reader of an older state, such as a backup, holds it back; after a second it is left to the next time.
        """
        if not self.is_sqlite:
            return
        with self._writer, self._raw() as connection:
            connection.execute("PRAGMA busy_timeout = 1000")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            connection.execute(SQLITE_PRAGMAS[0])

    def _sqlite(self) -> Engine:
        _make_private(Path(self._url.database or ""))
        engine = sa.create_engine(self._url, connect_args={"timeout": BUSY_S}, **_common())
        sa.event.listen(engine, "connect", _configure)
        # The driver would begin a transaction late, at the first change: two that read first could then not both go on.
        sa.event.listen(engine, "begin", _begin)
        return engine

    def _postgresql(self) -> Engine:
        arguments = {"connect_timeout": 10, "options": POSTGRESQL_OPTIONS, "application_name": "rentgen"}
        try:
            return sa.create_engine(self._url, connect_args=arguments, pool_pre_ping=True, **_common())
        except ModuleNotFoundError as error:
            raise MissingExtraError("psycopg", "postgres", "a store on PostgreSQL") from error

    def _prepare(self) -> None:
        if self.is_sqlite:
            self._use_wal()
        if self._revision() == HEAD:
            return
        with self.alone() as connection:
            # Another process may have been first.
            if _revision_of(connection) != HEAD:
                _upgrade(connection)

    def _use_wal(self) -> None:
        """Change to the write-ahead log; SQLite does not wait for others here, so this does."""
        give_up = time.monotonic() + BUSY_S
        with self._raw() as connection:
            while True:
                try:
                    connection.execute("PRAGMA journal_mode = WAL").fetchall()
                    return
                except sqlite3.OperationalError as error:
                    if "locked" not in str(error) or time.monotonic() > give_up:
                        raise
                    time.sleep(0.02)

    @contextlib.contextmanager
    def _raw(self) -> Iterator[sqlite3.Connection]:
        """Give SQLite's own connection, outside any transaction."""
        with translated():
            pooled = self._engine.raw_connection()
            try:
                yield cast(sqlite3.Connection, pooled.driver_connection)
            finally:
                pooled.close()

    def _revision(self) -> str | None:
        with self.reading() as connection:
            return _revision_of(connection)


def insert_new(connection: Connection, table: type[Base], values: Mapping[str, Any]) -> bool:
    """Return whether a row was added: it is not where one with the same key or unique value is there."""
    return connection.execute(_insert_new(table, connection.dialect.name), dict(values)).rowcount == 1


@cache
def _insert_new(table: type[Base], dialect: str) -> sa.Insert:
    insert = sqlite.insert if dialect == "sqlite" else postgresql.insert
    # Of an INSERT, rows are only counted for whom asks.
    return insert(table).on_conflict_do_nothing().execution_options(preserve_rowcount=True)


def _common() -> dict[str, Any]:
    return {
        "pool_size": 8,
        "max_overflow": 24,
        "pool_timeout": 30,
        # Parameters are patients' data.
        "hide_parameters": True,
        "json_serializer": partial(json.dumps, allow_nan=False, separators=(",", ":")),
    }


def _checked(url: str) -> URL:
    wanted = "Expected a database such as sqlite:///rentgen.db or postgresql+psycopg://USER@HOST/NAME"
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        # What came may hold a password, and the foreign message may, too.
        raise SettingError(f"{wanted}, but what came is no URL.") from None
    if parsed.drivername == "postgresql":
        parsed = parsed.set(drivername="postgresql+psycopg")
    if parsed.drivername not in ("sqlite", "sqlite+pysqlite", "postgresql+psycopg"):
        raise SettingError(f"{wanted}, but got one of {parsed.drivername}.")
    if parsed.get_backend_name() == "sqlite" and parsed.database in (None, "", ":memory:"):
        raise SettingError(f"{wanted}, but got SQLite without a file.")
    if parsed.get_backend_name() == "sqlite" and parsed.query:
        raise SettingError(f"{wanted}, but got SQLite with options after the file.")
    return parsed


def _make_private(path: Path) -> None:
    """Make the database's file, and its folder, for nobody else to read; SQLite makes its other files alike.

    One that is there is not opened: closing a file lets go of all locks that this process has on it (POSIX), those of
    SQLite's connections too, and another process would then take their log away.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
        except FileExistsError:
            path.chmod(0o600)
            if not path.is_file() or not os.access(path, os.R_OK | os.W_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES)) from None
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}. Expected a file that can be written; check the folder.") from error


def _configure(connection: DBAPIConnection, _: ConnectionPoolEntry) -> None:
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in SQLITE_PRAGMAS:
        cursor.execute(pragma)
    cursor.close()


def _begin(connection: Connection) -> None:
    options = connection.get_execution_options()
    if not options.get("writes", False):
        connection.exec_driver_sql("BEGIN")
        return
    # It cannot be changed within a transaction, and the connection may come from another one.
    connection.exec_driver_sql(f"PRAGMA synchronous = {'FULL' if options.get('lasting', True) else 'NORMAL'}")
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def _revision_of(connection: Connection) -> str | None:
    if not sa.inspect(connection).has_table("alembic_version"):
        return None
    version: str | None = connection.scalar(sa.text("SELECT version_num FROM alembic_version"))
    return version


def _upgrade(connection: Connection) -> None:
    """Bring the tables to the newest revision."""
    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError

    config = Config()
    config.set_main_option("script_location", "rentgen.store:migrations")
    config.attributes["connection"] = connection
    try:
        command.upgrade(config, "head")
    except CommandError as error:
        raise StoreError(f"The store is of a newer Rentgen than this one ({error}). Install the newer one.") from error


@contextlib.contextmanager
def translated() -> Iterator[None]:
    """Turn foreign errors into ours.

    They are not chained, apart from those of the connection: their text may quote a row, and so a patient.
    """
    try:
        yield
    except RentgenError:
        raise
    except sqlite3.Error as error:
        # Of what is done before SQLAlchemy has the connection, or beside it.
        raise StoreError(f"The database does not answer as it should: {error}.{_cure(error)}") from error
    except OperationalError as error:
        raise StoreError(
            f"The database does not answer as it should: {_first_line(error)}.{_cure(error.orig or error)}"
        ) from error
    except DataError:
        raise StoreError("The database refused a value: it does not fit its column.") from None
    except IntegrityError as error:
        raise StoreError(f"The database refused a change: {_first_line(error)}.") from None
    except DBAPIError as error:
        raise StoreError(f"The database failed: {_first_line(error)}.") from None
    except SQLAlchemyError as error:
        raise StoreError(f"The database failed: {type(error).__name__}.") from None


def _first_line(error: DBAPIError) -> str:
    """Return what the driver says, without the lines of detail, which quote the row."""
    return (str(error.orig).strip().splitlines() or [type(error.orig).__name__])[0].rstrip(".")


def _cure(error: Exception) -> str:
    said = str(error).lower()
    if "locked" in said:
        return f" Another process has been writing for {BUSY_S} s; find and stop it."
    if "full" in said or "space" in said:
        return " Make room on the disk."
    if "readonly" in said or "unable to open" in said:
        return " Check the permissions of the file and its folder."
    if "not a database" in said:
        return " RENTGEN_DATABASE names a file that is something else."
    if "connection" in said:
        return " Check that PostgreSQL runs and that RENTGEN_DATABASE names it."
    return ""
