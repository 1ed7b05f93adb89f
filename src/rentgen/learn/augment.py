"""Augmented views of a prepared film: seeded, per view, NumPy and Pillow only.

A view is drawn from the film's content and the view's number, so that it is the same in every run and on every machine,
and its features can be cached.
"""

from __future__ import annotations

import hashlib

import numpy as np
from PIL import Image

from rentgen.learn.settings import AugmentSettings
from rentgen.records import UInt8


def view_rng(content_hash: str, view: int, seed: int) -> np.random.Generator:
    """Return the source of randomness of one view of one film."""
    digest = hashlib.sha256(f"{content_hash}:{view}:{seed}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "big"))


def augment(image: UInt8, settings: AugmentSettings, rng: np.random.Generator) -> UInt8:
    """Return an augmented copy of a prepared film.

    Args:
        image: (height, width).
        settings: the largest change of each kind.
        rng: all randomness comes from here.

    Returns:
        (height, width) uint8; what comes in from outside the film is black before tones change.
    """
    return _tones(_geometry(image, settings, rng), settings, rng)


def _geometry(image: UInt8, settings: AugmentSettings, rng: np.random.Generator) -> UInt8:
    height, width = image.shape
    angle = np.deg2rad(rng.uniform(-1, 1) * settings.rotation_degrees)
    zoom = 1 + rng.uniform(-1, 1) * settings.zoom
    shift_x, shift_y = rng.uniform(-1, 1, 2) * settings.shift * (width, height)
    mirror = -1.0 if settings.flip and rng.random() < 0.5 else 1.0
    cos, sin = np.cos(angle) / zoom, np.sin(angle) / zoom
    centre_x, centre_y = width / 2, height / 2
    # Pillow wants, for each output place, the input place it comes from.
    a, b, d, e = mirror * cos, mirror * sin, -sin, cos
    c = centre_x - a * (centre_x + shift_x) - b * (centre_y + shift_y)
    f = centre_y - d * (centre_x + shift_x) - e * (centre_y + shift_y)
    turned = Image.fromarray(image).transform(
        (width, height), Image.Transform.AFFINE, (a, b, c, d, e, f), Image.Resampling.BILINEAR
    )
    return np.asarray(turned, dtype=np.uint8)


def _tones(image: UInt8, settings: AugmentSettings, rng: np.random.Generator) -> UInt8:
    gamma = np.exp(rng.uniform(-1, 1) * settings.gamma)
    contrast = 1 + rng.uniform(-1, 1) * settings.contrast
    brightness = rng.uniform(-1, 1) * settings.brightness
    # One table of 256 entries does gamma, contrast and brightness at once.
    levels = np.linspace(0.0, 1.0, 256) ** gamma
    levels = 255.0 * ((levels - 0.5) * contrast + 0.5 + brightness)
    toned = levels.astype(np.float32)[image]
    if settings.noise > 0:
        toned = toned + rng.standard_normal(image.shape, dtype=np.float32) * np.float32(255 * settings.noise)
    result: UInt8 = np.clip(np.rint(toned), 0, 255).astype(np.uint8)
    return result
