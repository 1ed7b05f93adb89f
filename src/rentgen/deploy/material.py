"""What the checks send: drawn films in the clouds' shapes, and the smallest set that a network can be taught on."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from rentgen.images.phantom import Finding, draw

VERTEX_BYTES = 1_500_000
"""Of a request and of an answer at Vertex AI's shared endpoints."""
JSON = {"Content-Type": "application/json"}
PATIENT = "DOE_JANE_19700101"
"""Stands in the names of poisoned films and must stand nowhere else."""

RECIPE = """
[preprocessing]
height = 64
width = 64
[backbone]
name = "test_resnet"
precision = "f32"
[augment]
views = 0
[head]
epochs = 3
hidden = 16
"""
"""Seconds, not minutes; what comes of it is worth nothing."""


@cache
def film(seed: int = 0, side: int = 512) -> bytes:
    """Return a drawn film as an 8-bit PNG."""
    pixels = draw(Finding.NORMAL, np.random.default_rng(seed)).pixels
    grey = (pixels.astype(np.float64) / max(1, int(pixels.max())) * 255).astype(np.uint8)
    return _png(Image.fromarray(grey).resize((side, side)))


@cache
def large_film() -> bytes:
    """Return a noisy 16-bit film that fills a request of 1.5 MB as base64, all but."""
    rng = np.random.default_rng(5)
    pixels = np.asarray(Image.open(io.BytesIO(film(1))).resize((740, 740)), np.float64)
    noisy = np.clip(pixels * 250 + rng.normal(0, 900, pixels.shape), 0, 65535).astype(np.uint16)
    return _png(Image.fromarray(noisy))


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def instance(data: bytes, **more: Any) -> dict[str, Any]:  # noqa: ANN401
    """Return a film as an instance."""
    return {"content": base64.b64encode(data).decode(), "mimeType": "image/png"} | more


def body(instances: Sequence[object], **parameters: Any) -> bytes:  # noqa: ANN401
    """Return a request of Vertex AI's and Azure's form."""
    document: dict[str, Any] = {"instances": list(instances)}
    return json.dumps(document | ({"parameters": parameters} if parameters else {})).encode()


def large_body() -> bytes:
    """Return a request as near to 1.5 MB as whole films allow, and not above."""
    one = instance(large_film())
    small = instance(film(2, 128))
    instances = [one]
    while len(body([*instances, small])) <= VERTEX_BYTES:
        instances.append(small)
    return body(instances)


def write_films(folder: Path, films: int = 12, side: int = 192) -> None:
    """Write a folder of three class folders: soft random shades, a class brighter on one side; drawn in no time."""
    rng = np.random.default_rng(7)
    for number, label in enumerate(("LEFT", "NONE", "RIGHT")):
        (folder / label).mkdir(parents=True)
        slope = np.linspace(-40, 40, side) * (number - 1)
        for film_number in range(films):
            soft = Image.fromarray(rng.integers(60, 190, (9, 9), np.uint8)).resize(
                (side, side), Image.Resampling.BICUBIC
            )
            grey = np.asarray(soft, np.float64) + slope + rng.normal(0, 4, (side, side))
            (folder / label / f"{number}{film_number:03d}.png").write_bytes(
                _png(Image.fromarray(np.clip(grey, 0, 255).astype(np.uint8)))
            )


def write_poison(folder: Path) -> None:
    """Write a folder of class folders whose files are no films, under names that tell of a patient."""
    for label in ("NORMAL", "PNEUMONIA"):
        (folder / label).mkdir(parents=True)
        for number in range(3):
            (folder / label / f"{PATIENT}_{label}_{number}.png").write_bytes(b"not a film" * 50)
