from __future__ import annotations

import json
import shutil
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import fsspec
import numpy as np
import pytest
from linear import fitted_model, normal_films, predictor_of, with_spot
from made import film8, png
from typer.testing import CliRunner

from rentgen import bundle as bundles
from rentgen.cli import app
from rentgen.data import places
from rentgen.data.places import fetch, place_of, put
from rentgen.errors import MissingExtraError, PeerError, RentgenError

with warnings.catch_warnings():
    # Of its own imports.
    warnings.simplefilter("ignore", DeprecationWarning)
    from moto.server import ThreadedMotoServer


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """Run a store that speaks S3 on loopback, and return a bucket in it."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    _, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "testing")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        fsspec.filesystem("s3").mkdir("films")
        yield "s3://films"
    server.stop()


@pytest.fixture(params=["memory", "s3"])
def store(request: pytest.FixtureRequest) -> Iterator[str]:
    """Return an empty place of each store in turn."""
    place = "memory://films" if request.param == "memory" else request.getfixturevalue("s3")
    yield f"{place}/{request.node.name[:20].replace('[', '-')}"
    if request.param == "memory":
        fsspec.filesystem("memory").store.clear()


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep what commands cache by themselves in the test's own folder."""
    monkeypatch.setattr("rentgen.cli.places.cache_folder", lambda: tmp_path / "home")
    return tmp_path / "home"


def write_set(folder: Path, count: int = 8) -> tuple[list[Path], Path]:
    """Write films of two classes, and the bundle of a model that knows them."""
    labels = np.arange(count) % 2
    films = with_spot(normal_films(count), labels, 40, 40)
    paths = []
    for number, film in enumerate(films):
        path = folder / "films" / ("normal", "covid")[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(film))
        paths.append(path)
    bundles.write(folder / "linear.rentgen", predictor_of(fitted_model(films, labels)).bundle)
    return paths, folder / "linear.rentgen"


def run(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, list(arguments))
    if isinstance(result.exception, RentgenError):
        raise result.exception
    assert result.exit_code == code, result.output
    return result.output


def test_a_path_is_a_place_only_where_it_says_so() -> None:
    for text in ("s3://b/films", "gs://b/f.csv", "az://c/x", "abfs://c/x", "memory://x"):
        assert place_of(text) == place_of(Path(text)) == text
    for text in ("films", "/s3/films", "-", "c:/films", "http://host/films", "films/s3://b", "s3"):
        assert place_of(text) is None


def test_what_was_fetched_is_fetched_again_only_where_it_changed(store: str, tmp_path: Path) -> None:
    paths, _ = write_set(tmp_path)
    put(tmp_path / "films", f"{store}/films")
    counts: list[tuple[int, int]] = []

    def fetched() -> dict[str, bytes]:
        counts.clear()
        folder = fetch(
            f"{store}/films", tmp_path / "cache", progress=lambda _, done, total, __="": counts.append((done, total))
        )
        return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.png")}

    here = {str(path.relative_to(tmp_path / "films")): path.read_bytes() for path in paths}
    assert fetched() == here
    assert counts[-1] == (8, 8)
    assert fetched() == here
    assert counts == []

    fs = fsspec.filesystem(store.partition(":")[0])
    changed = png(film8(seed=3))
    fs.pipe_file(f"{store}/films/normal/0.png", changed)
    fs.rm_file(f"{store}/films/covid/1.png")
    del here["covid/1.png"]
    assert fetched() == here | {"normal/0.png": changed}
    assert counts == [(1, 1)]


