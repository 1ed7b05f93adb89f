"""The documents against the code: links, commands, keys, figures of speech that a program can check."""

from __future__ import annotations

import json
import re
import runpy
import shlex
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer.main
from conftest import Trained

import rentgen
from rentgen.cli import app
from rentgen.data.audit import audit, examine
from rentgen.data.listing import list_images
from rentgen.engine.predictor import Predictor
from rentgen.evaluate.compare import Comparison
from rentgen.evaluate.explain import Grade, HeatMapGrade
from rentgen.evaluate.shortcuts import Probe, Shortcuts
from rentgen.evaluate.stress import Robustness
from rentgen.images.corrupt import CORRUPTIONS
from rentgen.images.limits import DEFAULT_LIMITS
from rentgen.images.phantom import Finding, draw, to_dicom
from rentgen.images.prepare import prepare
from rentgen.images.read import read
from rentgen.learn.recipe import SHIPPED, Recipe
from rentgen.records import Calibration, Conformal, Domain, Precision, Scope, Status

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
DOCUMENTS = sorted([ROOT / "README.md", ROOT / "README.uk.md", ROOT / "CONTRIBUTING.md", *DOCS.glob("*.md")])
TWINS = ((ROOT / "README.md", ROOT / "README.uk.md"), (DOCS / "tutorial.md", DOCS / "tutorial.uk.md"))

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#{1,6} (.+)$", re.MULTILINE)


def fences(path: Path) -> list[tuple[str, str]]:
    """Return (language, text) of each fenced block."""
    return [(language, text) for language, text in FENCE.findall(path.read_text(encoding="utf-8"))]


def prose(path: Path) -> str:
    """Return a document without its fenced blocks."""
    return FENCE.sub("", path.read_text(encoding="utf-8"))


def python_of(path: Path) -> str:
    """Return all Python shown in a document."""
    return "\n".join(text for language, text in fences(path) if language == "python")


def anchors(path: Path) -> set[str]:
    """Return the anchors of a document's headings, as GitHub makes them."""
    plain = [re.sub(r"[^\w\- ]", "", heading.lower()) for heading in HEADING.findall(prose(path))]
    return {heading.replace(" ", "-") for heading in plain}


def commands(path: Path) -> Iterator[list[str]]:
    """Yield the arguments of each `rentgen ...` shown in a fenced block."""
    for language, text in fences(path):
        if language in ("", "sh", "console"):
            for line in text.replace("\\\n", " ").splitlines():
                words = shlex.split(line.removeprefix("$ "), comments=True) if "rentgen " in line[:10] else []
                if words[:1] == ["rentgen"]:
                    yield words[1 : words.index(">") if ">" in words else None]


def find(words: list[str]) -> tuple[Any, list[str]]:
    """Return the command that words name, and what is left of them."""
    command: Any = typer.main.get_command(app)
    left = list(words)
    while left and left[0] in getattr(command, "commands", {}):
        command = command.commands[left.pop(0)]
    return command, left


def options(command: Any) -> set[str]:  # noqa: ANN401
    """Return every spelling of a command's options."""
    return {name for parameter in command.params for name in parameter.opts + parameter.secondary_opts} | {
        "-h",
        "--help",
    }


def test_anchors_as_github_makes_them() -> None:
    assert {"data", "backbones-and-weights", "leaky"} <= anchors(DOCS / "recipe.md") | anchors(DOCS / "data.md")
    assert "встановлення" in anchors(ROOT / "README.uk.md")


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_relative_links_resolve(path: Path) -> None:
    for target in LINK.findall(prose(path)):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        there = (path.parent / name).resolve() if name else path
        assert there.exists(), f"{path.name}: {target} leads nowhere"
        assert not anchor or anchor in anchors(there), f"{path.name}: {target} names no heading"


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_commands_parse(path: Path) -> None:
    for words in commands(path):
        command, left = find(words)
        assert not hasattr(command, "commands"), f"{path.name}: no such command: {words}"
        # Parses and checks the values; runs nothing, and raises what the command line would print.
        command.make_context(" ".join(words[:1]), left)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_commands_in_prose_name_what_is_there(path: Path) -> None:
    for shown in re.findall(r"`rentgen ([a-z][^`]*)`", prose(path)):
        command, left = find(shown.split())
        assert len(left) < len(shown.split()), f"{path.name}: no such command: {shown}"
        named = {word for word in left if word.startswith("-") and word != "-"}
        assert named <= options(command), f"{path.name}: {shown}"


