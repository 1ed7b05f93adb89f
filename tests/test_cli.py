from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Trained
from made import png
from PIL import Image

from rentgen import bundle as bundles
from rentgen.cli import main
from rentgen.images.read import read
from rentgen.learn.recipe import text
from rentgen.records import DISCLAIMER, Split

CONTRACT = ("accuracy", "auroc", "recall", "f1", "loss", "ece", "brier")
CLASSES = ["consolidation", "effusion", "normal"]


@dataclass(frozen=True)
class Done:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def words(self) -> str:
        """Both streams as one line, since tables and long lines wrap."""
        return " ".join((self.out + " " + self.err).split())


Run = Callable[..., Done]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Return the command line's door, in this process: a torch of its own for each command would take seconds."""

    def call(*arguments: str | Path) -> Done:
        monkeypatch.setattr(sys, "argv", ["rentgen", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            main()
        code = stop.value.code
        found = Done(code if isinstance(code, int) else 0 if code is None else 1, *capsys.readouterr())
        assert "Traceback" not in found.err
        return found

    return call


def spawn(*arguments: str | Path, **options: Any) -> Done:  # noqa: ANN401
    """Run `python -m rentgen` in a process of its own."""
    command = [sys.executable, "-m", "rentgen", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, **options)
    assert "Traceback" not in done.stderr, done.stderr
    return Done(done.returncode, done.stdout, done.stderr)


def strict(content: str) -> Any:  # noqa: ANN401
    """Return parsed JSON; NaN and Infinity are none."""

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is not JSON")

    return json.loads(content, parse_constant=refuse)


def check_contract(values: dict[str, Any], n: int) -> None:
    """The JSON contract of the design: each metric with value, low and high; and n."""
    for name in CONTRACT:
        assert set(values[name]) == {"value", "low", "high"}, name
        assert values[name]["low"] <= values[name]["high"], name
        # The bootstrap of a calibration error is biased upwards, and on a few films leaves the value below.
        assert name == "ece" or values[name]["low"] <= values[name]["value"] <= values[name]["high"], name
    assert values["n"] == n


@pytest.fixture(scope="module")
def small(films: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return class folders of small copies of drawn films, 12 of each class, two per patient."""
    folder = tmp_path_factory.mktemp("small")
    for source in sorted(films.iterdir()):
        (folder / source.name).mkdir()
        for path in sorted(source.glob("*.png"))[:12]:
            Image.open(path).reduce(5).save(folder / source.name / path.name)
    return folder


@pytest.fixture(scope="module")
def held_out(trained: Trained) -> list[Path]:
    return [record.path for record in trained.training.listing.records if record.split is Split.TEST]


@pytest.fixture
def bad(tmp_path: Path) -> Path:
    path = tmp_path / "bad.png"
    path.write_bytes(b"no film")
    return path


# Train, evaluate and predict as a person does it: one process each.


def test_the_road_in_processes_of_their_own(small: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "mine.toml"
    changes = {"height = 224": "height = 64", "width = 224": "width = 64", 'name = "auto"': 'name = "test_resnet"'}
    toml = text("paper")
    for old, new in changes.items():
        assert old in toml
        toml = toml.replace(old, new)
    recipe.write_text(toml, encoding="utf-8")
    bundle, report = tmp_path / "new" / "mine.rentgen", tmp_path / "report"
    trained = spawn(
        "train", small, "--out", bundle, "--recipe", recipe, "--weights", "random", "--epochs", "2", "--seed", "3",
        "--report", report, "--cache", tmp_path / "cache", "--licence", "CC0 by nobody",
    )  # fmt: skip
    assert trained.code == 0, trained.err
    assert "test part, never used in training" in trained.words
    assert "accuracy" in trained.out
    assert f"Bundle: {bundle}" in trained.out
    assert f"Report: {report / 'report.html'}" in trained.out
    card = bundles.read(bundle).card
    assert (card.recipe["head"]["epochs"], card.recipe["head"]["seed"], card.recipe["data"]["seed"]) == (2, 3, 3)
    assert card.command.startswith(f"rentgen train {small} --out {bundle}")
    assert card.licences[0] == "CC0 by nobody"
    written = strict((report / "report.json").read_text(encoding="utf-8"))
    assert written["leaky"] is False
    check_contract(written["evaluation"], card.test["n"] if card.test else 0)

    judged = spawn("evaluate", bundle, small, "--json", "-", "--resamples", "20")
    assert judged.code == 0
    check_contract(strict(judged.out), 36)
    film = next(small.glob("normal/*.png"))
    told = spawn("predict", bundle, film, film.with_name("absent.png"), "--json", "-")
    assert told.code == 1
    assert [strict(line)["status"] for line in told.out.splitlines()] == ["ok", "error"]


@pytest.mark.parametrize(
    ("arguments", "code", "word"),
    [
        (["--version"], 0, "rentgen 0.1.0"),
        (["--help"], 0, "Usage"),
        ([], 2, "Usage"),
        (["diagnose"], 2, "No such command"),
        (["predict", "x.rentgen", "film.png", "--colour"], 2, "No such option"),
        (["predict", "x.rentgen"], 2, "Missing argument"),
        (["predict", "x.rentgen", "film.png", "--batch-size", "0"], 2, "Invalid value"),
        (["evaluate", "x.rentgen", "data", "--part", "exam"], 2, "Invalid value"),
        (["train", "data"], 2, "Missing option"),
        (["inspect", "x.rentgen"], 1, "There is no file x.rentgen"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_exit_codes(arguments: list[str], code: int, word: str, tmp_path: Path) -> None:
    found = spawn(*arguments, cwd=tmp_path, env=os.environ | {"COLUMNS": "200"})
    assert found.code == code, found.err
    assert word in found.words


def test_a_reader_that_leaves_early_is_no_failure_to_tell_of(trained: Trained) -> None:
    command = f"{sys.executable} -m rentgen predict {trained.bundle} {trained.data} --json - 2>err.txt | head -1"
    done = subprocess.run(  # noqa: S602
        command, shell=True, capture_output=True, text=True, timeout=120, check=True, cwd=trained.cache
    )
    assert strict(done.stdout)["status"] == "ok"
    assert "Traceback" not in (trained.cache / "err.txt").read_text()


def test_names_that_are_not_utf_8(trained: Trained, held_out: list[Path], tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"film\xff.png")
    shutil.copy(held_out[0], path)
    told = spawn("predict", trained.bundle, path, "--json", "-")
    assert told.code == 0
    assert os.fsencode(strict(told.out)["path"]) == os.fsencode(path)
    assert spawn("predict", trained.bundle, path, "--json", tmp_path / "out.jsonl").code == 0
    assert strict((tmp_path / "out.jsonl").read_text(encoding="utf-8"))["label"] in CLASSES


# The rest in this process.


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("demo", ("extra train", "no network", "--out", "--films")),
        ("train", ("class folders", "CSV", "--out", "--recipe", "--backbone", "--weights", "--test", "--report")),
        ("evaluate", ("FILE.rentgen", "class folders", "LEAKY", "--part", "--json", "--report")),
        ("predict", ("FILE.rentgen", "Films, or folders of films", "--json", "--heatmaps", "exit code")),
        ("inspect", ("FILE.rentgen", "--verify", "--json")),
        ("recipe", ("TOML", "paper")),
        ("data list", ("known sets",)),
        ("data get", ("rentgen data list", "Where the films go", "--dicom")),
        ("data audit", ("class folders", "duplicates", "--json")),
    ],
)
def test_help_says_what_a_command_needs(
    command: str, words: tuple[str, ...], run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    found = run(*command.split(), "--help")
    assert found.code == 0
    plain = found.words.replace("`", "")
    assert all(word in plain for word in words), plain


def test_evaluate_stamps_what_made_the_model(trained: Trained, run: Run, tmp_path: Path) -> None:
    report, figures = tmp_path / "report", tmp_path / "new" / "figures.json"
    found = run("evaluate", trained.bundle, trained.data, "--json", figures, "--report", report, "--resamples", "20")
    assert found.code == 0
    made = sum(record.split is not Split.TEST for record in trained.training.listing.records)
    assert f"LEAKY {made} films" in found.words
    assert "films it has not seen" in found.words
    values = strict(figures.read_text(encoding="utf-8"))
    check_contract(values, 108)
    assert values["leaky"] is True
    assert (values["leak"]["images"], values["resamples"]) == (made, 20)
    assert values["classes"] == CLASSES
    whole = strict((report / "report.json").read_text(encoding="utf-8"))
    assert whole["leaky"] is True
    for name in ("report.html", "report.md"):
        assert "LEAKY" in (report / name).read_text(encoding="utf-8")


def test_evaluate_on_standard_output_is_json_only_and_still_warns(trained: Trained, run: Run) -> None:
    found = run("evaluate", trained.bundle, trained.data, "--json", "-", "--resamples", "5")
    assert strict(found.out)["leaky"] is True
    assert "LEAKY" in found.err


def test_evaluate_a_part(trained: Trained, held_out: list[Path], run: Run) -> None:
    found = run("evaluate", trained.bundle, trained.data, "--part", "test", "--json", "-", "--resamples", "20")
    values = strict(found.out)
    check_contract(values, len(held_out))
    assert values["leaky"] is False
    assert "LEAKY" not in found.words
    shown = run("evaluate", trained.bundle, trained.data, "--part", "test", "--resamples", "0")
    assert f"{len(held_out)} films" in shown.words
    assert "(test part)" in shown.words
    assert "LEAKY" not in shown.words


def test_evaluate_lists_what_was_not_read(
    trained: Trained, held_out: list[Path], bad: Path, run: Run, tmp_path: Path
) -> None:
    rows = [f"{path},{path.parent.name}" for path in held_out]
    (tmp_path / "set.csv").write_text("\n".join(["path,label", *rows, f"{bad},normal"]), encoding="utf-8")
    found = run("evaluate", trained.bundle, tmp_path / "set.csv", "--resamples", "0")
    assert found.code == 0
    assert f"not read: {bad}: expected a DICOM, PNG, JPEG or TIFF file, but got text" in found.words
    assert f"{len(held_out)} films" in found.words


def test_evaluate_refuses_what_it_cannot_judge(trained: Trained, run: Run, tmp_path: Path) -> None:
    (tmp_path / "films").mkdir()
    shutil.copy(next(trained.data.glob("normal/*.png")), tmp_path / "films")
    found = run("evaluate", trained.bundle, tmp_path / "films")
    assert found.code == 1
    assert "Expected a label for every film" in found.words
    other = run("evaluate", trained.bundle, tmp_path / "films", "--part", "test")
    assert (other.code, "none of the 1 given" in other.words) == (1, True)


def test_predict_writes_one_object_a_line(trained: Trained, held_out: list[Path], bad: Path, run: Run) -> None:
    found = run("predict", trained.bundle, held_out[0], bad, held_out[1], "--json", "-")
    assert found.code == 1
    lines = [strict(line) for line in found.out.splitlines()]
    assert [list(line) for line in lines] == [
        ["path", "label", "probabilities", "status", "reasons", "prediction_set", "distance"]
    ] * 3
    assert [line["path"] for line in lines] == [str(held_out[0]), str(bad), str(held_out[1])]
    assert [line["status"] for line in lines] == ["ok", "error", "ok"]
    assert list(lines[0]["probabilities"]) == CLASSES
    assert sum(lines[0]["probabilities"].values()) == pytest.approx(1)
    assert (lines[1]["label"], lines[1]["probabilities"]) == (None, {})
    assert lines[1]["reasons"] == ["expected a DICOM, PNG, JPEG or TIFF file, but got text"]
    assert "1 of 3 files could not be read" in found.err


def test_predict_shows_a_table_and_the_disclaimer(
    trained: Trained, held_out: list[Path], bad: Path, run: Run, tmp_path: Path
) -> None:
    black = tmp_path / "black.png"
    black.write_bytes(png(np.zeros((64, 64), np.uint8)))
    found = run("predict", trained.bundle, held_out[0], black, bad)
    assert found.code == 1
    rows = found.out.splitlines()
    assert rows[0].split() == ["class", "probability", "status", "film"]
    assert rows[1].split()[2:] == ["ok", str(held_out[0])]
    assert "out_of_scope" in rows[2]
    assert "nearly one shade of grey" in rows[2]
    assert rows[3].split()[:2] == ["-", "error"]
    assert DISCLAIMER in found.out
    clean = run("predict", trained.bundle, held_out[0], "--json", tmp_path / "new" / "out.jsonl")
    assert clean.code == 0
    assert strict((tmp_path / "new" / "out.jsonl").read_text(encoding="utf-8"))["path"] == str(held_out[0])


def test_predict_a_folder_with_heat_maps(trained: Trained, held_out: list[Path], run: Run, tmp_path: Path) -> None:
    folder, maps = tmp_path / "films", tmp_path / "new" / "maps"
    folder.mkdir()
    for number, path in enumerate(held_out[:3]):
        shutil.copy(path, folder / f"{number}.png")
    (folder / "notes.txt").write_text("no film")
    (folder / "9.png").write_bytes(b"no film")
    found = run("predict", trained.bundle, folder, "--heatmaps", maps, "--json", "-", "--batch-size", "2")
    assert found.code == 1
    assert [Path(strict(line)["path"]).name for line in found.out.splitlines()] == ["0.png", "1.png", "2.png", "9.png"]
    pictures = sorted(maps.iterdir())
    labels = [strict(line)["label"] for line in found.out.splitlines()[:3]]
    assert [path.name for path in pictures] == [f"{n + 1:06d}-{n}-{label}.png" for n, label in enumerate(labels)]
    for picture, film in zip(pictures, held_out, strict=False):
        with Image.open(picture) as image:
            assert image.mode == "RGB"
            assert image.size == read(film).pixels.shape[::-1]


def test_predict_a_folder_of_any_layout(trained: Trained, held_out: list[Path], run: Run, tmp_path: Path) -> None:
    """Films beside folders of films have no class, and need none here."""
    (tmp_path / "films" / "inner" / "most").mkdir(parents=True)
    shutil.copy(held_out[0], tmp_path / "films" / "a.png")
    shutil.copy(held_out[1], tmp_path / "films" / "inner" / "most" / "b.png")
    found = run("predict", trained.bundle, tmp_path / "films", "--json", "-")
    assert found.code == 0, found.err
    assert [Path(strict(line)["path"]).name for line in found.out.splitlines()] == ["a.png", "b.png"]
    (tmp_path / "empty").mkdir()
    none = run("predict", trained.bundle, tmp_path / "empty")
    assert none.code == 1
    assert "no films. Expected PNG, JPEG, TIFF or DICOM files" in none.words


@pytest.mark.parametrize("option", ["--json", "--heatmaps"])
def test_a_place_that_cannot_be_written_is_named(option: str, trained: Trained, held_out: list[Path], run: Run) -> None:
    found = run("predict", trained.bundle, held_out[0], option, trained.bundle / "inside")
    assert found.code == 1
    assert f"{trained.bundle}" in found.err
    assert "Check the path, the permissions and the free space" in found.words


def test_engines_and_precisions(trained: Trained, held_out: list[Path], run: Run) -> None:
    asked = ("predict", trained.bundle, held_out[0], "--json", "-")
    first = strict(run(*asked, "--precision", "f32").out)
    second = strict(run(*asked, "--engine", "onnxruntime").out)
    assert first["probabilities"] == pytest.approx(second["probabilities"], abs=1e-4)
    for wrong in (("--engine", "tflite"), ("--precision", "f8")):
        found = run(*asked, *wrong)
        assert found.code == 2
        assert f"'{wrong[1]}' is not" in found.words


def test_a_missing_bundle_names_file_and_cure(run: Run, tmp_path: Path) -> None:
    for command in (("predict",), ("evaluate",), ("inspect",)):
        arguments = [*command, tmp_path / "absent.rentgen", *([tmp_path] if command != ("inspect",) else [])]
        found = run(*arguments)
        assert found.code == 1
        assert f"There is no file {tmp_path / 'absent.rentgen'}" in found.err
        assert "`rentgen train` makes one" in found.words
    (tmp_path / "damaged.rentgen").write_bytes(b"PK")
    assert "Fetch or train it anew" in run("inspect", tmp_path / "damaged.rentgen").words


def test_inspect_verifies(trained: Trained, run: Run) -> None:
    found = run("inspect", trained.bundle, "--verify", "--precision", "f32")
    assert found.code == 0
    for word in (
        "consolidation, effusion, normal",
        "test_resnet",
        "Golden vectors replay in f32 with openvino",
        "youden",
    ):
        assert word in found.words
    assert DISCLAIMER in found.out
    card = strict(run("inspect", trained.bundle, "--json", "-").out)
    assert card["bundle_id"] == trained.training.bundle.bundle_id
    assert card["classes"] == CLASSES


def test_train_names_what_is_missing(run: Run, tmp_path: Path) -> None:
    asked = ("train", tmp_path / "absent", "--out", tmp_path / "x.rentgen", "--backbone", "test_resnet")
    found = run(*asked, "--weights", "random")
    assert (found.code, f"{tmp_path / 'absent'} is not there" in found.words) == (1, True)
    weights = run(*asked, "--weights", tmp_path / "no.safetensors")
    assert (weights.code, "Expected a weights file, but there is none at" in weights.words) == (1, True)


def test_recipe_prints_toml_as_it_was_written(run: Run, tmp_path: Path) -> None:
    assert run("recipe").out == text("paper")
    found = run("recipe", "papper")
    assert found.code == 1
    assert "Expected a recipe's name" in found.words
    mine = tmp_path / "mine.toml"
    mine.write_text("[head]\nhidden = 3 # [bold]\n")
    assert run("recipe", mine).out == mine.read_text()


def test_data_list_names_sets_with_their_licences(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    found = run("data", "list")
    assert found.code == 0
    assert "phantom" in found.out
    assert "rentgen data get NAME DIR" in found.out


def test_data_get_draws_and_audit_reads(run: Run, tmp_path: Path) -> None:
    drawn = run("data", "get", "phantom", tmp_path / "set", "--films", "2", "--dicom", "--seed", "5")
    assert drawn.code == 0, drawn.err
    assert f"rentgen train {tmp_path / 'set'} --out " in drawn.words
    assert len(list((tmp_path / "set").glob("films/*/*.dcm"))) == 6
    found = run("data", "audit", tmp_path / "set", "--json", "-")
    values = strict(found.out)
    assert (values["n"], values["patient_source"], values["formats"]) == (6, "dicom", {"dicom": 6})
    shown = run("data", "audit", tmp_path / "set", "--json", tmp_path / "audit.json")
    assert "Patients known by: dicom" in shown.words
    assert strict((tmp_path / "audit.json").read_text(encoding="utf-8")) == values
    unknown = run("data", "get", "imagenet", tmp_path / "other")
    assert unknown.code == 1
    assert "imagenet" in unknown.err


def test_brackets_in_names_are_no_markup(trained: Trained, held_out: list[Path], run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "x[" / "y]" / "[red]"
    (folder / "normal").mkdir(parents=True)
    (folder / "effusion").mkdir()
    bundle = folder / "m[bold]z.rentgen"
    shutil.copy(trained.bundle, bundle)
    film = folder / "normal" / "[b]film[].png"
    shutil.copy(held_out[0], film)
    (folder / "effusion" / "[bad].png").write_bytes(b"no film")
    told = run("predict", bundle, film)
    assert str(film) in told.out
    assert run("inspect", bundle).code == 0
    judged = run("evaluate", bundle, folder, "--resamples", "0", "--report", tmp_path / "x[" / "report")
    assert judged.code == 0, judged.err
    assert "m[bold]z.rentgen on" in judged.words
    assert "[bad].png" in judged.words
    assert str(tmp_path / "x[" / "report" / "report.html") in judged.err
    missing = run("inspect", folder / "[/].rentgen")
    assert str(folder / "[/].rentgen") in missing.err


def test_patient_pattern_reaches_the_listing(small: Path, run: Run) -> None:
    values = strict(run("data", "audit", small, "--json", "-", "--patient-pattern", "^(person)").out)
    assert (values["patients"], values["patient_source"]) == ({"all": 1}, "name")
    found = run("data", "audit", small, "--patient-pattern", "(")
    assert found.code == 1
    assert "regular expression" in found.words


def test_a_folder_without_films_is_named(run: Run, tmp_path: Path, trained: Trained) -> None:
    for arguments in (("data", "audit", tmp_path), ("predict", trained.bundle, tmp_path)):
        found = run(*arguments)
        assert found.code == 1
        assert "no films. Expected PNG, JPEG, TIFF or DICOM files" in found.words
