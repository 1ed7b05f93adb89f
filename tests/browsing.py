"""Debian's Chromium without a graphics card, and a page that may do nothing behind our back."""

from __future__ import annotations

import base64
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import numpy.typing as npt
import pytest
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Locator, Page, sync_playwright

FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)
_WATCH = """
document.addEventListener('securitypolicyviolation', (event) =>
    console.error(`CSP ${event.violatedDirective} ${event.blockedURI}`));
"""


@contextmanager
def chromium() -> Iterator[Browser]:
    """Start the browser, or skip the test where there is none."""
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        pytest.skip("Chromium is not installed (apt-get install chromium)")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=list(FLAGS))
        try:
            yield browser
        finally:
            browser.close()


@dataclass
class Desk:
    """The page as a physician has it before them.

    Attributes:
        page: the tab.
        url: of the service.
        faults: what the console and the browser complained of.
        expected: parts of complaints that a test provokes on purpose.
    """

    page: Page
    url: str
    faults: list[str] = field(default_factory=list)
    expected: tuple[str, ...] = ()

    def add(self, *films: tuple[str, bytes]) -> None:
        """Choose files, as if dropped, and wait until each has its end."""
        done = self.page.locator(".uploads-head button")
        if done.is_visible():
            done.click()
        files: Any = [{"name": name, "mimeType": "", "buffer": content} for name, content in films]
        self.page.set_input_files("[data-testid=files]", files=files)
        done.wait_for(timeout=30_000)

    def open(self, name: str) -> None:
        """Open the study of a file, and wait until its film is painted."""
        self.row(name).click()
        self.wait_for_film()

    def row(self, name: str) -> Locator:
        """Return the study's row in the worklist."""
        return self.page.locator(".study", has_text=name)

    def wait_for_film(self) -> None:
        self.page.locator("canvas[data-painted=yes]").wait_for()

    def settle(self) -> None:
        """Wait for two frames: what was asked for is painted then."""
        self.page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def painted(self) -> npt.NDArray[np.uint8]:
        """Return what the canvas shows, (height, width, 3), at its own resolution."""
        self.settle()
        found = self.page.evaluate(
            """() => {
                const canvas = document.querySelector('canvas');
                const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
                let text = '';
                for (let at = 0; at < data.length; at += 32768)
                    text += String.fromCharCode(...data.subarray(at, at + 32768));
                return { width: canvas.width, height: canvas.height, pixels: btoa(text) };
            }"""
        )
        flat = np.frombuffer(base64.b64decode(found["pixels"]), np.uint8)
        return flat.reshape(found["height"], found["width"], 4)[..., :3]


@contextmanager
def desk(browser: Browser, url: str, **options: Any) -> Iterator[Desk]:  # noqa: ANN401
    """Open the page; at the end, fail on any complaint and on any request to another host.

    Args:
        browser: that shows it.
        url: of the service.
        options: of the browser's context.
    """
    given: dict[str, Any] = {"viewport": {"width": 1440, "height": 900}, "locale": "en-GB"} | options
    context: BrowserContext = browser.new_context(**given)
    context.set_default_timeout(15_000)
    context.add_init_script(_WATCH)
    page = context.new_page()
    found = Desk(page, url)
    hosts: set[str] = set()

    def note(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            found.faults.append(message.text)

    page.on("console", note)
    page.on("pageerror", lambda error: found.faults.append(f"uncaught {error}"))
    page.on("request", lambda request: hosts.add(urlsplit(request.url).netloc))
    try:
        page.goto(url)
        yield found
        page.wait_for_load_state("networkidle")
    finally:
        context.close()
    strangers = hosts - {urlsplit(url).netloc, ""}
    faults = [fault for fault in found.faults if not any(part in fault for part in found.expected)]
    if strangers or faults:
        pytest.fail(f"the page asked {strangers or 'nobody'} else, and complained: {faults}")