def leaves(command: Any, words: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:  # noqa: ANN401
    """Yield every command that is no group, by the words that lead to it."""
    commands_of = getattr(command, "commands", None)
    if commands_of is None:
        yield words
    else:
        for name, below in commands_of.items():
            yield from leaves(below, (*words, name))


def test_every_command_is_shown() -> None:
    shown = {tuple(words[: len(words) - len(find(words)[1])]) for path in DOCUMENTS for words in commands(path)}
    known = set(leaves(typer.main.get_command(app)))
    assert known - {("demo",)} <= shown


def test_make_targets_are_there() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for path in DOCUMENTS:
        for _, text in fences(path):
            assert set(re.findall(r"^make ([a-z]+)", text, re.MULTILINE)) <= targets, path.name


def test_recipe_keys_and_defaults_are_those_of_the_recipe() -> None:
    text = (DOCS / "recipe.md").read_text(encoding="utf-8")
    documented = {
        table: {
            key: tomllib.loads(f"value = {default}")["value"]
            for key, default in re.findall(r"^\| `(\w+)` \| `([^`]+)` \|", section, re.MULTILINE)
        }
        for table, section in re.findall(r"^## `\[(\w+)\]`\n(.*?)(?=^## )", text, re.MULTILINE | re.DOTALL)
    }
    assert documented == Recipe().to_dict()


def test_recipes_that_ship_are_documented() -> None:
    rows = re.findall(
        r"^\| `([\w-]+)` \|", (DOCS / "recipe.md").read_text(encoding="utf-8").split("## ")[0], re.MULTILINE
    )
    assert tuple(rows) == SHIPPED


def test_output_keys_are_documented(trained: Trained) -> None:
    listing = list_images(trained.data)
    found = {
        "output.md": {
            *(trained.training.bundle.card.test or {}),
            *audit(listing, examine(listing)).to_dict(),
            *Predictor.load(trained.bundle).predict(b"").to_dict(),
            *map(str, Status),
            *(field for report in (Robustness, HeatMapGrade, Comparison) for field in report.__dataclass_fields__),
            *(set(Shortcuts.__dataclass_fields__) - {"examples"}),
            *(set(Probe.__dataclass_fields__) - {"found"}),
            *map(str, Grade),
            *CORRUPTIONS,
            "passed",
        },
        "bundle.md": {
            *trained.training.bundle.card.to_dict(),
            *trained.training.bundle.split.to_dict(),
            *(field for part in (Calibration, Conformal, Scope, Domain) for field in part.__dataclass_fields__),
        },
    }
    for name, keys in found.items():
        text = (DOCS / name).read_text(encoding="utf-8")
        assert {key for key in keys if f"`{key}`" not in text} == set(), name


def test_limits_are_those_of_the_reader() -> None:
    text = (DOCS / "images.md").read_text(encoding="utf-8")
    for name in DEFAULT_LIMITS.__dataclass_fields__:
        row = re.search(rf"^\| `{name}`.*\| ([\d,]+)", text, re.MULTILINE)
        assert row is not None, name
        assert int(row[1].replace(",", "")) == getattr(DEFAULT_LIMITS, name), name


def test_public_names_are_those_of_the_package() -> None:
    for path in (ROOT / "README.md", ROOT / "README.uk.md"):
        rows = "\n".join(line for line in prose(path).splitlines() if line.startswith("| "))
        assert {name for name in rentgen.__all__ if f"`{name}`" not in rows} == set(), path.name


@pytest.mark.parametrize(("one", "other"), TWINS, ids=lambda path: path.name)
def test_languages_keep_step(one: Path, other: Path) -> None:
    levels = [re.findall(r"^(#{1,6}) ", prose(path), re.MULTILINE) for path in (one, other)]
    assert levels[0] == levels[1]
    assert len(fences(one)) == len(fences(other))
    assert list(commands(one)) == list(commands(other))
    assert python_of(one) == python_of(other)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_documents_name_no_place_of_their_making(path: Path) -> None:
    assert not re.search(r"/(home|root|tmp|Users|mnt)/|localhost", path.read_text(encoding="utf-8"))


@pytest.fixture
def folder(trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a current folder with what the documents speak of: a bundle, new films, a DICOM film."""
    (tmp_path / "chest.rentgen").write_bytes(trained.bundle.read_bytes())
    for film in sorted(trained.data.glob("*/*_1.png"))[::9]:
        copy = tmp_path / "new" / film.parent.name / film.name
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(film.read_bytes())
    drawn = draw(Finding.NORMAL, np.random.default_rng(0), height=96, width=80)
    (tmp_path / "film.dcm").write_bytes(to_dicom(drawn, patient_id="1"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "path", [ROOT / "README.md", DOCS / "images.md", DOCS / "knowing.md"], ids=lambda path: path.name
)
def test_python_runs(path: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    example = folder / "example.py"
    example.write_text(python_of(path), encoding="utf-8")
    runpy.run_path(str(example))
    assert capsys.readouterr().out


def test_the_bundle_is_read_without_rentgen(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    example, film = folder / "example.py", next(folder.glob("new/*/*.png"))
    example.write_text(python_of(DOCS / "bundle.md"), encoding="utf-8")
    assert "import rentgen" not in example.read_text(encoding="utf-8")
    assert read(film).bits == 8
    monkeypatch.setattr(sys, "argv", ["example.py", "chest.rentgen", str(film)])
    values = runpy.run_path(str(example))
    predictor = Predictor.load("chest.rentgen", precision=Precision.F32)
    prepared = prepare(read(film), predictor.card.preprocessing).pixels
    np.testing.assert_array_equal(values["image"][0], prepared)
    printed = {label: float(value) for label, value in map(str.split, capsys.readouterr().out.splitlines())}
    assert printed == pytest.approx(predictor.predict(film).probabilities, abs=6e-4)  # printed with three digits


def test_json_shown_is_json() -> None:
    texts = [text for path in DOCUMENTS for language, text in fences(path) if language == "json"]
    shown = [values for text in texts if "path" in (values := json.loads(text))]
    assert shown
    for values in shown:
        assert list(values) == ["path", "label", "probabilities", "status", "reasons", "prediction_set", "distance"]
        assert sum(values["probabilities"].values()) == pytest.approx(1, abs=0.002)
