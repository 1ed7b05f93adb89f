"""Bearer tokens of an OpenID Connect provider, verified with the keys that it publishes.

Only signatures by a private key count (RS256, PS256, ES256, EdDSA), each with the kind of key it belongs to, so that a
public key never serves as a shared secret. Keys are fetched from the configured place alone; addresses inside a token
(`jku`, `x5u`) are not looked at.
"""

from __future__ import annotations

import json
import logging
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.client import HTTPException
from typing import Any, Self
from urllib.parse import urlsplit

import anyio
import jwt
from anyio.to_thread import run_sync
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from rentgen.errors import PeerError, SettingError
from rentgen.records.studies import Principal, Role
from rentgen.service.problems import Problem
from rentgen.settings import LOOPBACK, Auth, Settings

logger = logging.getLogger(__name__)

Key = RSAPublicKey | EllipticCurvePublicKey | Ed25519PublicKey

LEEWAY_S = 30
"""How far clocks may differ."""

LONGEST_TOKEN = 16_384
"""Characters. Tokens of large directories carry hundreds of groups."""

_DOCUMENT_BYTES = 256 * 1024
_FETCH_S = 5.0
_MOST_KEYS = 64
_TYPES = frozenset({"jwt", "at+jwt", "application/at+jwt"})

REFRESH_S = 600.0
"""Age from which keys are fetched again."""
RETRY_S = 60.0
"""Shortest time between two fetches, also for key ids that are not known."""
FIRST_RETRY_S = 5.0
"""The same while there are no keys at all."""
STALE_S = 6 * 3600.0
"""How long keys serve while the provider does not answer."""


@dataclass(frozen=True, slots=True)
class PublishedKey:
    """A public key of the provider.

    Attributes:
        kid: its name; None where it has none.
        algorithms: that it may verify.
        key: itself.
    """

    kid: str | None
    algorithms: frozenset[str]
    key: Key = field(repr=False)


def read_keys(document: Any) -> tuple[PublishedKey, ...]:  # noqa: ANN401
    """Return the keys of a JWKS that can verify tokens; others are left out, as RFC 7517 (5) asks.

    Raises:
        PeerError: it is no JWKS, or has too many keys.
    """
    entries = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(entries, list) or len(entries) > _MOST_KEYS:
        raise PeerError(f"Expected a JWKS with at most {_MOST_KEYS} keys from the identity provider, but got another.")
    return tuple(key for entry in entries if (key := _read_key(entry)) is not None)


def _read_key(entry: Any) -> PublishedKey | None:  # noqa: ANN401
    if not isinstance(entry, dict) or entry.get("kty") not in ("RSA", "EC", "OKP"):
        return None
    if entry.get("use", "sig") != "sig" or "verify" not in entry.get("key_ops", ["verify"]):
        return None
    try:
        key = jwt.PyJWK({name: value for name, value in entry.items() if name != "alg"}).key
    except (jwt.PyJWTError, ValueError, TypeError, KeyError, AttributeError):
        return None
    kid, allowed = entry.get("kid"), _algorithms(key)
    if "alg" in entry:
        allowed &= {str(entry["alg"])}
    return PublishedKey(kid, allowed, key) if allowed and isinstance(kid, str | None) else None


def _algorithms(key: object) -> frozenset[str]:
    """Return what a key may verify; nothing for a private key, a short one, or one so long that it costs."""
    if isinstance(key, RSAPublicKey) and 2048 <= key.key_size <= 8192:
        return frozenset({"RS256", "PS256"})
    if isinstance(key, EllipticCurvePublicKey) and isinstance(key.curve, SECP256R1):
        return frozenset({"ES256"})
    if isinstance(key, Ed25519PublicKey):
        return frozenset({"EdDSA"})
    return frozenset()


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:  # noqa: ANN401
        """Follow nowhere: the address was chosen by the one who runs the service."""


def check_address(url: str) -> str:
    """Return an address that may be fetched.

    Raises:
        SettingError: it is not https, nor http on loopback.
    """
    parts = urlsplit(url)
    if parts.hostname and (parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in LOOPBACK)):
        return url
    raise SettingError("Expected an https address of the identity provider (http on loopback only), but got another.")


