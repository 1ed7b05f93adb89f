"""Heat maps on films, and small pictures of both: NumPy and Pillow only."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from rentgen.errors import SettingError
from rentgen.images.prepare import to_uint8
from rentgen.records import Float32, Pixels, UInt8

CAPTION = "AI heat map - research use only"
"""What a picture that leaves the program should say of itself."""

COLD = 0.08
"""Activation, relative to the maximum, up to which the film shows untouched."""

_STRIP = 256

# Anchors of a map from violet over red and orange to pale yellow. Lightness rises all the way, so that the order can
# be read without telling red from green; the darkest part is left out, which on a film would look like air.
_ANCHORS = (
    (0.00, (76, 14, 108)),
    (0.20, (128, 31, 108)),
    (0.40, (188, 55, 84)),
    (0.60, (232, 97, 45)),
    (0.80, (250, 160, 20)),
    (1.00, (252, 240, 120)),
)


def _build_lut() -> Float32:
    """Return the colours, (256, 3), in [0, 255]."""
    positions = [position for position, _ in _ANCHORS]
    channels = [[colour[channel] for _, colour in _ANCHORS] for channel in range(3)]
    at = np.linspace(0, 1, 256)
    return np.stack([np.interp(at, positions, values) for values in channels], axis=1).astype(np.float32)


_LUT = _build_lut()


def overlay(
    film_pixels: Pixels, activation: Float32 | UInt8, *, opacity: float = 0.45, caption: str | None = None
) -> UInt8:
    """Return the film with a heat map over it, (height, width, 3).

    The map is scaled by its own maximum and grows denser with activation: where it is cold, and everywhere when it is
    zero, the film shows as it is.

    Args:
        film_pixels: (height, width).
        activation: of the same shape, finite, not negative.
        opacity: of the hottest spot, above 0 up to 1.
        caption: is written small at the lower left, as `CAPTION` says it; nothing where None.

    Raises:
        SettingError: for an opacity, a shape or an activation that is not allowed.

    Example:
        >>> film = np.full((64, 64), 100, np.uint8)
        >>> bool((overlay(film, np.zeros((64, 64), np.float32)) == 100).all())
        True
    """
    if not 0 < opacity <= 1:
        raise SettingError(f"Expected `opacity` to be above 0 and at most 1, but got {opacity}.")
    if film_pixels.ndim != 2 or film_pixels.shape != activation.shape:
        raise SettingError(
            f"Expected a film and an activation of one (height, width), but got {film_pixels.shape} "
            f"and {activation.shape}. Bring the map to native size with `map_to_native`."
        )
    grey = to_uint8(film_pixels)
    heat = _relative(activation)
    rgb = np.repeat(grey[..., None], 3, axis=2)
    hot = heat > COLD
    # Only the warm pixels are blended: most of a film is cold.
    warm = heat[hot]
    rise = np.minimum((warm - COLD) / (0.6 - COLD), 1.0)
    alpha = (opacity * rise * (2 - rise))[:, None]
    colour = _LUT[np.round(warm * 255).astype(np.uint8)]
    rgb[hot] = np.round(rgb[hot] * (1 - alpha) + colour * alpha).astype(np.uint8)
    return _captioned(rgb, caption) if caption else rgb


def _highest(activation: Float32 | UInt8) -> float:
    """Return the maximum of a map that is one."""
    lowest, highest = float(activation.min(initial=0.0)), float(activation.max(initial=0.0))
    if not (np.isfinite(lowest) and np.isfinite(highest)) or lowest < 0:
        raise SettingError(f"Expected a finite activation that is not negative, but got {lowest} to {highest}.")
    return highest


def _relative(activation: Float32 | UInt8) -> Float32:
    """Return the map over its maximum, in [0, 1]; zero where it is zero throughout."""
    highest = _highest(activation)
    if highest == 0:
        return np.zeros(activation.shape, np.float32)
    relative: Float32 = (activation / np.float32(highest)).astype(np.float32, copy=False)
    return relative


def _captioned(rgb: UInt8, caption: str) -> UInt8:
    height, width = rgb.shape[:2]
    image = Image.fromarray(rgb)
    pen = ImageDraw.Draw(image)
    size = max(9.0, 0.02 * height)
    margin = round(0.4 * size)
    font = ImageFont.load_default(size)
    room = max(1, width - 2 * margin)
    if (needed := pen.textlength(caption, font)) > room:
        font = ImageFont.load_default(max(1.0, size * room / needed))
    # Grey with a thin dark rim: legible on bone and on air, and less loud than the film.
    pen.text((margin, height - margin), caption, (205, 205, 205), font, "ls", stroke_width=1, stroke_fill=(30, 30, 30))
    return np.array(image)


def encode_png(image: UInt8) -> bytes:
    """Return a PNG file of a grey or a colour picture.

    Args:
        image: (height, width) or (height, width, 3).
    """
    return _png(image, 4)


def heatmap_png(activation: Float32 | UInt8) -> bytes:
    """Return a map as an 8-bit grey PNG file in its own geometry; 255 is its maximum.

    A map of a megapixel comes to tens of kilobytes, so that a page can fetch it and blend it over a film it has.

    Args:
        activation: (height, width), finite, not negative.

    Raises:
        SettingError: for an activation that is not allowed.
    """
    highest = _highest(activation)
    levels = np.zeros(activation.shape, np.uint8)
    if highest > 0:
        # In strips: a film of 100 megapixels would otherwise take a gigabyte for a moment.
        for top in range(0, len(levels), _STRIP):
            strip = slice(top, top + _STRIP)
            # 86 levels are more than the eye tells apart in a blend, and a quarter smaller than 256.
            levels[strip] = np.round(activation[strip] / np.float32(highest) * 85).astype(np.uint8) * np.uint8(3)
    return _png(levels, 6)


def _png(image: UInt8, compress_level: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "PNG", compress_level=compress_level)
    return stream.getvalue()


def thumbnail(pixels: Pixels, side: int) -> UInt8:
    """Return a small copy whose longer side has at most `side` pixels; the aspect is kept, nothing is enlarged.

    Args:
        pixels: (height, width), or (height, width, 3) of uint8.
        side: pixels, at least 1.

    Raises:
        SettingError: for a side below 1.
    """
    if side < 1:
        raise SettingError(f"Expected `side` to be at least 1 pixel, but got {side}.")
    image = Image.fromarray(to_uint8(pixels))
    scale = min(1.0, side / max(image.size))
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    # A whole factor first: four times faster on a native film, and the eye does not see it.
    return np.array(image.resize(size, Image.Resampling.BICUBIC, reducing_gap=3.0))
