"""The viewer, painted by a browser without a graphics card: grey values, the overlay's place, gestures and keys."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from browsing import Desk, chromium, desk
from linear import GRID, SIDE, predictor_of, weighing_model
from made import dicom, png
from playwright.sync_api import Browser
from serving import Serving, serving

from rentgen import bundle as bundles
from rentgen.images import overlay
from rentgen.images.phantom import Finding, draw, to_dicom, to_png
from rentgen.images.prepare import fit
from rentgen.records import Geometry, Preprocessing, Radiograph, ResizeMode, UInt8

CELL = SIDE // GRID
LEVEL, BRIGHT = 40, 250
Image = npt.NDArray[np.uint8]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


def fed(resize: ResizeMode) -> Preprocessing:
    return Preprocessing(SIDE, SIDE, resize=resize, crop_borders=True)


def brightness_bundle(path: Path, resize: ResizeMode) -> str:
    """Write a bundle whose map of the class `bright` is the brightness of each cell, and nothing else."""
    everywhere = np.ones((GRID, GRID))
    model = weighing_model(np.stack([-everywhere, everywhere]), np.zeros((GRID, GRID)))
    bundles.write(path, predictor_of(model, ("dark", "bright"), fed(resize)).bundle)
    return str(path)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    folder = tmp_path_factory.mktemp("viewer")
    with serving(folder) as running:
        yield running


@pytest.fixture
def opened(browser: Browser, served: Serving) -> Iterator[Desk]:
    with desk(browser, served.url) as found:
        yield found


def film_with_a_square(height: int, width: int, at: tuple[float, float]) -> tuple[UInt8, tuple[float, float]]:
    """Return a dull film with one bright square inside uneven black borders, and the square's middle."""
    pixels = np.full((height, width), LEVEL, np.uint8)
    # A little unrest, so that the film is not one shade; it is far from bright.
    pixels += np.random.default_rng(0).integers(0, 6, pixels.shape, np.uint8)
    half = min(height, width) // 16
    row, column = int(at[0] * height), int(at[1] * width)
    pixels[row - half : row + half, column - half : column + half] = BRIGHT
    return np.pad(pixels, ((60, 30), (120, 60))), (row + 60, column + 120)


def placed(canvas: Image, rows: int, columns: int) -> tuple[float, float, float]:
    """Return scale, top and left of a film that is fitted into the canvas: worked out here, not asked of the page."""
    height, width = canvas.shape[:2]
    scale = min(width / columns, height / rows)
    return scale, (height - rows * scale) / 2, (width - columns * scale) / 2


def heat_of(canvas: Image) -> npt.NDArray[np.float64]:
    """Return the activation behind each colour, 0 to 255; 0 where the canvas is grey."""
    colours = overlay._LUT
    coloured = np.ptp(canvas.astype(int), axis=2) > 40
    shades, which = np.unique(canvas[coloured], axis=0, return_inverse=True)
    nearest = np.abs(shades[:, None].astype(float) - colours[None]).sum(axis=2).argmin(axis=1)
    heat = np.zeros(canvas.shape[:2])
    heat[coloured] = nearest[which.ravel()]
    return heat


