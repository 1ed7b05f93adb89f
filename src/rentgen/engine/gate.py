"""Is this an image the model was made for? A gate adds reasons; it never takes a score away."""

from __future__ import annotations

import numpy as np

from rentgen.records import UInt8

MIN_CONTRAST = 10.0
"""Standard deviation of grey levels (of 255) below which there is nothing to see."""
MIN_SMOOTHNESS = 0.75
"""Correlation of neighbouring pixels below which an image is noise."""
MIN_LEVELS = 24
"""Distinct grey levels below which an image is a drawing."""


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


def check_radiograph(image: UInt8) -> tuple[str, ...]:
    """Return why a prepared image cannot be a radiograph, in words; nothing for one that may be.

    Args:
        image: (height, width), as the network will see it.
    """
    if contrast(image) < MIN_CONTRAST:
        return ("not a radiograph: the image is nearly one shade of grey",)
    if smoothness(image) < MIN_SMOOTHNESS:
        return ("not a radiograph: the image is noise",)
    if len(np.unique(image)) < MIN_LEVELS:
        return ("not a radiograph: the image has only a few shades of grey, like a drawing",)
    return ()
