from __future__ import annotations

import numpy as np
import pytest
from made import film8

from rentgen.images.corrupt import CORRUPTIONS, corrupt, stress


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_corruption_changes_the_film_and_can_be_repeated(name: str) -> None:
    film = film8(96, 80, seed=1)
    before = film.copy()
    once, again = (corrupt(film, name, np.random.default_rng(5)) for _ in range(2))
    assert once.shape == film.shape
    assert once.dtype == np.uint8
    assert (once != film).mean() > 0.05
    np.testing.assert_array_equal(once, again)
    np.testing.assert_array_equal(film, before)


def test_stress_gives_each_film_one_corruption_in_turn() -> None:
    films = np.stack([film8(64, 64, seed=seed) for seed in range(len(CORRUPTIONS) + 1)])
    worse = stress(films)
    assert worse.shape == films.shape
    names = list(CORRUPTIONS)
    for number, (film, bad) in enumerate(zip(films, worse, strict=True)):
        expected = corrupt(film, names[number % len(names)], np.random.default_rng((0, number)))
        np.testing.assert_array_equal(bad, expected)


def test_an_unknown_corruption_is_refused() -> None:
    with pytest.raises(KeyError, match="fog"):
        corrupt(film8(32, 32), "fog", np.random.default_rng(0))
