"""A physician's way through the page: films, worklist, doubt, feedback, languages, keys alone, and what may fail."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browsing import Desk, chromium, desk
from made import page as letter
from made import png
from playwright.sync_api import Browser, Route, expect
from serving import Serving, serving, tiny_bundle

from rentgen import bundle as bundles
from rentgen.images.phantom import Finding, draw, to_dicom, to_png, write_table
from rentgen.records import DISCLAIMER, Task
from rentgen.records.studies import Principal, Role

REFUSED = ("422", "401", "429", "503", "410")
"""Statuses that a browser writes into its console, whatever the page makes of them."""

CHEST = to_png(draw(Finding.CONSOLIDATION, np.random.default_rng(6), height=420, width=400))
WITH_HEADER = to_dicom(draw(Finding.EFFUSION, np.random.default_rng(7), height=380, width=420), patient_id="MADE-0003")
LETTER = png(letter())
BROKEN = CHEST[:300]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Serving]:
    with serving(tmp_path) as running:
        yield running


@pytest.fixture
def opened(browser: Browser, served: Serving) -> Iterator[Desk]:
    with desk(browser, served.url) as found:
        yield found


def studies(served: Serving, state: str = "all") -> list[dict[str, Any]]:
    with served.client() as client:
        found: list[dict[str, Any]] = client.get("/v1/studies", params={"state": state}).json()["studies"]
        return found


def test_films_come_in_and_a_broken_one_harms_no_other(opened: Desk, served: Serving) -> None:
    opened.expected = REFUSED
    expect(opened.page.get_by_text("Nothing waits to be read")).to_be_visible()
    opened.add(("chest.png", CHEST), ("header.dcm", WITH_HEADER), ("broken.png", BROKEN), ("letter.png", LETTER))
    fault = opened.page.locator(".faults li", has_text="broken.png")
    expect(fault).to_contain_text("could not be read as a radiograph")
    rows = opened.page.locator(".study")
    expect(rows).to_have_count(3)
    # The worklist stands as the service orders it.
    names = [study["images"][0]["name"] for study in studies(served, "waiting")]
    assert [row.locator(".name").inner_text() for row in rows.all()] == names
    assert "MADE-0003" not in opened.page.content()
    for image in rows.locator("img").all():
        assert image.evaluate("(image) => image.complete && image.naturalWidth > 0")


def test_a_dropped_folder_is_walked_and_other_files_are_left_out(opened: Desk) -> None:
    """A folder cannot be dropped by a program; its entries are made as the browser gives them."""
    films = {"a.png": list(CHEST), "b": list(WITH_HEADER), "notes.txt": [1]}
    opened.page.evaluate(
        """(films) => {
            const entry = ([name, bytes]) => ({ isFile: true, isDirectory: false, name,
                file: (take) => take(new File([new Uint8Array(bytes)], name)) });
            const folder = (name, all) => ({ isFile: false, isDirectory: true, name, createReader: () => {
                const left = [all, []];
                return { readEntries: (take) => take(left.shift() ?? []) };
            } });
            const all = Object.entries(films).map(entry);
            const whole = folder('outer', [all[0], folder('inner', all.slice(1))]);
            const event = new Event('drop', { bubbles: true, cancelable: true });
            const items = [{ webkitGetAsEntry: () => whole }];
            event.dataTransfer = { types: ['Files'], items, files: [] };
            window.dispatchEvent(event);
        }""",
        films,
    )
    expect(opened.page.locator(".study")).to_have_count(2)
    expect(opened.page.locator(".uploads")).to_contain_text("1 file of the folder is no film by its name")


def test_doubt_is_said_before_any_class(opened: Desk) -> None:
    opened.add(("letter.png", LETTER))
    opened.wait_for_film()
    answer = opened.page.locator(".answer")
    expect(answer).to_have_attribute("data-status", "out_of_scope")
    assert answer.locator(":scope > *").first.get_attribute("class") == "doubt"
    expect(answer.locator(".doubt")).to_contain_text("Not a film for this model")
    expect(answer.locator(".doubt li")).to_contain_text("like a photograph or text")
    expect(answer.locator(".class")).to_have_count(0)
    expect(answer.locator(".bars")).to_be_hidden()
    # Nothing painted over the film unasked, and nothing to agree with.
    expect(opened.page.locator("canvas")).to_have_attribute("data-heat", "0")
    opened.page.keyboard.press("a")
    expect(opened.page.locator(".notice")).to_contain_text("no answer to agree with")
    answer.locator("summary").click()
    expect(answer.locator(".bars")).to_be_visible()


def test_agree_and_correct_by_one_key(opened: Desk, served: Serving) -> None:
    opened.add(("chest.png", CHEST))
    opened.wait_for_film()
    label = studies(served)[0]["predictions"][0]["label"]
    assert studies(served)[0]["predictions"][0]["status"] == "ok"
    opened.page.keyboard.press("a")
    expect(opened.page.locator(".notice")).to_contain_text("you agree")
    (study,) = studies(served, "read")
    assert (study["feedback"][0]["agree"], study["feedback"][0]["label"]) == (True, label)
    other = next(number for number, name in enumerate(study["predictions"][0]["probabilities"], 1) if name != label)
    opened.page.keyboard.press("k")
    opened.page.keyboard.type("rotated 2")
    opened.page.keyboard.press("Escape")
    assert len(studies(served)[0]["feedback"]) == 1  # letters and digits in a comment are no keys
    opened.page.locator("#correction button").first.click()
    expect(opened.page.locator(".given li")).to_have_count(2)
    newest = studies(served)[0]["feedback"][0]
    assert (newest["agree"], newest["comment"]) == (False, "rotated 2")
    assert newest["label"] == list(study["predictions"][0]["probabilities"])[other - 1]
    # A keyboard that writes Ukrainian has the same keys.
    opened.page.evaluate(
        "document.dispatchEvent(new KeyboardEvent('keydown', { key: 'ф', code: 'KeyA', bubbles: true }))"
    )
    expect(opened.page.locator(".given li")).to_have_count(3)
    opened.page.keyboard.press(str(other))
    expect(opened.page.locator(".given li")).to_have_count(4)
    assert studies(served)[0]["feedback"][0]["agree"] is False


def test_next_and_previous_follow_the_worklist(opened: Desk, served: Serving) -> None:
    films = [(f"{seed}.png", to_png(draw(Finding.NORMAL, np.random.default_rng(seed), height=300))) for seed in (1, 2)]
    opened.add(*films, ("letter.png", LETTER))
    expect(opened.page.locator(".study")).to_have_count(3)
    order = [study["id"] for study in studies(served, "waiting")]
    for study_id in order:
        opened.page.keyboard.press("n")
        opened.page.wait_for_url(f"**/#/study/{study_id}")
    opened.page.keyboard.press("n")
    expect(opened.page.locator(".notice")).to_contain_text("last study")
    opened.page.keyboard.press("p")
    opened.page.wait_for_url(f"**/#/study/{order[-2]}")
    opened.page.reload()  # the address says where one was
    expect(opened.page.locator(".study[aria-current]")).to_have_attribute("href", f"#/study/{order[-2]}")


def test_two_languages_and_the_choice_is_remembered(opened: Desk) -> None:
    page = opened.page
    opened.add(("letter.png", LETTER))
    assert page.locator("html").get_attribute("lang") == "en"
    expect(page.locator(".disclaimer")).to_have_text(DISCLAIMER)
    page.get_by_role("button", name="Українська").click()
    assert page.locator("html").get_attribute("lang") == "uk"
    expect(page.locator(".doubt")).to_contain_text("як на фотографії")
    page.reload()
    expect(page.locator(".doubt")).to_contain_text("Знімок не для цієї моделі")
    assert page.locator("html").get_attribute("lang") == "uk"
    report = page.locator("a[href*='report.pdf']").get_attribute("href")
    assert report is not None
    assert report.endswith("language=uk")
    words = page.locator("body").inner_text()
    assert not re.search(r"\b(?:Worklist|Waiting|Agree|Comment)\b", words)
    assert "{" not in words


def test_everything_by_keyboard(opened: Desk) -> None:
    page = opened.page
    opened.add(("chest.png", CHEST))
    page.goto(page.url.split("#")[0] + "#/")
    page.locator(".study").wait_for()
    for _ in range(30):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.matches('.study')"):
            break
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"
    page.keyboard.press("Enter")
    opened.wait_for_film()
    reached = set()
    for _ in range(60):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.className || document.activeElement.tagName"))
    assert {"windows", "main agree", "TEXTAREA", "SELECT"} <= reached
    page.locator("canvas").focus()
    page.keyboard.press("?")
    page.locator("dialog[open]").wait_for()
    page.keyboard.press("Escape")
    expect(page.locator("dialog")).to_have_count(0)
    page.keyboard.press("m")
    expect(page.locator("dialog[open] h2")).to_contain_text("Model card")
    page.keyboard.press("a")  # behind a dialog nothing is said by accident
    page.keyboard.press("Escape")
    expect(page.locator(".given")).to_have_count(0)
    page.keyboard.press("?")
    page.get_by_label("Single-letter keys are on").uncheck()
    page.keyboard.press("Escape")
    page.keyboard.press("a")
    expect(page.locator(".given")).to_have_count(0)


def test_a_study_that_is_not_there_is_told(opened: Desk) -> None:
    opened.expected = ("404",)
    opened.page.goto(opened.url + "/#/study/" + "a" * 26)
    expect(opened.page.get_by_role("alert")).to_contain_text("no such study")


def test_busy_and_loading_are_waited_for(opened: Desk) -> None:
    """The service's own refusals, put in front of it: the page comes again after Retry-After."""
    opened.expected = REFUSED
    refusals = [(429, "busy"), (503, "loading")]

    def answer(route: Route) -> None:
        if route.request.method == "POST" and refusals:
            status, code = refusals.pop()
            route.fulfill(status=status, headers={"Retry-After": "1"}, json={"code": code, "detail": code})
        else:
            route.continue_()

    opened.page.route("**/v1/studies", answer)
    opened.add(("chest.png", CHEST))
    assert refusals == []
    expect(opened.page.locator(".study")).to_have_count(1)
    expect(opened.page.locator(".faults li")).to_have_count(0)


