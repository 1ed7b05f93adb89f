"""A cache of features that lasts: damage, kills at any moment, and several processes at once."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from featured import (
    TILES,
    Counted,
    check,
    extractor,
    run,
    shards,
    write_films,
)

from rentgen.learn import features
from rentgen.learn.features import (
    Film,
)
from rentgen.records import Float32, UInt8


@pytest.fixture
def films(tmp_path: Path) -> list[Film]:
    return write_films(tmp_path / "films")


def cut(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


DAMAGE: dict[str, Callable[[Path, Path], object]] = {
    "matrix gone": lambda matrix, _: matrix.unlink(),
    "matrix empty": lambda matrix, _: cut(matrix, 0),
    "matrix cut in its header": lambda matrix, _: cut(matrix, 20),
    "matrix cut in its rows": lambda matrix, _: cut(matrix, -1),
    "matrix grown": lambda matrix, _: matrix.write_bytes(matrix.read_bytes() + b"\0"),
    "one bit of a value": lambda matrix, _: flip(matrix, -5),
    "another matrix": lambda matrix, _: np.save(matrix, np.zeros((4, TILES), np.float16)),
    "a pickle": lambda matrix, _: np.save(matrix, np.array([{}], object), allow_pickle=True),
    "keys empty": lambda _, keys: cut(keys, 0),
    "keys cut by a byte": lambda _, keys: cut(keys, -1),
    "keys cut by a row": lambda _, keys: cut(keys, -features.KEY_BYTES),
    "keys grown": lambda _, keys: keys.write_bytes(keys.read_bytes() + b"\0" * 5),
    "one bit of a key": lambda _, keys: flip(keys, 40),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_shard_is_computed_anew(
    damage: str,
    films: list[Film],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(features, "SHARD_ROWS", 4)
    store = run(films, tmp_path / "cache")
    assert len(shards(store)) == 3
    victim = shards(store)[1]
    DAMAGE[damage](victim.with_suffix(".npy"), victim)
    counted = Counted()
    check(run(films, tmp_path / "cache", counted), films, tmp_path)
    assert counted.images == 4
    messages = [record.getMessage() for record in caplog.records]
    assert messages == [f"the cached shard {victim.stem}.npy is damaged and is computed anew"]


def test_what_a_killed_run_leaves_behind_is_passed_over(films: list[Film], tmp_path: Path) -> None:
    store = run(films, tmp_path / "cache")
    np.save(store.folder / "99999999999999999999-stray.npy", np.zeros((1, TILES), np.float16))
    (store.folder / ".draft-x.keys").write_bytes(b"x" * 32)
    (store.folder / ".draft-abc").write_bytes(b"x" * 100)
    counted = Counted()
    check(run(films, tmp_path / "cache", counted), films, tmp_path)
    assert counted.images == 0


@pytest.fixture(scope="module")
def processes() -> ForkServerContext:
    """Return what starts real processes; the libraries, which take seconds, are imported once for all of them."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["rentgen.learn.features", __name__])
    return context


def stand_still_at(moment: str, folder: Path, line: Connection) -> None:
    """Extract, in a process of its own, but at a bad moment say so and stand still."""

    def stand_still() -> None:
        line.send("now")
        time.sleep(60)

    counted = Counted()

    def compute(images: UInt8) -> Float32:
        if moment == "computing" and counted.images == 10:
            stand_still()
        return counted(images)

    rename = os.replace

    def rename_or_stop(draft: str, path: Path) -> None:
        if path.suffix == moment and list(path.parent.glob("*.keys")):
            stand_still()
        rename(draft, path)

    with mock.patch.object(features, "SHARD_ROWS", 4), mock.patch.object(os, "replace", rename_or_stop):
        films = write_films(folder / "films")
        run(films, folder / "cache", extractor(compute, workers=1, batch_size=1))


@pytest.mark.parametrize(
    "moment", ["computing", ".npy", ".keys"], ids=["computing", "a matrix is about to appear", "keys are about to"]
)
def test_a_killed_run_is_taken_up_where_it_was(moment: str, tmp_path: Path, processes: ForkServerContext) -> None:
    ours, theirs = processes.Pipe()
    child = processes.Process(target=stand_still_at, args=(moment, tmp_path, theirs))
    child.start()
    assert ours.poll(60)
    deadline = time.monotonic() + 20
    while not list(tmp_path.glob("cache/features/*/*.keys")) and time.monotonic() < deadline:
        time.sleep(0.01)
    child.kill()  # SIGKILL
    child.join()
    assert child.exitcode == -signal.SIGKILL

    films = write_films(tmp_path / "films")
    whole = len(list(tmp_path.glob("cache/features/*/*.keys")))
    assert whole in (1, 2)
    counted = Counted()
    check(run(films, tmp_path / "cache", counted), films, tmp_path)
    assert counted.images == len(films) - 4 * whole
    assert len(list(tmp_path.glob("cache/features/*"))) == 1


def extract_beside_another(first: int, folder: Path, line: Connection) -> None:
    """Extract twenty films from `first` on, in a process of its own, when told, and check them."""
    films = write_films(folder / f"films-{first}", 20, first=first)
    line.send("ready")
    line.recv()
    with mock.patch.object(features, "SHARD_ROWS", 2):
        store = run(films, folder / "cache", extractor(Counted(seconds=0.01), batch_size=2))
    check(store, films, folder)
    line.send("right")


def test_two_processes_may_write_one_space(tmp_path: Path, processes: ForkServerContext) -> None:
    lines = []
    children = []
    for first in (0, 10):
        ours, theirs = processes.Pipe()
        child = processes.Process(target=extract_beside_another, args=(first, tmp_path, theirs))
        child.start()
        lines.append(ours)
        children.append(child)
    for line in lines:
        assert line.poll(60)
        assert line.recv() == "ready"
    for line in lines:
        line.send("go")
    for line in lines:
        assert line.poll(60)
        assert line.recv() == "right"
    for child in children:
        child.join()
        assert child.exitcode == 0
    films = write_films(tmp_path / "films", 30)
    counted = Counted()
    check(run(films, tmp_path / "cache", counted), films, tmp_path)
    assert counted.images == 0
