"""Sessions of the page: a cookie that stands for a key, so that no script ever holds the key itself."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field, replace

COOKIE = "rentgen_session"
"""Name of the cookie without TLS."""

TLS_COOKIE = "__Host-rentgen_session"
"""Name under TLS: a browser takes it only from this very host, with Secure and Path=/ (RFC 6265bis, 4.1.3.2)."""


@dataclass(frozen=True, slots=True)
class Session:
    """What a cookie stands for.

    Attributes:
        credential: the key or token that it was opened with; judged anew at every request, so that a session ends
            within seconds of its key.
        csrf: to be sent as `X-CSRF-Token` with whatever changes something.
        opened: seconds of the clock.
        used: likewise, the last time.
    """

    credential: str = field(repr=False)
    csrf: str = field(repr=False)
    opened: float
    used: float

    def confirms(self, token: str | None) -> bool:
        """Return whether a CSRF token is this session's."""
        return hmac.compare_digest(self.csrf.encode(), (token or "").encode())


class Sessions:
    """Sessions in this process's memory: a restart ends them all. Called from the event loop only.

    Args:
        lifetime_s: longest life: a shift.
        idle_s: longest pause.
        limit: sessions at once; the one not used for longest makes room.
        clock: seconds, never going back.
    """

    def __init__(
        self,
        *,
        lifetime_s: float = 10 * 3600,
        idle_s: float = 3600,
        limit: int = 1000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.lifetime_s = lifetime_s
        self.idle_s = idle_s
        self.limit = limit
        self.clock = clock
        # By hash: a look-up then tells nothing of an id by its time, and a dump of memory holds no id to use.
        self._sessions: OrderedDict[bytes, Session] = OrderedDict()

    def __len__(self) -> int:
        return len(self._sessions)

    def open(self, credential: str) -> tuple[str, Session]:
        """Return the id of a new session, for the cookie, and the session."""
        self._sweep()
        while len(self._sessions) >= self.limit:
            self._sessions.popitem(last=False)
        now = self.clock()
        identity, session = secrets.token_urlsafe(32), Session(credential, secrets.token_urlsafe(32), now, now)
        self._sessions[_digest(identity)] = session
        return identity, session

    def find(self, identity: str, *, touch: bool = True) -> Session | None:
        """Return the session of an id; None where there is none or no more.

        Args:
            identity: of the cookie.
            touch: count it as use.
        """
        digest, now = _digest(identity), self.clock()
        session = self._sessions.get(digest)
        if session is None:
            return None
        if not self._lives(session, now):
            del self._sessions[digest]
            return None
        if touch:
            self._sessions[digest] = replace(session, used=now)
            self._sessions.move_to_end(digest)
        return session

    def close(self, identity: str) -> None:
        """End a session, if there is one."""
        self._sessions.pop(_digest(identity), None)

    def _lives(self, session: Session, now: float) -> bool:
        return now - session.used < self.idle_s and now - session.opened < self.lifetime_s

    def _sweep(self) -> None:
        now = self.clock()
        for digest in [digest for digest, session in self._sessions.items() if not self._lives(session, now)]:
            del self._sessions[digest]


def _digest(identity: str) -> bytes:
    return hashlib.sha256(identity.encode()).digest()