def test_a_server_that_is_gone_is_told_and_found_again(opened: Desk) -> None:
    opened.expected = ("ERR_INTERNET_DISCONNECTED",)
    opened.page.locator(".rail").wait_for()
    opened.page.context.set_offline(True)
    opened.page.get_by_role("button", name="All", exact=True).click()
    expect(opened.page.locator("[data-link=gone]")).to_contain_text("does not answer")
    opened.page.context.set_offline(False)
    expect(opened.page.locator("[data-link=ok]")).to_have_count(1)
    expect(opened.page.get_by_text("There are no studies yet")).to_be_visible()


def test_signing_in_with_a_key(browser: Browser, tmp_path: Path) -> None:
    with serving(tmp_path, auth="keys", ready=True) as running:
        assert running.desk.store is not None
        key = running.desk.store.add_key("ward", Role.PHYSICIAN, days=1, actor=Principal("test", Role.ADMIN))
        with desk(browser, running.url) as found:
            found.expected = REFUSED
            field = found.page.get_by_role("textbox", name="Key")
            field.fill("rk_wrong")
            field.press("Enter")
            expect(found.page.get_by_role("alert")).to_contain_text("not valid")
            field.fill(key)
            field.press("Enter")
            found.page.locator(".rail").wait_for()
            assert key not in found.page.evaluate("JSON.stringify(localStorage) + document.cookie + location.href")
            # What changes something carries the session's token.
            found.add(("chest.png", CHEST))
            found.wait_for_film()
            found.page.keyboard.press("a")
            expect(found.page.locator(".notice")).to_contain_text("you agree")
            found.page.get_by_role("button", name="Sign out").click()
            expect(found.page.get_by_role("textbox", name="Key")).to_be_visible()
            expect(found.page.locator(".rail")).to_have_count(0)


