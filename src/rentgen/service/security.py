"""Who asks, and whether they may.

::

    from rentgen.service.security import needs

    @router.get("/v1/studies")
    async def studies(who: Annotated[Principal, Depends(needs(Role.READER))]) -> ...:
"""

from __future__ import annotations

import hashlib
import re
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Annotated

from fastapi import Security
from fastapi.security import APIKeyCookie, APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.requests import Request, cookie_parser

from rentgen.records.studies import Principal, Role
from rentgen.service.problems import Problem
from rentgen.service.sessions import COOKIE, TLS_COOKIE, Session, Sessions
from rentgen.service.throttle import Buckets
from rentgen.service.tokens import Tokens
from rentgen.settings import Auth, Settings

KEY_HEADER = "X-API-Key"
CSRF_HEADER = "X-CSRF-Token"

CACHE_S = 5.0
"""How long an answer of the store about a key is believed: a revoked key ends within that time."""

LOGINS_PER_MINUTE = 10
"""Attempts to open a session, by address."""

_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_KEY = re.compile(r"rk_[A-Za-z0-9_-]{16,125}")
_REMEMBERED = 4096

_BEARER = HTTPBearer(
    scheme_name="bearer", bearerFormat="API key or JWT", auto_error=False, description="An API key, or an OIDC token."
)
_HEADER = APIKeyHeader(scheme_name="apiKey", name=KEY_HEADER, auto_error=False, description="An API key.")
_COOKIE = APIKeyCookie(
    scheme_name="session",
    name=COOKIE,
    auto_error=False,
    description=f"A session of the page (`{TLS_COOKIE}` under TLS). What changes something needs {CSRF_HEADER} too.",
)


class Gatekeeper:
    """Finds out who asks. One per application, at `app.state.gatekeeper`.

    Args:
        settings: of this installation.
        find_key: returns whose a plain key is; asks a database, so it is called on a thread.
        sessions: of the page.
        tokens: verifies OIDC tokens; None without OIDC.
        clock: seconds, never going back.
    """

    def __init__(
        self,
        settings: Settings,
        find_key: Callable[[str], Principal | None],
        sessions: Sessions,
        tokens: Tokens | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.settings = settings
        self.sessions = sessions
        self.logins = Buckets(LOGINS_PER_MINUTE)
        self.clock = clock
        self._find_key = find_key
        self._tokens = tokens
        self._cache: OrderedDict[str, tuple[float, Principal | None]] = OrderedDict()
        self._known: OrderedDict[str, None] = OrderedDict()

    @property
    def is_open(self) -> bool:
        """Whether anyone who reaches the service may do everything."""
        return self.settings.resolved_auth is Auth.NONE

    def is_tls(self, request: Request) -> bool:
        """Return whether the caller reached the service over TLS, as far as can be known."""
        forwarded = request.headers.get("x-forwarded-proto", "") if self.settings.trust_proxy else ""
        return request.url.scheme == "https" or forwarded.rpartition(",")[2].strip() == "https"

    def session(self, request: Request) -> tuple[str, Session] | None:
        """Return id and session of the request's cookie; None where there is none that lives."""
        identity = request.cookies.get(TLS_COOKIE if self.is_tls(request) else COOKIE)
        found = None if not identity else self.sessions.find(identity)
        return None if identity is None or found is None else (identity, found)

    async def identify(self, request: Request) -> Principal | None:
        """Return who asks.

        A credential in a header decides; the cookie is looked at only where there is none.

        Returns:
            None where no credential came, or none that is good.

        Raises:
            Problem: 403: a session without its CSRF token, or a token without a role.
            StoreError: keys cannot be looked up.
            PeerError: tokens cannot be verified.
        """
        if self.is_open:
            return Principal("local", Role.ADMIN) if self._is_direct(request) else None
        credential = _header_credential(request.headers)
        if credential is None:
            return await self._by_session(request)
        return await self.judge(credential)

    async def judge(self, credential: str) -> Principal | None:
        """Return whose a key or token is; None where it is none that is good."""
        if _KEY.fullmatch(credential):
            principal = await self._by_key(credential)
        else:
            principal = None if self._tokens is None else await self._tokens.verify(credential)
        if principal is not None:
            self._remember(hash_of(credential))
        return principal

    def known(self, headers: Headers) -> str | None:
        """Return a hash of the request's credential where it was good a while ago: a caller for the rate limit.

        It says nothing of whether the credential is good now.
        """
        credential = _header_credential(headers)
        if credential is None and "cookie" in headers:
            cookies = cookie_parser(headers["cookie"])
            identity = cookies.get(TLS_COOKIE) or cookies.get(COOKIE)
            session = self.sessions.find(identity, touch=False) if identity else None
            credential = None if session is None else session.credential
        digest = None if credential is None else hash_of(credential)
        return digest if digest in self._known else None

    def _is_direct(self, request: Request) -> bool:
        # Without keys, loopback is the only guard, and a proxy on this machine would open it to everyone behind it.
        proxied = "forwarded" in request.headers or "x-forwarded-for" in request.headers
        return not proxied or (self.settings.trust_proxy and self.settings.auth is Auth.NONE)

    async def _by_session(self, request: Request) -> Principal | None:
        found = self.session(request)
        if found is None:
            return None
        _, session = found
        if request.method not in _SAFE_METHODS and not session.confirms(request.headers.get(CSRF_HEADER)):
            raise Problem(
                403, "forbidden", f"With a session, what changes something needs {CSRF_HEADER}; see /v1/whoami."
            )
        return await self.judge(session.credential)

    async def _by_key(self, key: str) -> Principal | None:
        digest, now = hash_of(key), self.clock()
        asked, principal = self._cache.get(digest, (float("-inf"), None))
        if now - asked < CACHE_S:
            return principal
        principal = await run_in_threadpool(self._find_key, key)
        self._cache[digest] = (now, principal)
        self._cache.move_to_end(digest)
        while len(self._cache) > _REMEMBERED:
            self._cache.popitem(last=False)
        return principal

    def _remember(self, digest: str) -> None:
        self._known[digest] = None
        self._known.move_to_end(digest)
        while len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)


