"""A site says, or its unlabelled films tell, how common each of several findings is: the whole way, on real files."""

from __future__ import annotations

import csv
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from linear import GRID, SIDE, normal_films, predictor_of, weighing_model
from PIL import Image

from rentgen import bundle as bundles
from rentgen.bundle import Bundle
from rentgen.cli import main
from rentgen.data.listing import list_images
from rentgen.engine.predictor import Predictor
from rentgen.errors import DataError, SettingError
from rentgen.learn.calibrate import calibrate, estimate_prevalence
from rentgen.records import Listing, Precision, Task

NAMES = ("Effusion", "Nodule")
LABELLED, HERE = (0.5, 0.3), (0.1, 0.6)
PLACES = ((3, 3), (7, 8))
"""Where in the coarse grid each shows, as a spot that is brighter with it and overlaps with what is there without."""


def films(folder: Path, prevalence: tuple[float, ...], count: int, seed: int) -> tuple[list[Path], npt.NDArray[Any]]:
    """Write films whose spots tell of the findings, and return them with what they show."""
    rng = np.random.default_rng(seed)
    base, step = normal_films(6).astype(np.float64), SIDE // GRID
    truth = (rng.random((count, 2)) < prevalence).astype(np.int64)
    folder.mkdir()
    paths = []
    for number, shows in enumerate(truth):
        film = base[number % len(base)].copy()
        for (row, column), there in zip(PLACES, shows, strict=True):
            level = np.clip(rng.normal(150 if there else 90, 30), 0, 255)
            film[row * step : (row + 1) * step, column * step : (column + 1) * step] = level
        paths.append(folder / f"{number:03d}.png")
        Image.fromarray(film.astype(np.uint8)).save(paths[-1])
    return paths, truth


@pytest.fixture(scope="module")
def made() -> Bundle:
    weights = np.zeros((2, GRID, GRID))
    for number, (row, column) in enumerate(PLACES):
        weights[number, row, column] = 12.0
    found = predictor_of(weighing_model(weights, np.full((GRID, GRID), 120 / 255)), NAMES).bundle
    card = replace(found.card, task=Task.MULTILABEL, positive=None)
    return replace(found, card=card, split=replace(found.split, salt="5a" * 16))


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    paths, truth = films(folder / "films", LABELLED, 240, seed=1)
    with (folder / "site.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["path", "patient", *NAMES])
        for number, (path, shows) in enumerate(zip(paths, truth.tolist(), strict=True)):
            # Of a tenth of the films nobody knows about the nodule.
            writer.writerow([path, f"p{number}", shows[0], "" if number % 10 == 0 else shows[1]])
    return folder / "site.csv"


@pytest.fixture(scope="module")
def site(table: Path) -> Listing:
    return list_images(table)


@pytest.fixture(scope="module")
def unread(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Path], npt.NDArray[Any]]:
    return films(tmp_path_factory.mktemp("unread") / "films", HERE, 300, seed=2)


def said(bundle: Bundle, paths: list[Path]) -> npt.NDArray[np.float64]:
    found = Predictor(bundle, precision=Precision.F32, batch_size=16).predict_many(paths)
    return np.array([list(one.probabilities.values()) for one in found])


def test_a_prevalence_that_is_said_moves_that_finding_alone(
    made: Bundle, site: Listing, unread: tuple[list[Path], npt.NDArray[Any]]
) -> None:
    own, before = calibrate(made, site, method="vector", resamples=0)
    there, told = calibrate(made, site, method="vector", resamples=0, prevalence={"Effusion": 0.1})
    assert (before["prevalence"], told["prevalence"]) == (None, {"Effusion": 0.1})
    assert told["known"] == {"Effusion": 240, "Nodule": 216}
    assert told["support"] == before["support"]
    paths, truth = unread
    old, new = said(own, paths), said(there, paths)
    # Fitted for the mixture that is here, the mean of what is said is the share that is there.
    assert abs(new[:, 0].mean() - truth[:, 0].mean()) < 0.04 < abs(old[:, 0].mean() - truth[:, 0].mean())
    assert np.abs(new[:, 1] - old[:, 1]).max() < 0.03
    both = calibrate(made, site, method="vector", resamples=0, prevalence=dict(zip(NAMES, HERE, strict=True)))[0]
    assert np.abs(said(both, paths).mean(axis=0) - truth.mean(axis=0)).max() < 0.05


def test_films_without_labels_tell_it(made: Bundle, site: Listing, unread: tuple[list[Path], npt.NDArray[Any]]) -> None:
    paths, truth = unread
    found = estimate_prevalence(made, site, paths)
    assert list(found) == list(NAMES)
    assert list(found.values()) == pytest.approx(truth.mean(axis=0).tolist(), abs=0.06)
    # Nobody can calibrate what the site's films say too little of, so its share is not estimated either.
    few = replace(site, records=tuple(replace(one, findings=(one.findings[0], None)) for one in site.records))
    assert list(estimate_prevalence(made, few, paths)) == ["Effusion"]
    with pytest.raises(DataError, match="at least 10 films without labels"):
        estimate_prevalence(made, site, paths[:5])


def test_what_cannot_be_said(made: Bundle, site: Listing) -> None:
    with pytest.raises(SettingError, match="among Effusion, Nodule, but got Hernia"):
        calibrate(made, site, prevalence={"Hernia": 0.1})
    with pytest.raises(SettingError, match="above 0 and below 1"):
        calibrate(made, site, prevalence={"Nodule": 1.2})
    few = replace(site, records=tuple(replace(one, findings=(one.findings[0], None)) for one in site.records))
    with pytest.raises(DataError, match=r"fewer of Nodule\. Add films, or leave its prevalence out"):
        calibrate(made, few, prevalence={"Nodule": 0.2})


def test_commands(
    made: Bundle,
    table: Path,
    unread: tuple[list[Path], npt.NDArray[Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    bundles.write(tmp_path / "made.rentgen", made)

    def run(*arguments: object) -> dict[str, Any]:
        given = ["rentgen", "calibrate", tmp_path / "made.rentgen", table, "--resamples", 10, *arguments]
        given += ["--out", tmp_path / f"{len(list(tmp_path.iterdir()))}.rentgen", "--json", tmp_path / "told.json"]
        monkeypatch.setattr(sys, "argv", [str(one) for one in given])
        with pytest.raises(SystemExit) as ended:
            main()
        assert not ended.value.code, capsys.readouterr().err
        told: dict[str, Any] = json.loads((tmp_path / "told.json").read_text(encoding="utf-8"))
        return told

    said_so = {"Effusion": 0.2, "Nodule": 0.4}
    assert run("--prevalence", "Effusion=0.2,Nodule=0.4")["prevalence"] == said_so
    assert run("--prevalence", "Effusion=0.2", "--prevalence", "Nodule=0.4")["prevalence"] == said_so
    capsys.readouterr()
    estimated = run("--like", unread[0][0].parent)["prevalence"]
    assert estimated == pytest.approx(dict(zip(NAMES, HERE, strict=True)), abs=0.1)
    assert "Prevalence, estimated: Effusion 0." in capsys.readouterr().out
