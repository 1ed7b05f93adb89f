"""Films to ask a service about, and what every test of its answers does."""

from __future__ import annotations

import hashlib
import io
from typing import Any

import httpx
import numpy as np
from PIL import Image

from rentgen.images.phantom import Finding, draw, to_dicom, to_png
from rentgen.service.problems import MEDIA_TYPE

PHANTOMS = [
    to_png(draw(list(Finding)[seed % 4], np.random.default_rng(seed)), bits=16 if seed % 2 else 8) for seed in range(6)
]
CHEST = to_dicom(draw(Finding.EFFUSION, np.random.default_rng(2)), patient_id="MADE-0002")


def problem(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """Return the problem document that an answer is."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == MEDIA_TYPE
    document: dict[str, Any] = answer.json()
    assert (document["status"], document["code"]) == (status, code)
    return document


def add(client: httpx.Client, data: bytes, name: str = "film.png") -> dict[str, Any]:
    """Return the study that a film makes."""
    answer = client.post("/v1/studies", files={"films": (name, data)})
    assert answer.status_code in (200, 201), answer.text
    study: dict[str, Any] = answer.json()["studies"][0]
    return study


def film_of(client: httpx.Client, data: bytes) -> dict[str, Any]:
    """Return a film as it was added; its study may have others."""
    study = add(client, data)
    wanted = hashlib.sha256(data).hexdigest()
    (image_id,) = {each["image_id"] for each in study["predictions"] if each["content_hash"] == wanted}
    return next(image for image in study["images"] if image["id"] == image_id)


def picture(answer: httpx.Response) -> np.ndarray[Any, Any]:
    """Return the pixels of a PNG that came."""
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/png")
    return np.asarray(Image.open(io.BytesIO(answer.content)))