def test_a_reader_may_look_and_not_add(browser: Browser, tmp_path: Path) -> None:
    with serving(tmp_path, auth="keys") as running:
        assert running.desk.store is not None
        key = running.desk.store.add_key("guest", Role.READER, days=1, actor=Principal("test", Role.ADMIN))
        with desk(browser, running.url) as found:
            found.expected = REFUSED
            found.page.get_by_role("textbox", name="Key").fill(key)
            found.page.keyboard.press("Enter")
            expect(found.page.get_by_text("may look at studies but not add")).to_be_visible()
            expect(found.page.locator("[data-testid=files]")).to_have_count(0)


def salted(path: Path) -> Path:
    """Give a bundle's split a salt, as one that was trained has: sets are held against it."""
    made = bundles.read(path)
    bundles.write(path, replace(made, split=replace(made.split, salt="0" * 64)))
    return path


def test_models_of_several_findings_are_compared_too(browser: Browser, tmp_path: Path) -> None:
    table = write_table(tmp_path / "set", films=12, rng=np.random.default_rng(2))
    models = []
    for seed in (1, 2):
        path = salted(tiny_bundle(tmp_path / f"{seed}.rentgen", seed=seed, classes=("Consolidation", "Nodule")))
        made = bundles.read(path)
        card = replace(made.card, task=Task.MULTILABEL, positive=None, operating_points=())
        bundles.write(path, replace(made, card=card))
        models.append(str(path))
    given: dict[str, Any] = {"models": tuple(models), "sets": (f"drawn={table}",)}
    with serving(tmp_path, **given) as running, desk(browser, running.url) as found:
        found.page.get_by_role("link", name="Research").click()
        found.page.get_by_role("button", name="Compare").click()
        expect(found.page.locator(".outcome")).to_contain_text("12 films", timeout=60_000)
        expect(found.page.locator(".outcome")).to_contain_text("Counted by film and finding")


