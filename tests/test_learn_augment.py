from __future__ import annotations

import hashlib
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made import film8

from rentgen.learn.augment import augment, view_rng
from rentgen.learn.settings import AugmentSettings
from rentgen.records import Float64, UInt8

CONTENT = "c0ffee" * 10 + "cafe"
DEFAULT = AugmentSettings()
NOTHING = AugmentSettings(
    views=1, flip=False, rotation_degrees=0, shift=0, zoom=0, brightness=0, contrast=0, gamma=0, noise=0
)
# `views` says how many are made, not how: see test_learn_features.
STRENGTHS = [item.name for item in fields(AugmentSettings) if item.name not in ("views", "flip")]


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def view(content: str = CONTENT, number: int = 1, seed: int = 0) -> UInt8:
    return augment(film8(), DEFAULT, view_rng(content, number, seed))


def test_a_view_is_the_same_in_another_process() -> None:
    code = (
        "import hashlib, test_learn_augment as t; print(hashlib.sha256(t.view(number=2, seed=3).tobytes()).hexdigest())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parent, env={"PYTHONHASHSEED": "7"}, capture_output=True,
        text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.stdout.strip() == hashlib.sha256(view(number=2, seed=3).tobytes()).hexdigest(), done.stderr


def test_another_view_seed_or_film_is_drawn_anew() -> None:
    drawn = [view(), view(number=2), view(seed=1), view(content="0" * 64)]
    assert len({image.tobytes() for image in drawn}) == 4


@pytest.mark.parametrize("shape", [(40, 64), (64, 40), (33, 33), (1, 7)])
def test_nothing_allowed_is_nothing_changed(shape: tuple[int, int]) -> None:
    image = rng().integers(0, 256, shape, dtype=np.uint8)
    np.testing.assert_array_equal(augment(image, NOTHING, rng()), image)


@pytest.mark.parametrize("name", STRENGTHS)
def test_each_setting_does_something_by_itself(name: str) -> None:
    image = film8()
    alone = replace(NOTHING, **{name: getattr(DEFAULT, name)})
    assert not np.array_equal(augment(image, alone, rng()), image)
    more = replace(DEFAULT, **{name: 1.5 * getattr(DEFAULT, name)})
    assert not np.array_equal(augment(image, more, rng()), augment(image, DEFAULT, rng()))


def test_a_flip_mirrors_half_of_the_views_and_only_when_asked() -> None:
    image = film8(rows=32, columns=48)
    flipping = replace(NOTHING, flip=True)
    mirrored = 0
    for seed in range(200):
        result = augment(image, flipping, rng(seed))
        assert np.array_equal(result, image) or np.array_equal(result, image[:, ::-1])
        mirrored += np.array_equal(result, image[:, ::-1])
    assert 70 < mirrored < 130
    assert DEFAULT.flip is False


def test_by_default_left_stays_left() -> None:
    image = np.zeros((64, 64), np.uint8)
    image[24:40, 8:24] = 255  # a heart of sorts, on the left
    for seed in range(100):
        result = augment(image, replace(DEFAULT, noise=0), rng(seed)).astype(float)
        assert result[:, :32].sum() > result[:, 32:].sum()


@pytest.mark.parametrize("shape", [(40, 64), (64, 40)])
def test_shape_and_type_stay_and_the_input_is_left_alone(shape: tuple[int, int]) -> None:
    image = film8(*shape)
    image.setflags(write=False)
    before = image.tobytes()
    result = augment(image, replace(DEFAULT, flip=True), rng())
    assert result.shape == shape
    assert result.dtype == np.uint8
    assert not np.shares_memory(result, image)
    assert image.tobytes() == before


def spot(height: int, width: int, x: float, y: float) -> UInt8:
    """Return a round spot about a continuous place; 0 is the left (upper) edge of the first column (row)."""
    rows, columns = np.mgrid[0:height, 0:width] + 0.5
    shade = 255 * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * 4.0**2))
    return np.asarray(np.rint(shade), np.uint8)


def centroid(image: UInt8) -> Float64:
    rows, columns = np.mgrid[0 : image.shape[0], 0 : image.shape[1]] + 0.5
    weight = image.astype(np.float64)
    return np.array([np.average(columns, weights=weight), np.average(rows, weights=weight)])


@settings(max_examples=60, deadline=None)
@given(
    rotation=st.floats(0, 40),
    zoom=st.floats(0, 0.3),
    shift=st.floats(0, 0.1),
    flip=st.booleans(),
    place=st.tuples(st.floats(-0.15, 0.15), st.floats(-0.15, 0.15)),
    shape=st.sampled_from([(96, 96), (96, 128), (128, 96)]),
    seed=st.integers(0, 1000),
)
def test_a_spot_moves_to_where_the_drawn_numbers_say(
    rotation: float,
    zoom: float,
    shift: float,
    flip: bool,
    place: tuple[float, float],
    shape: tuple[int, int],
    seed: int,
) -> None:
    height, width = shape
    centre, size = np.array([width / 2, height / 2]), np.array([width, height])
    allowed = replace(NOTHING, rotation_degrees=rotation, zoom=zoom, shift=shift, flip=flip)
    start = place * size
    moved = centroid(augment(spot(height, width, *(centre + start)), allowed, rng(seed)))

    # The numbers in the order in which they are drawn: clockwise turn, zoom, shift right and down, mirror.
    draws = rng(seed)
    angle = np.deg2rad(draws.uniform(-1, 1) * rotation)
    factor = 1 + draws.uniform(-1, 1) * zoom
    offset = draws.uniform(-1, 1, 2) * shift * size
    mirror = np.array([-1 if flip and draws.random() < 0.5 else 1, 1])
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    np.testing.assert_allclose(moved, centre + factor * turn @ (mirror * start) + offset, atol=0.25)


def test_black_comes_in_from_outside() -> None:
    white = np.full((64, 96), 255, np.uint8)
    results = [augment(white, replace(NOTHING, shift=0.5), rng(seed)) for seed in range(20)]
    corners = np.array([[result[0, 0], result[0, -1], result[-1, 0], result[-1, -1]] for result in results])
    assert (corners.min(axis=1) == 0).all()
    turned = augment(white, replace(NOTHING, rotation_degrees=180), rng(4))
    assert turned[32, 48] == 255
    assert {int(turned[0, 0]), int(turned[-1, -1])} == {0}


def test_tones_stay_in_order_and_are_the_formula() -> None:
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
    allowed = replace(NOTHING, gamma=0.5, contrast=0.3, brightness=0.2)
    for seed in range(20):
        draws = rng(seed)
        draws.uniform(size=4)  # rotation, zoom and the two shifts
        gamma, contrast, brightness = draws.uniform(-1, 1, 3) * (0.5, 0.3, 0.2)
        level = (np.arange(256) / 255) ** np.exp(gamma)
        expected = 255 * ((level - 0.5) * (1 + contrast) + 0.5 + brightness)
        result = augment(ramp, allowed, rng(seed)).ravel()
        np.testing.assert_allclose(result, np.clip(expected, 0, 255), atol=0.51)
        assert (np.diff(result.astype(int)) >= 0).all()


def test_noise_has_the_given_deviation_and_no_bias() -> None:
    grey = np.full((256, 256), 128, np.uint8)
    difference = augment(grey, replace(NOTHING, noise=0.05), rng()).astype(float) - 128
    assert difference.std() == pytest.approx(255 * 0.05, rel=0.02)
    assert abs(difference.mean()) < 0.2