def test_commands_answer_as_they_do_on_files(store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths, bundle = write_set(tmp_path)
    paths[0].with_name("broken.png").write_bytes(paths[0].read_bytes()[:200])
    put(tmp_path / "films", f"{store}/films")
    put(bundle, f"{store}/models/linear.rentgen")
    # What is put lies in no folder of this machine that anybody named.
    monkeypatch.chdir(tmp_path)
    fs = fsspec.filesystem(store.partition(":")[0])

    run("predict", str(bundle), "films", "--json", "here.json", code=1)
    told = run(
        "predict", f"{store}/models/linear.rentgen", f"{store}/films", "--json", f"{store}/out/there.json", code=1
    )
    assert f"Put: {store}/out/there.json" in told
    here, there = (
        [json.loads(line) for line in text.splitlines()]
        for text in (Path("here.json").read_text(), fs.cat_file(f"{store}/out/there.json").decode())
    )
    assert [one | {"path": Path(one["path"]).name} for one in here] == [
        one | {"path": Path(one["path"]).name} for one in there
    ]

    run("data", "audit", "films", "--json", "here.json")
    run("data", "audit", f"{store}/films", "--json", f"{store}/out/audit.json")
    here, there = json.loads(Path("here.json").read_text()), json.loads(fs.cat_file(f"{store}/out/audit.json"))
    for name in ("n", "counts", "heights", "widths", "formats", "shortcuts"):
        assert here[name] == there[name]


def test_a_training_leaves_bundle_report_and_cache_and_finds_its_cache_again(
    s3: str, home: Path, tmp_path: Path
) -> None:
    write_set(tmp_path, 40)
    put(tmp_path / "films", f"{s3}/taught")
    recipe = tmp_path / "small.toml"
    recipe.write_text("[preprocessing]\nheight = 64\nwidth = 64\n[backbone]\nprecision = 'f32'\n")
    command = ["train", f"{s3}/taught", "--out", f"{s3}/made/small.rentgen", "--cache", f"{s3}/kept", "--epochs", "1"]
    command += ["--recipe", str(recipe), "--backbone", "test_resnet", "--weights", "random"]
    told = run(*command)
    assert f"Put: {s3}/made/small.rentgen" in told
    fs = fsspec.filesystem("s3")
    made = {name.removeprefix("films/made/") for name in fs.find(f"{s3}/made")}
    assert {"small.rentgen", "small-report/report.html", "small-report/report.json"} <= made
    (tmp_path / "again.rentgen").write_bytes(fs.cat_file(f"{s3}/made/small.rentgen"))
    assert bundles.read(tmp_path / "again.rentgen").card.name == "small"
    kept = {name: fs.info(name)["ETag"] for name in fs.find(f"{s3}/kept")}
    assert any(name.endswith(".keys") for name in kept)
    assert not any("/places/" in name or "/.draft" in name for name in kept)

    # Another machine: what it has is what the store has, and it computes no features.
    shutil.rmtree(home)
    run(*command)
    assert {name: fs.info(name)["ETag"] for name in fs.find(f"{s3}/kept")} == kept


def test_a_table_brings_the_films_beside_it(store: str, tmp_path: Path) -> None:
    write_set(tmp_path)
    (tmp_path / "films" / "films.csv").write_text("path,label\nnormal/0.png,no\ncovid/1.png,yes\n")
    put(tmp_path / "films", f"{store}/films")
    table = fetch(f"{store}/films/films.csv", tmp_path / "cache")
    assert table.name == "films.csv"
    assert (table.parent / "normal" / "0.png").is_file()


def test_what_cannot_be_had_is_said(store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PeerError, match=r"absent holds nothing\. Check its name"):
        fetch(f"{store}/absent", tmp_path)
    write_set(tmp_path)
    put(tmp_path / "films", f"{store}/films")
    monkeypatch.setattr(places, "MAX_OBJECTS", 3)
    with pytest.raises(PeerError, match=r"8 objects, .* Expected at most 3 objects"):
        fetch(f"{store}/films", tmp_path / "cache")
    monkeypatch.setattr(places, "MAX_OBJECTS", 9)
    monkeypatch.setattr(places, "MAX_BYTES", 1000)
    with pytest.raises(PeerError, match="0 MB that fit on the disk"):
        fetch(f"{store}/films", tmp_path / "cache")
    assert not list((tmp_path / "cache").rglob("*.png"))


def test_a_bucket_that_is_not_there_is_said_by_its_store(s3: str, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a")
    with pytest.raises(PeerError, match=r"s3://absent/a\.txt (refused or failed|holds nothing)"):
        put(tmp_path / "a.txt", "s3://absent/a.txt")


def test_a_name_that_leads_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    fs = fsspec.filesystem("memory")
    fs.store.clear()
    fs.pipe_file("/films/a/x.png", b"x")
    fs.store["/films/a/../../../x.png"] = fs.store["/films/a/x.png"]
    with pytest.raises(PeerError, match="leads out of the folder"):
        fetch("memory://films/a", tmp_path)
    fs.store.clear()


def test_a_store_whose_library_is_missing_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(MissingExtraError, match=r"s3:// place needs fsspec.*rentgen\[stores\]"):
        fetch("s3://b/x", tmp_path)
