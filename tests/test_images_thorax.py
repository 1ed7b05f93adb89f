"""The thorax is found where it was drawn; hiding leaves no edge."""

from __future__ import annotations

import time

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageDraw
from scipy.spatial import ConvexHull

from rentgen.images.hide import blurred, frame, hide
from rentgen.images.phantom import Finding, draw
from rentgen.images.phantom_canvas import canvas_of
from rentgen.images.phantom_detector import collimated, project, projection
from rentgen.images.phantom_organs import lungs
from rentgen.images.phantom_patient import Anatomy, Pose
from rentgen.images.prepare import fit
from rentgen.images.thorax import find_thorax
from rentgen.records import Preprocessing, Radiograph, UInt8

Mask = npt.NDArray[np.bool_]
SIDE = 128


def drawn(seed: int, finding: Finding) -> tuple[UInt8, Mask]:
    """Return a film at the network's size and the convex hull of the lungs that were drawn on it."""
    film = draw(finding, np.random.default_rng(seed))
    patient, exposure, _ = np.random.default_rng(seed).integers(2**62, size=3).tolist()
    body, pose = (
        Anatomy.random(np.random.default_rng(patient)),
        Pose.random(np.random.default_rng(exposure), None, None),
    )
    canvas = canvas_of(body, pose)
    air = lungs(canvas, body, pose)
    # A quarter of the deepest air: what lies behind the diaphragm's dome nobody sees on a film.
    deep = (air > 0.25 * air.max()).astype(np.uint8) * 255
    seen = np.array(project(deep, projection(canvas, pose), pose, Image.Resampling.NEAREST)) > 0
    for edge in collimated(pose):
        seen[edge] = False
    small = np.asarray(Image.fromarray(seen.astype(np.uint8) * 255).resize((SIDE, SIDE))) > 127
    points = np.argwhere(small)[:, ::-1]
    outline = Image.new("1", (SIDE, SIDE))
    ImageDraw.Draw(outline).polygon([tuple(map(int, points[i])) for i in ConvexHull(points).vertices], fill=1)
    fitted = fit(Radiograph(film.pixels, "", "png", 16), Preprocessing(SIDE, SIDE)).pixels
    return fitted, np.asarray(outline)


def test_it_lies_where_it_was_drawn() -> None:
    shares, found = [], []
    for seed in range(40):
        film, truth = drawn(seed, tuple(Finding)[seed % 4])
        thorax = find_thorax(film)
        shares.append((thorax.mask & truth).sum() / (thorax.mask | truth).sum())
        found.append(thorax.found)
    assert np.mean(shares) > 0.8
    assert np.quantile(shares, 0.05) > 0.65
    assert np.mean(found) > 0.9


def test_it_follows_a_film_that_is_moved() -> None:
    film, _ = drawn(4, Finding.NORMAL)
    small = np.asarray(Image.fromarray(film).resize((96, 96)))
    canvas = np.zeros((SIDE, SIDE), np.uint8)
    canvas[16:112, 8:104] = small
    left = find_thorax(canvas).mask
    canvas = np.zeros((SIDE, SIDE), np.uint8)
    canvas[16:112, 24:120] = small
    right = find_thorax(canvas).mask
    columns = np.arange(SIDE)
    shift = (right.sum(axis=0) @ columns) / right.sum() - (left.sum(axis=0) @ columns) / left.sum()
    assert shift == pytest.approx(16, abs=4)


@pytest.mark.parametrize("shape", [(224, 224), (96, 160), (17, 300)])
@pytest.mark.parametrize("level", [0, 120, 255])
def test_nothing_is_found_in_nothing_and_the_usual_place_is_given(shape: tuple[int, int], level: int) -> None:
    thorax = find_thorax(np.full(shape, level, np.uint8))
    assert not thorax.found
    assert thorax.mask.shape == shape
    assert 0.3 < thorax.mask.mean() < 0.7


def test_a_disc_and_noise_are_no_thorax() -> None:
    rows, columns = np.mgrid[:224, :224]
    disc = (rows - 112) ** 2 + (columns - 112) ** 2 < 70**2
    noise = np.random.default_rng(0).integers(0, 256, (224, 224))
    for picture in (np.where(disc, 200, 20), noise):
        assert not find_thorax(picture.astype(np.uint8)).found


def test_the_mask_is_one_piece_without_holes() -> None:
    mask = find_thorax(drawn(2, Finding.NORMAL)[0]).mask
    for line in (*mask, *mask.T):
        assert np.abs(np.diff(line.astype(int))).sum() <= 2


def test_a_film_takes_hundredths_of_a_second() -> None:
    film, _ = drawn(1, Finding.NORMAL)
    find_thorax(film)
    start = time.perf_counter()
    for _ in range(5):
        find_thorax(film)
    assert (time.perf_counter() - start) / 5 < 0.25


def test_what_is_hidden_is_gone_and_the_rest_is_as_it_was() -> None:
    film, _ = drawn(0, Finding.NORMAL)
    mask = find_thorax(film).mask
    other = film.copy()
    other[mask] = 255 - other[mask]
    assert (hide(film, mask) == hide(other, mask)).all()
    far = blurred(mask.astype(np.float32), SIDE / 50) < 1e-4
    assert far.any()
    assert np.abs(hide(film, mask)[far].astype(int) - film[far]).max() <= 1


def test_the_edge_of_a_hidden_part_does_not_show() -> None:
    rows, columns = np.mgrid[:SIDE, :SIDE]
    film = (60 + 0.5 * rows + 0.3 * columns).astype(np.uint8)
    mask = (rows - 64) ** 2 + (columns - 64) ** 2 < 30**2
    hidden = hide(film, mask).astype(int)
    assert max(np.abs(np.diff(hidden, axis=axis)).max() for axis in (0, 1)) <= 6


def test_a_film_hidden_whole_keeps_its_mean_only() -> None:
    film, _ = drawn(0, Finding.NORMAL)
    hidden = hide(film, np.ones(film.shape, np.bool_))
    assert np.abs(hidden.astype(float) - film.mean()).max() <= 1
    assert (hide(film, np.zeros(film.shape, np.bool_)) == film).all()


def test_the_frame_is_the_outer_part() -> None:
    mask = frame((50, 100), 0.1)
    assert not mask[5:45, 10:90].any()
    assert mask.sum() == 50 * 100 - 40 * 80


def test_blurring_keeps_the_sum_of_a_constant() -> None:
    assert blurred(np.full((20, 30), 7, np.float32), 4.0) == pytest.approx(np.full((20, 30), 7))
