"""The commands about what is kept, as they are typed."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import kept
import pytest
from kept import ADMIN, KEY, OTHER_KEY, PATIENT_ID, add, answer, film
from typer.testing import CliRunner, Result

import rentgen.cli.store  # noqa: F401 - registers its commands
from rentgen.cli import app
from rentgen.errors import SettingError, StoreError
from rentgen.records.studies import Principal, Role
from rentgen.store.studies import Store

Run = Callable[..., Result]


@pytest.fixture
def url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the URL of a new store that the environment names, and its key."""
    found = f"sqlite:///{tmp_path / 'kept' / 'rentgen.db'}"
    monkeypatch.setenv("RENTGEN_DATABASE", found)
    monkeypatch.setenv("RENTGEN_KEY", KEY)
    monkeypatch.setenv("COLUMNS", "200")
    return found


@pytest.fixture
def store(url: str) -> Store:
    opened = Store.open(url, key=KEY, keep_files=True)
    opened.close()
    return opened


@pytest.fixture
def cli(url: str) -> Run:
    def run(*words: str, stdin: str = "") -> Result:
        return CliRunner().invoke(app, words, input=stdin)

    return run


def fill(store: Store, name: str = "film") -> str:
    image = add(store, name, film(study_instance_uid=None), b"bytes")
    store.add_prediction(image.image_id, answer(), actor=ADMIN)
    return image.study_id


def test_a_key_is_made_listed_and_revoked(cli: Run, url: str) -> None:
    done = cli("keys", "add", "Dr. Who", "--role", "physician", "--days", "30")
    assert done.exit_code == 0, done.output
    key = done.stdout.strip()
    assert re.fullmatch(r"rk_[\w-]{43}", key)
    with_key = Store.open(url, key=KEY)
    assert with_key.find_key(key) == Principal("Dr. Who", Role.PHYSICIAN)
    listed = cli("keys", "list")
    assert "Dr. Who" in listed.stdout
    assert "physician" in listed.stdout
    assert key not in listed.stdout
    assert cli("keys", "revoke", "Dr. Who").exit_code == 0
    assert with_key.find_key(key) is None
    actors = {entry.actor for entry in with_key.audit_entries()}
    assert len(actors) == 1
    assert actors.pop().startswith("command line: ")
    with_key.close()


def test_roles_are_named(cli: Run) -> None:
    assert cli("keys", "add", "x", "--role", "king").exit_code == 2
    assert cli("keys", "add", "x").exit_code == 2


def test_the_trail_is_shown_and_verified(cli: Run, store: Store, url: str) -> None:
    study_id = fill(store)
    shown = cli("audit-log", "show")
    assert "study.add" in shown.stdout
    assert study_id in shown.stdout
    told = json.loads(cli("audit-log", "show", "--after", "1", "--json", "-").stdout)
    assert [entry["action"] for entry in told["entries"]] == ["prediction.add"]
    sound = cli("audit-log", "verify")
    assert "sound: 2 lines" in sound.stdout
    noted = re.search(r"The last: (2:[0-9a-f]{64})", sound.stdout)
    assert noted is not None
    assert cli("audit-log", "verify", "--noted", noted[1]).exit_code == 0
    other = cli("audit-log", "verify", "--noted", "2:" + "0" * 64)
    assert isinstance(other.exception, StoreError)
    assert "entry 2" in str(other.exception)
    assert isinstance(cli("audit-log", "verify", "--noted", "x").exception, SettingError)
    kept.unguard(url)
    kept.run(url, "UPDATE audit SET actor = 'x' WHERE number = 1")
    assert "broken at entry 1" in str(cli("audit-log", "verify").exception)