def hash_of(credential: str) -> str:
    """Return what stands for a credential in memory."""
    return hashlib.sha256(credential.encode()).hexdigest()


def _header_credential(headers: Headers) -> str | None:
    """Return the key or token of the headers; an empty one where a header came that holds none we know."""
    authorization = headers.get("authorization")
    if authorization is not None:
        scheme, _, credential = authorization.partition(" ")
        return credential.strip() if scheme.lower() == "bearer" else ""
    return headers.get(KEY_HEADER)


def needs(role: Role) -> Callable[..., Awaitable[Principal]]:
    """Return a dependency that gives the caller, if it has at least this role: for `Depends(needs(Role.READER))`.

    It answers 401 to nobody we know, with WWW-Authenticate, and 403 to somebody who may not. It declares how to say who
    one is in the OpenAPI description.
    """

    async def caller(
        request: Request,
        _bearer: Annotated[HTTPAuthorizationCredentials | None, Security(_BEARER)] = None,
        _header: Annotated[str | None, Security(_HEADER)] = None,
        _cookie: Annotated[str | None, Security(_COOKIE)] = None,
    ) -> Principal:
        gatekeeper: Gatekeeper = request.app.state.gatekeeper
        principal = await gatekeeper.identify(request)
        if principal is None:
            raise _unauthorised(request, gatekeeper)
        if not principal.role.may(role):
            raise Problem(403, "forbidden", f"This needs the role {role}; the caller is a {principal.role}.")
        request.state.principal = principal
        return principal

    return caller


def _unauthorised(request: Request, gatekeeper: Gatekeeper) -> Problem:
    # RFC 6750, 3.1: who brought no credential is not told of an error.
    came = _header_credential(request.headers) is not None
    challenge = 'Bearer realm="rentgen"' + (', error="invalid_token"' if came else "")
    detail = "The key or token is not valid, or no more." if came else None
    if gatekeeper.is_open:
        detail = "The service asks for no keys, so it answers nobody behind a proxy; set RENTGEN_AUTH to keys or oidc."
    return Problem(401, "unauthorised", detail, {"WWW-Authenticate": challenge})
