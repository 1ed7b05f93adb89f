"""The database underneath: made, brought up, shared by processes; foreign errors in our words."""

from __future__ import annotations

import re
import sqlite3
import stat
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import kept
import postgres
import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from kept import ADMIN, KEY, add

from rentgen.errors import MissingExtraError, SettingError, StoreError
from rentgen.records.studies import Role
from rentgen.store import migrations
from rentgen.store.database import Database
from rentgen.store.schema import HEAD, Base
from rentgen.store.studies import Store


@pytest.fixture(params=kept.KINDS)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return kept.fresh(request, tmp_path, empty=True)


def test_revisions_lead_to_the_head() -> None:
    assert ScriptDirectory(str(Path(migrations.__file__).parent)).get_heads() == [HEAD]


def test_revisions_make_the_tables_of_the_schema(url: str) -> None:
    Store.open(url).close()
    engine = sa.create_engine(url)
    with engine.connect() as connection:
        differences = compare_metadata(MigrationContext.configure(connection), Base.metadata)
    engine.dispose()
    assert differences == []


def test_an_open_store_is_opened_again(url: str) -> None:
    one = Store.open(url, key=KEY)
    image = add(one)
    two = Store.open(url, key=KEY)
    assert two.image(image.image_id) == image
    two.check()
    one.close()
    two.close()
    again = Store.open(url, key=KEY)
    assert again.image(image.image_id) == image
    again.close()


OPENER = """
import sys
from contextlib import closing
from rentgen.store.studies import Store
sys.stdin.readline()
store = Store.open(sys.argv[1])
print(store.ids_for("a" * 64, None))
store.close()
"""


def test_processes_open_an_empty_database_at_once(url: str) -> None:
    openers = [
        subprocess.Popen(
            [sys.executable, "-c", OPENER, url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    for opener in openers:
        if opener.stdin is not None:
            opener.stdin.write("go\n")
            opener.stdin.flush()
    said = [opener.communicate(timeout=60) for opener in openers]
    assert [opener.returncode for opener in openers] == [0, 0, 0], said
    assert len({out for out, _ in said}) == 1


def test_a_newer_store_is_left_alone(url: str) -> None:
    Store.open(url).close()
    kept.run(url, "UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(StoreError, match="newer Rentgen"):
        Store.open(url)
    assert kept.run(url, "SELECT version_num FROM alembic_version") == [("9999",)]


def test_only_the_owner_can_read_the_files(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "er" / "rentgen.db"
    store = Store.open(f"sqlite:///{path}")
    add(store)
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
    assert modes == {"rentgen.db": 0o600, "rentgen.db-wal": 0o600, "rentgen.db-shm": 0o600}
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    store.close()
    assert [file.name for file in path.parent.iterdir()] == ["rentgen.db"]


def test_sqlite_is_set_up_as_documented(tmp_path: Path) -> None:
    path = tmp_path / "rentgen.db"
    store = Store.open(f"sqlite:///{path}")
    with store._database.reading() as connection:
        found = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "foreign_keys", "secure_delete", "synchronous", "busy_timeout")
        }
    assert found == {
        "journal_mode": "wal",
        "foreign_keys": 1,
        "secure_delete": 1,
        "synchronous": 2,
        "busy_timeout": 15_000,
    }
    store.close()


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ("", "is no URL"),
        ("rentgen.db", "is no URL"),
        ("sqlite://", "without a file"),
        ("sqlite:///:memory:", "without a file"),
        ("sqlite:///a.db?mode=memory", "options after the file"),
        ("mysql://root:a-secret-word@host/name", "one of mysql"),
        ("postgresql+psycopg2://root:a-secret-word@host/name", r"one of postgresql\+psycopg2"),
        ("postgresql+psycopg://root:a-secret-word@host:port/name", "is no URL"),
    ],
)
def test_urls_of_another_kind(wrong: str, told: str) -> None:
    with pytest.raises(SettingError, match=f"Expected a database such as sqlite:///rentgen.db .*{told}") as caught:
        Store.open(wrong)
    assert "a-secret-word" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_passwords_do_not_show(url: str, tmp_path: Path) -> None:
    store = Store.open(url)
    assert "a-secret-word" not in repr(store)
    assert "Store(" in repr(store)
    store.close()
    with pytest.raises(StoreError, match="Check that PostgreSQL runs") as caught:
        Store.open(f"postgresql+psycopg://rentgen:a-secret-word@/name?host={tmp_path}")
    assert "a-secret-word" not in str(caught.value) + repr(caught.value.__cause__)


def test_the_driver_may_be_left_out(url: str) -> None:
    store = Store.open(url.replace("+psycopg", ""))
    store.check()
    store.close()


def test_postgresql_is_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(MissingExtraError, match=r"rentgen\[postgres\]"):
        Store.open("postgresql+psycopg://host/name")


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError, match="check the folder"):
        Store.open(f"sqlite:///{tmp_path / 'file' / 'rentgen.db'}")


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    path = tmp_path / "rentgen.db"
    path.write_bytes(b"a letter to somebody " * 500)
    with pytest.raises(StoreError, match="not a database"):
        Store.open(f"sqlite:///{path}")
    assert path.read_bytes() == b"a letter to somebody " * 500