def test_studies_are_listed_and_deleted(cli: Run, store: Store) -> None:
    study_id = fill(store)
    assert study_id in cli("studies", "list").stdout
    assert study_id in cli("studies", "list", "--state", "all").stdout
    assert study_id not in cli("studies", "list", "--state", "read").stdout
    assert cli("studies", "delete", study_id, stdin="n\n").exit_code == 1
    assert store.study(study_id) is not None
    assert cli("studies", "delete", study_id, stdin="y\n").exit_code == 0
    assert store.study(study_id) is None
    assert isinstance(cli("studies", "delete", study_id, "--yes").exception, StoreError)


def test_studies_are_exported(cli: Run, store: Store, tmp_path: Path) -> None:
    study_id, other = fill(store), fill(store, "other")
    (told,) = json.loads(cli("studies", "export", study_id).stdout)["studies"]
    assert told["study_id"] == study_id
    assert told["images"][0]["name"] == "film.dcm"
    assert told["images"][0]["file"] == "Ynl0ZXM="
    path = tmp_path / "told.json"
    done = cli("studies", "export", "--patient-id", "--no-films", "--json", str(path), stdin=f"{PATIENT_ID}\n")
    assert done.exit_code == 0, done.output
    told = json.loads(path.read_text(encoding="utf-8"))
    assert [study["study_id"] for study in told["studies"]] == [study_id, other]
    assert "file" not in told["studies"][0]["images"][0]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert isinstance(cli("studies", "export").exception, SettingError)
    assert isinstance(cli("studies", "export", study_id, "--patient-id").exception, SettingError)


def test_a_patient_is_forgotten(cli: Run, store: Store) -> None:
    study_id = fill(store)
    assert isinstance(cli("studies", "forget").exception, SettingError)
    assert cli("studies", "forget", "--patient-id", PATIENT_ID).exit_code == 2
    assert isinstance(cli("studies", "forget", "--patient-id", stdin="\n").exception, SettingError)
    assert "0 studies" in cli("studies", "forget", "--patient-id", stdin="nobody\n").stdout
    assert store.study(study_id) is not None
    assert "1 studies" in cli("studies", "forget", "--patient-id", stdin=f"{PATIENT_ID}\n").stdout
    assert store.study(study_id) is None


def test_old_studies_are_swept(cli: Run, store: Store, url: str) -> None:
    study_id = fill(store)
    assert "0 studies" in cli("studies", "sweep", "--keep-days", "30").stdout
    kept.run(url, "UPDATE studies SET received_at = '2020-01-01 00\\:00\\:00.000000'")
    assert "1 studies" in cli("studies", "sweep", "--keep-days", "30").stdout
    assert store.study(study_id) is None


def test_the_key_is_changed(cli: Run, store: Store, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    study_id = fill(store)
    done = cli("studies", "rekey", stdin=f"{OTHER_KEY}\n")
    assert done.exit_code == 0, done.output
    assert isinstance(cli("studies", "list").exception, StoreError)
    monkeypatch.setenv("RENTGEN_KEY", OTHER_KEY)
    assert study_id in cli("studies", "list").stdout
    monkeypatch.delenv("RENTGEN_KEY")
    assert isinstance(cli("studies", "rekey", stdin=f"{KEY}\n").exception, SettingError)


def test_another_database_may_be_named(cli: Run, tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    assert cli("keys", "list", "--database", f"sqlite:///{path}").exit_code == 0
    assert path.exists()


def test_errors_end_with_1_and_say_what_to_do(store: Store, url: str) -> None:
    environment = {**os.environ, "RENTGEN_DATABASE": url, "RENTGEN_KEY": OTHER_KEY, "COLUMNS": "200"}
    code = "import rentgen.cli.store; from rentgen.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "studies", "list"], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "Set RENTGEN_KEY" in done.stderr
    assert OTHER_KEY not in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("group", ["keys", "audit-log", "studies"])
def test_help_teaches(cli: Run, group: str) -> None:
    whole = cli(group, "--help")
    assert whole.exit_code == 0
    for name in re.findall(r"^│ ([a-z]+) ", whole.stdout, re.MULTILINE):
        assert cli(group, name, "--help").exit_code == 0
