"""HTTP connections that one peer cannot fill: uvicorn waits for a head for ever, and asks nobody's address."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from rentgen.gateway.transport import Guard


def guarded(guard: Guard, *, head_s: float = 10.0) -> type[H11Protocol]:
    """Return a protocol for `uvicorn.Config(http=...)` that lets connections go.

    Args:
        guard: whose networks may connect.
        head_s: that a request's head may take.
    """

    class Guarded(H11Protocol):
        _timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            if self.client is None or not guard.admits(self.client[0]):
                transport.abort()
                return
            self._watch()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._watch()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop()
            super().connection_lost(exc)

        def _watch(self) -> None:
            if not self._is_waiting():
                self._stop()
            elif self._timer is None:
                self._timer = self.loop.call_later(head_s, self._give_up)

        def _is_waiting(self) -> bool:
            cycle: Any = self.cycle
            return cycle is None or bool(cycle.response_complete)

        def _give_up(self) -> None:
            self._timer = None
            if self._is_waiting():
                self.transport.abort()

        def _stop(self) -> None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

    return Guarded
