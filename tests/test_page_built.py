"""The built page as it ships: whole, fresh, small, in two languages, and asking nobody but its own service."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import pytest
from serving import Serving, serving

from rentgen.images import overlay
from rentgen.records import DISCLAIMER

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "page"
WEB = ROOT / "src" / "rentgen" / "service" / "web"
WORDS = ROOT / "src" / "rentgen" / "outputs" / "words.json"
SOURCES = ("index.html", "package.json", "tsconfig.json", "vite.config.ts")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    with serving(tmp_path_factory.mktemp("built"), ready=False) as running:
        yield running


def built_text() -> str:
    return "\n".join(
        path.read_text("utf-8") for path in sorted(WEB.rglob("*")) if path.suffix in (".js", ".css", ".html")
    )


def test_the_built_page_is_of_these_sources() -> None:
    """Compares hashes, so that it needs no Node."""
    paths = [PAGE / name for name in SOURCES] + [path for path in (PAGE / "src").rglob("*") if path.is_file()] + [WORDS]
    lines = sorted((path.relative_to(ROOT).as_posix(), hashlib.sha256(path.read_bytes()).hexdigest()) for path in paths)
    listed = "".join(f"{digest}  {name}\n" for name, digest in lines)
    told = (WEB / "source.sha256").read_text().strip()
    assert told == hashlib.sha256(listed.encode()).hexdigest(), "the page's sources have changed: run `make page`"


def test_it_is_small_and_asks_nobody_else() -> None:
    assert sum(path.stat().st_size for path in WEB.rglob("*") if path.is_file()) < 300_000
    assert not list(WEB.rglob("*.map"))
    hosts = set(re.findall(r"https?://([\w.-]+)", built_text()))
    assert hosts <= {"www.w3.org"}  # names of XML, which nobody fetches
    index = (WEB / "index.html").read_text("utf-8")
    assert not re.search(r"<script(?![^>]*\bsrc=)|\bstyle=|\bon\w+=", index)
    assert DISCLAIMER in index  # also where scripts are off
    assert not re.search(r"\beval\(|new Function\(", built_text())


def test_it_is_in_the_package_and_answers_before_the_models(served: Serving) -> None:
    index = files("rentgen.service") / "web" / "index.html"
    with served.client() as client:
        page = client.get("/")
        assert page.status_code == 200
        assert page.content == index.read_bytes()
        assert page.headers["cache-control"] == "no-cache"
        assert page.headers["content-type"] == "text/html; charset=utf-8"
        policy = page.headers["content-security-policy"]
        assert "script-src 'self'" in policy
        assert "unsafe" not in policy
        links = re.findall(r'(?:src|href)="(/assets/[^"]+)"', page.text)
        assert len(links) == 3
        for link in links:
            asset = client.get(link)
            assert asset.status_code == 200
            assert "immutable" in asset.headers["cache-control"]
            assert asset.headers["content-encoding"] == "gzip"
            again = client.get(link, headers={"If-None-Match": asset.headers["etag"]})
            assert (again.status_code, again.content) == (304, b"")
            plain = client.get(link, headers={"Accept-Encoding": "identity"})
            assert plain.content == asset.content


@pytest.mark.parametrize("path", ["/assets/none.js", "/assets/..%2findex.html", "/assets/", "/index.html"])
def test_nothing_else_is_served(path: str, served: Serving) -> None:
    with served.client() as client:
        assert client.get(path).status_code == 404


def test_both_languages_say_the_same_things() -> None:
    texts = [json.loads((PAGE / "src" / "words" / f"{name}.json").read_text("utf-8")) for name in ("en", "uk")]
    stems = [{re.sub(r"_(one|few|many|other)$", "", key) for key in text} for text in texts]
    assert stems[0] == stems[1]
    assert all(value.strip() for text in texts for value in text.values())
    shared = json.loads(WORDS.read_text("utf-8"))
    assert set(shared["en"]) == set(shared["uk"])


def test_it_paints_heat_in_the_package_s_colours() -> None:
    source = (PAGE / "src" / "viewer" / "lut.ts").read_text("utf-8")
    anchors = re.findall(r"\[(\d\.\d), \[(\d+), (\d+), (\d+)\]\]", source)
    assert [(float(at), (int(r), int(g), int(b))) for at, r, g, b in anchors] == list(overlay._ANCHORS)
    assert f"COLD = {overlay.COLD}" in source


def test_the_lock_file_names_no_registry() -> None:
    lock = json.loads((PAGE / "package-lock.json").read_text("utf-8"))
    assert not any("resolved" in package for package in lock["packages"].values())
    assert all("integrity" in package for name, package in lock["packages"].items() if name)


def test_the_page_s_own_tests_pass() -> None:
    if shutil.which("npm") is None:
        pytest.skip("Node is not installed: the page's own tests need it, the built page does not")
    if not (PAGE / "node_modules").is_dir():
        pytest.skip("the page's tools are not installed (npm --prefix page ci)")
    done = subprocess.run(["npm", "--prefix", str(PAGE), "test"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
