"""The gateway's HTTP door: STOW-RS, health and metrics, on a thread of its own."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable
from typing import Any

import uvicorn
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route

from rentgen.errors import PeerError
from rentgen.gateway.intake import Intake
from rentgen.gateway.metrics import Metrics
from rentgen.gateway.nouns import GatewayConfig
from rentgen.gateway.stow import create_stow
from rentgen.gateway.transport import LOOPBACK, Guard
from rentgen.gateway.web_guard import guarded

Health = Callable[[], tuple[str, ...]]
"""Returns what is wrong, in words; nothing where all is well."""
_SAFE = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"}
_STOP_S = 10.0


def create_app(config: GatewayConfig, intake: Intake, *, metrics: Metrics, health: Health) -> Starlette:
    """Return an ASGI application: `POST /studies`, `GET /healthz` and `GET /metrics`, for the networks that may send.

    Args:
        config: of the gateway.
        intake: where objects go.
        metrics: what is counted.
        health: what is wrong.
    """
    guard = Guard(config.folder, config.allow_addresses or LOOPBACK)

    def admits(request: Request) -> bool:
        return request.client is not None and guard.admits(request.client.host)

    async def tell_health(request: Request) -> Response:
        if not admits(request):
            return Response(status_code=403, headers=_SAFE)
        wrong = await run_in_threadpool(health)
        body = json.dumps({"status": "failing" if wrong else "ok", "wrong": list(wrong)})
        return Response(body, 503 if wrong else 200, _SAFE, "application/json")

    async def tell_metrics(request: Request) -> Response:
        if not admits(request):
            return Response(status_code=403, headers=_SAFE)
        return Response(await run_in_threadpool(metrics.text), headers=_SAFE, media_type=CONTENT_TYPE_LATEST)

    return Starlette(
        routes=[
            Route("/healthz", tell_health, methods=["GET"]),
            Route("/metrics", tell_metrics, methods=["GET"]),
            Mount("/", create_stow(config, intake)),
        ]
    )


class Web:
    """Listens for HTTP until it is stopped."""

    def __init__(self, config: GatewayConfig, app: Starlette) -> None:
        """Begin to listen, with the certificate of DIMSE where there is one.

        Raises:
            PeerError: the port is taken, or the address is none of this machine.
        """
        family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
        try:
            self._socket = socket.create_server((config.host, config.http_port or 0), family=family, backlog=128)
        except OSError as error:
            raise PeerError(
                f"Cannot listen on {config.host}:{config.http_port} ({error.strerror}); "
                "choose another `http.port`, or stop what listens there."
            ) from error
        tls: dict[str, Any] = {}
        if config.tls is not None:
            # Who stores is asked for a key; a certificate is asked for at the DIMSE door.
            tls = {"ssl_certfile": config.tls.certificate, "ssl_keyfile": config.tls.key}
        self._server = uvicorn.Server(
            uvicorn.Config(
                app,
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                lifespan="off",
                timeout_graceful_shutdown=round(_STOP_S / 2),
                limit_concurrency=256,
                http=guarded(Guard(config.folder, config.allow_addresses or LOOPBACK)),
                h11_max_incomplete_event_size=64 * 1024,
                **tls,
            )
        )
        sockets = [self._socket]
        self._thread = threading.Thread(target=self._server.run, args=(sockets,), name="http", daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._socket.getsockname()[1])

    def stop(self) -> None:
        """Take no more requests, and let the present ones end."""
        self._server.should_exit = True
        self._thread.join(_STOP_S)
        self._socket.close()
