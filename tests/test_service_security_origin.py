"""By which Host, and from which site's page."""

from __future__ import annotations

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from hypothesis import given, settings
from hypothesis import strategies as st

from rentgen.service import problems
from rentgen.service.throttle import (
    CheckOrigin,
    allowed_hosts,
    is_address,
    split_host,
)
from rentgen.settings import Settings

STATE_CHANGING = ("POST", "PUT", "PATCH", "DELETE")


def guarded(hosts: tuple[str, ...], **options: object) -> TestClient:
    app = FastAPI()
    problems.install(app)
    app.add_middleware(CheckOrigin, hosts=hosts, **options)  # type: ignore[arg-type]

    def answer() -> str:
        return "ok"

    for path in ("/v1/x", "/invocations", "/ping", "/predict"):
        app.add_api_route(path, answer, methods=["GET", *STATE_CHANGING])
    return TestClient(app, base_url="http://localhost:8080")


LOOPBACK_HOSTS = allowed_hosts(Settings.model_validate({}))


@pytest.mark.parametrize(
    ("host", "served"),
    [
        ("localhost", True),
        ("LocalHost:8080", True),
        ("localhost.:8080", True),
        ("127.0.0.1:8080", True),
        ("[::1]:8080", True),
        ("[::1]", True),
        ("evil.example", False),
        ("evil.example:8080", False),
        ("localhost.evil.example", False),
        ("127.0.0.1.evil.example", False),
        ("xlocalhost", False),
        ("192.0.2.7", False),
        ("[::2]:8080", False),
        ("::1", False),
        ("localhost:99999", False),
        ("localhost:8080:8080", False),
        ("localhost/x", False),
        ("evil.example@localhost", False),
        ("", False),
    ],
)
def test_hosts_of_a_service_on_loopback(host: str, served: bool) -> None:
    answer = guarded(LOOPBACK_HOSTS).get("/v1/x", headers={"Host": host})
    if served:
        assert (answer.status_code, answer.json()) == (200, "ok")
    else:
        assert (answer.status_code, answer.json()["code"]) == (421, "wrong_host")


@pytest.mark.parametrize(
    ("host", "served"),
    [
        ("xray.hospital.example", True),
        ("xray.hospital.example:8443", True),
        ("a.ward.example", True),
        ("ward.example", False),
        ("award.example", False),
        ("pinned.example:9000", True),
        ("pinned.example", False),
        ("10.1.2.3:8080", True),
        ("[2001:db8::1]", True),
        ("10.1.2.3.evil.example", False),
        ("evil.example", False),
    ],
)
def test_hosts_of_a_service_that_others_reach(host: str, served: bool) -> None:
    names = "xray.hospital.example,*.ward.example,pinned.example:9000"
    chosen = Settings.model_validate({"host": "0.0.0.0", "allowed_hosts": names})  # noqa: S104
    answer = guarded(allowed_hosts(chosen), any_address=not chosen.on_loopback).get("/v1/x", headers={"Host": host})
    assert answer.status_code == (200 if served else 421)


def test_hosts_by_settings() -> None:
    assert allowed_hosts(Settings.model_validate({"host": "::1"})) == ("localhost", "127.0.0.1", "[::1]")
    assert allowed_hosts(Settings.model_validate({"host": "::", "auth": "keys"}))[-1] == "[::]"
    assert allowed_hosts(Settings.model_validate({"auth": "platform"})) == ("*",)


def test_two_hosts_are_none() -> None:
    request = [("Host", "localhost"), ("Host", "evil.example")]
    assert guarded(LOOPBACK_HOSTS).get("/v1/x", headers=request).status_code == 421


def test_clouds_may_call_by_any_host() -> None:
    caller = guarded(LOOPBACK_HOSTS, open_paths=("/ping", "/invocations", "/predict"))
    foreign = {"Host": "model-7.internal.example"}
    assert caller.get("/ping", headers=foreign).status_code == 200
    assert caller.post("/invocations", headers=foreign).status_code == 200
    assert caller.post("/predict", headers=foreign).status_code == 200
    assert caller.post("/v1/x", headers=foreign).status_code == 421
    assert caller.post("/invocations/../v1/x", headers=foreign).status_code == 421


