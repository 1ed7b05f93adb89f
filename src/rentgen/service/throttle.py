"""Three gates in front of the application, each pure ASGI: who is called and from where, how often, and how much.

`CheckOrigin` answers 421 to a foreign Host and 403 to a page of another site, `Throttle` 429 to a caller who asks too
often, `LimitBody` 413 to a body that is too large and 408 to one that does not come.
"""

from __future__ import annotations

import asyncio
import math
import re
import time
from collections import OrderedDict
from collections.abc import Callable, Collection
from ipaddress import ip_address, ip_network

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rentgen.service.problems import CODES, problem_response
from rentgen.settings import LOOPBACK, Auth, Settings

MAX_WORDS = 128 * 1024
"""Bytes of a request that holds no films."""

PROBES = frozenset({"/ping", "/livez", "/readyz"})
"""Asked by platforms, often; answered from memory."""

CLOUD_ROUTES = PROBES | {"/invocations", "/score"}
"""Called by platforms under Host names of their own. They show nothing that the caller did not send."""

ANY = "*"
"""As an allowed host: any."""

_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9._-]{1,253})(?::([0-9]{1,5}))?")
_DEFAULT_PORTS = {"http": "80", "https": "443"}


def split_host(text: str) -> tuple[str, str | None] | None:
    """Return the name in lower case (an IPv6 address in brackets) and the port of a Host header; None if it is none."""
    match = _HOST.fullmatch(text)
    if match is None or (match[2] is not None and int(match[2]) > 65535):
        return None
    return match[1].lower().rstrip("."), match[2]


def is_address(name: str) -> bool:
    """Return whether a host is an IP address, an IPv6 one in brackets."""
    try:
        ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True


def allowed_hosts(settings: Settings) -> tuple[str, ...]:
    """Return the Hosts under which the service may be called, for `CheckOrigin`."""
    if settings.resolved_auth is Auth.PLATFORM:
        return (ANY,)
    bound = f"[{settings.host}]" if ":" in settings.host else settings.host
    return tuple(dict.fromkeys(("localhost", "127.0.0.1", "[::1]", bound, *settings.allowed_hosts)))