def test_the_researcher_compares_two_models(browser: Browser, tmp_path: Path) -> None:
    films = tmp_path / "films"
    for label, finding in (("NORMAL", Finding.NORMAL), ("PNEUMONIA", Finding.CONSOLIDATION)):
        (films / label).mkdir(parents=True)
        for seed in range(4):
            drawn = draw(finding, np.random.default_rng((seed, len(label))), height=220, width=240)
            (films / label / f"{seed}.png").write_bytes(to_png(drawn))
    report = tmp_path / "reports" / "first"
    report.mkdir(parents=True)
    (report / "report.html").write_text("<!doctype html><title>First</title><h1>First report</h1>")
    models = tuple(str(salted(tiny_bundle(tmp_path / f"{seed}.rentgen", seed=seed))) for seed in (1, 2))
    given: dict[str, Any] = {"models": models, "sets": (f"drawn={films}",), "reports": tmp_path / "reports"}
    with serving(tmp_path, **given) as running, desk(browser, running.url) as found:
        found.page.get_by_role("link", name="Research").click()
        expect(found.page.locator(".bundle")).to_have_count(2)
        expect(found.page.get_by_role("link", name="first")).to_have_attribute("href", "/v1/reports/first")
        found.page.get_by_role("button", name="Compare").click()
        expect(found.page.locator(".outcome")).to_contain_text("8 films", timeout=60_000)
        expect(found.page.locator(".outcome")).to_contain_text(re.compile("may take|should not take"))
        expect(found.page.get_by_role("link", name="Download")).to_have_attribute("href", "/v1/feedback/export")
