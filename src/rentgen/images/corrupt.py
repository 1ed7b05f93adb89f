"""Films as a worse day would show them: a fixed set of corruptions that a robust model must bear.

None of them changes what the film shows of the patient. NumPy and Pillow only, on films at the network's input size, so
that training chooses by the same films that an evaluation reports. Severities are set to what archives really hold:
they are visible, and a radiologist would still read the film. The idea is that of Hendrycks and Dietterich 2019.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
from PIL import Image, ImageFilter

from rentgen.records import UInt8

Corruption = Callable[[UInt8, np.random.Generator], UInt8]


def _look_up(table: UInt8) -> Corruption:
    def apply(image: UInt8, rng: np.random.Generator) -> UInt8:
        changed: UInt8 = table[image]
        return changed

    return apply


def _gamma(power: float) -> Corruption:
    table = np.rint(255 * np.linspace(0, 1, 256) ** power).astype(np.uint8)
    return _look_up(table)


def _contrast(factor: float, offset: float = 0.0) -> Corruption:
    table = np.clip(np.rint((np.arange(256.0) - 127.5) * factor + 127.5 + offset), 0, 255).astype(np.uint8)
    return _look_up(table)


def _window(image: UInt8, rng: np.random.Generator) -> UInt8:
    """Saturate the darkest and the brightest twelfth of the film's own range, as a hard window does."""
    low, high = np.percentile(image, (8, 92))
    scaled = (image.astype(np.float32) - low) / max(high - low, 1) * 255
    windowed: UInt8 = np.clip(np.rint(scaled), 0, 255).astype(np.uint8)
    return windowed


def _blur(image: UInt8, rng: np.random.Generator) -> UInt8:
    return np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(1.5)), np.uint8)


def _sharpen(image: UInt8, rng: np.random.Generator) -> UInt8:
    return np.asarray(Image.fromarray(image).filter(ImageFilter.UnsharpMask(2, 120, 0)), np.uint8)


def _noise(image: UInt8, rng: np.random.Generator) -> UInt8:
    noisy = image + rng.standard_normal(image.shape, dtype=np.float32) * np.float32(10)
    result: UInt8 = np.clip(np.rint(noisy), 0, 255).astype(np.uint8)
    return result


def _jpeg(image: UInt8, rng: np.random.Generator) -> UInt8:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=20)
    with Image.open(buffer) as packed:
        return np.asarray(packed, np.uint8)


def _shrink(image: UInt8, rng: np.random.Generator) -> UInt8:
    height, width = image.shape
    small = Image.fromarray(image).resize((max(1, width // 2), max(1, height // 2)), Image.Resampling.BILINEAR)
    return np.asarray(small.resize((width, height), Image.Resampling.BILINEAR), np.uint8)


def _borders(image: UInt8, rng: np.random.Generator) -> UInt8:
    """Collimate: cut up to an eighth of each side away."""
    height, width = image.shape
    top, bottom, left, right = rng.uniform(0.02, 0.125, 4)
    cut = np.zeros_like(image)
    rows = slice(round(top * height), height - round(bottom * height))
    columns = slice(round(left * width), width - round(right * width))
    cut[rows, columns] = image[rows, columns]
    return cut


def _turn(image: UInt8, rng: np.random.Generator) -> UInt8:
    angle = float(rng.choice((-1, 1)) * rng.uniform(6, 12))
    return np.asarray(Image.fromarray(image).rotate(angle, Image.Resampling.BILINEAR), np.uint8)


def _zoom(image: UInt8, rng: np.random.Generator) -> UInt8:
    height, width = image.shape
    share = float(rng.uniform(0.06, 0.12))
    box = (share * width, share * height, (1 - share) * width, (1 - share) * height)
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR, box=box), np.uint8)


CORRUPTIONS: Mapping[str, Corruption] = MappingProxyType(
    {
        "darker": _gamma(1.6),
        "brighter": _gamma(0.6),
        "low contrast": _contrast(0.6),
        "high contrast": _contrast(1.5),
        "hard window": _window,
        "blur": _blur,
        "sharpened": _sharpen,
        "noise": _noise,
        "JPEG 20": _jpeg,
        "half the pixels": _shrink,
        "collimated": _borders,
        "turned": _turn,
        "closer": _zoom,
    }
)
"""Name to function; the same randomness gives the same film."""


def corrupt(image: UInt8, name: str, rng: np.random.Generator) -> UInt8:
    """Return a film after one corruption.

    Args:
        image: (height, width), at the network's input size, before it is smoothed.
        name: a key of `CORRUPTIONS`.
        rng: all randomness comes from here.

    Raises:
        KeyError: there is no such corruption.
    """
    return CORRUPTIONS[name](image, rng)


def stress(images: UInt8, *, seed: int = 0, first: int = 0) -> UInt8:
    """Return each film after one of the corruptions, in turn: a set as large as the first, and harder.

    Args:
        images: (N, height, width).
        seed: of the corruptions that draw.
        first: number of the first film, where these are a part of a larger set.
    """
    names = tuple(CORRUPTIONS)
    return np.stack(
        [
            corrupt(image, names[number % len(names)], np.random.default_rng((seed, number)))
            for number, image in enumerate(images, first)
        ]
    )
