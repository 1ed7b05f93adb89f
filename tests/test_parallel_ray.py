from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from conftest import Trained
from featured import check, expected, keys_of, write_films
from featured import run as run_extraction
from linear import fitted_model, normal_films, predictor_of, with_spot
from made import film8, png
from raying import RESULT_BYTES, UNREADABLE, Posted, marks, open_numbers, post, straggle
from raying_films import FILMS, marked_extractor
from typer.testing import CliRunner

from rentgen import bundle as bundles
from rentgen.cli import app
from rentgen.cli.ray import open_pool, with_address
from rentgen.data.audit import examine
from rentgen.errors import (
    InputError,
    LeakError,
    MissingExtraError,
    PeerError,
    RentgenError,
    SettingError,
    UnsupportedImageError,
)
from rentgen.learn.members import read_part
from rentgen.learn.training import TrainingPlan, train
from rentgen.parallel.pool import HERE, Work
from rentgen.parallel.ray import Ray, _Failure, _led_there, _Order, _Parcel, _Worker, connect
from rentgen.parallel.versions import own_versions
from rentgen.records import Split


@pytest.fixture
def noted(tmp_path: Path) -> Path:
    folder = tmp_path / "marks"
    folder.mkdir()
    return folder


def test_what_a_killed_run_left_is_whole_after_a_worker_was_killed_too(
    cluster: str, noted: Path, tmp_path: Path
) -> None:
    films = write_films(tmp_path / "films", FILMS)
    command = [sys.executable, str(Path(__file__).with_name("raying_films.py")), cluster, str(tmp_path)]
    child = subprocess.Popen(command, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 90
    while not kept_films(tmp_path) and child.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    child.kill()
    _, told = child.communicate()
    assert child.returncode == -signal.SIGKILL, told.decode()

    kept = kept_films(tmp_path)
    assert 0 < kept < FILMS
    before = wait_until_still(noted)
    (noted / "die").touch()
    store = run_extraction(films, tmp_path / "cache", marked_extractor(noted), pool=Ray())
    assert not (noted / "die").exists()
    check(store, films, tmp_path)
    # The task of the worker that was killed began anew; it had two films.
    assert FILMS - kept <= marks(noted) - before <= FILMS - kept + 2
    assert len(list(tmp_path.glob("cache/features/*"))) == 1

    here = run_extraction(films, tmp_path / "here", marked_extractor(noted))
    rows = [found.gather(keys_of(films), tmp_path).tobytes() for found in (store, here)]
    assert rows[0] == rows[1] == expected(films).tobytes()


def kept_films(folder: Path) -> int:
    """Return how many films' features the cache under a folder keeps: a key has 32 bytes."""
    return sum(path.stat().st_size // 32 for path in folder.glob("cache/features/*/*.keys"))


def wait_until_still(folder: Path) -> int:
    """Return the number of marks once it has not changed for a second."""
    count, since = marks(folder), time.monotonic()
    while time.monotonic() - since < 1:
        time.sleep(0.05)
        if marks(folder) != count:
            count, since = marks(folder), time.monotonic()
    return count


def test_a_slow_film_stops_no_other_and_results_nobody_takes_stop_the_workers(cluster: str, noted: Path) -> None:
    count, bound = UNREADABLE, 24 << 20
    found = Ray(store_bytes=bound).map(Work(open_numbers, partial(straggle, noted)), range(count + 1))
    assert set(next(found)) == {0}
    begun = wait_until_still(noted)
    assert begun < count // 2, f"{begun} of {count} begun: {begun * RESULT_BYTES >> 20} MB, bound {bound >> 20} MB"
    for number in range(1, count):
        assert int(next(found)[0]) == number
    with pytest.raises(InputError, match=r"80\.png: broken"):
        next(found)
    assert marks(noted) == count


def test_predictions_and_audit_are_those_made_here(
    cluster: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    films = normal_films(24)
    labels = np.arange(24) % 2
    films = with_spot(films, labels, 40, 40)
    for number, film in enumerate(films):
        folder = tmp_path / "films" / ("normal", "covid")[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}.png").write_bytes(png(film))
    (tmp_path / "films" / "covid" / "broken.png").write_bytes(png(film8())[:200])
    bundles.write(tmp_path / "linear.rentgen", predictor_of(fitted_model(films, labels)).bundle)
    # Relative paths mean the same in a worker.
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> str:
        result = CliRunner().invoke(app, list(arguments))
        assert result.exit_code == (arguments[0] == "predict"), result.output
        return result.stdout

    for command in (
        ["predict", "linear.rentgen", "films", "--batch-size", "2", "--json", "-"],
        ["data", "audit", "films", "--json", "-"],
    ):
        here = run(*command)
        assert "broken.png" in here
        if command[0] == "data":
            # As from outside of the cluster, behind ray://, where another process leads.
            monkeypatch.setattr("rentgen.parallel.ray._pipeline", _led_there)
        assert run(*command, "--ray") == here
        assert all(json.loads(line) for line in here.splitlines()[: command[0] == "predict"])


def test_it_listens_on_loopback_alone(cluster: str) -> None:
    listening = subprocess.run(["ss", "-ltnpH"], capture_output=True, text=True, check=True).stdout
    own = [
        line.split() for line in listening.splitlines() if "raylet" in line or "gcs_server" in line or "ray::" in line
    ]
    assert own
    assert {line[3].rpartition(":")[0] for line in own} <= {"127.0.0.1", "[::ffff:127.0.0.1]", "[::1]"}


# Without a cluster


@pytest.mark.parametrize("engine", ["openvino", "torch"])
def test_what_is_trained_elsewhere_is_what_is_trained_here(engine: str, trained: Trained, tmp_path: Path) -> None:
    pool = Posted()
    plan = TrainingPlan(
        data=trained.data,
        out=tmp_path / "small.rentgen",
        recipe=trained.recipe.change("backbone", engine=engine),
        cache=tmp_path / "cache",
        weights="random",
        probed=False,
        pool=pool,
    )
    found = train(plan)
    films = len(found.listing)
    parts = Counter(str(record.split) for record in found.listing.records)
    assert pool.items >= films + parts["validation"] + parts["test"]
    own = trained.training
    if engine == "openvino":
        assert found.bundle.model == own.bundle.model
        assert found.validation.evaluation.to_dict() == own.validation.evaluation.to_dict()
    assert found.test is not None
    assert own.test is not None
    assert [one.path for one in found.test.predictions] == [one.path for one in own.test.predictions]


def test_fitted_films_are_those_made_here(trained: Trained, tmp_path: Path) -> None:
    listing = trained.training.listing
    hashes = examine(listing).hashes
    here, there = tmp_path / "here", tmp_path / "there"
    for folder in (here, there):
        folder.mkdir()
    preprocessing = trained.recipe.preprocessing
    one = read_part(listing, Split.TEST, hashes, preprocessing, here)
    other = read_part(listing, Split.TEST, hashes, preprocessing, there, pool=Posted())
    np.testing.assert_array_equal(one.images, other.images)
    with pytest.raises(InputError, match="the file changed while it was in use"):
        read_part(listing, Split.TEST, dict.fromkeys(hashes, ""), preprocessing, there, pool=Posted())


def test_a_worker_that_could_answer_otherwise_says_why_and_does_not_answer(tmp_path: Path) -> None:
    own = own_versions()
    assert {"python", "rentgen", "numpy", "openvino", "pillow", "pydicom"} <= set(own)
    work = Work(open_numbers, partial(straggle, tmp_path), folder=tmp_path / "not mounted")
    for versions, told in (
        (own | {"numpy": "0.0"}, r"other versions: numpy .* \(here 0\.0\)"),
        (own | {"absent": "1"}, r"absent missing \(here 1\)"),
        (own, "does not see the films' folder"),
    ):
        answer = _Worker(_Order(work, str(tmp_path), versions, None))({"item": _Parcel(1)})["result"]
        assert isinstance(answer, _Failure)
        assert isinstance(answer.error, PeerError)
        assert re.search(told, str(answer.error))
        assert "not mounted" not in str(answer.error)


def test_a_ray_that_stands_alone_takes_no_film_for_its_address() -> None:
    for given, meant in (
        (["--ray"], ["--ray=local"]),
        (["--ray", "films", "-v"], ["--ray=local", "films", "-v"]),
        (["--ray", "ray://head:10001", "films"], ["--ray=ray://head:10001", "films"]),
        (["films", "--ray", "10.0.0.7:6379"], ["films", "--ray=10.0.0.7:6379"]),
        (["--ray", "auto", "--out", "a"], ["--ray=auto", "--out", "a"]),
        (["--ray=auto", "a"], ["--ray=auto", "a"]),
        (["--", "--ray"], ["--", "--ray"]),
    ):
        assert with_address(given) == meant
    assert open_pool(None) is HERE
    with pytest.raises(SettingError, match="--ray` alone, or with auto"):
        open_pool("http://head")


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'rentgen\[ray\]'"):
        connect("auto")


@pytest.mark.parametrize(
    "error",
    [
        InputError(Path("a.png"), "broken"),
        UnsupportedImageError("b.dcm", "colour"),
        MissingExtraError("torch", "train", "training"),
        LeakError("a patient on both sides"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_is_the_same_elsewhere(error: RentgenError) -> None:
    again = post(error)
    assert (type(again), str(again), vars(again)) == (type(error), str(error), vars(error))
