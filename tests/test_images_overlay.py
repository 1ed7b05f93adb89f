"""Heat maps on films: what is warm is coloured where it lies, what is cold is left alone."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from rentgen.errors import SettingError
from rentgen.images.overlay import CAPTION, encode_png, heatmap_png, overlay, thumbnail
from rentgen.records import Float32, Pixels, UInt8


def ramp(height: int = 120, width: int = 160) -> UInt8:
    return np.add.outer(np.arange(height), np.arange(width)).astype(np.uint8)


def decode(png: bytes) -> UInt8:
    return np.asarray(Image.open(io.BytesIO(png)), np.uint8)


@pytest.mark.parametrize("film", [ramp(), ramp().astype(np.uint16) * 257], ids=["uint8", "uint16"])
def test_a_zero_map_leaves_the_film(film: Pixels) -> None:
    result = overlay(film, np.zeros(film.shape, np.float32))
    assert result.dtype == np.uint8
    np.testing.assert_array_equal(result, np.repeat(ramp()[..., None], 3, axis=2))


def test_a_hot_square_is_coloured_in_its_place_and_nowhere_else() -> None:
    film = np.full((120, 160), 90, np.uint8)
    activation = np.zeros(film.shape, np.float32)
    activation[30:50, 100:140] = 7.0
    before = activation.copy()
    result = overlay(film, activation)
    changed = (result != film[..., None]).any(axis=2)
    np.testing.assert_array_equal(changed, activation > 0)
    np.testing.assert_array_equal(activation, before)
    assert (film == 90).all()


def test_only_relative_activation_counts() -> None:
    film = ramp()
    activation = np.random.default_rng(0).random(film.shape, np.float32)
    np.testing.assert_array_equal(overlay(film, activation), overlay(film, activation * np.float32(1024)))


def test_lightness_of_the_colours_rises_with_activation() -> None:
    # Colour blindness keeps lightness, so the order can be read by it alone.
    activation = np.linspace(0.1, 1, 200, dtype=np.float32)[None].repeat(4, axis=0)
    on_black = overlay(np.zeros(activation.shape, np.uint8), activation, opacity=1.0)[0].astype(float)
    luminance = on_black @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(luminance) >= -0.5).all()
    assert luminance[-1] > luminance[0] + 150


def test_opacity_bounds_the_change() -> None:
    film = np.full((64, 64), 128, np.uint8)
    hot = np.ones((64, 64), np.float32)
    faint, strong = (np.abs(overlay(film, hot, opacity=opacity).astype(int) - 128).max() for opacity in (0.1, 0.9))
    assert faint < 15 < 90 < strong


@pytest.mark.parametrize(("height", "width"), [(512, 640), (60, 60), (5, 3)])
def test_the_caption_stays_at_the_lower_edge(height: int, width: int) -> None:
    film = np.full((height, width), 60, np.uint8)
    cold = np.zeros(film.shape, np.float32)
    changed = (overlay(film, cold, caption=CAPTION) != 60).any(axis=2)
    assert not changed[: height - 20].any()
    if width > 60:
        assert 0.002 < changed.mean() < 0.05


@pytest.mark.parametrize("opacity", [0.0, -0.1, 1.1, float("nan")])
def test_a_wrong_opacity_is_refused(opacity: float) -> None:
    with pytest.raises(SettingError, match="Expected `opacity` to be above 0 and at most 1"):
        overlay(ramp(), np.zeros((120, 160), np.float32), opacity=opacity)


@pytest.mark.parametrize("shape", [(12, 16), (160, 120), (120, 160, 1)])
def test_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(SettingError, match=r"of one \(height, width\).*map_to_native"):
        overlay(ramp(), np.zeros(shape, np.float32))


@pytest.mark.parametrize("value", [-0.5, float("nan"), float("inf")])
def test_an_impossible_activation_is_refused(value: float) -> None:
    activation = np.ones((120, 160), np.float32)
    activation[3, 4] = value
    with pytest.raises(SettingError, match="Expected a finite activation that is not negative"):
        overlay(ramp(), activation)
    with pytest.raises(SettingError, match="Expected a finite activation that is not negative"):
        heatmap_png(activation)


def test_the_smallest_maximum_is_still_a_maximum() -> None:
    activation = np.zeros((8, 8), np.float32)
    activation[2, 2] = np.finfo(np.float32).smallest_subnormal
    assert decode(heatmap_png(activation))[2, 2] == 255


def native_map(rng: np.random.Generator, side: int) -> Float32:
    """A map as the network makes it: ten by ten, painted on the film."""
    coarse = np.square(rng.random((10, 10), np.float32))
    return np.asarray(Image.fromarray(coarse).resize((side, side), Image.Resampling.BILINEAR), np.float32)


def test_a_heat_map_of_a_megapixel_is_tens_of_kilobytes() -> None:
    activation = native_map(np.random.default_rng(1), 1024)
    png = heatmap_png(activation)
    assert len(png) < 100_000
    levels = decode(png)
    assert levels.shape == (1024, 1024)
    assert levels.max() == 255
    assert np.abs(levels / 255 - activation / activation.max()).max() < 0.02


@pytest.mark.parametrize("shape", [(30, 40), (30, 40, 3)])
def test_png_keeps_every_pixel(shape: tuple[int, ...]) -> None:
    image = np.random.default_rng(2).integers(0, 256, shape, np.uint8)
    np.testing.assert_array_equal(decode(encode_png(image)), image)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((400, 300), (200, 150)), ((300, 400), (150, 200)), ((50, 60), (50, 60)), ((2000, 3), (200, 1))],
)
def test_thumbnails_keep_the_aspect(shape: tuple[int, int], expected: tuple[int, int]) -> None:
    assert thumbnail(np.zeros(shape, np.uint8), 200).shape == expected
    assert thumbnail(np.zeros(shape, np.uint16), 200).shape == expected
    assert thumbnail(np.zeros((*shape, 3), np.uint8), 200).shape == (*expected, 3)


def test_thumbnails_average() -> None:
    stripes = np.tile(np.array([0, 200], np.uint8), (400, 200))
    assert np.abs(thumbnail(stripes, 100).astype(int)[5:-5, 5:-5] - 100).max() <= 3


def test_a_thumbnail_of_no_side_is_refused() -> None:
    with pytest.raises(SettingError, match="Expected `side` to be at least 1 pixel, but got 0"):
        thumbnail(ramp(), 0)
