from __future__ import annotations

import os
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from featured import (
    PREPROCESSING,
    SETTINGS,
    TILES,
    Counted,
    check,
    expected,
    extractor,
    keys_of,
    run,
    shards,
    with_views,
    write_films,
)
from made import film8, png

from rentgen.engine.session import best_precision
from rentgen.errors import DataError, InputError
from rentgen.learn import features
from rentgen.learn.backbones import Backbone, load
from rentgen.learn.extractors import cached_graph, openvino_extractor, torch_extractor
from rentgen.learn.features import Film, extract, view_key
from rentgen.learn.settings import AugmentSettings
from rentgen.records import Float32, Precision, Preprocessing, ResizeMode, UInt8


@pytest.fixture
def films(tmp_path: Path) -> list[Film]:
    return write_films(tmp_path / "films")


# What is computed, and what is not


def test_each_view_has_its_own_right_row(films: list[Film], tmp_path: Path) -> None:
    wanted = [replace(film, views=number % 3) for number, film in enumerate(films)]
    store = run(wanted, tmp_path / "cache")
    check(store, wanted, tmp_path)
    for path in shards(store, "npy"):
        assert np.load(path, allow_pickle=False).dtype == np.float16


def test_a_second_extraction_computes_nothing(films: list[Film], tmp_path: Path) -> None:
    wanted = with_views(films, 2)
    first, second = Counted(), Counted()
    store = run(wanted, tmp_path / "cache", first)
    again = run(wanted, tmp_path / "cache", second)
    assert (first.images, second.images) == (36, 0)
    assert store.gather(keys_of(wanted), tmp_path).tobytes() == again.gather(keys_of(wanted), tmp_path).tobytes()


def test_only_what_is_missing_is_computed(films: list[Film], tmp_path: Path) -> None:
    run(films[:5], tmp_path / "cache")
    counted = Counted()
    wanted = with_views(films, 1)
    check(run(wanted, tmp_path / "cache", counted), wanted, tmp_path)
    assert counted.images == 2 * 12 - 5


def test_neither_batches_nor_workers_nor_order_change_a_row(films: list[Film], tmp_path: Path) -> None:
    for workers, batch_size in ((1, 1), (3, 5), (2, 64)):
        cache = tmp_path / f"cache-{workers}"
        wanted = with_views(films[::-1], workers)
        check(run(wanted, cache, extractor(workers=workers, batch_size=batch_size)), wanted, tmp_path)


@pytest.mark.parametrize("views", [0, 2, 4, 6])
def test_batches_are_full(views: int, tmp_path: Path) -> None:
    """The engine pads a batch, so that 6 films of 8 cost as much as 8; only the last of a worker's turn may be so."""
    wanted = write_films(tmp_path / "films", 32, views=views)
    counted = Counted()
    run(wanted, tmp_path / "cache", extractor(counted, batch_size=8))
    assert max(counted.calls) == 8
    assert len(counted.calls) <= 1.25 * counted.images / 8


def test_films_of_the_same_bytes_are_computed_once(films: list[Film], tmp_path: Path) -> None:
    copies = []
    for film in films:
        path = film.path.with_name(f"copy-{film.path.name}")
        path.write_bytes(film.path.read_bytes())
        copies.append(replace(film, path=path, views=1))
    counted = Counted()
    check(run([*films, *copies, *copies], tmp_path / "cache", counted), [*films, *copies], tmp_path)
    assert counted.images == 2 * len(films)


def test_no_films_are_no_work(tmp_path: Path) -> None:
    store = run([], tmp_path / "cache")
    assert store.gather([], tmp_path).shape == (0, TILES)
    with pytest.raises(KeyError):
        store.gather([b"?" * 32], tmp_path)


# What a row depends on

OTHER_SETTINGS = {
    item.name: True if item.name == "flip" else 1.5 * getattr(SETTINGS, item.name)
    for item in fields(AugmentSettings)
    if item.name != "views"
}


@pytest.mark.parametrize("name", OTHER_SETTINGS)
def test_augmented_views_depend_on_each_setting_and_the_film_itself_on_none(name: str) -> None:
    other = replace(SETTINGS, **{name: OTHER_SETTINGS[name]})
    assert view_key("0" * 64, 0, other, 0) == view_key("0" * 64, 0, SETTINGS, 0)
    assert view_key("0" * 64, 1, other, 0) != view_key("0" * 64, 1, SETTINGS, 0)


