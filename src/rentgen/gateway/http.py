"""HTTP to peers: time, size and redirects are limited, tokens are fetched and renewed, nothing of a patient is told."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import quote, urljoin

import httpx

from rentgen.errors import PeerError
from rentgen.gateway.nouns import Destination
from rentgen.gateway.tls import fault_of, probe
from rentgen.gateway.transport import client_context

MOST_BYTES = 4_000_000
"""Of an answer; what we ask for is short."""
_MOST_REDIRECTS = 3
_EARLY_S = 30.0
_LONGEST_WAIT_S = 86_400.0
_REPEATED = frozenset((307, 308))


@dataclass(frozen=True, slots=True)
class Reply:
    """What a peer answered.

    Attributes:
        status: of HTTP.
        content: never longer than the limit.
        after_s: how long it asked to wait; None where it did not.
        allow: methods that it names, in capitals.
    """

    status: int
    content: bytes = field(repr=False)
    after_s: float | None = None
    allow: frozenset[str] = frozenset()


class Http:
    """A peer that speaks HTTP. Safe from any thread."""

    def __init__(self, destination: Destination) -> None:
        """Connect nothing yet.

        Args:
            destination: with URL, headers, time limit, TLS and client credentials.

        Raises:
            SettingError: a certificate cannot be read.
        """
        self._destination = destination
        self._context = None if destination.tls is None else client_context(destination.tls)
        self._client = httpx.Client(
            timeout=destination.timeout_s, verify=self._context or True, follow_redirects=False, trust_env=False
        )
        self._lock = threading.Lock()
        self._token, self._token_until = "", 0.0

    def request(
        self, method: str, path: str = "", *, content: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Reply:
        """Return the peer's answer; a token that it does not take is renewed once.

        Args:
            method: such as `POST`.
            path: below the destination's URL; holds nothing of a patient.
            content: of the request.
            headers: beside the destination's own.

        Raises:
            PeerError: no answer came in time, it was too long, or led elsewhere.
        """
        url = self._destination.url.rstrip("/") + path
        given = {**self._destination.headers, **(headers or {})}
        if self._destination.oidc_token_url is None:
            return self._follow(method, url, content, given)
        token = self._bearer()
        reply = self._follow(method, url, content, given | {"Authorization": f"Bearer {token}"})
        if reply.status != 401:
            return reply
        self._forget(token)
        return self._follow(method, url, content, given | {"Authorization": f"Bearer {self._bearer()}"})

    def close(self) -> None:
        """Close connections."""
        self._client.close()

    def _follow(self, method: str, url: str, content: bytes | None, headers: Mapping[str, str]) -> Reply:
        for _ in range(_MOST_REDIRECTS + 1):
            reply, location = self._once(method, url, content, headers)
            if not 300 <= reply.status < 400:
                return reply
            target = urljoin(url, location)
            if reply.status not in _REPEATED or not _same_origin(url, target):
                raise PeerError("The peer redirects elsewhere, which is not followed; set its final address as `url`.")
            url = target
        raise PeerError("The peer redirects in a circle; set its final address as `url`.")

    def _once(self, method: str, url: str, content: bytes | None, headers: Mapping[str, str]) -> tuple[Reply, str]:
        until = time.monotonic() + self._destination.timeout_s
        try:
            with self._client.stream(method, url, content=content, headers=dict(headers)) as response:
                body = bytearray()
                for piece in response.iter_bytes(65_536):
                    body += piece
                    if len(body) > MOST_BYTES:
                        raise PeerError(f"The peer's answer is longer than {MOST_BYTES} bytes.")
                    if time.monotonic() > until:
                        raise PeerError("The peer did not finish its answer in time.")
                after = wait_of(response.headers.get("Retry-After"), datetime.now(UTC))
                allow = frozenset(response.headers.get("Allow", "").upper().replace(",", " ").split())
                reply = Reply(response.status_code, bytes(body), after, allow)
                return reply, response.headers.get("Location", "")
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            # Its words may hold the address with a password; its kind says enough.
            raise PeerError(f"The peer cannot be reached ({self._why(error, url)}).") from None

    def _why(self, error: Exception, url: str) -> str:
        fault = fault_of(error)
        if fault is None and self._context is not None and isinstance(error, httpx.NetworkError):
            # A peer that refuses our certificate may hang up before its reason arrives.
            at = httpx.URL(url)
            fault = probe((at.host, at.port or 443), self._context, timeout_s=self._destination.timeout_s)
        return fault or type(error).__name__

    def _bearer(self) -> str:
        with self._lock:
            if time.monotonic() >= self._token_until:
                self._token, lasts_s = self._fetch_token()
                self._token_until = time.monotonic() + max(lasts_s - _EARLY_S, lasts_s / 2)
            return self._token

    def _forget(self, token: str) -> None:
        with self._lock:
            # Another thread may have renewed it meanwhile.
            if self._token == token:
                self._token_until = 0.0

    def _fetch_token(self) -> tuple[str, float]:
        told = self._destination
        login = httpx.BasicAuth(quote(told.oidc_client, safe=""), quote(told.oidc_secret, safe=""))
        request = httpx.Request("POST", told.oidc_token_url or "", data={"grant_type": "client_credentials"})
        signed = next(login.auth_flow(request))
        reply, _ = self._once("POST", str(request.url), signed.content, dict(signed.headers))
        answer = read_json(reply.content)
        token = answer.get("access_token")
        if reply.status != 200 or not isinstance(token, str) or not token.isascii() or not token.isprintable():
            raise PeerError(f"The token address gave no token (HTTP status {reply.status}); check `oidc_*`.")
        lasts = answer.get("expires_in")
        return token, float(lasts) if isinstance(lasts, int | float) else 60.0


def wait_of(value: str | None, now: datetime) -> float | None:
    """Return the seconds that `Retry-After` asks for, at most a day; None where it says nothing of use.

    Args:
        value: of the header: seconds, or a date.
        now: with a time zone.
    """
    if value is None:
        return None
    text = value.strip()
    if text.isascii() and text.isdigit():
        return min(float(text[:9]), _LONGEST_WAIT_S)
    try:
        at = parsedate_to_datetime(text)
    except ValueError:
        return None
    seconds = (at.replace(tzinfo=at.tzinfo or UTC) - now).total_seconds()
    return min(max(seconds, 0.0), _LONGEST_WAIT_S)


def read_json(content: bytes) -> dict[str, Any]:
    """Return a JSON object; empty where it is none."""
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _same_origin(one: str, other: str) -> bool:
    try:
        first, second = httpx.URL(one), httpx.URL(other)
    except httpx.InvalidURL:
        return False
    return (first.scheme, first.host, first.port) == (second.scheme, second.host, second.port)
