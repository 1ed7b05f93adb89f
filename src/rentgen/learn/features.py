"""Features of a frozen backbone: computed once per film and view, cached on disk by content.

A cache folder has one space per (backbone weights, preprocessing, engine and precision, version of this package), and a
space has shards. A shard is a float16 matrix (`<name>.npy`) and the keys of its rows with a checksum of both
(`<name>.keys`). The matrix is written and synced first, the keys last and by a rename, so that a shard without keys
does not exist: a run killed at any moment leaves at most a stray matrix, and the next run goes on after the last whole
shard. Several runs may write to one space.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import secrets
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rentgen.errors import DataError
from rentgen.images.prepare import smooth
from rentgen.learn.augment import augment, view_rng
from rentgen.learn.extractors import Extractor, Run, write_whole
from rentgen.learn.fitted import read_fitted
from rentgen.learn.settings import AugmentSettings
from rentgen.parallel.local import cores
from rentgen.parallel.pool import HERE, Pool, Work, folder_of
from rentgen.records import Preprocessing, Progress, UInt8

logger = logging.getLogger(__name__)

Half = npt.NDArray[np.float16]

SHARD_ROWS = 1024
SHARD_SECONDS = 20.0
"""A shard is closed after so many rows or seconds, whichever comes first: that is what a kill can cost."""
KEY_BYTES = 32
CHECKSUM_BYTES = 4
FILMS_VERSION = 1
"""Of reading, preparing and augmenting: raise it when a change there moves pixels."""
CHUNK_BATCHES = 4
"""A worker takes films until their views fill whole batches, or about so many batches."""
IN_MEMORY_BYTES = 2 << 30
"""Features of one view beyond this size are gathered in a memory-mapped file, not in memory."""


@dataclass(frozen=True, slots=True)
class Film:
    """A film whose features are wanted.

    Attributes:
        path: the file.
        content_hash: SHA-256 of its bytes.
        views: how many augmented views are wanted besides the film itself.
    """

    path: Path
    content_hash: str
    views: int = 0


class FeatureStore:
    """One space of the cache.

    Attributes:
        folder: where its shards are.
        features: columns of each.
    """

    def __init__(self, cache: Path, identity: Mapping[str, Any], features: int) -> None:
        """Open a space, or begin one.

        Args:
            cache: the cache's folder.
            identity: what decides the values.
            features: columns.
        """
        text = json.dumps(dict(identity), sort_keys=True)
        self.folder = cache / "features" / hashlib.sha256(text.encode()).hexdigest()[:32]
        self.features = features
        self.folder.mkdir(parents=True, exist_ok=True)
        if not (self.folder / "space.json").is_file():
            write_whole(self.folder / "space.json", lambda file: file.write(text.encode()))
        self._shards: list[Path] = []
        self._places: dict[bytes, tuple[int, int]] = {}
        for keys in sorted(self.folder.glob("*.keys")):
            self._open(keys)

    def __contains__(self, key: bytes) -> bool:
        return key in self._places

    def add(self, keys: Sequence[bytes], rows: Half) -> None:
        """Write a shard, whole or not at all.

        Args:
            keys: one per row, `KEY_BYTES` long.
            rows: (keys, features).
        """
        if not np.isfinite(rows).all():
            raise DataError("The backbone gave features that are not finite in half precision: check its weights.")
        name = self.folder / f"{time.time_ns():020d}-{secrets.token_hex(4)}"
        matrix = io.BytesIO()
        np.save(matrix, rows, allow_pickle=False)
        packed = b"".join(keys)
        write_whole(name.with_suffix(".npy"), lambda file: file.write(matrix.getvalue()))
        write_whole(name.with_suffix(".keys"), lambda file: file.write(packed + _checksum(packed, matrix.getvalue())))
        self._open(name.with_suffix(".keys"))

    def gather(self, keys: Sequence[bytes], scratch: Path) -> Half:
        """Return (keys, features): in memory, or memory-mapped from a new file in `scratch` when it is large.

        Raises:
            KeyError: a key that is not there.
        """
        shape = (len(keys), self.features)
        if shape[0] * shape[1] * 2 <= IN_MEMORY_BYTES:
            out = np.empty(shape, np.float16)
        else:
            out = np.lib.format.open_memmap(
                scratch / f"{secrets.token_hex(8)}.npy", mode="w+", dtype=np.float16, shape=shape
            )
        places = np.array([self._places[key] for key in keys], np.int64).reshape(-1, 2)
        # Sorted once: to look through all rows for each shard would cost the product of the two.
        order = np.argsort(places[:, 0], kind="stable")
        numbers, starts = np.unique(places[order, 0], return_index=True)
        groups = np.split(order, starts[1:]) if len(starts) else []
        for shard, chosen in zip(numbers, groups, strict=True):
            # Opened here and not kept: a mapped file holds a descriptor, and a large cache has more shards than those.
            rows = np.load(self._shards[shard], mmap_mode="r", allow_pickle=False)
            out[chosen] = rows[places[chosen, 1]]
        return out

    def _open(self, keys: Path) -> None:
        sealed = keys.read_bytes()
        packed, checksum = sealed[:-CHECKSUM_BYTES], sealed[-CHECKSUM_BYTES:]
        matrix = keys.with_suffix(".npy")
        try:
            whole = checksum == _checksum(packed, matrix.read_bytes())
        except FileNotFoundError:
            whole = False
        if not whole:
            logger.warning("the cached shard %s is damaged and is computed anew", matrix.name)
            return
        number = len(self._shards)
        self._shards.append(matrix)
        for row in range(len(packed) // KEY_BYTES):
            self._places[packed[row * KEY_BYTES : (row + 1) * KEY_BYTES]] = (number, row)


def view_key(content_hash: str, view: int, settings: AugmentSettings, seed: int) -> bytes:
    """Return the key of one view of one film; view 0, the film itself, does not depend on augmentation."""
    text = content_hash if view == 0 else json.dumps([content_hash, view, seed, _changes(settings)], sort_keys=True)
    return hashlib.sha256(text.encode()).digest()


def identify(extractor: Extractor, preprocessing: Preprocessing) -> dict[str, Any]:
    """Return what decides the features of a film, and with that the space of the cache that holds them."""
    return {
        **extractor.identity,
        "preprocessing": preprocessing.to_dict(),
        # Another version may read, prepare or augment differently.
        "rentgen": version("rentgen"),
        "films": FILMS_VERSION,
        "pillow": version("pillow"),
    }


def extract(
    films: Sequence[Film],
    extractor: Extractor,
    preprocessing: Preprocessing,
    settings: AugmentSettings,
    *,
    cache: Path,
    seed: int = 0,
    progress: Progress | None = None,
    pool: Pool = HERE,
) -> FeatureStore:
    """Return a store that holds the features of every wanted view, computing those that it did not.

    Args:
        films: with the number of views each.
        extractor: who computes.
        preprocessing: of the films.
        settings: what augmented views may change.
        cache: the cache's folder.
        seed: of the augmentation.
        progress: stage `features`, films done, films in all, and a note with the speed.
        pool: who reads and computes; this process alone writes the store.

    Raises:
        InputError: a file can no longer be read, or is not what was listed.
    """
    store = FeatureStore(cache, identify(extractor, preprocessing), extractor.features)
    todo: list[tuple[Film, list[int]]] = []
    wanted: set[bytes] = set()
    for film in films:
        missing = []
        for view in range(film.views + 1):
            key = view_key(film.content_hash, view, settings, seed)
            if key not in store and key not in wanted:
                wanted.add(key)
                missing.append(view)
        if missing:
            todo.append((film, missing))

    chunks = list(_chunks(todo, extractor.batch_size))
    done = len(films) - len(todo)
    task = _Task(preprocessing, settings, seed, extractor.batch_size)
    work = Work(
        open=extractor.open,
        run=task.compute,
        here=extractor.run,
        workers=extractor.workers,
        ahead=4 * cores(),
        gpus=extractor.gpus,
        folder=folder_of(film.path for film, _ in todo),
    )
    _collect(store, zip(chunks, pool.map(work, chunks), strict=True), done, len(films), progress)
    return store


@dataclass(frozen=True, slots=True)
class _Task:
    """What to compute of films."""

    preprocessing: Preprocessing
    settings: AugmentSettings
    seed: int
    batch_size: int

    def compute(self, run: Run, chunk: Sequence[tuple[Film, list[int]]]) -> tuple[list[bytes], Half]:
        """Return the keys of the chunk's views, and their features (views, features)."""
        keys: list[bytes] = []
        images: list[UInt8] = []
        for film, views in chunk:
            fitted = read_fitted(film.path, film.content_hash, self.preprocessing)
            for view in views:
                rng = view_rng(film.content_hash, view, self.seed)
                seen = fitted if view == 0 else augment(fitted, self.settings, rng)
                images.append(smooth(seen, self.preprocessing.smooth_px))
                keys.append(view_key(film.content_hash, view, self.settings, self.seed))
        size = self.batch_size
        rows = [run(np.stack(images[start : start + size])) for start in range(0, len(images), size)]
        with np.errstate(over="ignore"):  # the store refuses what does not fit
            return keys, np.concatenate(rows).astype(np.float16)


