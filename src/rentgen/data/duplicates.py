"""Which films of a set show the same: the same bytes, or the same film saved another way.

Chest films all look alike: of 13.6 million pairs of Kermany's set, 21,568 have a perceptual hash as close as that of a
copy, and plain correlation of small copies reaches 0.97 between strangers. So the hash, a vector of low frequencies
that is compared by its cosine, only proposes; the correlation of finer copies decides, after the small shift, stretch
and change of contrast that explain one film by the other best.

Measured on Kermany's training part (5,216 films of 224 x 224 pixels; 400 of them re-encoded), on the COVID-19 Image
Dataset (317 films of 640 x 640, all re-encoded) and on 60 native films of Kermany's; the share of copies found, the
lowest of the three sets:

================================================ =======
JPEG quality 60 or 20                            100 %
resized to 80 % or 50 %                          100 %
contrast x 0.7; gamma 0.7                        100 %
contrast x 1.2 with saturation                   100 %
2 % of each axis cropped, 1 % a side             100 %
2 % cropped off each of the four sides           99.7 %
a black border of 2 % added on each side         99.4 %
2 % cropped off the top and the left             97.5 %
the same, gamma 0.8, 80 % of the size, JPEG 60   96.2 %
3 % cropped off each of the four sides           3 %
5 % cropped off one side, or a border of 5 %     0 %
================================================ =======

No two strangers count as the same among the 13.6 million pairs of Kermany's training part (the best, two very alike
films under two patients, correlate at 0.91), in the COVID-19 Image Dataset, or among 720 drawn films, drawn twice
(0.933 and 0.928). The margin to `SAME` is small: what is near and not exact is for a human to look at.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from rentgen.records import Float32, UInt8

SIDE = 64
"""Height and width of the small copies."""
CANDIDATE = 0.80
"""Cosine of two hashes from which on a pair is looked at more closely."""
SAME = 0.94
"""Correlation from which on two films count as the same."""
FLAT = 2.0
"""Standard deviation, in grey levels, below which a film shows nothing that could be compared."""
MOST = 100_000
"""Pairs that are kept, the best ones; a set with more has another problem."""

_EDGE = 4  # pixels left out on each side once the gradients are taken: there a cropped copy shows something else
_COARSE, _FINE = 16, 24  # cycles per two sides
_BLOCK, _CHUNK = 4096, 256
_GROUP = 8  # blocks whose bases are held at a time: 310 MB


@dataclass(frozen=True, slots=True, order=True)
class Match:
    """Two films that show the same.

    Attributes:
        first: index.
        second: index, larger than `first`.
        correlation: in [0, 1]; 1.0 for the same bytes.
        exact: whether the bytes are the same.
    """

    first: int
    second: int
    correlation: float
    exact: bool


def find_duplicates(content_hashes: Sequence[str], thumbnails: UInt8) -> tuple[Match, ...]:
    """Return the pairs of films that show the same, in order of their indices.

    Each further copy of the same bytes is paired with the first one only, and only the first is compared with other
    films.

    Args:
        content_hashes: of the files.
        thumbnails: (n, 64, 64), of the films.
    """
    first: dict[str, int] = {}
    exact = []
    for index, content_hash in enumerate(content_hashes):
        earlier = first.setdefault(content_hash, index)
        if earlier != index:
            exact.append(Match(earlier, index, 1.0, exact=True))
    originals = np.array(sorted(first.values()), dtype=np.int64)
    near = heapq.nlargest(MOST, _find_near(thumbnails, originals), key=lambda match: match.correlation)
    return tuple(sorted(exact + near))


def _find_near(thumbnails: UInt8, originals: np.ndarray[tuple[int], np.dtype[np.int64]]) -> Iterator[Match]:
    """Yield the pairs among `originals`; memory is bounded by the bases of a group and one block of pairs.

    Every film is compared with every other, and nothing here changes that. But the bases of a film cost more than its
    comparison with a block: so those of a group of blocks are kept, and all later films' are computed once a group.
    """
    blocks = [originals[start : start + _BLOCK] for start in range(0, len(originals), _BLOCK)]
    for first in range(0, len(blocks), _GROUP):
        kept: list[tuple[np.ndarray[tuple[int], np.dtype[np.int64]], Float32]] = []
        for number, columns in enumerate(blocks[first:]):
            column_bases = _bases(thumbnails[columns])
            for rows, row_bases in kept:
                yield from _compare(rows, row_bases, columns, column_bases)
            if number < _GROUP:
                yield from _compare(columns, column_bases, columns, column_bases)
                kept.append((columns, column_bases))


def _compare(
    rows: np.ndarray[tuple[int], np.dtype[np.int64]],
    row_bases: Float32,
    columns: np.ndarray[tuple[int], np.dtype[np.int64]],
    column_bases: Float32,
) -> Iterator[Match]:
    """Yield the pairs of a film in one block and a later film in another, or in the same."""
    cosines = _hashes(row_bases) @ _hashes(column_bases).T
    left, right = np.divmod(np.flatnonzero((cosines >= CANDIDATE).ravel()), len(columns))
    later = rows[left] < columns[right]
    left, right = left[later], right[later]
    for start in range(0, len(left), _CHUNK):
        one, other = left[start : start + _CHUNK], right[start : start + _CHUNK]
        a, b = row_bases[one], column_bases[other]
        correlations = np.minimum(_explain(a, b), _explain(b, a))
        for index in np.flatnonzero(correlations >= SAME):
            pair = int(rows[one[index]]), int(columns[other[index]])
            yield Match(*pair, min(1.0, float(correlations[index])), exact=False)


def _bases(thumbnails: UInt8) -> Float32:
    """Return, for each film, an orthonormal basis of what it looks like after a small shift, stretch or contrast.

    The first vector is the film itself. To first order a shifted film is the film plus its gradient, and a stretched
    one the film plus its gradient times the position.

    Args:
        thumbnails: (n, 64, 64).

    Returns:
        (n, 5, frequencies); zero for flat films.
    """
    transform, weights = _frequencies()
    position = np.linspace(-1, 1, SIDE, dtype=np.float32)
    inside = slice(_EDGE, SIDE - _EDGE)
    bases = np.zeros((len(thumbnails), 5, int((weights > 0).sum())), np.float32)
    for start in range(0, len(thumbnails), _CHUNK):
        films = thumbnails[start : start + _CHUNK].astype(np.float32)
        down, across = np.gradient(films, axis=(1, 2))
        terms = np.stack([films, across, down, across * position, down * position[:, None]], axis=1)
        terms = terms[..., inside, inside]
        spectra = ((transform @ terms @ transform.T) * weights)[..., weights > 0]  # (chunk, 5, frequencies)
        spectra /= np.maximum(np.linalg.norm(spectra, axis=2, keepdims=True), 1e-6)
        gram = spectra @ spectra.transpose(0, 2, 1) + 1e-5 * np.eye(5, dtype=np.float32)
        kept = films.std(axis=(1, 2)) >= FLAT
        orthonormal = np.linalg.solve(np.linalg.cholesky(gram), spectra)
        bases[start : start + _CHUNK][kept] = orthonormal[kept]
    return bases


def _frequencies() -> tuple[Float32, Float32]:
    """Return the cosine transform, (24, 56), and the weights, (24, 24), that make all frequencies count alike."""
    cycles = np.arange(_FINE)
    side = SIDE - 2 * _EDGE
    transform = np.cos(np.pi * np.outer(cycles, np.arange(side) + 0.5) / side)
    transform[0] /= np.sqrt(2)
    radius = np.hypot(*np.meshgrid(cycles, cycles))
    return transform.astype(np.float32), np.where(radius < _FINE, radius, 0).astype(np.float32)


def _hashes(bases: Float32) -> Float32:
    """Return the unit vectors of low frequencies, (n, frequencies), by which films are first compared."""
    _, weights = _frequencies()
    coarse = bases[:, 0, weights[weights > 0] < _COARSE]
    lengths = np.linalg.norm(coarse, axis=1, keepdims=True)
    return np.asarray(coarse / np.maximum(lengths, 1e-6), dtype=np.float32)


def _explain(bases: Float32, others: Float32) -> Float32:
    """Return how well films, moved a little, explain others: the multiple correlation, pair by pair."""
    projections = bases @ others[:, 0, :, None]  # (pairs, 5, 1)
    return np.asarray(np.sqrt((projections**2).sum(axis=(1, 2))), dtype=np.float32)
