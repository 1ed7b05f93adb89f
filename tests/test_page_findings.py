"""The page for several findings: each is said to be present, absent or not to be told, by hand and by key."""

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
from playwright.sync_api import Browser, Locator, expect
from serving import Serving, serving, several_bundle

from rentgen.images.phantom import Finding, draw, to_png

CHEST = to_png(draw(Finding.CONSOLIDATION, np.random.default_rng(6), height=420, width=400))
RULES = ("wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Serving]:
    with serving(tmp_path, models=(str(several_bundle(tmp_path / "several.rentgen")),)) as running:
        yield running


@pytest.fixture
def opened(browser: Browser, served: Serving) -> Iterator[Desk]:
    with desk(browser, served.url) as found:
        yield found


def feedback(served: Serving) -> list[dict[str, Any]]:
    with served.client() as client:
        (study,) = client.get("/v1/studies", params={"state": "all"}).json()["studies"]
        said: list[dict[str, Any]] = study["feedback"]
        return said


def control(opened: Desk, finding: str, state: str) -> Locator:
    return opened.page.get_by_role("radiogroup", name=finding).get_by_role("radio", name=state, exact=True)


def test_agree_with_all_and_correct_each(opened: Desk, served: Serving) -> None:
    page = opened.page
    opened.add(("chest.png", CHEST))
    opened.wait_for_film()
    # The form begins with what the model says; the finding without an operating point is open.
    for finding, state in (("Consolidation", "present"), ("Nodule", "absent"), ("Effusion", "cannot tell")):
        expect(control(opened, finding, state)).to_be_checked()
    page.keyboard.press("a")
    expect(page.locator(".notice")).to_contain_text("you agree with the model")
    assert feedback(served)[0]["findings"] == {"Consolidation": True, "Nodule": False, "No Finding": False}
    control(opened, "Nodule", "present").check(force=True)
    control(opened, "Consolidation", "cannot tell").check(force=True)
    expect(page.locator(".finding[data-differs=true]")).to_have_count(2)
    page.locator("#comment").fill("both lungs")
    page.get_by_role("button", name="Keep this reading").click()
    expect(page.locator(".given li")).to_have_count(2)
    newest = feedback(served)[0]
    assert (newest["agree"], newest["label"], newest["comment"]) == (False, None, "both lungs")
    assert newest["findings"] == {"Nodule": True, "No Finding": False}
    expect(page.locator(".given li").first).to_contain_text("Cannot tell: Consolidation, Effusion.")
    # What was said stands in the form when the study is opened again.
    page.reload()
    expect(control(opened, "Nodule", "present")).to_be_checked()
    # A comment alone repeats it.
    page.locator("#comment").fill("and a cough")
    page.get_by_role("button", name="Send comment").click()
    expect(page.locator(".given li")).to_have_count(3)
    assert feedback(served)[0]["findings"] == newest["findings"]


def test_by_keyboard(opened: Desk, served: Serving) -> None:
    page = opened.page
    opened.add(("chest.png", CHEST))
    opened.wait_for_film()
    page.keyboard.press("2")
    expect(control(opened, "Nodule", "present")).to_be_checked()
    page.keyboard.press("Shift+Digit1")
    expect(control(opened, "Consolidation", "cannot tell")).to_be_checked()
    expect(page.locator(".notice")).to_contain_text("Consolidation: cannot tell")
    # Into the form, along it with arrows and Tab; single letters still work there.
    page.keyboard.press("c")
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowLeft")
    expect(control(opened, "Effusion", "absent")).to_be_checked()
    outline = "getComputedStyle(document.activeElement.nextElementSibling).outlineStyle"
    assert page.evaluate(outline) == "solid"
    page.keyboard.press("s")
    expect(page.locator(".notice")).to_contain_text("what you see of each finding")
    assert feedback(served)[0]["findings"] == {"Nodule": True, "Effusion": False, "No Finding": False}
    # No finding and a finding are never both there.
    page.keyboard.press("4")
    expect(control(opened, "Nodule", "absent")).to_be_checked()
    page.keyboard.press("1")
    expect(control(opened, "No finding", "absent")).to_be_checked()
    page.keyboard.press("1")
    page.keyboard.press("4")
    page.keyboard.press("s")
    expect(page.locator(".given li")).to_have_count(2)
    assert feedback(served)[0]["findings"] == {
        "Consolidation": False, "Nodule": False, "Effusion": False, "No Finding": True,
    }  # fmt: skip


def test_an_answer_that_does_not_stand_says_nothing_for_the_physician(opened: Desk, served: Serving) -> None:
    opened.add(("letter.png", png(letter())))
    opened.wait_for_film()
    for finding in ("Consolidation", "Nodule", "Effusion", "No finding"):
        expect(control(opened, finding, "cannot tell")).to_be_checked()
    expect(opened.page.locator(".agree")).to_have_count(0)
    opened.page.keyboard.press("3")
    opened.page.keyboard.press("s")
    expect(opened.page.locator(".given li")).to_have_count(1)
    assert feedback(served)[0]["findings"] == {"Effusion": True}


@pytest.mark.parametrize("language", ["English", "Українська"])
@pytest.mark.parametrize("width", [1440, 810])
def test_everyone_can_use_it(language: str, width: int, browser: Browser, served: Serving) -> None:
    found = importlib.util.find_spec("axe_playwright_python")
    if found is None or found.origin is None:
        pytest.skip("axe-core is not installed (pip install axe-playwright-python)")
    axe = Path(found.origin).with_name("axe.min.js").read_text("utf-8")
    with desk(browser, served.url, viewport={"width": width, "height": 1000}, has_touch=width < 1000) as shown:
        shown.page.get_by_role("button", name=language).click()
        shown.add(("chest.png", CHEST), ("letter.png", png(letter())))
        shown.page.goto(f"{served.url}/#/")
        shown.open("chest.png")
        shown.page.keyboard.press("2")
        shown.page.keyboard.press("s")
        expect(shown.page.locator(".given li")).to_have_count(1)
        shown.settle()
        told = shown.page.evaluate(
            "async ([source, rules]) => { (0, eval)(source);"
            " return axe.run(document, { runOnly: { type: 'tag', values: rules } }); }",
            [axe, list(RULES)],
        )
        assert [(one["id"], [node["html"][:90] for node in one["nodes"]]) for one in told["violations"]
                if one["impact"] in ("serious", "critical")] == []  # fmt: skip
        words = shown.page.locator(".verdict").inner_text()
        assert "{" not in words
        assert (language == "English") == ("Keep this reading" in words)
        # Neither the name nor the control is cut off.
        over = "(all) => all.filter((one) => one.scrollWidth > one.clientWidth + 1).length"
        assert shown.page.locator(".reading, .reading .finding, .three").evaluate_all(over) == 0
        if width < 1000:
            sides = "(all) => Math.min(...all.map((one) => one.getBoundingClientRect().height))"
            assert shown.page.locator(".three label").evaluate_all(sides) >= 44