def middle(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """Return the middle of what is true, in continuous canvas coordinates: row, column."""
    found: npt.NDArray[np.float64] = np.argwhere(mask).mean(axis=0) + 0.5
    return found


@pytest.mark.parametrize("resize", list(ResizeMode))
def test_the_overlay_lies_where_the_evidence_is(resize: ResizeMode, browser: Browser, tmp_path: Path) -> None:
    """The painted peak returns to the bright square's native pixel within one cell: through the whole chain."""
    bundle = brightness_bundle(tmp_path / "brightness.rentgen", resize)
    with serving(tmp_path, models=(bundle,)) as running, desk(browser, running.url) as found:
        for name, height, width, at in (("wide", 300, 900, (0.3, 0.8)), ("tall", 900, 300, (0.85, 0.2))):
            pixels, square = film_with_a_square(height, width, at)
            found.add((f"{name}.png", png(pixels)))
            found.page.goto(f"{running.url}/#/")
            found.open(f"{name}.png")
            # The square itself, as the film shows it.
            hide_heat(found)
            found.page.locator("[data-preset=full]").click()
            plain = found.painted()
            scale, top, left = placed(plain, *pixels.shape)
            seen = (middle(plain[..., 0] > 200) - (top, left)) / scale
            assert seen == pytest.approx(square, abs=1.5 / scale)
            show_heat(found, "bright")
            heat = heat_of(found.painted())
            peak = (middle(heat >= heat.max() - 4) - (top, left)) / scale
            geometry = fit(Radiograph(pixels, "", "png", 8), fed(resize)).geometry
            cell = cell_of(geometry)
            assert (np.abs(peak - square) <= cell).all(), (name, peak, square, cell)
            # Zoomed about a spot, film and map move as one.
            box = found.page.locator("canvas").bounding_box()
            assert box is not None
            found.page.mouse.move(box["x"] + left + square[1] * scale, box["y"] + top + square[0] * scale)
            found.page.mouse.wheel(0, -400)
            zoomed = found.painted()
            heat = heat_of(zoomed)
            peak = middle(heat >= heat.max() - 4)
            found.page.keyboard.press("h")
            seen = middle(found.painted()[..., 0] > 200)
            larger = float(found.page.locator("canvas").get_attribute("data-scale") or 0)
            assert larger > 1.5 * scale
            assert (np.abs(peak - seen) <= cell * larger).all()


def hide_heat(found: Desk) -> None:
    """Switch the map off, where it is on; a film in doubt opens without."""
    button = found.page.get_by_role("button", name="Heat map")
    if button.get_attribute("aria-pressed") == "true":
        found.page.keyboard.press("h")
    found.page.locator("canvas[data-heat='0']").wait_for()


def show_heat(found: Desk, label: str) -> None:
    """Switch a class's map on, at full opacity: then a colour stands for one activation."""
    button = found.page.get_by_role("button", name="Heat map")
    if button.get_attribute("aria-pressed") != "true":
        found.page.keyboard.press("h")
    found.page.locator(".heat-bar select").select_option(label)
    found.page.locator(".heat-bar input[type=range]").fill("1")
    found.page.locator("canvas[data-heat='1']").wait_for()


def cell_of(geometry: Geometry) -> npt.NDArray[np.float64]:
    """Return height and width of one cell of the grid, native pixels."""
    return np.array([CELL / geometry.scale_y, CELL / geometry.scale_x])


def test_window_level_and_inversion_change_the_grey_values(opened: Desk) -> None:
    phantom = draw(Finding.NORMAL, np.random.default_rng(4), height=800, width=700)
    opened.add(("sixteen.dcm", to_dicom(phantom, patient_id="MADE-0009")))
    opened.wait_for_film()
    page = opened.page
    hide_heat(opened)
    page.locator("[data-preset=full]").click()
    full = opened.painted()
    scale, top, left = placed(full, 800, 700)
    inside = (
        slice(round(top) + 2, round(top + 800 * scale) - 2),
        slice(round(left) + 2, round(left + 700 * scale) - 2),
    )
    # Somebody else's answer: the film's own values, shrunk by averaging, as a screen shows them.
    expected = phantom.pixels.astype(float).mean() / 257
    assert full[inside].mean() == pytest.approx(expected, abs=1.5)
    page.keyboard.press("i")
    inverted = opened.painted()
    assert np.abs(inverted[inside].astype(int) + full[inside] - 255).max() <= 1
    assert (inverted[:, 0] == full[:, 0]).all()  # what is no film stays black
    page.keyboard.press("i")
    page.locator("[data-preset=lungs]").click()
    lungs = opened.painted()
    assert lungs[inside].mean() > full[inside].mean() + 5
    # 16 bits are really there: a narrow window shows more shades than eight bits have in it.
    page.locator("[data-preset=full]").click()
    drag(opened, -700, 0)
    narrow = opened.painted()
    window = float(page.get_by_label("Width", exact=True).input_value())
    assert window < 65536 / 4
    assert len(np.unique(narrow)) > 1.5 * window / 257
    before = narrow[inside].mean()
    drag(opened, 0, 60)
    assert opened.painted()[inside].mean() > before
    page.keyboard.press("r")
    assert page.locator("[data-preset=auto]").get_attribute("aria-pressed") == "true"


def drag(found: Desk, right: int, down: int, button: str = "left") -> None:
    box = found.page.locator("canvas").bounding_box()
    assert box is not None
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    found.page.mouse.move(x, y)
    found.page.mouse.down(button=button)  # type: ignore[arg-type]
    found.page.mouse.move(x + right / 2, y + down / 2, steps=4)
    found.page.mouse.move(x + right, y + down, steps=4)
    found.page.mouse.up(button=button)  # type: ignore[arg-type]
    found.settle()


def test_zoom_and_pan_by_mouse_and_keys(opened: Desk) -> None:
    opened.add(("one.png", to_png(draw(Finding.NODULE, np.random.default_rng(1), height=600, width=700))))
    opened.wait_for_film()
    canvas = opened.page.locator("canvas")

    def view() -> list[float]:
        opened.settle()
        return [float(canvas.get_attribute(f"data-{name}") or "nan") for name in ("scale", "x", "y")]

    fitted = view()
    assert fitted[1:] == [350, 300]
    drag(opened, 100, 40, "right")
    moved = view()
    assert moved[1] == pytest.approx(350 - 100 / fitted[0])
    assert moved[2] == pytest.approx(300 - 40 / fitted[0])
    opened.page.keyboard.press("0")
    assert view()[0] == pytest.approx(1)
    canvas.focus()
    opened.page.keyboard.press("+")
    assert view()[0] == pytest.approx(1.25)
    x = view()[1]
    opened.page.keyboard.press("ArrowRight")
    assert view()[1] > x
    opened.page.keyboard.press("f")
    assert view() == pytest.approx(fitted)


def test_a_film_with_pixels_that_are_not_square_keeps_its_shape(opened: Desk) -> None:
    tall = dicom(
        draw(Finding.NORMAL, np.random.default_rng(8), height=200, width=400).pixels >> 4, PixelSpacing=[0.4, 0.1]
    )
    opened.add(("oblong.dcm", tall))
    opened.wait_for_film()
    lit = np.argwhere(opened.painted().max(axis=2) > 0)
    height, width = np.ptp(lit, axis=0)
    assert height / width == pytest.approx(200 * 0.4 / (400 * 0.1), rel=0.03)


def test_a_film_that_is_gone_is_told_and_its_result_stays(opened: Desk, served: Serving) -> None:
    opened.add(("gone.png", to_png(draw(Finding.EFFUSION, np.random.default_rng(12), height=300, width=320))))
    opened.wait_for_film()
    with served.client() as client:
        studies = client.get("/v1/studies", params={"state": "all"}).json()["studies"]
    image = next(one["images"][0]["id"] for one in studies if one["images"][0]["name"] == "gone.png")
    served.desk.films.forget(image)
    opened.expected = ("410",)
    opened.page.reload()
    opened.page.get_by_text("no longer on the server").wait_for()
    assert opened.page.locator(".answer").is_visible()


def test_a_bundle_with_weak_heat_maps_says_so(browser: Browser, tmp_path: Path) -> None:
    path = Path(brightness_bundle(tmp_path / "weak.rentgen", ResizeMode.SQUASH))
    made = bundles.read(path)
    bundles.write(path, replace(made, card=replace(made.card, heat_maps={"grade": "weak", "reasons": []})))
    with serving(tmp_path, models=(str(path),)) as running, desk(browser, running.url) as found:
        found.add(("film.png", to_png(draw(Finding.NORMAL, np.random.default_rng(3), height=400, width=400))))
        found.page.get_by_text("graded weak").wait_for()
