"""`rentgen deidentify`, as it is typed."""

from __future__ import annotations

import base64
import csv
import json
import stat
from collections.abc import Callable
from pathlib import Path

import pydicom
import pytest
from made import PATIENT_ID, PATIENT_NAME, dicom, film, png
from typer.testing import CliRunner, Result

import rentgen.cli.deidentify  # noqa: F401 - registers its command
from rentgen.cli import app
from rentgen.errors import DataError, SettingError
from rentgen.images.read import read

KEY = base64.b64encode(b"k" * 32).decode()
Run = Callable[..., Result]


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("RENTGEN_DEIDENTIFY_KEY", KEY)
    monkeypatch.setenv("COLUMNS", "200")
    return lambda *words: CliRunner().invoke(app, ["deidentify", *map(str, words)])


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Return a folder of two films of a patient, one suspect, and a letter."""
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.dcm").write_bytes(dicom(StudyDate="20240101"))
    later = dicom(film(seed=1), StudyDate="20240111", StudyInstanceUID="1.2.3", SOPInstanceUID="1.2.5")
    (folder / "b.dcm").write_bytes(later)
    (folder / "c.dcm").write_bytes(dicom(SOPInstanceUID="1.2.6", BurnedInAnnotation="YES"))
    (folder / "d.png").write_bytes(png(film()))
    return folder


def test_films_are_written_and_suspects_listed(cli: Run, source: Path, tmp_path: Path) -> None:
    out, table, told = tmp_path / "out", tmp_path / "table.csv", tmp_path / "told.json"
    done = cli(source, "--out", out, "--no-ocr", "--table", table, "--json", told)
    assert done.exit_code == 1
    assert "2 films written" in done.stdout
    assert "2 held back" in done.stdout
    assert "c.dcm: Burned In Annotation" in done.stderr
    assert "d.png: expected a DICOM file" in done.stderr
    rows = list(csv.DictReader(table.read_text("utf-8").splitlines()))
    assert [bool(row["file"]) for row in rows] == [True, True, False, False]
    assert len({row["patient"] for row in rows[:2]}) == 1
    assert json.loads(told.read_text())["films"][0]["file"] == rows[0]["file"]
    assert {stat.S_IMODE(path.stat().st_mode) for path in (table, told)} == {0o600}
    films = sorted(out.rglob("*.dcm"))
    assert {str(path.relative_to(out)) for path in films} == {row["file"] for row in rows[:2]}
    for path in films:
        ds = pydicom.dcmread(path)
        assert path.relative_to(out) == Path(ds.StudyInstanceUID, f"{ds.SOPInstanceUID}.dcm")
        assert PATIENT_ID.encode() not in path.read_bytes()
        assert PATIENT_NAME.encode() not in path.read_bytes()
    assert read(out / rows[1]["file"]).pixel_hash == read(source / "b.dcm").pixel_hash


def test_the_same_again_is_no_conflict_and_nothing_is_overwritten(cli: Run, source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert cli(source / "a.dcm", source / "a.dcm", "--out", out, "--no-ocr").exit_code == 0
    (written,) = out.rglob("*.dcm")
    before = written.read_bytes()
    assert cli(source / "a.dcm", "--out", out, "--no-ocr").exit_code == 0
    done = cli(source / "a.dcm", "--out", out, "--no-ocr", "--keep-dates", "zero")
    assert done.exit_code == 1
    assert "is there already" in done.stderr
    assert written.read_bytes() == before
    table = tmp_path / "table.csv"
    table.write_text("mine")
    done = cli(source / "a.dcm", "--out", out, "--no-ocr", "--table", table)
    assert isinstance(done.exception, SettingError)
    assert table.read_text() == "mine"


def test_the_key_comes_from_a_file_or_the_environment(
    cli: Run, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = tmp_path / "my.key"
    key.write_text(KEY + "\n")
    assert cli(source / "a.dcm", "--out", tmp_path / "one", "--no-ocr").exit_code == 0
    monkeypatch.delenv("RENTGEN_DEIDENTIFY_KEY")
    assert cli(source / "a.dcm", "--out", tmp_path / "two", "--no-ocr", "--key", key).exit_code == 0
    one, two = (sorted(path.name for path in (tmp_path / name).rglob("*.dcm")) for name in ("one", "two"))
    assert one == two
    for words in ((), ("--key", tmp_path / "none"), ("--key", source / "a.dcm")):
        done = cli(source / "a.dcm", "--out", tmp_path / "three", "--no-ocr", *words)
        assert isinstance(done.exception, SettingError)
    assert not (tmp_path / "three").exists()


def test_without_tesseract_somebody_must_say_so(
    cli: Run, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    done = cli(source / "a.dcm", "--out", tmp_path / "out")
    assert isinstance(done.exception, SettingError)
    assert "--no-ocr" in str(done.exception)
    assert not (tmp_path / "out").exists()


def test_json_on_standard_output_stands_alone(cli: Run, source: Path, tmp_path: Path) -> None:
    done = cli(source / "a.dcm", "--out", tmp_path / "out", "--no-ocr", "--keep-dates", "zero", "--json", "-")
    told = json.loads(done.stdout)
    assert (told["written"], told["held_back"], told["dates"], told["ocr"]) == (1, 0, "zero", False)


def test_what_cannot_be_read(cli: Run, source: Path, tmp_path: Path) -> None:
    done = cli(source / "none.dcm", "--out", tmp_path / "out", "--no-ocr")
    assert done.exit_code == 1
    assert "cannot be opened" in done.stderr
    (tmp_path / "empty").mkdir()
    assert isinstance(cli(tmp_path / "empty", "--out", tmp_path / "out", "--no-ocr").exception, DataError)
