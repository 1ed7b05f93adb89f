"""The features on which heads are tried: of each film, its augmented views, and the same film on a worse day."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np

from rentgen.data.split import patient_folds
from rentgen.errors import DataError, InputError
from rentgen.images.corrupt import CORRUPTIONS, stress
from rentgen.images.prepare import fit, smooth
from rentgen.images.read import read
from rentgen.learn.extractors import Extractor
from rentgen.learn.features import FILMS_VERSION, SHARD_ROWS, FeatureStore, Film, Half, extract, view_key
from rentgen.learn.frozen import Start
from rentgen.learn.parts import Shared
from rentgen.learn.search.space import VIEWS, Sight
from rentgen.parallel.local import imap
from rentgen.records import ImageRecord, Int64, Preprocessing, Progress, Split, UInt8, truth_of

LEAST_PATIENTS = 10
"""For each fold of a search."""
LOOKED_AT = 40
"""Films that tell whether two ways of showing them differ."""


@dataclass(frozen=True, slots=True, eq=False)
class Inner:
    """The films among which a search chooses: none of the test part.

    Attributes:
        records: in a fixed order.
        hashes: SHA-256 of each.
        labels: (n,) class numbers, or (n, findings).
        fold: (n,) a patient's films lie in one fold.
        folds: how many.
        classes: how many.
        in_all: films of the training and validation parts.
    """

    records: tuple[ImageRecord, ...]
    hashes: tuple[str, ...]
    labels: Int64
    fold: Int64
    folds: int
    classes: int
    in_all: int

    @property
    def identity(self) -> str:
        """Return what decides every trial but its settings: films, labels and folds."""
        digest = hashlib.sha256(" ".join(self.hashes).encode())
        digest.update(self.labels.tobytes())
        digest.update(self.fold.tobytes())
        return digest.hexdigest()


@dataclass(frozen=True, slots=True, eq=False)
class Bank:
    """The features of the inner films under one sight.

    Attributes:
        sight: how they were shown, and to whom.
        views: each (n, features); the first of the films themselves.
        stressed: (n, features) of the films, each after one corruption.
    """

    sight: Sight
    views: tuple[Half, ...]
    stressed: Half


def inner_films(shared: Shared, folds: int, most: int, seed: int) -> Inner:
    """Return the films among which to choose, dealt into folds by patient.

    Args:
        shared: all films with their parts; those of the test part are left alone.
        folds: how many, at least 3: one scores, one stops a training, the rest teach.
        most: films; where there are more, whole patients are drawn.
        seed: of folds and drawing.

    Raises:
        DataError: too few patients, or of a class.
    """
    listing = shared.listing
    records = [record for record in listing.records if record.split is not Split.TEST]
    in_all = len(records)
    rng = np.random.default_rng((seed, folds))
    patients = sorted({record.patient for record in records})
    if len(patients) < folds * LEAST_PATIENTS:
        raise DataError(
            f"Expected at least {folds * LEAST_PATIENTS} patients outside the test part to choose among settings, but "
            f"got {len(patients)}. With so few any choice is luck: use `rentgen train`."
        )
    if in_all > most:
        kept, count = set[str](), 0
        by_patient: dict[str, int] = {}
        for record in records:
            by_patient[record.patient] = by_patient.get(record.patient, 0) + 1
        for number in rng.permutation(len(patients)):
            if count >= most:
                break
            kept.add(patients[number])
            count += by_patient[patients[number]]
        records = [record for record in records if record.patient in kept]
    labels = truth_of(records, listing.classes, listing.task)
    fold = patient_folds(labels, [record.patient for record in records], folds, rng)
    for number, name in enumerate(listing.classes):
        has = labels == number if labels.ndim == 1 else labels[:, number] == 1
        if len(set(fold[has].tolist())) < folds:
            raise DataError(
                f"Expected patients with {name} in each of {folds} folds, but there are too few outside the test "
                "part. Add films of it, or ask for fewer folds."
            )
    return Inner(
        records=tuple(records),
        hashes=tuple(shared.examined.hashes[record.path] for record in records),
        labels=labels,
        fold=fold,
        folds=folds,
        classes=len(listing.classes),
        in_all=in_all,
    )


def open_bank(start: Start, sight: Sight, inner: Inner, cache: Path, progress: Progress | None = None) -> Bank:
    """Return the features of the inner films, from the cache as far as they are there.

    Args:
        start: network and recipe of the sight.
        sight: how films are shown.
        inner: the films.
        cache: the cache's folder.
        progress: stage `features`.

    Raises:
        InputError: a file can no longer be read, or is not what was listed.
    """
    recipe = start.recipe
    extractor = start.extractor(cache)
    films = [Film(record.path, digest, VIEWS) for record, digest in zip(inner.records, inner.hashes, strict=True)]
    seed = recipe.head.seed
    store = extract(films, extractor, recipe.preprocessing, recipe.augment, cache=cache, seed=seed, progress=progress)
    with tempfile.TemporaryDirectory(dir=cache, prefix="gathered-") as scratch:
        views = tuple(
            np.array(
                store.gather([view_key(film.content_hash, view, recipe.augment, seed) for film in films], Path(scratch))
            )
            for view in range(VIEWS + 1)
        )
        stressed = _stressed(films, extractor, recipe.preprocessing, cache, Path(scratch), progress)
    return Bank(sight, views, stressed)


def shown_alike(inner: Inner, one: Preprocessing, other: Preprocessing) -> bool:
    """Return whether films look the same under both: padding does nothing to a square film, nor cutting to no border.

    Args:
        inner: a few of its films are looked at.
        one: how films are shown.
        other: likewise.
    """
    if (one.height, one.width, one.smooth_px) != (other.height, other.width, other.smooth_px):
        return False
    few = [read(record.path) for record in inner.records[:: max(1, len(inner.records) // LOOKED_AT)]]
    return all(np.array_equal(fit(film, one).pixels, fit(film, other).pixels) for film in few)


def _stressed(
    films: Sequence[Film],
    extractor: Extractor,
    preprocessing: Preprocessing,
    cache: Path,
    scratch: Path,
    progress: Progress | None,
) -> Half:
    identity = {
        **extractor.identity,
        "preprocessing": preprocessing.to_dict(),
        "rentgen": version("rentgen"),
        "films": FILMS_VERSION,
        "pillow": version("pillow"),
        "stress": list(CORRUPTIONS),
    }
    store = FeatureStore(cache, identity, extractor.features)
    # Which corruption a film meets depends on its place, so the place is part of the key.
    keys = [hashlib.sha256(f"{film.content_hash}:{place}".encode()).digest() for place, film in enumerate(films)]
    todo = [place for place, key in enumerate(keys) if key not in store]
    size = extractor.batch_size
    chunks = [todo[first : first + size] for first in range(0, len(todo), size)]

    def compute(chunk: list[int]) -> Half:
        images = [smooth(_worse(films[place], place, preprocessing), preprocessing.smooth_px) for place in chunk]
        return extractor.run(np.stack(images)).astype(np.float16)

    found: list[Half] = []
    written = done = 0
    for chunk, rows in zip(chunks, imap(compute, chunks, workers=extractor.workers), strict=True):
        found.append(rows)
        done += len(chunk)
        if done - written >= SHARD_ROWS or done == len(todo):
            store.add([keys[place] for place in todo[written:done]], np.concatenate(found))
            found, written = [], done
        if progress is not None:
            progress("features", len(films) - len(todo) + done, len(films), "under stress")
    return np.array(store.gather(keys, scratch))


def _worse(film: Film, place: int, preprocessing: Preprocessing) -> UInt8:
    radiograph = read(film.path)
    if radiograph.content_hash != film.content_hash:
        raise InputError(film.path, "the file changed while it was in use; start again.")
    worse: UInt8 = stress(fit(radiograph, preprocessing).pixels[np.newaxis], first=place)[0]
    return worse
