"""Is this an image the model was made for? A gate adds reasons; it never takes a score away."""

from __future__ import annotations

import numpy as np

from rentgen.records import UInt8

MIN_CONTRAST = 10.0
"""Standard deviation of grey levels (of 255) below which there is nothing to see."""
MIN_SMOOTHNESS = 0.75
"""Correlation of neighbouring pixels below which an image is noise."""
MIN_LEVELS = 24
"""Grey levels in use below which an image is a drawing; films use 50 and more."""
MOST = 0.9
"""Share of the pixels that counts as use: resizing softens the edges of a drawing into every level there is."""


def contrast(image: UInt8) -> float:
    """Return the standard deviation of the grey levels, in [0, 127.5]."""
    return float(image.std())


def smoothness(image: UInt8) -> float:
    """Return the correlation of horizontally and vertically neighbouring pixels, in [-1, 1]; 1 for a constant image."""
    values = image.astype(np.float32) - image.mean(dtype=np.float32)
    variance = float((values**2).mean())
    if variance == 0:
        return 1.0
    across = float((values[:, 1:] * values[:, :-1]).mean())
    down = float((values[1:] * values[:-1]).mean())
    return (across + down) / (2 * variance)


def levels(image: UInt8) -> int:
    """Return how many grey levels it takes to make up most of the pixels, in [1, 256]."""
    common = np.sort(np.bincount(image.ravel(), minlength=256))[::-1].cumsum()
    return int(np.searchsorted(common, MOST * image.size)) + 1


def check_radiograph(image: UInt8) -> tuple[str, ...]:
    """Return why a prepared image cannot be a radiograph, in words; nothing for one that may be.

    Args:
        image: (height, width), at the size of the network's input but not smoothed.
    """
    if contrast(image) < MIN_CONTRAST:
        return ("not a radiograph: the image is nearly one shade of grey",)
    if smoothness(image) < MIN_SMOOTHNESS:
        return ("not a radiograph: the image is noise",)
    if levels(image) < MIN_LEVELS:
        return ("not a radiograph: the image has only a few shades of grey, like a drawing",)
    return ()
