from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from conftest import Trained
from made import png
from PIL import Image, ImageDraw

from rentgen.engine.gate import check_radiograph, contrast, levels, smoothness
from rentgen.engine.predictor import Predictor
from rentgen.images.phantom import Finding, draw
from rentgen.images.prepare import prepare
from rentgen.records import Preprocessing, Radiograph, ResizeMode, Status, UInt8


def drawing() -> UInt8:
    """Return a schoolbook house in two colours."""
    image = Image.new("L", (300, 240), 255)
    pen = ImageDraw.Draw(image)
    pen.rectangle((60, 110, 240, 220), fill=0)
    pen.polygon([(40, 110), (150, 30), (260, 110)], fill=0)
    pen.rectangle((130, 150, 170, 220), fill=255)
    return np.asarray(image, np.uint8)


NOT_FILMS = {
    "black": np.zeros((300, 240), np.uint8),
    "white": np.full((300, 240), 255, np.uint8),
    "grey": np.full((300, 240), 90, np.uint8),
    "noise": np.random.default_rng(0).integers(0, 256, (300, 240), np.uint8),
    "drawing": drawing(),
}
WORDS = {"black": "one shade", "white": "one shade", "grey": "one shade", "noise": "noise", "drawing": "drawing"}


@pytest.mark.parametrize("name", NOT_FILMS)
def test_what_is_no_film_is_flagged_and_keeps_its_scores(name: str, trained: Trained) -> None:
    prediction = Predictor(trained.training.bundle).predict(png(NOT_FILMS[name]), maps=True)
    assert prediction.status is Status.OUT_OF_SCOPE
    assert len(prediction.reasons) == 1
    assert "not a radiograph" in prediction.reasons[0]
    assert WORDS[name] in prediction.reasons[0]
    assert prediction.label in trained.training.bundle.card.classes
    assert sum(prediction.probabilities.values()) == pytest.approx(1)
    assert prediction.activation_maps is not None


@pytest.mark.parametrize("finding", Finding)
def test_films_pass(finding: Finding) -> None:
    def reasons(seed: int) -> list[str]:
        pixels = draw(finding, np.random.default_rng([seed, list(Finding).index(finding)])).pixels
        film = Radiograph(pixels, "", "png", 16)
        return [
            reason
            for resize in ResizeMode
            for reason in check_radiograph(prepare(film, Preprocessing(224, 224, resize=resize)).pixels)
        ]

    with ThreadPoolExecutor(2) as pool:
        assert [reason for found in pool.map(reasons, range(20)) for reason in found] == []


def test_contrast_and_smoothness_are_those_of_numpy() -> None:
    image = np.random.default_rng(0).integers(0, 256, (40, 30), np.uint8)
    image[:, 10:] //= 4
    assert contrast(image) == pytest.approx(float(np.std(image.astype(float))))
    values = image.astype(float)
    across = np.corrcoef(values[:, 1:].ravel(), values[:, :-1].ravel())[0, 1]
    down = np.corrcoef(values[1:].ravel(), values[:-1].ravel())[0, 1]
    assert smoothness(image) == pytest.approx((across + down) / 2, abs=0.02)
    assert smoothness(np.full((8, 8), 7, np.uint8)) == 1


def test_levels_count_what_most_pixels_are() -> None:
    image = np.repeat(np.arange(100, dtype=np.uint8), 10).reshape(10, 100)
    assert levels(image) == 90
    image[:9] = 7
    assert levels(image) == 1


@pytest.mark.parametrize("size", [64, 96, 224, 384])
def test_a_drawing_stays_one_at_every_size(size: int) -> None:
    """Resizing softens the edges of two colours into all of them."""
    pixels = prepare(Radiograph(drawing(), "", "png", 8), Preprocessing(size, size)).pixels
    assert len(np.unique(pixels)) > 100
    assert "drawing" in check_radiograph(pixels)[0]
