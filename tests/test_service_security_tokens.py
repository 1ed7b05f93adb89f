"""OIDC tokens: what is taken, what is refused, which role follows."""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import time
from collections.abc import Iterator

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from fastapi import Depends, FastAPI
from fastapi.testclient import TestClient
from hypothesis import given, settings
from hypothesis import strategies as st
from provider import (
    AUDIENCE,
    EC,
    ED,
    OTHER_RSA,
    RSA,
    WIDE_EC,
    Private,
    Provider,
    claims,
    jwk,
    provide,
    segment,
    sign,
    tokens,
    verify,
)

from rentgen.errors import SettingError
from rentgen.records.studies import Principal, Role
from rentgen.service import problems
from rentgen.service.problems import Problem
from rentgen.service.security import Gatekeeper, needs
from rentgen.service.sessions import Sessions
from rentgen.service.tokens import (
    Tokens,
    read_header,
    read_keys,
    role_of,
)
from rentgen.settings import Settings


@pytest.fixture(name="provider")
def make_provider() -> Iterator[Provider]:
    with provide() as provider:
        yield provider


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
