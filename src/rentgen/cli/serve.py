"""The service: REST and the physician's page."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rentgen.cli.listening import listen
from rentgen.cli.options import app, needing
from rentgen.records import DISCLAIMER, Precision
from rentgen.terminal import err

if TYPE_CHECKING:
    from rentgen.service.cloud import CloudRoutes
    from rentgen.settings import Settings

_KEEP_ALIVE_S = 75
"""Longer than a load balancer's idle time, so that it is never the service that drops a connection."""


@app.command()
def serve(
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="A bundle by name or file; again for more. The first is the default.", show_default="pneumonia"
        ),
    ] = None,
    host: Annotated[
        str | None,
        typer.Option(help="Address to listen on; another than loopback demands keys.", show_default="127.0.0.1"),
    ] = None,
    port: Annotated[
        int | None, typer.Option(help="Port to listen on; 0 takes a free one.", show_default="8080")
    ] = None,
    database: Annotated[
        str | None,
        typer.Option(
            help="Where studies and results are kept: sqlite:///FILE or postgresql+psycopg://USER@HOST/NAME. A "
            "password belongs into RENTGEN_DATABASE, not here.",
            show_default="in your data folder",
        ),
    ] = None,
    no_store: Annotated[bool, typer.Option("--no-store", help="Keep nothing: answers only, no worklist.")] = False,
    keep_files: Annotated[
        bool | None,
        typer.Option("--keep-files", help="Keep the films, encrypted; needs RENTGEN_KEY.", show_default=False),
    ] = None,
    keep_days: Annotated[int | None, typer.Option(help="Delete studies after so many days.", min=1)] = None,
    auth: Annotated[
        str | None,
        typer.Option(help="none (loopback only), keys, oidc or platform.", show_default="none on loopback, else keys"),
    ] = None,
    allowed_host: Annotated[
        list[str] | None, typer.Option(help="A host name under which it may be called, beside the address itself.")
    ] = None,
    tls_certificate: Annotated[Path | None, typer.Option(help="Certificate chain, PEM.")] = None,
    tls_key: Annotated[str | None, typer.Option(metavar="FILE", help="The certificate's private key, PEM.")] = None,
    queue: Annotated[
        int | None, typer.Option(help="Films that may wait; beyond it callers get 429.", show_default="64")
    ] = None,
    streams: Annotated[int | None, typer.Option(help="Films computed side by side.", show_default="one a core")] = None,
    precision: Annotated[Precision | None, typer.Option(help="Arithmetic of the engine.", show_default="auto")] = None,
    film_set: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=PATH", help="A set of films to compare models on.")
    ] = None,
    reports: Annotated[Path | None, typer.Option(help="A folder of training reports to list.")] = None,
) -> None:
    """Answer over REST and on a page: drop a film, read the result, agree or correct.

    Everything can be set in the environment too: `RENTGEN_` and the option's name in capitals, as `RENTGEN_PORT`.
    `/openapi.json` describes the interface, `/metrics` is for Prometheus. Ctrl-C or SIGTERM finishes what was begun.
    """
    with needing("service", "the service"):
        from rentgen.settings import load

    settings = load(
        models=tuple(model) if model else None,
        host=host,
        port=port,
        database=database,
        store=False if no_store else None,
        keep_files=keep_files,
        keep_days=keep_days,
        auth=auth,
        allowed_hosts=tuple(allowed_host) if allowed_host else None,
        tls_certificate=tls_certificate,
        tls_key=tls_key,
        queue=queue,
        streams=streams,
        precision=precision,
        sets=tuple(film_set) if film_set else None,
        reports=reports,
    )
    run(settings)


def run(settings: Settings, routes: CloudRoutes | None = None, listener: socket.socket | None = None) -> None:
    """Serve until a signal says stop.

    Args:
        settings: of this installation.
        routes: where a cloud's platform asks.
        listener: a socket that listens already; by default one is made of the settings.

    Raises:
        SettingError: the address cannot be listened on.
        RentgenError: a bundle or the store cannot be opened.
    """
    listener = listener or listen(settings.host, settings.port)
    with listener:
        with needing("service", "the service"):
            import uvicorn

            from rentgen.engine.cache import default_folder
            from rentgen.service.app import create_app
            from rentgen.service.logs import configure

        configure(settings.log_format)
        application = create_app(settings, routes=routes, draining=lambda: server.should_exit, cache=default_folder())
        tls: dict[str, Any] = {}
        if settings.tls_certificate is not None and settings.tls_key is not None:
            tls = {"ssl_certfile": settings.tls_certificate, "ssl_keyfile": settings.tls_key.get_secret_value()}
        server = uvicorn.Server(
            uvicorn.Config(
                application,
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                lifespan="on",
                timeout_keep_alive=_KEEP_ALIVE_S,
                timeout_graceful_shutdown=max(1, round(settings.drain_s)),
                h11_max_incomplete_event_size=64 * 1024,
                **tls,
            )
        )
        port = listener.getsockname()[1]
        scheme = "https" if tls else "http"
        name = f"[{settings.host}]" if ":" in settings.host else settings.host
        err.print(f"Rentgen answers at {scheme}://{name}:{port}/  (stop with Ctrl-C)", highlight=False)
        err.print(DISCLAIMER, style="dim")
        if not settings.on_loopback and not tls and not settings.trust_proxy:
            err.print(
                "[yellow]Without TLS, films and keys pass the network in the clear.[/] Give --tls-certificate and "
                "--tls-key, or put a proxy with TLS in front and set RENTGEN_TRUST_PROXY=true.",
                highlight=False,
            )
        server.run(sockets=[listener])
