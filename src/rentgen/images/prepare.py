"""From a film to the network's input, and back: the one routine that training and serving share.

NumPy and Pillow only. Pillow's reducing resize is the reference: it is the same on every platform, and OpenCV's and
torch's differ from it by several grey levels when they shrink.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

import numpy as np
from PIL import Image, ImageFilter

from rentgen.records import Float32, Float64, Geometry, Pixels, Prepared, Preprocessing, Radiograph, ResizeMode, UInt8

Map = TypeVar("Map", Float32, UInt8)

BORDER_LEVEL = 12
"""Grey level (of 255) up to which a row or column counts as black border."""


def to_uint8(pixels: Pixels) -> UInt8:
    """Return `pixels` as uint8; uint16 is divided by 257 and rounded, so that 65535 becomes 255."""
    if pixels.dtype == np.uint8:
        return pixels.astype(np.uint8, copy=False)
    return ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)


def find_content(pixels: UInt8) -> tuple[int, int, int, int]:
    """Return (top, left, height, width) of the film without its black borders; the whole film where all is dark.

    A row or column is border when 99 % of its pixels are at most `BORDER_LEVEL`.

    Args:
        pixels: (height, width).
    """
    bright = pixels > BORDER_LEVEL
    rows = np.flatnonzero(bright.mean(axis=1) > 0.01)
    columns = np.flatnonzero(bright.mean(axis=0) > 0.01)
    # A film that is black but for a few lines is not a film with borders.
    if len(rows) < 16 or len(columns) < 16:
        return 0, 0, pixels.shape[0], pixels.shape[1]
    top, left = int(rows[0]), int(columns[0])
    return top, left, int(rows[-1]) + 1 - top, int(columns[-1]) + 1 - left


def prepare(film: Radiograph, preprocessing: Preprocessing) -> Prepared:
    """Return the network's input for a film: cropped, resized with antialiasing, smoothed, uint8.

    Example:
        >>> film = Radiograph(np.full((300, 400), 255, np.uint8), "", "png", 8)
        >>> prepare(film, Preprocessing(64, 64)).pixels.shape
        (64, 64)
    """
    fitted = fit(film, preprocessing)
    return replace(fitted, pixels=smooth(fitted.pixels, preprocessing.smooth_px))


def smooth(pixels: UInt8, smooth_px: float) -> UInt8:
    """Return an image without the detail that scanners, resizing and JPEG decide: a Gaussian low-pass.

    A frozen network is easily moved by such detail, and sharpness alone tells the classes of some sets apart.

    Args:
        pixels: (height, width).
        smooth_px: standard deviation, pixels; 0 changes nothing.
    """
    if smooth_px == 0:
        return pixels
    return np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(smooth_px)), dtype=np.uint8)


def fit(film: Radiograph, preprocessing: Preprocessing) -> Prepared:
    """Return a film at the network's input size, all detail kept: `prepare` before it smooths."""
    pixels = to_uint8(film.pixels)
    native_height, native_width = pixels.shape
    top, left, height, width = (
        find_content(pixels) if preprocessing.crop_borders else (0, 0, native_height, native_width)
    )
    content = pixels[top : top + height, left : left + width]

    if preprocessing.resize is ResizeMode.SQUASH:
        target_height, target_width = preprocessing.height, preprocessing.width
    else:
        scale = min(preprocessing.height / height, preprocessing.width / width)
        target_height = min(preprocessing.height, max(1, round(height * scale)))
        target_width = min(preprocessing.width, max(1, round(width * scale)))
    offset_y = (preprocessing.height - target_height) // 2
    offset_x = (preprocessing.width - target_width) // 2

    resized = np.asarray(
        Image.fromarray(content).resize((target_width, target_height), Image.Resampling.BILINEAR), dtype=np.uint8
    )
    if (target_height, target_width) != (preprocessing.height, preprocessing.width):
        canvas = np.zeros((preprocessing.height, preprocessing.width), np.uint8)
        canvas[offset_y : offset_y + target_height, offset_x : offset_x + target_width] = resized
        resized = canvas
    geometry = Geometry(
        native_height=native_height,
        native_width=native_width,
        top=top,
        left=left,
        crop_height=height,
        crop_width=width,
        scale_y=target_height / height,
        scale_x=target_width / width,
        offset_y=float(offset_y),
        offset_x=float(offset_x),
        height=preprocessing.height,
        width=preprocessing.width,
    )
    return Prepared(np.ascontiguousarray(resized), geometry)


def to_native(points: Float64, geometry: Geometry) -> Float64:
    """Return native (row, column) coordinates of points in the prepared image.

    Args:
        points: (..., 2) rows and columns; continuous, a pixel's centre lies at its index plus one half.
        geometry: of the prepared image.
    """
    offset = np.array([geometry.offset_y, geometry.offset_x])
    scale = np.array([geometry.scale_y, geometry.scale_x])
    native: Float64 = (points - offset) / scale + np.array([geometry.top, geometry.left])
    return native


def to_prepared(points: Float64, geometry: Geometry) -> Float64:
    """Return coordinates in the prepared image of native (row, column) points; the inverse of `to_native`.

    Args:
        points: (..., 2) rows and columns, continuous.
        geometry: of the prepared image.
    """
    offset = np.array([geometry.offset_y, geometry.offset_x])
    scale = np.array([geometry.scale_y, geometry.scale_x])
    prepared: Float64 = (points - np.array([geometry.top, geometry.left])) * scale + offset
    return prepared


def map_to_native(activation: Map, geometry: Geometry) -> Map:
    """Return an activation map painted on the native film; zero where the network did not look.

    Args:
        activation: (rows, columns) over the whole prepared image, coarse; uint8 takes a quarter of the memory.
        geometry: of the prepared image.

    Returns:
        (native_height, native_width), of the same type.
    """
    rows, columns = activation.shape
    # The part of the coarse map that lies over film, in its own pixels: padding is left out by the box.
    box = (
        geometry.offset_x * columns / geometry.width,
        geometry.offset_y * rows / geometry.height,
        (geometry.offset_x + geometry.crop_width * geometry.scale_x) * columns / geometry.width,
        (geometry.offset_y + geometry.crop_height * geometry.scale_y) * rows / geometry.height,
    )
    painted = Image.fromarray(activation).resize(
        (geometry.crop_width, geometry.crop_height), Image.Resampling.BILINEAR, box=box
    )
    native = np.zeros((geometry.native_height, geometry.native_width), activation.dtype)
    native[geometry.top : geometry.top + geometry.crop_height, geometry.left : geometry.left + geometry.crop_width] = (
        np.asarray(painted)
    )
    return native