def fetch_json(url: str, *, timeout_s: float = _FETCH_S, limit: int = _DOCUMENT_BYTES) -> Any:  # noqa: ANN401
    """Return a JSON document, fetched without following redirects.

    Args:
        url: https, or http on loopback.
        timeout_s: for each step, and for all of the body.
        limit: bytes.

    Raises:
        PeerError: it did not come, is too large, or is no JSON.
    """
    request = urllib.request.Request(check_address(url), headers={"Accept": "application/json"})  # noqa: S310
    https = urllib.request.HTTPSHandler(context=ssl.create_default_context())
    deadline = time.monotonic() + timeout_s
    data = b""
    try:
        with urllib.request.build_opener(_NoRedirect, https).open(request, timeout=timeout_s) as answer:
            while part := answer.read1(65_536):
                data += part
                if len(data) > limit or time.monotonic() > deadline:
                    raise PeerError(f"Expected at most {limit} bytes in {timeout_s} s from the identity provider.")
        return json.loads(data)
    except urllib.error.HTTPError as error:
        error.close()
        raise PeerError(f"The identity provider answered {error.code}.") from error
    except (OSError, HTTPException, ValueError, RecursionError) as error:
        raise PeerError(f"The identity provider did not give a JSON document ({type(error).__name__}).") from error