def test_pages_of_other_sites_may_not_use_cloud_routes_unless_a_platform_asks_first() -> None:
    foreign = {"Origin": "https://evil.example"}
    assert guarded(LOOPBACK_HOSTS).post("/invocations", headers=foreign).status_code == 403
    behind = guarded(("*",), platform=True)
    assert behind.post("/invocations", headers=foreign).status_code == 200
    assert behind.post("/v1/x", headers=foreign).status_code == 403


@pytest.mark.parametrize(
    ("host", "origin", "own"),
    [
        ("localhost:8080", "http://localhost:8080", True),
        ("LOCALHOST:8080", "http://localhost:8080", True),
        ("127.0.0.1:8080", "http://127.0.0.1:8080", True),
        ("[::1]:8080", "http://[::1]:8080", True),
        ("localhost", "http://localhost", True),
        ("localhost", "http://localhost:80", True),
        ("xray.example", "https://xray.example", True),
        ("localhost:8080", "http://localhost", False),
        ("localhost:8080", "http://localhost:3000", False),
        ("localhost:8080", "http://127.0.0.1:8080", False),
        ("localhost:8080", "https://evil.example", False),
        ("localhost:8080", "http://localhost:8080.evil.example", False),
        ("localhost:8080", "http://localhost:8080@evil.example", False),
        ("localhost:8080", "null", False),
        ("localhost:8080", "", False),
        ("localhost:8080", "file://", False),
        ("localhost:8080", "chrome-extension://abcdef", False),
        ("localhost:8080", "localhost:8080", False),
        ("localhost:8080", "https://xray.example", True),  # the proxy before it has changed Host
        ("localhost:8080", "https://xray.example:8443", False),
        ("localhost:8080", "https://pinned.example:9000", True),
        ("localhost:8080", "https://pinned.example", False),
    ],
)
def test_origin_matrix(host: str, origin: str, own: bool) -> None:
    caller = guarded((*LOOPBACK_HOSTS, "xray.example", "pinned.example:9000"))
    headers = {"Host": host, "Origin": origin}
    for method in STATE_CHANGING:
        answer = caller.request(method, "/v1/x", headers=headers)
        assert answer.status_code == (200 if own else 403), method
    assert caller.get("/v1/x", headers=headers).status_code == 200


@pytest.mark.parametrize(
    ("method", "site", "mode", "allowed"),
    [
        ("POST", None, None, True),
        ("POST", "none", None, True),
        ("POST", "same-origin", "cors", True),
        ("POST", "same-site", "cors", False),
        ("POST", "cross-site", "no-cors", False),
        ("DELETE", "cross-site", "navigate", False),
        ("POST", "invented", None, False),
        ("GET", "same-origin", "cors", True),
        ("GET", "cross-site", "navigate", True),
        ("GET", "cross-site", "no-cors", False),
        ("GET", "cross-site", "cors", False),
        ("GET", "same-site", "no-cors", True),
    ],
)
def test_fetch_metadata_matrix(method: str, site: str | None, mode: str | None, allowed: bool) -> None:
    sent = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": mode}
    answer = guarded(LOOPBACK_HOSTS).request(method, "/v1/x", headers={k: v for k, v in sent.items() if v})
    assert answer.status_code == (200 if allowed else 403)
    if not allowed:
        assert answer.json()["code"] == "forbidden"


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=60) | st.from_regex(r"[a-z0-9.\[\]:@/-]{0,40}", fullmatch=True))
def test_no_host_breaks_the_reader(text: str) -> None:
    parts = split_host(text)
    gate = CheckOrigin(FastAPI(), LOOPBACK_HOSTS, any_address=True)
    if gate.serves(text):
        assert parts is not None
        assert parts[0] in LOOPBACK_HOSTS or is_address(parts[0])
    assert not gate.is_own(f"https://{text}.evil.example", "localhost:8080")
