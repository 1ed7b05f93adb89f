"""The plane that a synthetic patient is laid out on, and what is drawn there by hand, by rule and by chance."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter

from rentgen.images.phantom_patient import Anatomy, Pose

Plane = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True, eq=False)
class Canvas:
    """The upright patient's frame; the film is cut out of it, turned and tilted."""

    scale: float  # pixels per millimetre
    x: Plane  # (1, width)
    y: Plane  # (height, 1)
    row: int = 0  # of the first row in the canvas that this one is a part of
    column: int = 0

    def part(self, left: float, right: float, top: float, bottom: float) -> Canvas:
        """Return the canvas between borders in millimetres, at least a pixel: most organs fill only a part."""
        x0, x1 = _stretch(self.x[0], left, right)
        y0, y1 = _stretch(self.y[:, 0], top, bottom)
        return Canvas(self.scale, self.x[:, x0:x1], self.y[y0:y1], self.row + y0, self.column + x0)

    def half(self) -> Canvas:
        """Return the image's right half of a whole canvas."""
        middle = self.x.shape[1] // 2
        return Canvas(self.scale, self.x[:, middle:], self.y, self.row, self.column + middle)

    def spread(self, plane: Plane, part: Canvas) -> Plane:
        """Return a part's plane with nothing around it."""
        whole = np.zeros((self.y.shape[0], self.x.shape[1]), np.float32)
        self.within(whole, part)[:] = plane
        return whole

    def within(self, plane: Plane, part: Canvas) -> Plane:
        """Return the view of this canvas's plane on a part of it."""
        row, column = part.row - self.row, part.column - self.column
        return plane[row : row + part.y.shape[0], column : column + part.x.shape[1]]

    def layer(self) -> tuple[Image.Image, ImageDraw.ImageDraw]:
        """Return an empty drawing of twice the canvas's resolution: the way to smooth edges."""
        image = Image.new("L", (2 * self.x.shape[1], 2 * self.y.shape[0]))
        return image, ImageDraw.Draw(image)

    def place(self, points: Plane) -> list[float]:
        """Return positions in a `layer` of (n, 2) x and y, in a row."""
        # A pixel's centre lies between two of the layer's.
        moved = (points - [float(self.x[0, 0]), float(self.y[0, 0])]) * (2 * self.scale) + 0.5
        return list(moved.ravel().tolist())


def _stretch(positions: Plane, start: float, end: float) -> tuple[int, int]:
    first = min(int(np.searchsorted(positions, start)), len(positions) - 1)
    return first, max(first + 1, int(np.searchsorted(positions, end)))


def mirrored(half: Plane) -> Plane:
    """Return a plane of which `half` is the right half, and the left half its mirror image."""
    return np.concatenate([half[:, ::-1], half], axis=1)


def canvas_of(body: Anatomy, pose: Pose) -> Canvas:
    """Return a canvas that holds what the film will show of the patient."""
    scale = 1.02 * min(pose.width / 332, pose.height / 325) * pose.zoom * body.scale
    # Beyond the film, what turning, shifting and tilting bring into view.
    sine = abs(math.sin(pose.rotation))
    half_width = (0.53 * pose.width + 0.5 * sine * pose.height) / scale + abs(pose.shift[0]) + 6
    half_height = (0.53 * pose.height + 0.5 * sine * pose.width) / scale + abs(pose.shift[1]) + 6
    # The same on both sides of the midline, for `mirrored`.
    right = (np.arange(round(half_width * scale)) + 0.5) / scale
    columns = np.concatenate([-right[::-1], right])
    rows = np.arange(round(2 * half_height * scale)) / scale - half_height + 124
    return Canvas(scale, columns.astype(np.float32)[None, :], rows.astype(np.float32)[:, None])


def read(layer: Image.Image, canvas: Canvas, soft_mm: float) -> Plane:
    """Return a drawn layer at the canvas's resolution, blurred over `soft_mm`, in [0, 255]."""
    blurred = layer.reduce(2).filter(ImageFilter.BoxBlur(0.5 * canvas.scale * soft_mm))
    return np.array(blurred, np.float32)


def _resized(plane: Plane, height: int, width: int) -> Plane:
    return np.asarray(Image.fromarray(plane).resize((width, height), Image.Resampling.BICUBIC), np.float32)


def grain(canvas: Canvas, rng: np.random.Generator, octaves: Sequence[tuple[float, float]]) -> Plane:
    """Return smooth noise, not negative, summed over octaves of (size in millimetres, weight)."""
    finest = min(size for size, _ in octaves)
    height, width = (max(4, round(side / canvas.scale / finest)) for side in (canvas.y.size, canvas.x.size))
    total = np.zeros((height, width), np.float32)
    for size, weight in octaves:
        shape = (max(3, round(height * finest / size)), max(3, round(width * finest / size)))
        noise = np.maximum(0.7 * rng.standard_normal(shape, np.float32) + 0.5, 0)
        total += np.float32(weight) * _resized(noise, height, width)
    return _resized(total, canvas.y.size, canvas.x.size)


def step(value: Plane) -> Plane:
    """Return 0 below 0, 1 above 1 and a smooth rise between."""
    bounded: Plane = np.clip(value, np.float32(0), np.float32(1))
    rise: Plane = bounded * bounded
    bounded *= -2
    bounded += 3
    rise *= bounded
    return rise


def along(at: Plane, points: Sequence[tuple[float, float]]) -> Plane:
    """Return a smooth curve through (position, value) at positions of any shape."""
    return np.interp(at, *_curve(tuple(points))).astype(np.float32)


@lru_cache(maxsize=64)
def _curve(points: tuple[tuple[float, float], ...]) -> tuple[Plane, Plane]:
    positions, values = np.array(points, float).T
    fine = np.linspace(positions[0], positions[-1], 240)
    # Smoothed straight pieces: a spline would overshoot at the apices.
    rough = np.pad(np.interp(fine, positions, values), 12, mode="edge")
    smooth = np.convolve(rough, np.hanning(27)[1:-1] / np.hanning(27).sum(), mode="valid")
    return fine, smooth


def chord(far: Plane) -> Plane:
    """Return the relative thickness of a ball at a squared relative distance from its middle."""
    thickness: Plane = np.asarray(1 - far, np.float32)
    np.maximum(thickness, 0, out=thickness)
    return np.sqrt(thickness, out=thickness)
