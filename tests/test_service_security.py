"""Who asks: keys, sessions and their cookies, roles, headers; through a small application that uses the real parts."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from fastapi import Depends, FastAPI
from fastapi.testclient import TestClient
from starlette.responses import HTMLResponse, Response

from rentgen.errors import StoreError
from rentgen.records.studies import Principal, Role
from rentgen.service import login, problems
from rentgen.service.headers import PAGE_POLICY, REPORT_POLICY, SecureHeaders
from rentgen.service.security import CACHE_S, LOGINS_PER_MINUTE, Gatekeeper, needs
from rentgen.service.sessions import Session, Sessions
from rentgen.settings import Settings

KEYS = {role: f"rk_{role.value:x<43}" for role in Role}
NOBODY = "rk_" + "n" * 43


@dataclass
class Clock:
    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Keys:
    """Stands where the store's table of keys stands: a look-up that counts."""

    known: dict[str, Principal] = field(
        default_factory=lambda: {key: Principal(f"{role.value}-key", role) for role, key in KEYS.items()}
    )
    asked: list[str] = field(default_factory=list)
    threads: set[int] = field(default_factory=set)
    broken: bool = False

    def find(self, plain: str) -> Principal | None:
        self.asked.append(plain)
        self.threads.add(threading.get_ident())
        if self.broken:
            raise StoreError("no answer")
        return self.known.get(plain)


def settings(**given: object) -> Settings:
    return Settings.model_validate({"auth": "keys", **given})


def add_route(app: FastAPI, role: Role) -> None:
    guard = Depends(needs(role))

    def name(who: Principal = guard) -> str:
        return who.name

    for method in ("GET", "POST", "PUT", "PATCH", "DELETE"):
        app.add_api_route(f"/v1/{role.value}", name, methods=[method], operation_id=f"{method}_{role.value}")


def build(keys: Keys, clock: Clock, *, tls: bool = False, **given: object) -> FastAPI:
    app = FastAPI(responses=problems.RESPONSES)
    problems.install(app)
    app.add_middleware(SecureHeaders, tls=tls)
    sessions = Sessions(lifetime_s=1000, idle_s=100, limit=3, clock=clock)
    app.state.gatekeeper = Gatekeeper(settings(**given), keys.find, sessions, clock=clock)
    app.include_router(login.router)
    for role in Role:
        add_route(app, role)

    @app.get("/v1/reports/one")
    def report() -> HTMLResponse:
        return HTMLResponse("<style></style>", headers={"Content-Security-Policy": REPORT_POLICY})

    @app.get("/page")
    def page() -> Response:
        return Response("x", headers={"Cache-Control": "max-age=60"})

    return app


@pytest.fixture(name="keys")
def make_keys() -> Keys:
    return Keys()


@pytest.fixture(name="clock")
def make_clock() -> Clock:
    return Clock()


Open = Callable[..., TestClient]


@pytest.fixture(name="client")
def make_client(keys: Keys, clock: Clock) -> Open:
    def client(base: str = "http://localhost", *, tls: bool = False, **given: object) -> TestClient:
        return TestClient(build(keys, clock, tls=tls, **given), base_url=base)

    return client


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


# --- keys and roles


@pytest.mark.parametrize("held", Role)
@pytest.mark.parametrize("needed", Role)
@pytest.mark.parametrize("header", ["bearer", "x-api-key"])
def test_role_covers_those_below(client: Open, held: Role, needed: Role, header: str) -> None:
    headers = bearer(KEYS[held]) if header == "bearer" else {"X-API-Key": KEYS[held]}
    answer = client().get(f"/v1/{needed.value}", headers=headers)
    if list(Role).index(held) >= list(Role).index(needed):
        assert (answer.status_code, answer.json()) == (200, f"{held.value}-key")
    else:
        assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")


@pytest.mark.parametrize(
    "headers",
    [
        {},
        bearer(NOBODY),
        bearer(""),
        bearer("rk_short"),
        bearer("a.b.c"),
        {"Authorization": KEYS[Role.ADMIN]},
        {"Authorization": f"Basic {KEYS[Role.ADMIN]}"},
        {"X-API-Key": NOBODY},
        {"X-API-Key": "é"},
        {"X-API-Key": KEYS[Role.ADMIN] + "x" * 200},
        {"Cookie": "rentgen_session=made-up"},
        {"Authorization": "Basic eDp5", "X-API-Key": KEYS[Role.ADMIN]},
    ],
)
def test_nobody_is_answered_401(client: Open, headers: dict[str, str]) -> None:
    raw = {name.encode(): text.encode("latin-1") for name, text in headers.items()}
    answer = client().get("/v1/reader", headers=raw)
    assert (answer.status_code, answer.json()["code"]) == (401, "unauthorised")
    came = bool({"Authorization", "X-API-Key"} & set(headers))
    assert answer.headers["www-authenticate"].startswith('Bearer realm="rentgen"')
    assert ("invalid_token" in answer.headers["www-authenticate"]) == came
    assert "rk_" not in answer.text