def test_keys_tell_films_views_and_seeds_apart_and_not_their_number() -> None:
    keys = [view_key(f"{film:064d}", view, SETTINGS, seed) for film in (1, 2) for view in (1, 2) for seed in (1, 2)]
    assert len(set(keys)) == 8
    assert {len(key) for key in keys} == {features.KEY_BYTES}
    assert view_key("0" * 64, 0, SETTINGS, 1) == view_key("0" * 64, 0, SETTINGS, 2)
    assert view_key("0" * 64, 1, replace(SETTINGS, views=9), 0) == view_key("0" * 64, 1, SETTINGS, 0)


def test_the_number_of_views_is_a_setting_that_works(films: list[Film], tmp_path: Path) -> None:
    counted = Counted()
    run(with_views(films, SETTINGS.views), tmp_path / "cache", counted)
    assert counted.images == len(films) * (1 + SETTINGS.views)


def test_other_settings_and_seeds_recompute_augmented_views_only(films: list[Film], tmp_path: Path) -> None:
    wanted = with_views(films, 1)
    run(wanted, tmp_path / "cache")
    for settings, seed in ((replace(SETTINGS, gamma=0.9), 0), (SETTINGS, 1)):
        counted = Counted()
        store = run(wanted, tmp_path / "cache", counted, settings=settings, seed=seed)
        assert counted.images == len(films)
        rows = store.gather(keys_of(wanted, settings, seed), tmp_path)
        np.testing.assert_array_equal(rows, expected(wanted, settings, seed))


@pytest.mark.parametrize(
    "other",
    [
        Preprocessing(32, 36),
        Preprocessing(36, 32),
        Preprocessing(32, 32, resize=ResizeMode.PAD),
        Preprocessing(32, 32, crop_borders=True),
    ],
)
def test_other_preprocessing_is_another_space(other: Preprocessing, films: list[Film], tmp_path: Path) -> None:
    store = run(films, tmp_path / "cache")
    counted = Counted()
    second = run(films, tmp_path / "cache", counted, preprocessing=other)
    assert store.folder != second.folder
    assert counted.images == len(films)


