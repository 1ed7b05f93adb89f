"""The page for everyone: axe-core finds no serious fault in either language, and nothing is too small to be touched."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browsing import Desk, chromium, desk
from made import page as letter
from made import png
from playwright.sync_api import Browser
from serving import Serving, serving

from rentgen.images.phantom import Finding, draw, to_dicom

FILMS = (
    (
        "chest.dcm",
        to_dicom(draw(Finding.CONSOLIDATION, np.random.default_rng(6), height=420, width=400), patient_id="M"),
    ),
    ("letter.png", png(letter())),
    ("broken.png", b"\x89PNG\r\n\x1a\n"),
)
RULES = ("wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice")


@pytest.fixture(scope="module")
def axe() -> str:
    """Return axe-core, or skip where it is not installed."""
    found = importlib.util.find_spec("axe_playwright_python")
    if found is None or found.origin is None:
        pytest.skip("axe-core is not installed (pip install axe-playwright-python)")
    return Path(found.origin).with_name("axe.min.js").read_text("utf-8")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    with serving(tmp_path_factory.mktemp("access")) as running:
        yield running


def faults(found: Desk, axe: str) -> list[tuple[str, str]]:
    """Return rule and place of what axe-core calls serious or critical."""
    found.settle()
    told: dict[str, Any] = found.page.evaluate(
        "async ([source, rules]) => { if (!window.axe) (0, eval)(source);"
        " return axe.run(document, { runOnly: { type: 'tag', values: rules } }); }",
        [axe, list(RULES)],
    )
    return [
        (fault["id"], node["html"][:120])
        for fault in told["violations"]
        if fault["impact"] in ("serious", "critical")
        for node in fault["nodes"]
    ]


@pytest.mark.parametrize(("width", "height"), [(1440, 900), (1024, 768), (810, 1080)])
@pytest.mark.parametrize("language", ["English", "Українська"])
def test_axe_finds_nothing_serious(
    language: str, width: int, height: int, axe: str, browser: Browser, served: Serving
) -> None:
    with desk(browser, served.url, viewport={"width": width, "height": height}) as found:
        found.expected = ("422",)
        page = found.page
        page.get_by_role("button", name=language).click()
        found.add(*FILMS)
        page.goto(f"{served.url}/#/")
        page.locator(".study").first.wait_for()
        assert faults(found, axe) == []
        for name, _ in FILMS[:2]:
            page.goto(f"{served.url}/#/")
            found.open(name)
            for summary in page.locator(".result summary").all():
                summary.click()
            assert faults(found, axe) == []
        for key in ("m", "?"):
            page.keyboard.press(key)
            page.locator("dialog[open] h3").first.wait_for()
            assert faults(found, axe) == []
            page.keyboard.press("Escape")
            page.locator("dialog").wait_for(state="detached")
        page.goto(f"{served.url}/#/research")
        page.locator(".bundle").wait_for()
        assert faults(found, axe) == []


def test_a_tablet_has_room_for_fingers(browser: Browser, served: Serving) -> None:
    with desk(browser, served.url, viewport={"width": 810, "height": 1080}, has_touch=True, is_mobile=True) as found:
        found.expected = ("422",)
        found.add(*FILMS)
        found.page.goto(f"{served.url}/#/")
        found.open("chest.dcm")
        small = found.page.evaluate(
            """() => [...document.querySelectorAll('button, a, select, summary, textarea, input')]
                .filter((one) => one.checkVisibility() && !one.matches('.skip'))
                .map((one) => [one.outerHTML.slice(0, 80), one.getBoundingClientRect()])
                .filter(([, box]) => box.height < 44 || box.width < 24).map(([text]) => text)"""
        )
        assert small == []
        wide = found.page.evaluate("document.documentElement.scrollWidth - innerWidth")
        assert wide <= 0


def test_two_fingers_zoom_and_move(browser: Browser, served: Serving) -> None:
    with desk(browser, served.url, viewport={"width": 810, "height": 1080}, has_touch=True) as found:
        found.expected = ("422",)
        found.add(*FILMS)
        found.page.goto(f"{served.url}/#/")
        found.open("chest.dcm")
        canvas = found.page.locator("canvas")
        before = float(canvas.get_attribute("data-scale") or 0)
        box = canvas.bounding_box()
        assert box is not None
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        touch = found.page.context.new_cdp_session(found.page)
        for kind, apart in (("touchStart", 50), ("touchMove", 80), ("touchMove", 120), ("touchEnd", 0)):
            points = [{"x": x + side * apart, "y": y, "id": side} for side in (-1, 1)] if apart else []
            touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
        found.settle()
        assert float(canvas.get_attribute("data-scale") or 0) == pytest.approx(before * 120 / 50, rel=0.05)
        assert float(canvas.get_attribute("data-x") or 0) == pytest.approx(200, abs=4)
