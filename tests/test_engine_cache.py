"""Compiled graphs on disk: the same answers, and nothing taken that somebody else may have written."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from linear import SIDE, weighing_model

from rentgen.engine import cache
from rentgen.engine.cache import Compiled
from rentgen.engine.session import Session

IMAGES = np.random.default_rng(0).integers(0, 256, (3, SIDE, SIDE)).astype(np.uint8)
KEPT = Compiled((2, 3), ("logits", "distance"), {"main": b"graph\n", "distance": b""})
KEY = cache.key_of(b"model", {"precision": "f32"})


def model_of(seed: int) -> bytes:
    return weighing_model(np.random.default_rng(seed).normal(size=(2, 12, 12)), np.full((12, 12), 0.4))


def entries(folder: Path) -> list[Path]:
    return sorted(folder.glob("*"))


def test_a_second_session_takes_the_first_ones_graph(tmp_path: Path) -> None:
    folder = tmp_path / "compiled"
    plain = Session(model_of(1)).run(IMAGES)
    first = Session(model_of(1), cache=folder).run(IMAGES)
    (entry,) = entries(folder)
    before = entry.stat().st_mtime_ns
    again = Session(model_of(1), cache=folder)
    assert entries(folder) == [entry]
    assert entry.stat().st_mtime_ns == before
    assert set(again.outputs) == set(plain)
    assert again.size == (SIDE, SIDE)
    for name, values in plain.items():
        np.testing.assert_array_equal(first[name], values)
        np.testing.assert_array_equal(again.run(IMAGES)[name], values)


def test_another_model_or_another_option_is_another_entry(tmp_path: Path) -> None:
    Session(model_of(1), cache=tmp_path)
    Session(model_of(2), cache=tmp_path)
    Session(model_of(1), cache=tmp_path, batch_size=2)
    Session(model_of(1), cache=tmp_path, streams=1)
    assert len(entries(tmp_path)) == 4
    expected = Session(model_of(2)).run(IMAGES)
    came = Session(model_of(2), cache=tmp_path).run(IMAGES)
    np.testing.assert_array_equal(came["logits"], expected["logits"])


def test_what_is_kept_is_found(tmp_path: Path) -> None:
    assert cache.find(tmp_path, KEY) is None
    cache.keep(tmp_path, KEY, KEPT)
    assert cache.find(tmp_path, KEY) == KEPT
    assert cache.find(tmp_path, cache.key_of(b"model", {"precision": "bf16"})) is None


def damage(entry: Path) -> None:
    content = bytearray(entry.read_bytes())
    content[-1] ^= 1
    entry.write_bytes(content)


def cut(entry: Path) -> None:
    entry.write_bytes(entry.read_bytes()[:40])


def open_to_all(entry: Path) -> None:
    entry.chmod(0o666)


def open_folder(entry: Path) -> None:
    entry.parent.chmod(0o777)


def link(entry: Path) -> None:
    moved = entry.rename(entry.with_suffix(".moved"))
    entry.symlink_to(moved)


@pytest.mark.parametrize("spoil", [damage, cut, open_to_all, open_folder, link])
def test_what_cannot_be_trusted_is_not_used_and_said(
    spoil: Callable[[Path], None], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "compiled"
    cache.keep(folder, KEY, KEPT)
    (entry,) = entries(folder)
    spoil(entry)
    with caplog.at_level(logging.WARNING):
        assert cache.find(folder, KEY) is None
    assert "is not used" in caplog.text


def test_an_entry_under_another_ones_name_is_not_used(tmp_path: Path) -> None:
    cache.keep(tmp_path, KEY, KEPT)
    other = cache.key_of(b"another model", {})
    (entry,) = entries(tmp_path)
    entry.rename(tmp_path / entry.name.replace(KEY, other))
    assert cache.find(tmp_path, other) is None


def test_a_graph_that_the_engine_does_not_take_is_compiled_anew(tmp_path: Path) -> None:
    Session(model_of(1), cache=tmp_path)
    (entry,) = entries(tmp_path)
    cache.keep(tmp_path, entry.stem, Compiled((SIDE, SIDE), ("logits",), {"main": b"no graph"}))
    session = Session(model_of(1), cache=tmp_path)
    np.testing.assert_array_equal(session.run(IMAGES)["logits"], Session(model_of(1)).run(IMAGES)["logits"])
    found = cache.find(tmp_path, entry.stem)
    assert found is not None
    assert found.graphs["main"] != b"no graph"


def test_a_folder_that_cannot_be_written_is_no_cache(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_bytes(b"")
    cache.keep(blocked / "compiled", KEY, KEPT)
    assert cache.find(blocked / "compiled", KEY) is None


def test_the_folder_is_made_for_this_user_alone_and_stays_small(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "compiled"
    for number in range(cache.MAX_ENTRIES + 3):
        key = cache.key_of(b"", {"number": number})
        cache.keep(folder, key, KEPT)
        os.utime(folder / f"{key}.compiled", (number, number))
    assert folder.stat().st_mode & 0o077 == 0
    assert len(entries(folder)) == cache.MAX_ENTRIES
    assert cache.find(folder, cache.key_of(b"", {"number": 0})) is None
    assert cache.find(folder, key) == KEPT