def test_another_version_of_this_package_is_another_space(
    films: list[Film], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = run(films[:1], tmp_path / "cache")
    monkeypatch.setattr(features, "version", lambda _: "0.0.0")
    assert run(films[:1], tmp_path / "cache").folder != store.folder


# Real networks


@dataclass(frozen=True)
class Network:
    backbone: Backbone
    cache: Path
    graph: bytes


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Network:
    backbone, cache = load("test_resnet", weights="random", size=(32, 32)), tmp_path_factory.mktemp("graphs")
    return Network(backbone, cache, cached_graph(backbone, (32, 32), cache))


def test_openvino_and_torch_agree(network: Network, films: list[Film], tmp_path: Path) -> None:
    """Both compute in float32 and are kept in float16, whose step is a thousandth."""
    stores = [
        run(films, tmp_path / "cache", how)
        for how in (
            openvino_extractor(network.graph, network.backbone, Precision.F32, batch_size=5),
            torch_extractor(network.backbone, batch_size=5, device="cpu"),
        )
    ]
    assert stores[0].folder != stores[1].folder
    ours, theirs = (store.gather(keys_of(films), tmp_path).astype(np.float32) for store in stores)
    assert ours.shape == (len(films), network.backbone.features)
    np.testing.assert_allclose(ours, theirs, atol=2e-3 * float(np.abs(theirs).max()))


def test_weights_and_precision_tell_spaces_apart(network: Network) -> None:
    exact = openvino_extractor(network.graph, network.backbone, Precision.F32)
    assert exact.identity["precision"] == "f32"
    automatic = openvino_extractor(network.graph, network.backbone, Precision.AUTO)
    assert automatic.identity["precision"] == str(best_precision())
    others = [
        torch_extractor(network.backbone, device="cpu"),
        torch_extractor(load("test_resnet", weights="random", size=(32, 32), seed=1), device="cpu"),
        torch_extractor(load("test_efficientnet", weights="random", size=(32, 32)), device="cpu"),
    ]
    assert len({str(sorted(one.identity.items())) for one in (exact, *others)}) == 4


def test_a_graph_is_exported_once(network: Network) -> None:
    files = {path: path.stat().st_mtime_ns for path in (network.cache / "graphs").iterdir()}
    assert cached_graph(network.backbone, (32, 32), network.cache) == network.graph
    assert {path: path.stat().st_mtime_ns for path in (network.cache / "graphs").iterdir()} == files
    assert sorted(path.suffix for path in files) == [".onnx", ".sha256"]


@pytest.mark.parametrize("which", ["graph", "seal"])
def test_a_damaged_graph_is_exported_anew_and_silently(
    which: str,
    network: Network,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "graphs"
    folder.mkdir()
    for path in (network.cache / "graphs").iterdir():
        content = bytearray(path.read_bytes())
        if (path.suffix == ".onnx") == (which == "graph"):
            content[len(content) // 2] ^= 0xFF
        (folder / path.name).write_bytes(content)
    assert cached_graph(network.backbone, (32, 32), tmp_path) == network.graph  # an export repeats to the byte
    assert [record.message for record in caplog.records if "is damaged and is exported anew" in record.message]
    assert {path.read_bytes() for path in folder.glob("*.onnx")} == {network.graph}
    caplog.clear()
    cached_graph(network.backbone, (32, 32), tmp_path)
    assert not caplog.records
    assert capfd.readouterr() == ("", "")


# Bounds


def test_results_are_written_in_shards(films: list[Film], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "SHARD_ROWS", 5)
    store = run(films, tmp_path / "cache", extractor(batch_size=1))
    assert [len(np.load(path)) for path in shards(store, "npy")] == [5, 5, 2]
    check(store, films, tmp_path)


def test_a_shard_is_closed_when_its_time_is_up(
    films: list[Film], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(features, "SHARD_SECONDS", 0.0)
    store = run(films, tmp_path / "cache", extractor(batch_size=4))
    assert [len(np.load(path)) for path in shards(store, "npy")] == [4, 4, 4]


def test_large_gathers_are_mapped_from_a_file(
    films: list[Film], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = run(films, tmp_path / "cache")
    assert not isinstance(store.gather(keys_of(films), tmp_path), np.memmap)
    monkeypatch.setattr(features, "IN_MEMORY_BYTES", 2 * TILES * len(films) - 1)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    rows = store.gather(keys_of(films), scratch)
    assert isinstance(rows, np.memmap)
    assert [path.stat().st_size > rows.nbytes for path in scratch.iterdir()] == [True]
    np.testing.assert_array_equal(rows, expected(films))


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="no /proc")
def test_a_store_of_many_shards_holds_no_files_open(
    films: list[Film], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(features, "SHARD_ROWS", 1)
    before = len(os.listdir("/proc/self/fd"))
    store = run(films, tmp_path / "cache", extractor(batch_size=1))
    check(store, films, tmp_path)
    assert len(shards(store)) == 12
    assert len(os.listdir("/proc/self/fd")) < before + 6


def test_progress_rises_to_the_total(films: list[Film], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[str, int, int, str]] = []

    def progress(stage: str, done: int, total: int, note: str = "") -> None:
        told.append((stage, done, total, note))

    run(films[:3], tmp_path / "cache")
    for _ in range(2):
        told.clear()
        extract(films, extractor(batch_size=2), PREPROCESSING, SETTINGS, cache=tmp_path / "cache", progress=progress)
        assert {(stage, total) for stage, _, total, _ in told} == {("features", 12)}
        counts = [done for _, done, _, _ in told]
        assert counts == sorted(counts)
        assert counts[-1] == 12
        if len(told) > 1:
            assert counts[0] == 3
            assert told[-1][3].endswith(" images/s")
    assert told == [("features", 12, 12, "from the cache")]


# What goes wrong


def test_a_file_that_changed_since_it_was_listed_is_refused(
    films: list[Film], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(features, "SHARD_ROWS", 4)
    films[9].path.write_bytes(png(film8(seed=99)))
    with pytest.raises(InputError, match=r"9\.png: the file changed while it was in use; start again"):
        run(films, tmp_path / "cache", extractor(batch_size=1, workers=1))
    write_films(films[0].path.parent)
    counted = Counted()
    check(run(films, tmp_path / "cache", counted), films, tmp_path)
    assert counted.images == 4  # two shards had been written


def test_a_file_that_is_gone_is_refused(films: list[Film], tmp_path: Path) -> None:
    films[3].path.unlink()
    with pytest.raises(InputError, match=r"3\.png: "):
        run(films, tmp_path / "cache")


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e6])
def test_features_that_half_precision_cannot_hold_are_refused(value: float, films: list[Film], tmp_path: Path) -> None:
    def explode(images: UInt8) -> Float32:
        return np.full((len(images), TILES), value, np.float32)

    with pytest.raises(DataError, match="not finite in half precision"):
        run(films, tmp_path / "cache", explode)
    counted = Counted()
    check(run(films, tmp_path / "cache", counted), films, tmp_path)
    assert counted.images == len(films)


def test_a_torch_extractor_leaves_no_gradients_behind(network: Network) -> None:
    before = torch.is_grad_enabled()
    rows = torch_extractor(network.backbone, device="cpu").run(np.zeros((2, 32, 32), np.uint8))
    assert rows.dtype == np.float32
    assert torch.is_grad_enabled() is before