class CheckOrigin:
    """Refuses what a page of another site makes a browser ask.

    A hostile page can point its own name at this machine's address (DNS rebinding); then the browser takes the service
    for that page's own site, but still sends the page's name as Host. So the Host must be one of a list. Without
    rebinding the browser names the page in Origin and Sec-Fetch-Site, and what changes something is refused.

    Clouds call by Hosts that nobody can foresee, so on `open_paths` the Host is not looked at: these routes keep
    nothing, and answer only about what the request itself brought; a rebinding page learns nothing from them.

    Args:
        app: to call.
        hosts: `name`, `name:port`, `*.domain` or `*`.
        any_address: also take any IP address as Host. Rebinding needs a name, so this is safe where the service is
            meant to be reached from elsewhere.
        open_paths: where any Host goes.
        platform: a cloud stands in front and has asked already: on `open_paths` the Origin is not looked at either.
    """

    def __init__(
        self,
        app: ASGIApp,
        hosts: Collection[str],
        *,
        any_address: bool = False,
        open_paths: Collection[str] = CLOUD_ROUTES,
        platform: bool = False,
    ) -> None:
        self.app = app
        self.hosts = frozenset(host.lower() for host in hosts)
        self.any_address = any_address
        self.open_paths = frozenset(open_paths)
        self.platform = platform
        # Ports of one machine belong to different programs, so a page on another port of loopback stays foreign.
        self.origins = self.hosts - {*LOOPBACK, "[::1]", ANY}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on what may pass; answer 421 or 403 to the rest."""
        if scope["type"] != "http" or (self.platform and scope["path"] in self.open_paths):
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        names = headers.getlist("host")
        host = names[0] if len(names) == 1 else ""
        if scope["path"] not in self.open_paths and not self.serves(host):
            await problem_response(scope, CODES["wrong_host"].status, "wrong_host")(scope, receive, send)
        elif self.is_foreign(scope["method"], headers, host):
            detail = "A page of another site may not ask this; where a proxy stands in front, it must pass Host on."
            await problem_response(scope, 403, "forbidden", detail)(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    def serves(self, host: str) -> bool:
        """Return whether the service may be called by that Host."""
        if ANY in self.hosts:
            return True
        parts = split_host(host)
        if parts is None:
            return False
        name, port = parts
        return (
            name in self.hosts
            or f"{name}:{port}" in self.hosts
            or (self.any_address and is_address(name))
            or any(known.startswith("*.") and name.endswith(known[1:]) for known in self.hosts)
        )

    def is_foreign(self, method: str, headers: Headers, host: str) -> bool:
        """Return whether a page of another site is behind a request that it has no business to make."""
        site = headers.get("sec-fetch-site", "none")
        if method in _SAFE_METHODS:
            # Another site may link here. It may not load parts of this one: time and size alone could tell something.
            return site == "cross-site" and headers.get("sec-fetch-mode", "navigate") != "navigate"
        if site not in ("none", "same-origin"):
            return True
        return any(not self.is_own(origin, host) for origin in headers.getlist("origin"))

    def is_own(self, origin: str, host: str) -> bool:
        """Return whether an Origin is this service under that Host, or one of the names that it was given.

        The scheme is not compared: behind a proxy that ends TLS the service does not know it.
        """
        scheme, _, rest = origin.partition("://")
        default, parts, own = _DEFAULT_PORTS.get(scheme.lower()), split_host(rest), split_host(host)
        if default is None or parts is None:
            return False
        name, port = parts[0], parts[1] or default
        if own is not None and own[0] == name and (own[1] or default) == port:
            return True
        return f"{name}:{port}" in self.origins or (port == default and name in self.origins)


class Buckets:
    """Token buckets, one a caller: so many requests a minute, as many at once, evenly refilled. Memory is bounded.

    Args:
        per_minute: of each caller.
        limit: callers remembered; the one not seen for longest is forgotten first, whose bucket is the fullest.
    """

    def __init__(self, per_minute: float, *, limit: int = 10_000) -> None:
        self.per_minute = per_minute
        self.limit = limit
        self._levels: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._levels)

    def take(self, caller: str, now: float) -> float:
        """Take one token.

        Args:
            caller: whose.
            now: seconds of a clock that never goes back.

        Returns:
            0 if there was one, else the seconds until there is.
        """
        rate = self.per_minute / 60
        level, seen = self._levels.pop(caller, (self.per_minute, now))
        level = min(self.per_minute, level + max(0.0, now - seen) * rate)
        granted = level >= 1
        self._levels[caller] = (level - 1 if granted else level, now)
        while len(self._levels) > self.limit:
            self._levels.popitem(last=False)
        return 0.0 if granted else (1 - level) / rate


def caller_address(scope: Scope, *, trust_proxy: bool) -> str:
    """Return the address that asks; of IPv6 its /64, since one machine has a whole one.

    With a trusted proxy it is the last entry of X-Forwarded-For: the one that the proxy wrote. Those before it are
    the caller's own words.
    """
    client = scope.get("client")
    text = str(client[0]) if client else "unknown"
    if trust_proxy:
        forwarded = ",".join(Headers(scope=scope).getlist("x-forwarded-for")).rpartition(",")[2].strip()
        text = forwarded or text
    try:
        address = ip_address(text.strip("[]"))
    except ValueError:
        return text[:64]
    if address.version == 4:
        return str(address)
    return str(address.ipv4_mapped or ip_network((int(address) >> 64 << 64, 64)))


class Throttle:
    """Answers 429 to a caller who asks more often than so many times a minute.

    The caller is a key, token or session that was found good a short while ago, else an address: a made-up key must not
    open a bucket of its own.

    Args:
        app: to call; its gatekeeper in `scope["app"].state` knows good keys.
        per_minute: of each caller; 0 for no limit.
        trust_proxy: take the address from X-Forwarded-For.
        exempt: paths of the platform's probes.
        clock: seconds, never going back.
    """

    def __init__(
        self,
        app: ASGIApp,
        per_minute: int,
        trust_proxy: bool = False,
        *,
        exempt: Collection[str] = PROBES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.app = app
        self.buckets = Buckets(per_minute) if per_minute else None
        self.trust_proxy = trust_proxy
        self.exempt = frozenset(exempt)
        self.clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on, or answer 429 with Retry-After."""
        if self.buckets is None or scope["type"] != "http" or scope["path"] in self.exempt:
            await self.app(scope, receive, send)
            return
        wait_s = self.buckets.take(self.caller(scope), self.clock())
        if wait_s:
            headers = {"Retry-After": str(math.ceil(wait_s))}
            await problem_response(scope, 429, "rate_limited", headers=headers)(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    def caller(self, scope: Scope) -> str:
        """Return what tells one caller from another."""
        gatekeeper = getattr(getattr(scope.get("app"), "state", None), "gatekeeper", None)
        known: str | None = None if gatekeeper is None else gatekeeper.known(Headers(scope=scope))
        return known or caller_address(scope, trust_proxy=self.trust_proxy)


class LimitBody:
    """Ends a request whose body is larger than allowed, or does not come.

    Nothing is read of a body that says beforehand that it is too large. Where the count passes the limit, the
    application is told that the client left, and the client gets the answer. What is still on its way is then thrown
    away for a short time, since a connection closed with bytes unread takes the answer with it; after that it is cut.

    Bodies are in memory while they are read and answered, so all of them together have a limit, too: what would pass it
    is told to come back.

    Args:
        app: to call.
        max_bytes: of one body.
        max_held_bytes: of the bodies of all requests that are being answered; None for no limit.
        idle_s: longest wait for the next part of a body.
        total_s: longest time for a whole body.
        linger_s: how long to throw away the rest of a body that was refused.
    """

    def __init__(
        self,
        app: ASGIApp,
        max_bytes: int,
        *,
        max_held_bytes: int | None = None,
        idle_s: float = 30.0,
        total_s: float = 600.0,
        linger_s: float = 2.0,
    ) -> None:
        self.app = app
        self.max_bytes = max_bytes
        self.idle_s = idle_s
        self.total_s = total_s
        self.linger_s = linger_s
        self.max_held_bytes = max_held_bytes
        self.held_bytes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on, or answer 413, 408 or 429."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        declared = Headers(scope=scope).get("content-length", "")
        if declared.isdecimal() and (len(declared) > 18 or int(declared) > self.max_bytes):
            await self._refuse("too_large", scope, receive, send)
            return
        body = _Body(receive, send, self)
        try:
            await self.app(scope, body.receive, body.send)
        finally:
            self.held_bytes -= body.size
        if body.fault is not None and not body.started:
            await self._refuse(body.fault, scope, receive, send)

    async def _refuse(self, code: str, scope: Scope, receive: Receive, send: Send) -> None:
        detail = f"{CODES[code].detail} The limit is {self.max_bytes} bytes." if code == "too_large" else None
        headers = {"Connection": "close"} | ({"Retry-After": "5"} if code == "busy" else {})
        response = problem_response(scope, CODES[code].status, code, detail, headers=headers)
        await send({"type": "http.response.start", "status": response.status_code, "headers": response.raw_headers})
        await send({"type": "http.response.body", "body": response.body, "more_body": True})
        # Who asked first (RFC 9110, 10.1.1) has not sent the body yet; reading would ask for it.
        if "expect" not in Headers(scope=scope):
            await _discard(receive, self.linger_s)
        await send({"type": "http.response.body", "body": b""})


class LimitWords:
    """Ends a request with a large body where no films are expected, only a few words of JSON.

    Those are read on the event loop and before anyone is asked who they are: megabytes of them would hold up everyone.

    Args:
        app: to call.
        films: paths at which films come, and whose bodies may be large.
    """

    def __init__(self, app: ASGIApp, films: Collection[str]) -> None:
        self.app = app
        self.films = frozenset(films)
        self.limited = LimitBody(app, MAX_WORDS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on, or answer 413."""
        path = scope.get("path", "")
        large = scope["type"] != "http" or path in self.films or path.startswith("/v1/endpoints/")
        await (self.app if large else self.limited)(scope, receive, send)


class _Body:
    """The body of one request on its way, and whether it broke a rule."""

    def __init__(self, receive: Receive, send: Send, limits: LimitBody) -> None:
        self.fault: str | None = None
        self.started = False
        self._receive, self._send, self._limits = receive, send, limits
        self.size = 0
        self._complete = False
        self._deadline: float | None = None

    async def receive(self) -> Message:
        if self._complete:
            return await self._receive()
        if self.fault is not None:
            return {"type": "http.disconnect"}
        now = asyncio.get_running_loop().time()
        if self._deadline is None:
            self._deadline = now + self._limits.total_s
        try:
            async with asyncio.timeout(min(self._limits.idle_s, self._deadline - now)):
                message = await self._receive()
        except TimeoutError:
            self.fault = "timeout"
            return {"type": "http.disconnect"}
        came = len(message.get("body", b""))
        self.size += came
        self._limits.held_bytes += came
        if self.size > self._limits.max_bytes:
            self.fault = "too_large"
            return {"type": "http.disconnect"}
        if self._limits.max_held_bytes is not None and self._limits.held_bytes > self._limits.max_held_bytes:
            self.fault = "busy"
            return {"type": "http.disconnect"}
        self._complete = not message.get("more_body", False)
        return message

    async def send(self, message: Message) -> None:
        # Whatever the application says of a client that it thinks has left is not what the client must hear.
        if self.fault is None or self.started:
            self.started = True
            await self._send(message)


async def _discard(receive: Receive, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect" or not message.get("more_body", False):
                    return
    except TimeoutError:
        return
