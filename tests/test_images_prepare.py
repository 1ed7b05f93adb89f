"""From a film to the network's input and back."""

from __future__ import annotations

import made
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rentgen.images.prepare import find_content, map_to_native, prepare, to_native, to_prepared, to_uint8
from rentgen.records import Pixels, Preprocessing, Radiograph, ResizeMode

QUICK = settings(max_examples=80, deadline=None)
SIDES = st.integers(1, 400)
PLANS = st.builds(
    Preprocessing,
    height=st.integers(16, 128),
    width=st.integers(16, 128),
    resize=st.sampled_from(ResizeMode),
    crop_borders=st.booleans(),
)


def film(pixels: Pixels) -> Radiograph:
    return Radiograph(pixels, "", "png", 8)


def bordered(rows: int, columns: int, seed: int) -> Pixels:
    """Return a film, with black borders where it is large enough for them."""
    pixels = np.full((rows, columns), 100, np.uint8)
    if min(rows, columns) > 1:
        pixels = np.maximum(made.film8(rows, columns, seed), 40)
    rng = np.random.default_rng(seed)
    if min(rows, columns) > 60:
        pixels[: rng.integers(0, 20)] = 0
        pixels[:, columns - rng.integers(1, 20) :] = 0
    return pixels


@QUICK
@given(SIDES, SIDES, PLANS, st.integers(0, 1000))
def test_points_return(rows: int, columns: int, plan: Preprocessing, seed: int) -> None:
    prepared = prepare(film(bordered(rows, columns, seed)), plan)
    points = np.random.default_rng(seed).uniform(-50, 450, (20, 2))
    np.testing.assert_allclose(to_native(to_prepared(points, prepared.geometry), prepared.geometry), points, atol=1e-8)
    np.testing.assert_allclose(to_prepared(to_native(points, prepared.geometry), prepared.geometry), points, atol=1e-8)


@QUICK
@given(SIDES, SIDES, PLANS, st.booleans())
def test_shape_and_type_are_always_right(rows: int, columns: int, plan: Preprocessing, deep: bool) -> None:
    pixels = bordered(rows, columns, 1)
    native: Pixels = pixels.astype(np.uint16) * 257 if deep else pixels
    before = native.copy()
    prepared = prepare(film(native), plan)
    assert prepared.pixels.shape == (plan.height, plan.width)
    assert prepared.pixels.dtype == np.uint8
    assert prepared.pixels.flags.c_contiguous
    geometry = prepared.geometry
    assert (geometry.native_height, geometry.native_width) == (rows, columns)
    assert geometry.top + geometry.crop_height <= rows
    assert geometry.left + geometry.crop_width <= columns
    np.testing.assert_array_equal(native, before)


@QUICK
@given(SIDES, SIDES, PLANS, st.integers(0, 255))
def test_a_constant_film_stays_constant(rows: int, columns: int, plan: Preprocessing, level: int) -> None:
    prepared = prepare(film(np.full((rows, columns), level, np.uint8)), plan)
    levels = set(np.unique(prepared.pixels).tolist())
    assert levels <= ({level} if plan.resize is ResizeMode.SQUASH else {level, 0})
    assert level in levels


@QUICK
@given(st.integers(100, 400), st.integers(100, 400), st.sampled_from(ResizeMode), st.booleans(), st.data())
def test_a_bright_square_is_found_again(
    rows: int, columns: int, resize: ResizeMode, crop: bool, data: st.DataObject
) -> None:
    grid = 14
    side = max(rows, columns) // 8
    top, left = data.draw(st.integers(0, rows - side)), data.draw(st.integers(0, columns - side))
    pixels = np.full((rows, columns), 60, np.uint8)
    pixels[top : top + side, left : left + side] = 255
    prepared = prepare(film(pixels), Preprocessing(224, 224, resize, crop))
    bright = np.maximum(prepared.pixels.astype(np.float32) - 60, 0)
    activation = bright.reshape(grid, 16, grid, 16).mean(axis=(1, 3))
    native = map_to_native(activation, prepared.geometry)
    assert native.shape == (rows, columns)
    # The middle of the warmth lies within a cell of the middle of the square.
    y, x = np.mgrid[0:rows, 0:columns]
    middle = np.array([np.average(y + 0.5, weights=native), np.average(x + 0.5, weights=native)])
    cell = np.array([16 / prepared.geometry.scale_y, 16 / prepared.geometry.scale_x])
    assert (np.abs(middle - [top + side / 2, left + side / 2]) <= cell).all()


def test_the_map_is_zero_where_nothing_was_looked_at() -> None:
    pixels = np.full((200, 200), 90, np.uint8)
    pixels[:40] = 0
    prepared = prepare(film(pixels), Preprocessing(64, 64, crop_borders=True))
    native = map_to_native(np.ones((4, 4), np.float32), prepared.geometry)
    assert not native[:40].any()
    np.testing.assert_allclose(native[40:], 1.0)


def test_uint16_is_halved_evenly() -> None:
    levels = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    np.testing.assert_array_equal(to_uint8(levels), np.rint(levels / 257.0))
    eight = made.film8()
    np.testing.assert_array_equal(to_uint8(eight.astype(np.uint16) * 257), eight)


def test_content() -> None:
    pixels = np.zeros((100, 120), np.uint8)
    pixels[10:90, 20:110] = 100
    assert find_content(pixels) == (10, 20, 80, 90)
    assert find_content(np.zeros((50, 60), np.uint8)) == (0, 0, 50, 60)
    thin = np.zeros((50, 60), np.uint8)
    thin[20:25] = 255
    assert find_content(thin) == (0, 0, 50, 60)


def test_padding_keeps_the_aspect() -> None:
    prepared = prepare(film(np.full((100, 200), 200, np.uint8)), Preprocessing(64, 64, ResizeMode.PAD))
    assert not prepared.pixels[:16].any()
    assert not prepared.pixels[48:].any()
    assert (prepared.pixels[16:48] == 200).all()
    assert prepared.geometry.scale_x == prepared.geometry.scale_y == pytest.approx(0.32)
