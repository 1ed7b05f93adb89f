"""Films, an extractor that anyone can check, and what a store of features must then hold."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from made import film8, png

from rentgen.images.prepare import prepare
from rentgen.images.read import read
from rentgen.learn.augment import augment, view_rng
from rentgen.learn.extractors import Extractor
from rentgen.learn.features import FeatureStore, Film, Half, extract, view_key
from rentgen.learn.settings import AugmentSettings
from rentgen.parallel.pool import HERE, Pool
from rentgen.records import Float32, Preprocessing, UInt8

PREPROCESSING = Preprocessing(32, 32)
SETTINGS = AugmentSettings(views=2)
TILES = 16


def tiles(images: UInt8) -> Float32:
    """Return the mean of each of 4 x 4 tiles: a backbone whose answers anyone can check."""
    count, height, width = images.shape
    split = images.reshape(count, 4, height // 4, 4, width // 4)
    means: Float32 = split.mean((2, 4)).reshape(count, TILES).astype(np.float32)
    return means


@dataclass
class Counted:
    """An extractor's `run` that notes how many films each call had."""

    run: Callable[[UInt8], Float32] = tiles
    seconds: float = 0.0

    def __post_init__(self) -> None:
        self.calls: list[int] = []

    @property
    def images(self) -> int:
        return sum(self.calls)

    def __call__(self, images: UInt8) -> Float32:
        self.calls.append(len(images))
        time.sleep(self.seconds)
        return self.run(images)


def extractor(run: Callable[[UInt8], Float32] = tiles, *, workers: int = 2, batch_size: int = 4) -> Extractor:
    return Extractor(run, TILES, {"name": "tiles"}, workers, batch_size)


def write_films(folder: Path, count: int = 12, *, views: int = 0, first: int = 0) -> list[Film]:
    folder.mkdir(exist_ok=True)
    films = []
    for seed in range(first, first + count):
        path, content = folder / f"{seed}.png", png(film8(seed=seed))
        path.write_bytes(content)
        films.append(Film(path, hashlib.sha256(content).hexdigest(), views))
    return films


def with_views(films: Sequence[Film], views: int) -> list[Film]:
    return [replace(film, views=views) for film in films]


def run(
    films: Sequence[Film],
    cache: Path,
    how: Callable[[UInt8], Float32] | Extractor = tiles,
    *,
    settings: AugmentSettings = SETTINGS,
    preprocessing: Preprocessing = PREPROCESSING,
    seed: int = 0,
    pool: Pool = HERE,
) -> FeatureStore:
    chosen = how if isinstance(how, Extractor) else extractor(how)
    return extract(films, chosen, preprocessing, settings, cache=cache, seed=seed, pool=pool)


def keys_of(films: Iterable[Film], settings: AugmentSettings = SETTINGS, seed: int = 0) -> list[bytes]:
    return [view_key(film.content_hash, view, settings, seed) for film in films for view in range(film.views + 1)]


def expected(films: Iterable[Film], settings: AugmentSettings = SETTINGS, seed: int = 0) -> Half:
    images = []
    for film in films:
        prepared = prepare(read(film.path), PREPROCESSING).pixels
        images.append(prepared)
        for view in range(1, film.views + 1):
            images.append(augment(prepared, settings, view_rng(film.content_hash, view, seed)))
    return tiles(np.stack(images)).astype(np.float16)


def check(store: FeatureStore, films: Sequence[Film], scratch: Path) -> None:
    """Check each row against the film's own value: half precision of the same number, so to the bit."""
    rows = store.gather(keys_of(films), scratch)
    assert rows.dtype == np.float16
    np.testing.assert_array_equal(rows, expected(films))


def shards(store: FeatureStore, ending: str = "keys") -> list[Path]:
    return sorted(store.folder.glob(f"*.{ending}"))