def test_a_writer_that_does_not_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rentgen.store.database.SQLITE_PRAGMAS", ("PRAGMA busy_timeout = 100",))
    path = tmp_path / "rentgen.db"
    store = Store.open(f"sqlite:///{path}")
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreError, match=r"database is locked\. Another process has been writing") as caught:
        add(store)
    # Readers go on.
    assert store.worklist() == ((), None)
    other.close()
    assert add(store).name == "film.dcm"
    assert "film" not in str(caught.value)
    store.close()


def test_a_database_that_is_gone(url: str) -> None:
    store = Store.open(url)
    kept.run(url, "DROP TABLE feedback", "DROP TABLE predictions", "DROP TABLE files", "DROP TABLE images")
    kept.run(url, "DROP TABLE studies")
    with pytest.raises(StoreError, match="studies"):
        store.check()
    store.close()


def test_errors_do_not_quote_rows(url: str) -> None:
    store = Store.open(url)
    kept.run(url, "CREATE UNIQUE INDEX once ON predictions (model)")
    image = add(store)
    store.add_prediction(image.image_id, kept.answer(model="Nobody-Olena"), actor=ADMIN)
    with pytest.raises(StoreError, match="refused a change") as caught:
        store.add_prediction(image.image_id, kept.answer(model="Nobody-Olena", bundle_id="other"), actor=ADMIN)
    assert "Nobody" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__
    store.close()


def test_a_lesser_role_does_for_the_service(request: pytest.FixtureRequest) -> None:
    url = postgres.server(request.config).fresh()
    Store.open(url, key=KEY).close()
    text = (Path(__file__).parents[1] / "docs" / "store.md").read_text(encoding="utf-8")
    (grants,) = re.findall(r"^```sql\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    kept.run(url, "DROP ROLE IF EXISTS rentgen_service", "CREATE ROLE rentgen_service LOGIN", *grants.split(";\n")[:-1])
    lesser = url.replace("rentgen:a-secret-word@", "rentgen_service@")
    store = Store.open(lesser, key=KEY, keep_files=True)
    image = add(store, data=b"bytes")
    store.add_prediction(image.image_id, kept.answer(), actor=ADMIN)
    store.add_feedback(image.image_id, prediction_id=None, agree=True, label=None, comment="", actor=ADMIN)
    assert store.find_key(store.add_key("a", Role.READER, days=None, actor=ADMIN)) is not None
    store.revoke_key("a", actor=ADMIN)
    store.delete_study(image.study_id, actor=ADMIN)
    assert store.verify_audit() == 6
    store.close()
    for forbidden in ("DELETE FROM audit", "DROP TRIGGER audit_no_change ON audit", "DROP TABLE audit"):
        with pytest.raises(sa.exc.ProgrammingError, match=r"permission denied|must be owner"):
            kept.run(lesser, forbidden)
    kept.run(url, "DROP OWNED BY rentgen_service", "DROP ROLE rentgen_service")


def test_another_process_that_looks_does_not_take_the_log_of_two_connections_away(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'two.db'}"
    code = "import sys; from rentgen.store.database import Database; Database.open(sys.argv[1]).close()"
    one, two = Database.open(url), Database.open(url)
    try:
        for database in (one, two):
            with database.writing() as connection:
                connection.execute(sa.text("CREATE TABLE IF NOT EXISTS kept (word TEXT)"))
                connection.execute(sa.text("INSERT INTO kept VALUES ('before')"))
            subprocess.run([sys.executable, "-c", code, url], check=True, timeout=60)
        with two.writing() as connection:
            connection.execute(sa.text("INSERT INTO kept VALUES ('after')"))
    finally:
        two.close()
        one.close()
    with closing(sqlite3.connect(tmp_path / "two.db")) as plain:
        assert plain.execute("SELECT count(*) FROM kept").fetchone() == (3,)
