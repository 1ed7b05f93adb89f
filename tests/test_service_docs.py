"""docs/service.md against the service: its tables, its commands, its program."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made import film8, jpeg, png, tiff
from pydantic import SecretStr
from serving import Serving, serving

from rentgen.images.phantom import Finding, draw, to_dicom
from rentgen.records.studies import Principal, Role
from rentgen.service.incoming import MAX_VALUES
from rentgen.service.problems import CODES
from rentgen.service.throttle import MAX_WORDS
from rentgen.settings import Settings

TEXT = (Path(__file__).parents[1] / "docs" / "service.md").read_text(encoding="utf-8")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
ADDRESS = "http://127.0.0.1:8080"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    with serving(tmp_path_factory.mktemp("docs")) as running:
        yield running


@pytest.fixture(scope="module")
def document(served: Serving) -> dict[str, Any]:
    with served.client() as client:
        found: dict[str, Any] = client.get("/openapi.json").json()
    return found


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a current folder with the films of which the document speaks."""
    (tmp_path / "film.dcm").write_bytes(to_dicom(draw(Finding.NORMAL, np.random.default_rng(0)), patient_id="1"))
    for name, data in (("png", png(film8())), ("jpg", jpeg(film8())), ("tif", tiff(film8()))):
        (tmp_path / f"film.{name}").write_bytes(data)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def shown(default: object) -> str:
    """Return a default as the table has it."""
    if default is None:
        return "not set"
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    if isinstance(default, tuple):
        return f"`{','.join(default)}`" if default else "none"
    if isinstance(default, float):
        return f"`{default:g}`"
    return f"`{default}`"


def settings_table() -> str:
    """Return the table of settings."""
    rows = ["| variable | default | |", "|---|---|---|"]
    for name, field in Settings.model_fields.items():
        default = field.get_default(call_default_factory=True)
        text = "in your data folder" if isinstance(default, SecretStr) else shown(default)
        rows.append(f"| `RENTGEN_{name.upper()}` | {text} | {field.description} |")
    return "\n".join(rows)


def codes_table() -> str:
    """Return the table of codes."""
    rows = ["| code | status | |", "|---|---|---|"]
    return "\n".join([*rows, *(f"| `{code}` | {kind.status} | {kind.detail} |" for code, kind in CODES.items())])


def test_settings_are_those_of_the_code() -> None:
    assert settings_table() in TEXT


def test_codes_are_those_of_the_code() -> None:
    assert codes_table() in TEXT


def test_routes_are_those_of_the_description(document: dict[str, Any]) -> None:
    section = TEXT[TEXT.index("## Routes") : TEXT.index("## Errors")]
    written = set()
    for cell in re.findall(r"^\| (`[^|]+) \|", section, re.MULTILINE):
        for method, path in re.findall(r"`(GET|PUT|POST|DELETE) (/[^`?]*)[^`]*`", cell):
            written.add((method, path))
    known = {(method.upper(), path) for path, item in document["paths"].items() for method in item}
    assert known - written == set()
    assert written - known == {("GET", "/"), ("GET", "/openapi.json"), ("GET", "/swagger.json")}


def test_roles_are_those_of_the_routes(tmp_path: Path) -> None:
    """Ask each route with each role's key: 401 or 403 below the role that the table names, and nothing of it above."""
    section = TEXT[TEXT.index("## Routes") : TEXT.index("## Errors")]
    rows = re.findall(r"^\| (`[^|]+) \| (anyone|reader|physician|admin) \|", section, re.MULTILINE)
    with serving(tmp_path, auth="keys") as running, running.client() as client:
        assert running.desk.store is not None
        admin = Principal("test", Role.ADMIN)
        keys = {role: running.desk.store.add_key(role, role, days=1, actor=admin) for role in Role}
        asked = 0
        for cell, needed in rows:
            for method, path in re.findall(r"`(GET|PUT|POST|DELETE) (/[^`?]*)[^`]*`", cell):
                path = re.sub(r"\{\w+\}", "AAAAAAAAAAAAAAAAAAAAAAAAAA", path)
                content = {"json": {"read": True}} if method in ("PUT", "POST") else {}
                nobody = client.request(method, path, **content)  # type: ignore[arg-type]
                assert (nobody.status_code == 401) == (needed != "anyone"), f"{method} {path}"
                for role, key in keys.items():
                    answer = client.request(method, path, headers={"X-API-Key": key}, **content)  # type: ignore[arg-type]
                    may = needed == "anyone" or role.may(Role(needed))
                    assert (answer.status_code == 403) != may, f"{method} {path} as {role}: {answer.status_code}"
                    assert answer.status_code != 401
                asked += 1
    assert asked > 30


def test_numbers_in_words() -> None:
    assert f"{MAX_WORDS // 1024} KiB" in TEXT
    assert f"{MAX_VALUES:,}" in TEXT


def test_the_commands_run(served: Serving, folder: Path) -> None:
    commands = "\n".join(text for language, text in FENCE.findall(TEXT) if language == "sh")
    assert commands.count("curl ") == commands.count("curl -sf ") >= 9
    script = "set -eu\n" + commands.replace(ADDRESS, served.url)
    environment = {"PATH": os.environ["PATH"], "no_proxy": "*"}
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, env=environment, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count('"disclaimer"') == 7
    assert done.stdout.count('"status":"error"') == 0
    assert done.stdout.count('"heatmap":') == 3
    assert '"next":null' in done.stdout


def test_the_program_runs(
    served: Serving, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (program,) = [text for language, text in FENCE.findall(TEXT) if language == "python"]
    (folder / "example.py").write_text(program, encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["example.py", served.url])
    monkeypatch.setenv("no_proxy", "*")
    runpy.run_path(str(folder / "example.py"))
    assert capsys.readouterr().out.startswith("ok ")
