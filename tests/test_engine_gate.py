from __future__ import annotations

import pathlib
import re
from concurrent.futures import ThreadPoolExecutor

import data_store
import made
import numpy as np
import pydicom
import pytest
import sklearn
from conftest import Trained
from hypothesis import given, settings
from hypothesis import strategies as st
from made import png
from PIL import Image, ImageDraw

from rentgen.engine.gate import (
    MIN_SIDE,
    check_distance,
    check_film,
    check_radiograph,
    check_scope,
    contrast,
    levels,
    smoothness,
)
from rentgen.engine.predictor import Predictor
from rentgen.images.corrupt import CORRUPTIONS, corrupt
from rentgen.images.phantom import Finding, draw
from rentgen.images.prepare import fit, to_uint8
from rentgen.images.read import read
from rentgen.records import Domain, Pixels, Preprocessing, Radiograph, ResizeMode, Scope, Status, UInt8

PYDICOM = pathlib.Path(pydicom.__file__).parent / "data/test_files"
STORE = pathlib.Path(data_store.__file__).parent / "data"


def drawing() -> UInt8:
    """Return a schoolbook house in two colours."""
    image = Image.new("L", (300, 240), 255)
    pen = ImageDraw.Draw(image)
    pen.rectangle((60, 110, 240, 220), fill=0)
    pen.polygon([(40, 110), (150, 30), (260, 110)], fill=0)
    pen.rectangle((130, 150, 170, 220), fill=255)
    return np.asarray(image, np.uint8)


def form() -> UInt8:
    """Return empty boxes on grained paper."""
    image = Image.new("L", (850, 1100), 244)
    pen = ImageDraw.Draw(image)
    for y in range(60, 1000, 120):
        pen.rectangle((60, y, 790, y + 100), outline=0, width=3)
    noise = np.random.default_rng(0).normal(0, 4, (1100, 850))
    return np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8)


def gradient() -> UInt8:
    return np.tile(np.linspace(0, 255, 240), (300, 1)).astype(np.uint8)


def phantom(seed: int, finding: Finding = Finding.NORMAL) -> Radiograph:
    pixels = draw(finding, np.random.default_rng([seed, list(Finding).index(finding)])).pixels
    return Radiograph(pixels, "", "png", 16)


def check(pixels: Pixels, preprocessing: Preprocessing | None = None) -> tuple[str, ...]:
    """Return what the gate says of pixels, prepared."""
    return check_radiograph(fit(Radiograph(pixels, "", "png", 8), preprocessing or Preprocessing()).pixels)


