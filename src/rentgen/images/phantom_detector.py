"""From a synthetic patient's attenuation to a film: projection, scatter, noise, grey scale, collimator, marker."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from rentgen.images.phantom_canvas import Canvas, Plane
from rentgen.images.phantom_patient import Pose

UInt16 = npt.NDArray[np.uint16]


def projection(canvas: Canvas, pose: Pose) -> tuple[float, ...]:
    """Return Pillow's eight numbers that lead from a pixel of the film to one of the canvas."""
    cosine, sine = math.cos(pose.rotation), math.sin(pose.rotation)
    shift_x, shift_y = (canvas.scale * shift for shift in pose.shift)
    to_middle = np.array([[1, 0, -pose.width / 2], [0, 1, -pose.height / 2], [0, 0, 1]])
    turn = np.array([[cosine, -sine, shift_x], [sine, cosine, shift_y], [0, 0, 1]])
    tilt = np.array([[1, 0, 0], [0, 1, 0], [pose.keystone[1] / pose.width, pose.keystone[0] / pose.height, 1]])
    to_canvas = np.array([[1, 0, canvas.x.size / 2], [0, 1, canvas.y.size / 2], [0, 0, 1]])
    matrix = to_canvas @ turn @ tilt @ to_middle
    return tuple((matrix / matrix[2, 2]).ravel()[:8].tolist())


def project(
    plane: npt.NDArray[Any], projection: tuple[float, ...], pose: Pose, resampling: Image.Resampling
) -> npt.NDArray[Any]:
    """Return what of a canvas's plane falls on the film."""
    film = Image.fromarray(plane).transform(
        (pose.width, pose.height), Image.Transform.PERSPECTIVE, projection, resampling
    )
    pixels: npt.NDArray[Any] = np.asarray(film)
    return pixels


def detect(attenuation: Plane, pose: Pose) -> Plane:
    """Return the film's densities: radiation with its quantum noise, on a logarithmic scale."""
    light = _radiate(attenuation, pose, pose.height / 30)
    noise = np.random.default_rng(pose.seed).standard_normal(light.shape, np.float32)
    noise *= np.sqrt(light * (1 / pose.quanta))
    light += noise
    np.maximum(light, 1e-4, out=light)
    return np.negative(np.log(light, out=light), out=light)


def _radiate(attenuation: Plane, pose: Pose, length: float) -> Plane:
    """Return primary and scattered radiation behind the patient; scatter spreads over `length` pixels."""
    radiation: Plane = np.exp(-attenuation)
    radiation += 0.5 * pose.scatter * _blur(radiation, length)
    return radiation


def grey_range(clean: Plane, pose: Pose) -> tuple[float, float]:
    """Return the densities of black and white, from the anatomy without its finding, which they must not tell."""
    small = np.ascontiguousarray(clean[::4, ::4], np.float32)
    densities = -np.log(_radiate(small, pose, max(1.0, len(small) / 36)))
    patient = densities[small > 1.0]
    dark, bright = np.percentile(patient, (4, 96)).tolist() if patient.size > 20 else (1.0, 4.0)
    return dark - (bright - dark) * pose.window[0], dark + (bright - dark) * pose.window[1]


def develop(density: Plane, grey_range: tuple[float, float], pose: Pose) -> tuple[UInt16, tuple[int, int] | None]:
    """Return the film, and the place of its marker."""
    black, white = grey_range
    # One multiplication and one addition a pixel: sharpened, and 0 to 1 from black to white.
    gain = 1 / (white - black)
    value = density * ((1 + pose.sharpen) * gain)
    value -= _blur(density, pose.height / 90) * (pose.sharpen * gain) + black * gain
    np.clip(value, 0, 1, out=value)
    value **= pose.gamma
    # The bright end bends over instead of being cut off.
    value = 0.45 * np.sin(value * (math.pi / 2)) + 0.53 * value
    marker_at = _mark(value, pose)
    for edge in collimated(pose):
        value[edge] = 0.01
    value *= 65535
    value += 0.5
    return value.astype(np.uint16), marker_at


def _blur(plane: Plane, length: float) -> Plane:
    """Return `plane` blurred over about `length` pixels, by way of a small copy."""
    height, width = plane.shape
    small = (max(2, round(width / length)), max(2, round(height / length)))
    image = Image.fromarray(plane).resize(small, Image.Resampling.BOX)
    return np.asarray(image.resize((width, height), Image.Resampling.BICUBIC), np.float32)


def collimated(pose: Pose) -> tuple[tuple[slice, slice], ...]:
    """Return the strips that the collimator kept dark."""
    top, bottom, left, right = pose.borders
    height, width = pose.height, pose.width
    whole = slice(None)
    return (
        (slice(0, round(top * height)), whole),
        (slice(height - round(bottom * height), height), whole),
        (whole, slice(0, round(left * width))),
        (whole, slice(width - round(right * width), width)),
    )


_LETTERS = {
    "L": (((0, 0), (0, 1), (0.6, 1)),),
    "R": (
        ((0, 1), (0, 0), (0.4, 0), (0.58, 0.12), (0.58, 0.4), (0.4, 0.52), (0, 0.52)),
        ((0.32, 0.52), (0.62, 1)),
    ),
}
"""Strokes of the lead letters, x and y in units of their height."""


def _mark(value: Plane, pose: Pose) -> tuple[int, int] | None:
    """Lay the lead letter on the film, in place, and return its centre."""
    if not pose.marker:
        return None
    height, width = value.shape
    size = max(8.0, pose.marker_size * height)
    down = pose.marker_place[0] + pose.borders[0]
    across = pose.marker_place[1] + pose.borders[2 if pose.marker == "R" else 3]
    top = down * height
    # The patient's right is on the image's left.
    left = across * width if pose.marker == "R" else (1 - across) * width - 0.6 * size
    rim = 2 + round(0.2 * size)
    row, column = max(0, int(top) - rim), max(0, int(left) - rim)
    patch = value[row : int(top + size) + rim, column : int(left + 0.62 * size) + rim]
    image = Image.new("L", (2 * patch.shape[1], 2 * patch.shape[0]))
    pen = ImageDraw.Draw(image)
    for stroke in _LETTERS[pose.marker]:
        places = [(2 * (left - column + size * x), 2 * (top - row + size * y)) for x, y in stroke]
        pen.line(places, 255, max(2, round(0.28 * size)))
    patch += np.asarray(image.reduce(2), np.float32) / 255 * (0.97 - patch)
    return int(top + size / 2), int(left + 0.3 * size)