class KeySource:
    """The provider's keys, fetched when needed, seldom, and one fetch at a time. Called from the event loop only.

    Args:
        issuer: whose discovery document names the JWKS.
        jwks: address of the JWKS; None to ask the discovery document.
        clock: seconds, never going back.
    """

    def __init__(self, issuer: str, jwks: str | None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._issuer = issuer
        self._jwks = jwks
        self._clock = clock
        self._keys: tuple[PublishedKey, ...] = ()
        self._fetched = self._tried = float("-inf")
        self._fetching: anyio.Event | None = None

    async def find(self, algorithm: str, kid: str | None) -> Key | None:
        """Return the key for a token's header; None where the provider has none.

        Without a `kid` there must be one key only that fits (OpenID Connect Core, 10.1).

        Raises:
            PeerError: there are no keys, since the provider does not answer.
        """
        found = self._look(algorithm, kid)
        age = self._clock() - self._fetched
        if found is None and self._fetching is not None:
            await self._fetching.wait()
            found = self._look(algorithm, kid)
        elif found is None or age > REFRESH_S:
            await self._refresh()
            found = self._look(algorithm, kid)
        if self._clock() - self._fetched > STALE_S:
            self._keys = ()
            raise PeerError("The identity provider does not answer, so tokens cannot be verified.")
        return found

    def _look(self, algorithm: str, kid: str | None) -> Key | None:
        fitting = [entry for entry in self._keys if algorithm in entry.algorithms and kid in (None, entry.kid)]
        return fitting[0].key if len(fitting) == 1 or (fitting and kid is not None) else None

    async def _refresh(self) -> None:
        pause = RETRY_S if self._keys else FIRST_RETRY_S
        if self._fetching is not None or self._clock() - self._tried < pause:
            return
        self._fetching, self._tried = anyio.Event(), self._clock()
        try:
            # A provider that sends a byte now and then must not hold the request; its thread ends by itself.
            with anyio.fail_after(3 * _FETCH_S):
                self._keys = await run_sync(self._fetch, abandon_on_cancel=True)
            self._fetched = self._clock()
        except (PeerError, SettingError, TimeoutError) as error:
            logger.warning("Keys of the identity provider were not fetched: %s", error)
        finally:
            self._fetching.set()
            self._fetching = None

    def _fetch(self) -> tuple[PublishedKey, ...]:
        return read_keys(fetch_json(self._jwks or self._discover()))

    def _discover(self) -> str:
        document = fetch_json(f"{self._issuer.rstrip('/')}/.well-known/openid-configuration")
        if not isinstance(document, dict) or document.get("issuer") != self._issuer:
            raise PeerError("Expected the discovery document of the configured issuer, but got another's.")
        return check_address(str(document.get("jwks_uri")))


class Tokens:
    """Verifies bearer tokens.

    Args:
        issuer: that tokens must name, letter for letter.
        audience: likewise; a token for another service is not one for this.
        role_claim: where the role stands: `roles`, `realm_access.roles`, or a claim with dots in its own name.
        keys: of the provider.
    """

    def __init__(self, *, issuer: str, audience: str, role_claim: str, keys: KeySource) -> None:
        self.issuer = issuer
        self.audience = audience
        self.role_claim = role_claim
        self.keys = keys

    @classmethod
    def of(cls, settings: Settings) -> Self | None:
        """Return what the settings ask for; None without OIDC.

        Raises:
            SettingError: an address that is neither https nor on loopback.
        """
        if settings.resolved_auth is not Auth.OIDC or not settings.oidc_issuer or not settings.oidc_audience:
            return None
        for url in (settings.oidc_issuer, settings.oidc_jwks):
            if url is not None:
                check_address(url)
        keys = KeySource(settings.oidc_issuer, settings.oidc_jwks)
        return cls(
            issuer=settings.oidc_issuer,
            audience=settings.oidc_audience,
            role_claim=settings.oidc_role_claim,
            keys=keys,
        )

    async def verify(self, token: str) -> Principal | None:
        """Return who a token speaks for, named `oidc:` and its subject, so that nobody takes the name of a key.

        Returns:
            None for a token that is not valid now, here and for this service.

        Raises:
            Problem: 403: it is valid, but holds no role.
            PeerError: it cannot be judged, since the provider has given no keys.
        """
        header = read_header(token)
        if header is None:
            return None
        algorithm, kid = header
        key = await self.keys.find(algorithm, kid)
        claims = None if key is None else self._claims(token, key, algorithm)
        if claims is None:
            return None
        role = role_of(claims, self.role_claim)
        if role is None:
            raise Problem(403, "forbidden", "The token is valid, but gives no role: reader, physician or admin.")
        return Principal(f"oidc:{claims['sub']}", role)

    def _claims(self, token: str, key: Key, algorithm: str) -> Mapping[str, Any] | None:
        try:
            claims: Mapping[str, Any] = jwt.decode(
                token,
                key,
                algorithms=[algorithm],
                audience=self.audience,
                issuer=self.issuer,
                leeway=LEEWAY_S,
                options={"require": ["aud", "exp", "iss", "sub"]},
            )
        except (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError) as error:
            logger.info("A bearer token was refused: %s", type(error).__name__)
            return None
        subject = claims["sub"]
        sober = isinstance(subject, str) and 0 < len(subject) <= 255 and subject.isprintable()
        # A token bound to its owner's key (RFC 9449, 7) is not to be taken from whoever brings it.
        return claims if sober and "cnf" not in claims else None


def read_header(token: str) -> tuple[str, str | None] | None:
    """Return algorithm and key id of a token's header, not yet verified; None where it cannot be one of ours."""
    if len(token) > LONGEST_TOKEN or token.count(".") != 2:
        return None
    try:
        header = jwt.get_unverified_header(token)
    except (jwt.PyJWTError, ValueError, TypeError, RecursionError):
        return None
    algorithm, kid = header.get("alg"), header.get("kid")
    if algorithm not in ("RS256", "PS256", "ES256", "EdDSA") or "crit" in header or not isinstance(kid, str | None):
        return None
    return (algorithm, kid) if str(header.get("typ", "jwt")).lower() in _TYPES else None


def role_of(claims: Mapping[str, Any], path: str) -> Role | None:
    """Return the highest role that a claim gives; None for none.

    Args:
        claims: of a verified token.
        path: of the claim: its name, or names joined by dots.
    """
    value = _at(claims, path)
    words = value.split() if isinstance(value, str) else value if isinstance(value, list) else []
    roles = [role for role in Role if role.value in words]
    return roles[-1] if roles else None


def _at(claims: Any, path: str) -> Any:  # noqa: ANN401
    """Return what stands at a path. A dot may belong to a name (`https://example.org/roles`): longest name first."""
    if not isinstance(claims, Mapping):
        return None
    if path in claims:
        return claims[path]
    for dot in (index for index in range(len(path) - 1, 0, -1) if path[index] == "."):
        if path[:dot] in claims and (found := _at(claims[path[:dot]], path[dot + 1 :])) is not None:
            return found
    return None
