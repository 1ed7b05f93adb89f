"""How often each caller may ask."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from fastapi import Depends, FastAPI
from fastapi.testclient import TestClient
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.types import Scope

from rentgen.records.studies import Principal, Role
from rentgen.service import login, problems
from rentgen.service.security import Gatekeeper, needs
from rentgen.service.sessions import Sessions
from rentgen.service.throttle import (
    Buckets,
    Throttle,
    caller_address,
)
from rentgen.settings import Settings


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


def test_bucket_gives_so_many_a_minute() -> None:
    buckets = Buckets(60)
    assert [buckets.take("a", 0.0) for _ in range(60)] == [0.0] * 60
    assert buckets.take("a", 0.0) == pytest.approx(1.0)
    assert buckets.take("a", 0.25) == pytest.approx(0.75)
    assert buckets.take("b", 0.25) == 0.0
    assert buckets.take("a", 1.0) == 0.0
    assert buckets.take("a", 1.0) > 0


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(0, 5), min_size=1, max_size=200), st.integers(1, 120))
def test_bucket_never_gives_more_than_it_has(pauses: list[float], per_minute: int) -> None:
    buckets, now, granted = Buckets(per_minute), 0.0, 0
    for pause in pauses:
        now += pause
        wait_s = buckets.take("a", now)
        granted += wait_s == 0
        assert 0 <= wait_s <= 60 / per_minute + 1e-6
    assert granted <= per_minute + now * per_minute / 60 + 1e-6


def test_clock_that_goes_back_gives_nothing() -> None:
    buckets = Buckets(1)
    assert buckets.take("a", 100.0) == 0
    assert buckets.take("a", 0.0) == pytest.approx(60)


def test_buckets_are_bounded() -> None:
    buckets = Buckets(1, limit=10)
    for number in range(1000):
        buckets.take(str(number), 0.0)
    assert len(buckets) == 10


@pytest.mark.parametrize(
    ("client", "forwarded", "trust", "caller"),
    [
        (("192.0.2.1", 5), None, False, "192.0.2.1"),
        (("192.0.2.1", 5), "198.51.100.9", False, "192.0.2.1"),
        (("192.0.2.1", 5), "198.51.100.9", True, "198.51.100.9"),
        (("192.0.2.1", 5), "made, up, 198.51.100.9", True, "198.51.100.9"),
        (("192.0.2.1", 5), "", True, "192.0.2.1"),
        (("2001:db8:1:2:3:4:5:6", 5), None, False, "2001:db8:1:2::/64"),
        (("::ffff:192.0.2.1", 5), None, False, "192.0.2.1"),
        (("192.0.2.1", 5), "[2001:db8::1]", True, "2001:db8::/64"),
        (("192.0.2.1", 5), "x" * 500, True, "x" * 64),
        (None, None, False, "unknown"),
    ],
)
def test_address_that_asks(client: tuple[str, int] | None, forwarded: str | None, trust: bool, caller: str) -> None:
    headers = [] if forwarded is None else [(b"x-forwarded-for", forwarded.encode())]
    scope: Scope = {"type": "http", "client": client, "headers": headers}
    assert caller_address(scope, trust_proxy=trust) == caller


KEYS = {f"rk_{name * 43}": Principal(name, Role.READER) for name in "ab"}


def throttled(per_minute: int, clock: Clock, *, trust_proxy: bool = False) -> TestClient:
    app = FastAPI()
    problems.install(app)
    app.add_middleware(Throttle, per_minute=per_minute, trust_proxy=trust_proxy, clock=clock)
    app.state.gatekeeper = Gatekeeper(Settings.model_validate({"auth": "keys"}), KEYS.get, Sessions(), clock=clock)
    app.include_router(login.router)
    guard = Depends(needs(Role.READER))

    @app.get("/v1/x")
    def x(who: Principal = guard) -> str:
        return who.name

    @app.get("/ping")
    def ping() -> None:
        return None

    return TestClient(app)


def key(name: str) -> dict[str, str]:
    return {"Authorization": f"Bearer rk_{name * 43}"}


def test_too_many_requests() -> None:
    clock = Clock()
    caller = throttled(10, clock)
    for _ in range(10):
        assert caller.get("/v1/x").status_code == 401
    answer = caller.get("/v1/x")
    assert (answer.status_code, answer.json()["code"], answer.headers["retry-after"]) == (429, "rate_limited", "6")
    for _ in range(100):
        assert caller.get("/ping").status_code == 200
    clock.now += 6
    assert caller.get("/v1/x").status_code == 401


def test_good_keys_are_callers_and_made_up_ones_are_not() -> None:
    caller = throttled(10, Clock())
    assert caller.get("/v1/x", headers=key("a")).status_code == 200  # by address: not known yet
    assert caller.get("/v1/x", headers=key("b")).status_code == 200
    for number in range(20):
        caller.get("/v1/x", headers={"Authorization": f"Bearer rk_{number:x>43}"})
    assert caller.get("/v1/x", headers=key("z")).status_code == 429
    statuses = [caller.get("/v1/x", headers=key("a")).status_code for _ in range(11)]
    assert statuses == [200] * 10 + [429]
    assert caller.get("/v1/x", headers=key("b")).status_code == 200


def test_a_session_shares_the_bucket_of_its_key() -> None:
    caller = throttled(10, Clock())
    assert caller.post("/v1/session", json={"key": "rk_" + "a" * 43}).status_code == 200
    assert [caller.get("/v1/x").status_code for _ in range(11)] == [200] * 10 + [429]
    caller.cookies.clear()
    assert caller.get("/v1/x", headers=key("a")).status_code == 429


def test_addresses_behind_a_trusted_proxy_are_told_apart() -> None:
    caller = throttled(1, Clock(), trust_proxy=True)
    for address in ("192.0.2.1", "192.0.2.2"):
        assert caller.get("/v1/x", headers={"X-Forwarded-For": address}).status_code == 401
    assert caller.get("/v1/x", headers={"X-Forwarded-For": "192.0.2.9, 192.0.2.1"}).status_code == 429


def test_no_limit() -> None:
    caller = throttled(0, Clock())
    assert {caller.get("/v1/x").status_code for _ in range(50)} == {401}