def test_only_what_looks_like_a_key_reaches_the_store(client: Open, keys: Keys) -> None:
    for text in ("hello", "rk_", "rk_" + "x" * 500, "rk_" + "!" * 43, "a.b.c"):
        client().get("/v1/reader", headers=bearer(text))
    assert keys.asked == []


def test_keys_are_looked_up_on_a_thread_and_believed_for_seconds(client: Open, keys: Keys, clock: Clock) -> None:
    caller, headers = client(), bearer(KEYS[Role.READER])
    for _ in range(5):
        assert caller.get("/v1/reader", headers=headers).status_code == 200
    assert len(keys.asked) == 1
    assert threading.get_ident() not in keys.threads
    keys.known.clear()
    clock.now += CACHE_S
    assert caller.get("/v1/reader", headers=headers).status_code == 401


def test_new_key_works_within_seconds_of_having_been_refused(client: Open, keys: Keys, clock: Clock) -> None:
    caller = client()
    assert caller.get("/v1/reader", headers=bearer(NOBODY)).status_code == 401
    keys.known[NOBODY] = Principal("new", Role.READER)
    clock.now += CACHE_S
    assert caller.get("/v1/reader", headers=bearer(NOBODY)).status_code == 200


def test_store_that_fails_is_503_and_not_remembered(client: Open, keys: Keys) -> None:
    caller, headers = client(), bearer(KEYS[Role.READER])
    keys.broken = True
    answer = caller.get("/v1/reader", headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (503, "store_failed")
    keys.broken = False
    assert caller.get("/v1/reader", headers=headers).status_code == 200


def test_caches_are_bounded(client: Open, keys: Keys) -> None:
    caller = client()
    gatekeeper: Gatekeeper = caller.app.state.gatekeeper  # type: ignore[attr-defined]
    for number in range(5000):
        gatekeeper._cache[str(number)] = (0.0, None)
    caller.get("/v1/reader", headers=bearer(NOBODY))
    assert len(gatekeeper._cache) <= 4096


# --- without keys


def test_on_loopback_everyone_is_the_local_admin(client: Open) -> None:
    caller = client(auth=None)
    assert caller.delete("/v1/admin").json() == "local"
    assert caller.get("/v1/whoami").json() == {
        "name": "local",
        "role": "admin",
        "auth": "none",
        "csrf": None,
        "languages": ["en", "uk"],
    }
    assert caller.post("/v1/session", json={"key": "x"}).json()["code"] == "conflict"


@pytest.mark.parametrize("header", ["X-Forwarded-For", "Forwarded"])
def test_without_keys_nobody_comes_through_a_proxy(client: Open, header: str) -> None:
    answer = client(auth=None).get("/v1/reader", headers={header: "for=192.0.2.1"})
    assert answer.status_code == 401
    assert "behind a proxy" in answer.json()["detail"]
    assert client(auth=None, trust_proxy=True).get("/v1/reader", headers={header: "for=192.0.2.1"}).status_code == 401
    chosen = client(auth="none", trust_proxy=True)
    assert chosen.get("/v1/reader", headers={header: "for=192.0.2.1"}).status_code == 200


def test_behind_a_platform_a_key_is_asked_for(client: Open) -> None:
    caller = client(auth="platform")
    assert caller.get("/v1/reader").status_code == 401
    assert caller.get("/v1/whoami", headers=bearer(KEYS[Role.READER])).json()["auth"] == "platform"


# --- sessions


def sign_in(caller: TestClient, role: Role = Role.PHYSICIAN) -> str:
    answer = caller.post("/v1/session", json={"key": KEYS[role]})
    assert answer.status_code == 200
    return str(answer.json()["csrf"])


def test_cookie_over_http(client: Open) -> None:
    caller = client()
    answer = caller.post("/v1/session", json={"key": KEYS[Role.READER]})
    name, _, rest = answer.headers["set-cookie"].partition("=")
    identity, *flags = [part.strip().lower() for part in rest.split(";")]
    assert name == "rentgen_session"
    assert len(identity) == 43
    assert sorted(flags) == ["httponly", "path=/", "samesite=strict"]
    assert KEYS[Role.READER] not in str(answer.headers) + answer.text
    assert answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize("proxied", [False, True])
def test_cookie_over_tls_is_secure_and_of_this_host_only(client: Open, proxied: bool) -> None:
    caller = client("http://localhost", trust_proxy=True) if proxied else client("https://localhost")
    headers = {"X-Forwarded-Proto": "https"} if proxied else {}
    answer = caller.post("/v1/session", json={"key": KEYS[Role.READER]}, headers=headers)
    cookie = answer.headers["set-cookie"]
    assert cookie.startswith("__Host-rentgen_session=")
    assert {"secure", "httponly", "path=/", "samesite=strict"} < {part.strip().lower() for part in cookie.split(";")}
    assert "domain" not in cookie.lower()
    sent = {**headers, "Cookie": cookie.partition(";")[0]}
    assert caller.get("/v1/reader", headers=sent).status_code == 200
    # A cookie that a neighbouring host may have set is not looked at.
    caller.cookies.clear()
    tossed = {**headers, "Cookie": cookie.partition(";")[0].removeprefix("__Host-")}
    assert caller.get("/v1/reader", headers=tossed).status_code == 401


def test_forwarded_scheme_is_not_believed_unless_told(client: Open) -> None:
    answer = client().post("/v1/session", json={"key": KEYS[Role.READER]}, headers={"X-Forwarded-Proto": "https"})
    assert answer.headers["set-cookie"].startswith("rentgen_session=")


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
def test_csrf_matrix(client: Open, method: str) -> None:
    caller = client()
    token = sign_in(caller)
    other = sign_in(client())
    assert caller.get("/v1/physician").status_code == 200
    for wrong in (None, "", "x", token[:-1], token + "x", other, "é"):
        headers = {} if wrong is None else {b"X-CSRF-Token": wrong.encode("latin-1")}
        answer = caller.request(method, "/v1/physician", headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (403, "forbidden"), wrong
    assert caller.request(method, "/v1/physician", headers={"X-CSRF-Token": token}).status_code == 200
    # A header says who asks without the browser's help, so nothing can be forged.
    assert caller.request(method, "/v1/physician", headers=bearer(KEYS[Role.ADMIN])).status_code == 200


def test_bad_key_in_a_header_does_not_fall_back_on_the_cookie(client: Open) -> None:
    caller = client()
    sign_in(caller)
    assert caller.get("/v1/reader", headers=bearer(NOBODY)).status_code == 401


def test_whoami_gives_the_token_to_the_session_only(client: Open) -> None:
    caller = client()
    assert caller.get("/v1/whoami").status_code == 401
    token = sign_in(caller)
    assert caller.get("/v1/whoami").json()["csrf"] == token
    assert caller.get("/v1/whoami").json()["role"] == "physician"
    assert caller.get("/v1/whoami", headers=bearer(KEYS[Role.READER])).json()["csrf"] is None


def test_sign_out(client: Open) -> None:
    caller = client()
    token = sign_in(caller)
    stolen = caller.cookies["rentgen_session"]
    assert caller.delete("/v1/session").status_code == 403
    answer = caller.delete("/v1/session", headers={"X-CSRF-Token": token})
    assert answer.status_code == 204
    assert "Max-Age=0" in answer.headers["set-cookie"]
    assert caller.get("/v1/reader").status_code == 401
    assert caller.get("/v1/reader", headers={"Cookie": f"rentgen_session={stolen}"}).status_code == 401
    assert caller.delete("/v1/session").status_code == 204


def test_signing_in_again_makes_a_new_id_and_ends_the_old(client: Open) -> None:
    caller = client()
    sign_in(caller)
    first = caller.cookies["rentgen_session"]
    sign_in(caller, Role.READER)
    assert caller.cookies["rentgen_session"] != first
    caller.cookies.clear()
    assert caller.get("/v1/reader", headers={"Cookie": f"rentgen_session={first}"}).status_code == 401


def test_session_ends_with_its_key(client: Open, keys: Keys, clock: Clock) -> None:
    caller = client()
    sign_in(caller)
    keys.known.pop(KEYS[Role.PHYSICIAN])
    clock.now += CACHE_S
    assert caller.get("/v1/reader").status_code == 401


def test_session_ends_by_idling_and_by_age(client: Open, clock: Clock) -> None:
    caller = client()
    sign_in(caller)
    for _ in range(9):
        clock.now += 99
        assert caller.get("/v1/reader").status_code == 200
    clock.now += 109  # age 1000
    assert caller.get("/v1/reader").status_code == 401
    sign_in(caller)
    clock.now += 100
    assert caller.get("/v1/reader").status_code == 401


def test_sessions_are_bounded(client: Open) -> None:
    first = client()
    app = first.app
    sign_in(first)
    others = [TestClient(app, base_url="http://localhost") for _ in range(3)]
    for other in others:
        sign_in(other)
    assert first.get("/v1/reader").status_code == 401
    assert all(other.get("/v1/reader").status_code == 200 for other in others)


def test_attempts_to_sign_in_are_throttled_by_address(client: Open, clock: Clock) -> None:
    caller = client()
    for _ in range(LOGINS_PER_MINUTE):
        assert caller.post("/v1/session", json={"key": NOBODY}).status_code == 401
    answer = caller.post("/v1/session", json={"key": KEYS[Role.READER]})
    assert (answer.status_code, answer.json()["code"], answer.headers["retry-after"]) == (429, "rate_limited", "6")
    clock.now += 6
    assert caller.post("/v1/session", json={"key": KEYS[Role.READER]}).status_code == 200


@pytest.mark.parametrize("body", [{}, {"key": ""}, {"key": 5}, {"key": "x" * 20_000}, {"key": "x", "more": 1}, []])
def test_sign_in_forms_that_are_refused(client: Open, body: object) -> None:
    answer = client().post("/v1/session", json=body)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    assert "x" * 100 not in answer.text


def test_secrets_are_not_shown() -> None:
    sessions = Sessions()
    identity, session = sessions.open("rk_secret")
    assert "rk_secret" not in repr(session)
    assert session.csrf not in repr(session)
    assert identity not in repr(vars(sessions))
    assert "secret" not in repr(login.SignIn.model_validate({"key": "rk_secret"}))


def test_expired_sessions_make_room_first() -> None:
    clock = Clock()
    sessions = Sessions(idle_s=10, limit=2, clock=clock)
    for _ in range(2):
        sessions.open("old")
    clock.now += 10
    sessions.open("new")
    assert len(sessions) == 1


def test_csrf_comparison_takes_no_token_for_wrong() -> None:
    assert not Session("k", "token", 0, 0).confirms(None)


# --- headers


def test_headers_of_every_answer(client: Open) -> None:
    caller = client()
    for path, status in (("/v1/reader", 401), ("/nowhere", 404), ("/openapi.json", 200)):
        answer = caller.get(path)
        assert answer.status_code == status
        assert answer.headers["content-security-policy"] == PAGE_POLICY
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "same-origin"
        assert answer.headers["cross-origin-opener-policy"] == "same-origin"
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"
        assert "camera=()" in answer.headers["permissions-policy"]
        assert "strict-transport-security" not in answer.headers
        assert ("cache-control" in answer.headers) == path.startswith("/v1")


def test_policy_allows_nothing_inline() -> None:
    policy = dict(part.split(" ", 1) for part in PAGE_POLICY.split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == "'self'"
    assert policy["frame-ancestors"] == "'none'"
    assert "unsafe" not in PAGE_POLICY


def test_route_may_bring_its_own(client: Open) -> None:
    caller = client()
    assert caller.get("/v1/reports/one").headers.get_list("content-security-policy") == [REPORT_POLICY]
    assert caller.get("/page").headers.get_list("cache-control") == ["max-age=60"]


def test_hsts_under_tls(client: Open) -> None:
    assert client(tls=True).get("/page").headers["strict-transport-security"] == "max-age=31536000"


# --- OpenAPI


def test_description_says_how_to_say_who_one_is(client: Open) -> None:
    document = client().get("/openapi.json").json()
    schemes = document["components"]["securitySchemes"]
    assert schemes["bearer"]["scheme"] == "bearer"
    assert (schemes["apiKey"]["in"], schemes["apiKey"]["name"]) == ("header", "X-API-Key")
    assert (schemes["session"]["in"], schemes["session"]["name"]) == ("cookie", "rentgen_session")
    assert document["paths"]["/v1/reader"]["get"]["security"] == [{"bearer": []}, {"apiKey": []}, {"session": []}]
    assert "security" not in document["paths"]["/v1/session"]["post"]
    assert {"401", "409", "429"} <= set(document["paths"]["/v1/session"]["post"]["responses"])


def test_key_look_up_costs_little(client: Open) -> None:
    caller, headers = client(), bearer(KEYS[Role.READER])
    caller.get("/v1/reader", headers=headers)
    began = time.perf_counter()
    for _ in range(20):
        caller.get("/v1/reader", headers=headers)
    assert time.perf_counter() - began < 5
