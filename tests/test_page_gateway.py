"""The operator's tab: what waits where, what is stuck and what can be done about it; films that were not analysed."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path

import kept
import pytest
from browsing import Desk, chromium, desk
from playwright.sync_api import Browser, expect
from queued import REFUSED, fill, held
from serving import Serving, serving
from test_page_access import axe, faults  # noqa: F401 - a fixture

from rentgen.gateway.gate import refusal
from rentgen.gateway.nouns import Header
from rentgen.records import Status
from rentgen.records.studies import Principal, Role, StoredPrediction, Urgency
from rentgen.store.gateway import Queue

ADMIN = Principal("test", Role.ADMIN)
SIZES = ((1440, 900), (1024, 768), (810, 1080))
WHY = refusal(Header("1.1", "1.2", "1.3", "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.1.2.1"))


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Serving]:
    with serving(tmp_path) as running:
        yield running


@pytest.fixture
def queue(tmp_path: Path, served: Serving) -> Iterator[Queue]:
    opened = Queue.open(f"sqlite:///{tmp_path / 'store.db'}")
    yield opened
    opened.close()


@pytest.fixture
def opened(browser: Browser, served: Serving) -> Iterator[Desk]:
    with desk(browser, f"{served.url}/#/gateway") as found:
        yield found


def table(found: Desk) -> dict[str, list[str]]:
    """Return row to numbers: waiting, in hand, done, stuck."""
    rows = found.page.locator(".steps tbody tr").all()
    return {row.locator("th").inner_text(): row.locator(".number").all_inner_texts() for row in rows}


def test_it_says_how_to_start_one_and_then_what_came(opened: Desk, queue: Queue) -> None:
    expect(opened.page.locator(".command")).to_have_text("rentgen gateway run --config gateway.toml")
    queue.receive(held(99), datetime.now(UTC))
    # It asks by itself.
    expect(opened.page.get_by_text("The first study is still coming in.")).to_be_visible()
    fill(queue)
    expect(opened.page.locator(".letters li")).to_have_count(3)
    assert table(opened) == {
        "Analysis": ["0", "0", "11", "0"],
        "Documents": ["0", "0", "10", "1"],
        "Delivery: pacs": ["3", "1", "6", "0"],
        "Delivery: ris": ["0", "0", "8", "2"],
    }
    tiles = opened.page.locator(".tiles > div").all()
    assert [tile.locator("dd").inner_text() for tile in tiles] == ["13", "2", "5 min", "3"]
    expect(opened.page.locator(".note")).to_contain_text("1 object came with a SOP Instance UID that another one has")
    expect(opened.page.locator(".letters li").nth(1)).to_contain_text(REFUSED)
    parts = opened.page.locator(".steps tbody tr").nth(2).locator(".stack i")
    widths = [part.evaluate("(part) => part.getBoundingClientRect().width") for part in parts.all()]
    assert [width / widths[1] for width in widths] == pytest.approx([6, 1, 3], rel=0.05)


def test_it_can_be_worked_by_keys_alone(opened: Desk, queue: Queue) -> None:
    fill(queue)
    page = opened.page
    letters = page.locator(".letters li")
    expect(letters).to_have_count(3)
    page.get_by_role("button", name=re.compile("Try again: Documents")).focus()
    page.keyboard.press("Enter")
    expect(letters).to_have_count(2)
    expect(page.locator(".notice")).to_contain_text("1 step is tried again.")
    # What was pressed is gone: one goes on at the list.
    expect(page.locator("#stuck")).to_be_focused()
    page.keyboard.press("Tab")
    expect(page.get_by_role("button", name="Try all for ris again")).to_be_focused()
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    button = page.get_by_role("button", name=re.compile("Give up: Delivery: ris")).first
    expect(button).to_be_focused()
    page.keyboard.press("Enter")
    ask = page.locator("dialog[open]")
    expect(ask).to_contain_text("The results of this study never reach ris")
    page.keyboard.press("Escape")
    expect(ask).to_have_count(0)
    expect(button).to_be_focused()
    expect(letters).to_have_count(2)
    page.keyboard.press("Enter")
    ask.get_by_role("button", name="Cancel").press("Enter")
    expect(ask).to_have_count(0)
    expect(button).to_be_focused()
    page.keyboard.press("Enter")
    ask.get_by_role("button", name="Give up").press("Enter")
    expect(letters).to_have_count(1)
    expect(page.locator(".notice")).to_contain_text("Given up")
    expect(page.locator("#stuck")).to_be_focused()
    assert len(queue.dead_letters()) == 1


def test_all_of_a_destination_are_tried_again_and_another_may_be_quicker(opened: Desk, queue: Queue) -> None:
    opened.expected = ("404",)
    fill(queue)
    page = opened.page
    expect(page.locator(".letters li")).to_have_count(3)
    (first, *_) = queue.dead_letters()
    with page.expect_response("**/v1/gateway/retry") as answer:
        queue.retry(datetime.now(UTC), job_id=first.job_id, actor=ADMIN)
        page.get_by_role("button", name=re.compile(f"Try again: .*job {first.job_id}")).click()
    assert answer.value.status == 404
    expect(page.locator(".notice")).to_contain_text("somebody else was quicker")
    page.get_by_role("button", name="Try all for ris again").click()
    expect(page.locator(".notice")).to_contain_text("2 steps are tried again.")
    expect(page.get_by_text("Nothing is stuck.")).to_be_visible()
    assert table(opened)["Delivery: ris"] == ["2", "0", "8", "0"]


@pytest.mark.parametrize(("width", "height"), SIZES)
@pytest.mark.parametrize("language", ["English", "Українська"])
def test_axe_finds_nothing_serious(
    language: str,
    width: int,
    height: int,
    axe: str,  # noqa: F811
    browser: Browser,
    served: Serving,
    queue: Queue,
) -> None:
    with desk(browser, f"{served.url}/#/gateway", viewport={"width": width, "height": height}) as found:
        found.page.get_by_role("button", name=language).click()
        found.page.locator(".command").wait_for()
        assert faults(found, axe) == []
        fill(queue)
        found.page.locator(".letters li").first.wait_for()
        assert faults(found, axe) == []
        assert found.page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
        found.page.locator(".letters li").first.get_by_role("button").last.click()
        found.page.locator("dialog[open] .grave").wait_for()
        assert faults(found, axe) == []


def test_a_tablet_has_room_for_fingers(browser: Browser, served: Serving, queue: Queue) -> None:
    fill(queue)
    size = {"width": 810, "height": 1080}
    with desk(browser, f"{served.url}/#/gateway", viewport=size, has_touch=True, is_mobile=True) as found:
        found.page.locator(".letters li").first.wait_for()
        heights = found.page.locator(".gateway button, nav a").evaluate_all(
            "(all) => all.map((one) => one.getBoundingClientRect().height)"
        )
        assert len(heights) == 3 + 7
        assert min(heights) >= 44


def test_it_is_for_admins_and_a_forgotten_page_lets_its_session_end(browser: Browser, tmp_path: Path) -> None:
    with serving(tmp_path, auth="keys") as running:
        assert running.desk.store is not None
        keys = {role: running.desk.store.add_key(role, role, days=1, actor=ADMIN) for role in Role}
        with desk(browser, f"{running.url}/#/gateway") as found:
            found.expected = ("401",)
            page = found.page
            asked: list[str] = []
            page.on("request", lambda request: asked.append(request.url) if "/v1/gateway" in request.url else None)
            page.get_by_role("textbox", name="Key").fill(keys[Role.PHYSICIAN])
            page.keyboard.press("Enter")
            expect(page.get_by_text("For administrators.")).to_be_visible()
            expect(page.get_by_role("navigation").get_by_role("link")).to_have_text(["Worklist", "Research"])
            assert asked == []
            page.get_by_role("button", name="Sign out").click()
            page.get_by_role("textbox", name="Key").fill(keys[Role.ADMIN])
            page.clock.install()
            page.keyboard.press("Enter")
            page.get_by_role("link", name="Gateway").click()
            page.locator(".command").wait_for()
            page.clock.fast_forward("10:00")
            expect(page.get_by_text("Nobody has touched the page")).to_have_count(0)
            page.clock.fast_forward("10:00")
            expect(page.get_by_text("Nobody has touched the page")).to_be_visible()
            before = len(asked)
            page.clock.fast_forward("01:00")
            found.settle()
            assert len(asked) == before
            page.keyboard.press("Shift")
            page.clock.fast_forward("00:05")
            expect(page.get_by_text("Nobody has touched the page")).to_have_count(0)
            assert len(asked) > before


def test_no_tab_where_nothing_is_kept(browser: Browser, tmp_path: Path) -> None:
    with serving(tmp_path, store=False) as running, desk(browser, f"{running.url}/#/gateway") as found:
        found.expected = ("404",)
        expect(found.page.get_by_role("alert")).to_contain_text("This service keeps nothing")
        expect(found.page.get_by_role("navigation").get_by_role("link")).to_have_text(["Worklist", "Research"])


def test_a_film_that_was_not_analysed_comes_by_itself_and_says_why(browser: Browser, served: Serving) -> None:
    assert served.desk.store is not None
    with desk(browser, served.url) as found:
        found.expected = ("410",)
        page = found.page
        page.clock.install()
        page.reload()
        expect(page.get_by_text("Nothing waits to be read")).to_be_visible()
        served.desk.store.add_result(
            replace(kept.film(), content_hash=kept.sha("ct")),
            unread(WHY),
            content_hash=kept.sha("ct"),
            name="CT CHEST",
            data=None,
            actor=Principal("gateway", Role.PHYSICIAN),
        )
        page.clock.fast_forward("00:16")
        row = found.row("CT CHEST")
        expect(row).to_contain_text("In doubt")
        expect(row).to_contain_text("Not read")
        row.click()
        expect(page.locator(".doubt li")).to_have_text(
            "Objects of class CT Image Storage are not read; only CR and DX for presentation are"
        )
        expect(page.get_by_role("button", name=re.compile("^Agree"))).to_have_count(0)
        page.get_by_role("button", name="Українська").click()
        expect(page.locator(".doubt li")).to_contain_text("CT Image Storage тут не читають")


def unread(reason: str) -> StoredPrediction:
    """Return the result of a film that no model answered for, as the gateway keeps it."""
    return StoredPrediction(
        prediction_id="",
        image_id="",
        bundle_id=kept.BUNDLE,
        model="tiny",
        created_at=datetime.now(UTC),
        status=Status.ERROR,
        label=None,
        probabilities={},
        reasons=(reason,),
        prediction_set=(),
        distance=None,
        points=(),
        urgency=Urgency.DOUBT,
        score=0.0,
        precision="",
    )


@pytest.mark.parametrize("sop_class", ["1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.1.1.1", "1.2.3.4"])
def test_reasons_of_the_gateway_are_said_in_both_languages(sop_class: str) -> None:
    words = json.loads((files("rentgen.outputs") / "words.json").read_text("utf-8"))
    reason = refusal(Header("1.1", "1.2", "1.3", sop_class, "1.2.840.10008.1.2.1"))
    patterns = [pattern for pattern, _ in words["uk"]["reasons"]]
    assert len([pattern for pattern in patterns if re.search(pattern, reason)]) >= 1
