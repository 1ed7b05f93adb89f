"""OIDC tokens against a provider on loopback that really serves discovery and keys, and signs with real keys."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from fastapi import Depends, FastAPI
from fastapi.testclient import TestClient
from hypothesis import given, settings
from hypothesis import strategies as st

from rentgen.errors import PeerError, SettingError
from rentgen.records.studies import Principal, Role
from rentgen.service import problems
from rentgen.service.problems import Problem
from rentgen.service.security import Gatekeeper, needs
from rentgen.service.sessions import Sessions
from rentgen.service.tokens import (
    FIRST_RETRY_S,
    REFRESH_S,
    RETRY_S,
    STALE_S,
    KeySource,
    Tokens,
    check_address,
    fetch_json,
    read_header,
    read_keys,
    role_of,
)
from rentgen.settings import Settings

AUDIENCE = "rentgen"

Private = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey

RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
OTHER_RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
SHORT_RSA = rsa.generate_private_key(public_exponent=65537, key_size=1024)  # noqa: S505
EC = ec.generate_private_key(ec.SECP256R1())
WIDE_EC = ec.generate_private_key(ec.SECP384R1())
ED = ed25519.Ed25519PrivateKey.generate()


def jwk(key: Private, kid: str | None, **more: object) -> dict[str, object]:
    algorithm: Mapping[type, Callable[[object], str]] = {
        rsa.RSAPrivateKey: jwt.algorithms.RSAAlgorithm.to_jwk,  # type: ignore[dict-item]
        ec.EllipticCurvePrivateKey: jwt.algorithms.ECAlgorithm.to_jwk,  # type: ignore[dict-item]
        ed25519.Ed25519PrivateKey: jwt.algorithms.OKPAlgorithm.to_jwk,  # type: ignore[dict-item]
    }
    turn = next(turn for kind, turn in algorithm.items() if isinstance(key, kind))
    entry: dict[str, object] = json.loads(turn(key.public_key()))
    entry.pop("key_ops", None)
    return {**entry, **({} if kid is None else {"kid": kid}), "use": "sig", **more}


@dataclass
class Provider:
    """What the provider serves, and what it was asked for."""

    url: str = ""
    keys: list[dict[str, object]] = field(default_factory=list)
    issuer: str | None = None
    jwks_uri: str | None = None
    status: int = 200
    body: bytes | None = None
    drip_s: float = 0.0
    redirect: str | None = None
    asked: list[str] = field(default_factory=list)

    def document(self, path: str) -> bytes:
        if path.endswith("/.well-known/openid-configuration"):
            return json.dumps(
                {"issuer": self.issuer or self.url, "jwks_uri": self.jwks_uri or f"{self.url}/keys"}
            ).encode()
        return self.body if self.body is not None else json.dumps({"keys": self.keys}).encode()


@contextmanager
def provide() -> Iterator[Provider]:
    provider = Provider()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

        def do_GET(self) -> None:
            provider.asked.append(self.path)
            data = provider.document(self.path)
            self.send_response(302 if provider.redirect else provider.status)
            if provider.redirect:
                self.send_header("Location", provider.redirect)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            try:
                for start in range(0, len(data), 64 if provider.drip_s else len(data)):
                    self.wfile.write(data[start : start + 64] if provider.drip_s else data)
                    time.sleep(provider.drip_s)
            except OSError:
                pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    provider.url = f"http://127.0.0.1:{server.server_port}"
    provider.keys = [
        jwk(RSA, "rsa"),
        jwk(EC, "ec", alg="ES256"),
        jwk(ED, "ed"),
        jwk(SHORT_RSA, "short"),
        jwk(WIDE_EC, "wide"),
        jwk(OTHER_RSA, "encryption", use="enc"),
        {"kty": "oct", "k": "c2VjcmV0", "kid": "shared", "alg": "HS256"},
        {"kty": "quantum", "kid": "new"},
    ]
    try:
        yield provider
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture(name="provider")
def make_provider() -> Iterator[Provider]:
    with provide() as provider:
        yield provider


@dataclass
class Clock:
    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


def tokens(provider: Provider, clock: Clock | None = None, *, claim: str = "roles", jwks: str | None = None) -> Tokens:
    keys = KeySource(provider.url, jwks, clock=clock or Clock())
    return Tokens(issuer=provider.url, audience=AUDIENCE, role_claim=claim, keys=keys)


def claims(provider: Provider, **more: object) -> dict[str, object]:
    now = int(time.time())
    base = {"iss": provider.url, "aud": AUDIENCE, "sub": "u1", "iat": now, "exp": now + 300, "roles": ["physician"]}
    return {name: value for name, value in {**base, **more}.items() if value is not None}


def sign(
    payload: dict[str, object], key: Private = RSA, algorithm: str = "RS256", kid: str | None = "rsa", **header: object
) -> str:
    return jwt.encode(payload, key, algorithm, headers={**({} if kid is None else {"kid": kid}), **header})


def verify(verifier: Tokens, token: str) -> Principal | None:
    return asyncio.run(verifier.verify(token))


def segment(data: object) -> str:
    raw = data if isinstance(data, bytes) else json.dumps(data).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


# --- what is taken


@pytest.mark.parametrize(
    ("key", "algorithm", "kid"),
    [(RSA, "RS256", "rsa"), (RSA, "PS256", "rsa"), (EC, "ES256", "ec"), (ED, "EdDSA", "ed")],
)
def test_good_token_is_its_subject(provider: Provider, key: Private, algorithm: str, kid: str) -> None:
    token = sign(claims(provider), key, algorithm, kid)
    assert verify(tokens(provider), token) == Principal("oidc:u1", Role.PHYSICIAN)


@pytest.mark.parametrize("typ", ["JWT", "at+jwt", "application/at+jwt"])
def test_types_of_identity_and_access_tokens(provider: Provider, typ: str) -> None:
    assert verify(tokens(provider), sign(claims(provider), typ=typ)) is not None


def test_audience_may_be_one_of_several(provider: Provider) -> None:
    assert verify(tokens(provider), sign(claims(provider, aud=["other", AUDIENCE]))) is not None


def test_clocks_may_differ_a_little(provider: Provider) -> None:
    now = int(time.time())
    assert verify(tokens(provider), sign(claims(provider, exp=now - 20, nbf=now + 20))) is not None


def test_keys_at_a_configured_address_need_no_discovery(provider: Provider) -> None:
    assert verify(tokens(provider, jwks=f"{provider.url}/keys"), sign(claims(provider))) is not None
    assert provider.asked == ["/keys"]


# --- what is refused


FAULTS: dict[str, dict[str, object]] = {
    "expired": {"exp": 1_000_000_000},
    "not yet": {"nbf": 4_000_000_000},
    "issued later": {"iat": 4_000_000_000},
    "without end": {"exp": None},
    "end is a word": {"exp": "tomorrow"},
    "end without bound": {"exp": 1e400},
    "other audience": {"aud": "other"},
    "without audience": {"aud": None},
    "audience in part": {"aud": "rentgen-other"},
    "other issuer": {"iss": "https://elsewhere.example"},
    "issuer in part": {"iss": "http://127.0.0.1"},
    "without issuer": {"iss": None},
    "without subject": {"sub": None},
    "empty subject": {"sub": ""},
    "subject of two lines": {"sub": "u1\nadmin"},
    "long subject": {"sub": "u" * 256},
    "bound to a key": {"cnf": {"jkt": "x"}},
}


@pytest.mark.parametrize("fault", FAULTS)
def test_claims_that_do_not_hold(provider: Provider, fault: str) -> None:
    assert verify(tokens(provider), sign(claims(provider, **FAULTS[fault]))) is None


def test_signature_by_another_key(provider: Provider) -> None:
    assert verify(tokens(provider), sign(claims(provider), OTHER_RSA)) is None


@pytest.mark.parametrize("algorithm", ["none", "None", "NONE", "nOnE", "", None])
def test_no_signature(provider: Provider, algorithm: str | None) -> None:
    token = f"{segment({'alg': algorithm, 'kid': 'rsa'})}.{segment(claims(provider))}."
    assert verify(tokens(provider), token) is None
    assert provider.asked == []


@pytest.mark.parametrize("form", ["pem", "der", "jwk"])
@pytest.mark.parametrize("algorithm", ["HS256", "RS256"])
def test_public_key_as_shared_secret(provider: Provider, form: str, algorithm: str) -> None:
    public = RSA.public_key()
    kind = serialization.PublicFormat.SubjectPublicKeyInfo
    secret = {
        "pem": public.public_bytes(serialization.Encoding.PEM, kind),
        "der": public.public_bytes(serialization.Encoding.DER, kind),
        "jwk": json.dumps(provider.keys[0]).encode(),
    }[form]
    signed = f"{segment({'alg': algorithm, 'kid': 'rsa', 'typ': 'JWT'})}.{segment(claims(provider))}"
    token = f"{signed}.{segment(hmac.digest(secret, signed.encode(), hashlib.sha256))}"
    assert verify(tokens(provider), token) is None


def test_shared_secret_in_the_key_set_is_not_a_key(provider: Provider) -> None:
    token = jwt.encode(claims(provider), b"secret" * 8, "HS256", headers={"kid": "shared"})
    assert verify(tokens(provider), token) is None


@pytest.mark.parametrize(
    ("key", "algorithm", "kid"),
    [
        (RSA, "RS512", "rsa"),
        (WIDE_EC, "ES384", "wide"),
        (OTHER_RSA, "RS256", "encryption"),
        (RSA, "RS256", "ec"),
        (EC, "ES256", "rsa"),
    ],
)
def test_keys_and_algorithms_that_do_not_belong(provider: Provider, key: Private, algorithm: str, kid: str) -> None:
    assert verify(tokens(provider), sign(claims(provider), key, algorithm, kid)) is None


def test_short_key_is_no_key(provider: Provider) -> None:
    assert {key.kid for key in read_keys({"keys": provider.keys})} == {"rsa", "ec", "ed"}


def test_key_of_another_algorithm_is_not_used(provider: Provider) -> None:
    provider.keys = [jwk(RSA, "rsa", alg="PS256")]
    assert verify(tokens(provider), sign(claims(provider))) is None
    assert verify(tokens(provider), sign(claims(provider), algorithm="PS256")) is not None


@pytest.mark.parametrize(
    "header",
    [
        {"crit": ["exp"]},
        {"typ": "logout+jwt"},
        {"typ": "dpop+jwt"},
        {"b64": False, "crit": ["b64"]},
    ],
)
def test_headers_that_change_the_meaning(provider: Provider, header: dict[str, object]) -> None:
    key = segment({"alg": "RS256", "kid": "rsa", **header})
    assert verify(tokens(provider), f"{key}.{segment(claims(provider))}.AAAA") is None
    assert read_header(f"{key}.{segment(claims(provider))}.AAAA") is None


def test_address_in_a_token_is_not_asked(provider: Provider) -> None:
    with provide() as attacker:
        attacker.keys = [jwk(OTHER_RSA, "mine")]
        header = {"jku": f"{attacker.url}/keys", "x5u": f"{attacker.url}/x", "jwk": jwk(OTHER_RSA, "mine")}
        assert verify(tokens(provider), sign(claims(provider), OTHER_RSA, "RS256", "mine", **header)) is None
        assert attacker.asked == []


def test_changed_payload(provider: Provider) -> None:
    head, _, signature = sign(claims(provider)).split(".")
    assert verify(tokens(provider), f"{head}.{segment(claims(provider, roles=['admin']))}.{signature}") is None


def test_without_kid_one_key_must_fit(provider: Provider) -> None:
    token = sign(claims(provider), kid=None)
    assert verify(tokens(provider), token) is not None
    provider.keys.append(jwk(OTHER_RSA, "second"))
    assert verify(tokens(provider), token) is None


@settings(max_examples=200, deadline=None)
@given(
    st.text(max_size=200)
    | st.from_regex(r"[A-Za-z0-9_=-]{0,40}\.[A-Za-z0-9_=-]{0,40}\.[A-Za-z0-9_=-]{0,40}", fullmatch=True)
    | st.builds(
        lambda header: f"{segment(header)}.e30.AA",
        st.recursive(st.none() | st.integers() | st.text(), lambda inner: st.dictionaries(st.text(), inner)),
    )
)
def test_no_text_breaks_the_reader(text: str) -> None:
    assert read_header(text) is None


def test_deep_and_long_tokens_are_refused_at_once(provider: Provider) -> None:
    deep = segment(b"[" * 11_000)
    assert read_header(f"{deep}.e30.AA") is None
    assert read_header("x" * 20_000 + ".e30.AA") is None
    payload = b'{"a":' + b"[" * 9000
    signed = jwt.api_jws.encode(payload, RSA, "RS256", headers={"kid": "rsa"})
    assert verify(tokens(provider), signed) is None


def test_refusal_is_logged_without_the_token(provider: Provider, caplog: pytest.LogCaptureFixture) -> None:
    token = sign(claims(provider, aud="other"))
    with caplog.at_level(logging.INFO):
        verify(tokens(provider), token)
    assert "InvalidAudienceError" in caplog.text
    assert token not in caplog.text
    assert "u1" not in caplog.text


# --- keys come and go


def test_keys_are_fetched_once(provider: Provider) -> None:
    verifier = tokens(provider)
    for _ in range(5):
        assert verify(verifier, sign(claims(provider))) is not None
    assert provider.asked == ["/.well-known/openid-configuration", "/keys"]


def test_many_at_once_fetch_once(provider: Provider) -> None:
    verifier, token = tokens(provider), sign(claims(provider))

    async def all_at_once() -> list[Principal | None]:
        return await asyncio.gather(*(verifier.verify(token) for _ in range(20)))

    assert None not in asyncio.run(all_at_once())
    assert len(provider.asked) == 2


def test_new_key_is_found_and_unknown_ones_cost_one_fetch_a_minute(provider: Provider) -> None:
    clock = Clock()
    verifier = tokens(provider, clock)
    assert verify(verifier, sign(claims(provider))) is not None
    provider.keys = [jwk(OTHER_RSA, "next")]
    clock.now += RETRY_S
    assert verify(verifier, sign(claims(provider), OTHER_RSA, kid="next")) is not None
    assert verify(verifier, sign(claims(provider))) is None  # the old one is gone
    asked = len(provider.asked)
    for number in range(50):
        assert verify(verifier, sign(claims(provider), OTHER_RSA, kid=f"made up {number}")) is None
    assert len(provider.asked) == asked
    clock.now += RETRY_S
    verify(verifier, sign(claims(provider), OTHER_RSA, kid="made up"))
    assert len(provider.asked) == asked + 2


def test_old_keys_are_fetched_again(provider: Provider) -> None:
    clock = Clock()
    verifier = tokens(provider, clock)
    assert verify(verifier, sign(claims(provider))) is not None
    provider.keys = [jwk(OTHER_RSA, "rsa")]
    clock.now += REFRESH_S + 1
    assert verify(verifier, sign(claims(provider))) is None


def test_provider_that_is_down_is_outlived_for_a_time(provider: Provider) -> None:
    clock = Clock()
    verifier, began = tokens(provider, clock), clock.now
    assert verify(verifier, sign(claims(provider))) is not None
    provider.status = 503
    while clock.now - began < STALE_S - REFRESH_S:
        clock.now += REFRESH_S
        assert verify(verifier, sign(claims(provider))) is not None
    clock.now = began + STALE_S + 1
    with pytest.raises(PeerError, match="does not answer"):
        verify(verifier, sign(claims(provider)))
    provider.status = 200
    clock.now += RETRY_S
    assert verify(verifier, sign(claims(provider))) is not None


def test_provider_that_was_never_up_is_asked_again_soon(provider: Provider) -> None:
    clock = Clock()
    verifier = tokens(provider, clock)
    provider.status = 500
    for _ in range(3):
        with pytest.raises(PeerError, match="cannot be verified"):
            verify(verifier, sign(claims(provider)))
    assert len(provider.asked) == 1
    provider.status = 200
    clock.now += FIRST_RETRY_S
    assert verify(verifier, sign(claims(provider))) is not None


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"[]",
        b"{}",
        b'{"keys": {}}',
        b'{"keys": [' + b"[" * 5000,
        json.dumps({"keys": [{"kty": "RSA"}] * 65}).encode(),
        b'{"keys": [' + b" " * 300_000 + b"]}",
    ],
    ids=["empty", "html", "list", "no keys", "map", "deep", "many", "large"],
)
def test_answers_that_are_no_key_set(provider: Provider, body: bytes) -> None:
    provider.body = body
    with pytest.raises(PeerError):
        verify(tokens(provider), sign(claims(provider)))


def test_entries_that_are_no_keys_are_left_out(provider: Provider) -> None:
    odd: list[object] = [None, 5, "x", {}, {"kty": "RSA", "n": 5}, {"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"}]
    odd += [{"kty": "RSA", "n": "AQAB", "e": ""}, {"kty": ["RSA"]}, {**jwk(RSA, None), "kid": 7}, {"kty": "OKP"}]
    assert read_keys({"keys": odd}) == ()
    assert len(read_keys({"keys": [*odd, provider.keys[0]]})) == 1


def test_slow_answer_is_cut(provider: Provider) -> None:
    provider.drip_s = 0.05
    provider.body = b" " * 64 * 100
    began = time.monotonic()
    with pytest.raises(PeerError, match="Expected at most"):
        fetch_json(f"{provider.url}/keys", timeout_s=0.3)
    assert time.monotonic() - began < 2


def test_redirects_are_not_followed(provider: Provider) -> None:
    with provide() as attacker:
        provider.redirect = f"{attacker.url}/keys"
        with pytest.raises(PeerError, match="answered 302"):
            fetch_json(f"{provider.url}/keys")
        assert attacker.asked == []


def test_discovery_of_another_issuer_is_not_believed(provider: Provider) -> None:
    provider.issuer = "https://elsewhere.example"
    with pytest.raises(PeerError):
        verify(tokens(provider), sign(claims(provider)))
    assert "/keys" not in provider.asked


@pytest.mark.parametrize("url", ["http://elsewhere.invalid/keys", "file:///etc/passwd", "ftp://127.0.0.1/keys", "None"])
def test_discovery_may_not_name_an_open_or_local_address(provider: Provider, url: str) -> None:
    provider.jwks_uri = url
    with pytest.raises(PeerError):
        verify(tokens(provider), sign(claims(provider)))


@pytest.mark.parametrize(
    ("url", "allowed"),
    [
        ("https://id.example/realms/x", True),
        ("http://127.0.0.1:9/x", True),
        ("http://[::1]/x", True),
        ("http://localhost/x", True),
        ("http://id.example", False),
        ("http://127.0.0.1.example", False),
        ("http://localhost@evil.example/", False),
        ("https:///x", False),
        ("file:///x", False),
        ("x", False),
    ],
)
def test_addresses(url: str, allowed: bool) -> None:
    if allowed:
        assert check_address(url) == url
    else:
        with pytest.raises(SettingError, match="Expected an https address"):
            check_address(url)


# --- roles


@pytest.mark.parametrize(
    ("path", "held", "role"),
    [
        ("roles", {"roles": "reader"}, Role.READER),
        ("roles", {"roles": "reader admin"}, Role.ADMIN),
        ("roles", {"roles": ["x", "physician", "reader"]}, Role.PHYSICIAN),
        ("realm_access.roles", {"realm_access": {"roles": ["offline_access", "admin"]}}, Role.ADMIN),
        ("resource_access.my.app.roles", {"resource_access": {"my.app": {"roles": ["reader"]}}}, Role.READER),
        ("https://example.org/roles", {"https://example.org/roles": ["admin"]}, Role.ADMIN),
        ("roles", {}, None),
        ("roles", {"roles": ["administrator", "Admin", "", None, 5, ["admin"]]}, None),
        ("roles", {"roles": {"admin": True}}, None),
        ("roles", {"roles": True}, None),
        ("roles", {"other": "admin"}, None),
        ("a.b", {"a": ["b"]}, None),
    ],
)
def test_role_of_claims(path: str, held: dict[str, object], role: Role | None) -> None:
    assert role_of(held, path) is role


def test_valid_token_without_a_role_is_forbidden(provider: Provider) -> None:
    with pytest.raises(Problem, match="403 forbidden"):
        verify(tokens(provider), sign(claims(provider, roles=["user"])))


# --- through the service


def oidc(provider: Provider, **given: object) -> Settings:
    base = {"auth": "oidc", "oidc_issuer": provider.url, "oidc_audience": AUDIENCE}
    return Settings.model_validate({**base, **given})


def client(provider: Provider) -> TestClient:
    app = FastAPI(responses=problems.RESPONSES)
    problems.install(app)
    chosen = oidc(provider, oidc_role_claim="realm_access.roles")
    key = "rk_" + "k" * 43
    known = {key: Principal("key", Role.READER)}
    app.state.gatekeeper = Gatekeeper(chosen, known.get, Sessions(), Tokens.of(chosen))
    guard = Depends(needs(Role.PHYSICIAN))

    @app.get("/v1/name")
    def name(who: Principal = guard) -> str:
        return who.name

    return TestClient(app)


def test_tokens_through_the_service(provider: Provider) -> None:
    caller = client(provider)

    def ask(credential: str) -> tuple[int, str]:
        answer = caller.get("/v1/name", headers={"Authorization": f"Bearer {credential}"})
        return answer.status_code, answer.json() if answer.status_code == 200 else answer.json()["code"]

    assert ask(sign(claims(provider, realm_access={"roles": ["physician"]}))) == (200, "oidc:u1")
    assert ask(sign(claims(provider, realm_access={"roles": ["reader"]}))) == (403, "forbidden")
    assert ask(sign(claims(provider))) == (403, "forbidden")
    assert ask(sign(claims(provider, exp=1))) == (401, "unauthorised")
    assert ask("rk_" + "k" * 43) == (403, "forbidden")
    assert ask("rk_" + "x" * 43) == (401, "unauthorised")


def test_provider_that_is_down_is_502(provider: Provider) -> None:
    provider.status = 500
    answer = client(provider).get("/v1/name", headers={"Authorization": f"Bearer {sign(claims(provider))}"})
    assert (answer.status_code, answer.json()["code"]) == (502, "peer_failed")


def test_settings_decide(provider: Provider) -> None:
    assert Tokens.of(Settings.model_validate({"auth": "keys"})) is None
    assert Tokens.of(oidc(provider)) is not None
    for fault in ({"oidc_issuer": "http://id.example"}, {"oidc_jwks": "http://id.example/keys"}):
        with pytest.raises(SettingError, match="https"):
            Tokens.of(oidc(provider, **fault))