NOT_FILMS = {
    "black": (np.zeros((300, 240), np.uint8), "one shade of grey"),
    "white": (np.full((300, 240), 255, np.uint8), "one shade of grey"),
    "grey": (np.full((300, 240), 90, np.uint8), "one shade of grey"),
    "noise": (np.random.default_rng(0).integers(0, 256, (300, 240), np.uint8), "noise"),
    "drawing": (drawing(), "drawing"),
    "form": (form(), "a few shades"),
    "paper": (np.pad(phantom(0).pixels // 257, 400, constant_values=250).astype(np.uint8), "paper"),
    "page": (made.page(), "photograph or text"),
    "section": (made.section(), "CT, MR or ultrasound"),
    "fan": (made.fan(), "CT, MR or ultrasound"),
    "leaves": (made.leaves(), "photograph or text"),
    "gradient": (gradient(), "like a gradient"),
}


# Images that are not films


@pytest.mark.parametrize("name", NOT_FILMS)
def test_what_is_no_film_is_flagged_and_keeps_its_scores(name: str, trained: Trained) -> None:
    prediction = Predictor(trained.training.bundle).predict(png(NOT_FILMS[name][0]), maps=True)
    assert prediction.status is Status.OUT_OF_SCOPE
    assert "not a radiograph" in prediction.reasons[0]
    assert prediction.label in trained.training.bundle.card.classes
    assert sum(prediction.probabilities.values()) == pytest.approx(1)
    assert prediction.activation_maps is not None


@pytest.mark.parametrize("resize", ResizeMode)
@pytest.mark.parametrize("size", [64, 96, 224, 384])
@pytest.mark.parametrize("name", NOT_FILMS)
def test_what_is_no_film_is_none_at_any_size(name: str, size: int, resize: ResizeMode) -> None:
    reasons = check(NOT_FILMS[name][0], Preprocessing(size, size, resize=resize))
    assert len(reasons) == 1
    assert reasons[0].startswith("not a radiograph: ")


@pytest.mark.parametrize("name", NOT_FILMS)
def test_the_reason_says_what_it_looks_like(name: str) -> None:
    pixels, words = NOT_FILMS[name]
    assert words in check(pixels)[0]


@pytest.mark.parametrize(
    "path",
    [
        PYDICOM / "693_J2KI.dcm",
        STORE / "693_UNCI.dcm",
        STORE / "JPGLosslessP14SV1_1s_1f_8b.dcm",
        STORE / "explicit_VR-UN.dcm",
        STORE / "MR-SIEMENS-DICOM-WithOverlays.dcm",
    ],
    ids=lambda path: path.stem,
)
def test_sections_and_ultrasound_of_other_scanners(path: pathlib.Path) -> None:
    film = read(path)
    assert film.modality in ("CT", "MR", "US")
    reasons = check(film.pixels)
    assert len(reasons) == 1
    assert "not a radiograph" in reasons[0]


@pytest.mark.parametrize("size", [64, 96, 224, 384])
def test_a_drawing_stays_one_at_every_size(size: int) -> None:
    """Resizing softens the edges of two colours into all of them."""
    pixels = fit(Radiograph(drawing(), "", "png", 8), Preprocessing(size, size)).pixels
    assert len(np.unique(pixels)) > 100
    assert "drawing" in check_radiograph(pixels)[0]


@given(
    st.integers(16, 80),
    st.integers(16, 80),
    st.integers(0, 255),
    st.integers(0, 255),
    st.integers(0, 2**32 - 1),
)
@settings(max_examples=60, deadline=None)
def test_any_image_is_judged_and_left_as_it_is(height: int, width: int, low: int, high: int, seed: int) -> None:
    low, high = min(low, high), max(low, high)
    image = np.random.default_rng(seed).integers(low, high + 1, (height, width), np.uint8)
    image[: height // 3] = 0
    before = image.copy()
    reasons = check_radiograph(image)
    np.testing.assert_array_equal(image, before)
    assert len(reasons) <= 1
    assert reasons == check_radiograph(image)


# Films


@pytest.mark.parametrize("finding", Finding)
def test_films_pass(finding: Finding) -> None:
    def reasons(seed: int) -> list[str]:
        film = phantom(seed, finding)
        return [
            reason
            for resize in ResizeMode
            for size in (96, 224)
            for crop in (False, True)
            for reason in (
                *check_film(film),
                *check_radiograph(fit(film, Preprocessing(size, size, resize=resize, crop_borders=crop)).pixels),
            )
        ]

    with ThreadPoolExecutor(2) as pool:
        assert [reason for found in pool.map(reasons, range(20)) for reason in found] == []


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_films_of_a_worse_day_pass(name: str) -> None:
    rng = np.random.default_rng(0)
    for seed in range(4):
        assert check_radiograph(corrupt(fit(phantom(seed), Preprocessing()).pixels, name, rng)) == ()


@pytest.mark.parametrize("name", ["RG1_UNCR", "RG1_J2KI"])
def test_a_public_chest_film_passes(name: str) -> None:
    film = read(STORE / f"{name}.dcm")
    for resize in ResizeMode:
        assert check(film.pixels, Preprocessing(resize=resize)) == ()
    assert check_film(film) == ()


@pytest.mark.parametrize("bars", [(60, 0), (0, 60), (60, 60)])
def test_a_collimated_film_passes(bars: tuple[int, int]) -> None:
    """Black on all sides of a rectangle is a collimator, not a section."""
    image = fit(phantom(0), Preprocessing()).pixels.copy()
    image[image < 20] = 20
    assert check_radiograph(np.pad(image, [(bars[0],) * 2, (bars[1],) * 2])) == ()


def test_a_limb_that_leaves_the_film_is_no_section() -> None:
    section = made.section()
    assert "CT, MR" in check(section)[0]
    limb = section.copy()
    # The lower half is stretched to the lower side.
    limb[128:] = section[127]
    assert check(limb) == ()


# Quality


@pytest.mark.parametrize("resize", ResizeMode)
def test_an_inverted_film_is_known(resize: ResizeMode) -> None:
    for seed in range(10):
        pixels = to_uint8(phantom(seed).pixels)
        assert check(pixels, Preprocessing(resize=resize)) == ()
        assert check(255 - pixels, Preprocessing(resize=resize)) == (
            "the image looks inverted: its sides are brighter than its middle; air must be dark",
        )


def test_a_film_burnt_to_black_and_white_is_known() -> None:
    film = phantom(0)
    low, high = np.quantile(film.pixels, [0.39, 0.61])
    (reason,) = check(np.clip((film.pixels - low) / (high - low) * 255, 0, 255).astype(np.uint8))
    assert re.fullmatch(r"image quality: [67]\d% of the image is pure black or white", reason)


def test_a_film_without_contrast_in_the_middle_is_known() -> None:
    image = fit(phantom(0), Preprocessing()).pixels.astype(np.float64)
    y, x = np.mgrid[0:224, 0:224]
    weight = np.clip((np.maximum(abs(x - 111.5), abs(y - 111.5)) - 60) / 30, 0, 1)
    grain = np.random.default_rng(0).normal(0, 2.5, image.shape)
    image = np.clip(image * weight + 150 * (1 - weight) + grain, 0, 255).astype(np.uint8)
    assert check_radiograph(image) == ("image quality: nearly no contrast in the middle of the image",)


def test_a_tiny_film_is_known() -> None:
    for shape, tiny in ((MIN_SIDE, 200), False), ((MIN_SIDE - 1, 200), True), ((200, 40), True):
        reasons = check_film(Radiograph(np.zeros(shape, np.uint8), "", "png", 8))
        assert bool(reasons) is tiny
        if tiny:
            assert reasons == (
                f"image quality: the image is tiny ({shape[0]} rows x {shape[1]} columns; at least 64 each)",
            )


# Colour


@pytest.mark.parametrize("name", ["china", "flower"])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
def test_a_photograph_in_colour_is_known(name: str, kind: str) -> None:
    with Image.open(pathlib.Path(sklearn.__file__).parent / f"datasets/images/{name}.jpg") as image:
        film = read(made.encoded(image, kind))
        grey = read(made.encoded(image.convert("L").convert("RGB"), kind))
    assert "in colour" in film.notes
    assert check_film(film) == ("not a radiograph: the image is in colour",)
    assert "colour turned grey" in grey.notes
    assert check_film(grey) == ()


def test_a_toned_or_marked_film_is_not_in_colour() -> None:
    grey = to_uint8(phantom(0).pixels)
    toned = np.stack([grey * 0.7, grey * 0.8, grey * 0.6 + 0.4 * 255], -1).astype(np.uint8)
    marked = np.stack([grey] * 3, -1)
    marked[20 : 20 + len(grey) // 8, 20 : 20 + grey.shape[1] // 8] = (255, 0, 0)
    for pixels in (toned, marked):
        for data in (made.png(pixels), made.jpeg(pixels)):
            assert check_film(read(data)) == ()


# Scope

CHEST = Scope(("CR", "DX"), ("CHEST", "THORAX"), ("PA", "AP"), min_age_years=1, max_age_years=18)


def header(**values: str | float | None) -> Radiograph:
    return Radiograph(np.zeros((80, 80), np.uint8), "", "dicom", 8, **values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"modality": "CR", "body_part_examined": "CHEST", "view_position": "PA", "patient_age_years": 5.0},
        {"modality": " dx", "body_part_examined": "Thorax ", "view_position": "ap"},
        {"modality": "", "body_part_examined": " ", "view_position": ""},
        {"patient_age_years": 1.0},
        {"patient_age_years": 18.0},
    ],
)
def test_what_is_meant_or_not_said_is_in_scope(values: dict[str, str | float]) -> None:
    assert check_scope(header(**values), CHEST) == ()


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"modality": "CT"}, "modality CT, meant for CR, DX"),
        ({"body_part_examined": "HAND"}, "body part HAND, meant for CHEST, THORAX"),
        ({"body_part_examined": "lower_leg"}, "body part LOWER LEG, meant for CHEST, THORAX"),
        ({"view_position": "LL"}, "view LL, meant for PA, AP"),
        ({"view_position": "Іван"}, "view that is not a code, meant for PA, AP"),
        ({"patient_age_years": 18.01}, "the patient is older than 18 years"),
        ({"patient_age_years": 71.4}, "the patient is older than 18 years"),
        ({"patient_age_years": 0.5}, "the patient is younger than 1 years"),
    ],
)
def test_what_the_header_rules_out(values: dict[str, str | float], reason: str) -> None:
    assert check_scope(header(**values), CHEST) == (f"outside the intended use: {reason}",)


def test_a_scope_that_does_not_limit() -> None:
    film = header(modality="CT", body_part_examined="HEAD", view_position="LL", patient_age_years=90.0)
    assert check_scope(film, None) == check_scope(film, Scope()) == ()
    assert len(check_scope(film, CHEST)) == 4
    assert check_scope(film, Scope(max_age_years=0.5)) == (
        "outside the intended use: the patient is older than 0.5 years",
    )


@given(st.floats(0, 125))
def test_no_reason_tells_the_age(age: float) -> None:
    allowed = {
        (),
        ("outside the intended use: the patient is younger than 1 years",),
        ("outside the intended use: the patient is older than 18 years",),
    }
    assert check_scope(header(patient_age_years=age), CHEST) in allowed


# Distance


def test_distance() -> None:
    domain = Domain(threshold=30.5, kept=0.99, n=100)
    assert check_distance(30.5, domain) == check_distance(None, domain) == check_distance(41.2, None) == ()
    assert check_distance(41.2, domain) == ("unlike the films that taught the model (distance 41.2, at most 30.5)",)
    assert "distance nan" in check_distance(float("nan"), domain)[0]


# Measures


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