def _chunks(todo: Iterable[tuple[Film, list[int]]], batch_size: int) -> Iterator[list[tuple[Film, list[int]]]]:
    """Yield films whose views together fill whole batches, as nearly as they can.

    The engine pads a part of a batch, and that costs as much as a whole one.
    """
    chunk: list[tuple[Film, list[int]]] = []
    images = 0
    for film, views in todo:
        chunk.append((film, views))
        images += len(views)
        if images % batch_size == 0 or images >= CHUNK_BATCHES * batch_size:
            yield chunk
            chunk, images = [], 0
    if chunk:
        yield chunk


def _collect(
    store: FeatureStore,
    results: Iterable[tuple[list[tuple[Film, list[int]]], tuple[list[bytes], Half]]],
    done: int,
    total: int,
    progress: Progress | None,
) -> None:
    keys: list[bytes] = []
    rows: list[Half] = []
    start = closed = time.monotonic()
    images = 0
    if progress is not None:
        progress("features", done, total, "from the cache" if done == total else "")
    for chunk, (new_keys, new_rows) in results:
        keys += new_keys
        rows.append(new_rows)
        done += len(chunk)
        images += len(new_keys)
        now = time.monotonic()
        if len(keys) >= SHARD_ROWS or now - closed > SHARD_SECONDS:
            store.add(keys, np.concatenate(rows))
            keys, rows, closed = [], [], now
        if progress is not None:
            progress("features", done, total, f"{images / max(now - start, 1e-9):.0f} images/s")
    if keys:
        store.add(keys, np.concatenate(rows))


def _changes(settings: AugmentSettings) -> dict[str, Any]:
    return {name: value for name, value in asdict(settings).items() if name != "views"}


def _checksum(keys: bytes, matrix: bytes) -> bytes:
    return zlib.crc32(keys, zlib.crc32(matrix)).to_bytes(CHECKSUM_BYTES, "big")
