"""The keys of an OIDC provider: fetched, kept, renewed, and never from where they should not come."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator

import pytest
from provider import (
    OTHER_RSA,
    RSA,
    Clock,
    Provider,
    claims,
    jwk,
    provide,
    sign,
    tokens,
    verify,
)

from rentgen.errors import PeerError, SettingError
from rentgen.records.studies import Principal
from rentgen.service.tokens import (
    FIRST_RETRY_S,
    REFRESH_S,
    RETRY_S,
    STALE_S,
    check_address,
    fetch_json,
    read_keys,
)


@pytest.fixture(name="provider")
def make_provider() -> Iterator[Provider]:
    with provide() as provider:
        yield provider


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
