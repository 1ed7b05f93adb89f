"""The service as one ASGI application, put together from its parts."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path

from fastapi import FastAPI

from rentgen.errors import RentgenError
from rentgen.images.read import DEFAULT_LIMITS
from rentgen.parallel.local import cores
from rentgen.records import DISCLAIMER
from rentgen.records.studies import Principal, Role
from rentgen.service import api, cloud, feedback, gateway, login, pages, pictures, problems, report, research, watch
from rentgen.service.cloud import CloudRoutes
from rentgen.service.desk import Desk
from rentgen.service.films import FilmCache
from rentgen.service.headers import SecureHeaders
from rentgen.service.logs import AccessLog
from rentgen.service.metrics import BundleInfo, CountRequests, Metrics
from rentgen.service.models import Model, Models
from rentgen.service.queue import Queue
from rentgen.service.security import Gatekeeper
from rentgen.service.sessions import Sessions
from rentgen.service.telemetry import Trace, connect
from rentgen.service.throttle import CLOUD_ROUTES, PROBES, CheckOrigin, LimitBody, LimitWords, Throttle, allowed_hosts
from rentgen.service.tokens import Tokens
from rentgen.settings import Auth, Settings
from rentgen.store.studies import Store

logger = logging.getLogger(__name__)

SYSTEM = Principal("system", Role.ADMIN)
"""Who does what nobody asked for: retention."""

_DESCRIPTION = f"""Radiographs in, calibrated predictions out. {DISCLAIMER}

Every error is a problem document (RFC 9457) with a stable `code`."""


def create_app(
    settings: Settings,
    *,
    routes: CloudRoutes | None = None,
    draining: Callable[[], bool] = lambda: False,
    cache: Path | None = None,
) -> FastAPI:
    """Return the application; models are loaded when it starts, and until then it answers 503 where it needs one.

    Args:
        settings: of this installation.
        routes: where a cloud's platform asks.
        draining: whether the server is being stopped.
        cache: folder where compiled graphs are kept and looked for; none by default.

    Raises:
        RentgenError: a bundle or the store cannot be opened.
    """
    research.check_offers(settings)
    desk = _open(settings, cache)
    app = FastAPI(
        title="Rentgen",
        version=version("rentgen"),
        description=_DESCRIPTION,
        lifespan=_lifespan,
        docs_url=None,
        redoc_url=None,
        responses=problems.RESPONSES,
    )
    app.state.desk = desk
    app.state.gateway = gateway.open_queue(settings)
    app.state.draining = draining
    app.state.telemetry = connect(settings.otlp_endpoint) if settings.otlp_endpoint else None
    problems.install(app)
    _guard(app, desk, routes or CloudRoutes())
    app.include_router(api.router)
    app.include_router(feedback.router)
    app.include_router(pictures.router)
    app.include_router(report.router)
    app.include_router(research.router)
    app.include_router(watch.router)
    app.include_router(gateway.router)
    app.include_router(login.router)
    app.include_router(cloud.build(routes or CloudRoutes(), open_to_all=settings.resolved_auth is Auth.PLATFORM))
    pages.mount(app)
    return app


def _open(settings: Settings, cache: Path | None) -> Desk:
    models = Models(settings.models, precision=settings.precision, streams=settings.streams, cache=cache)
    key = None if settings.key is None else settings.key.get_secret_value()
    store = None
    if settings.store:
        store = Store.open(settings.database.get_secret_value(), key=key, keep_files=settings.keep_files)
    desk = Desk(
        settings=settings,
        models=models,
        # One more than are computed side by side: its film is read while the others' are computed.
        queue=Queue(limit=settings.queue, workers=(settings.streams or cores()) + 1),
        films=FilmCache(round(settings.film_memory_mb * 1e6), settings.film_minutes * 60),
        metrics=Metrics(),
        store=store,
        limits=DEFAULT_LIMITS,
    )
    desk.metrics.watch_queue(lambda: (desk.queue.waiting, desk.queue.limit))
    desk.metrics.watch_films(lambda: (len(desk.films), desk.films.size))
    desk.metrics.watch_models(lambda: [_bundle_info(entry) for entry in desk.models])
    desk.metrics.watch_drift(desk.drifts.reports)
    return desk


def _guard(app: FastAPI, desk: Desk, routes: CloudRoutes) -> None:
    """Put the middlewares round the routes; the last one added stands outermost."""
    settings = desk.settings
    platform = settings.resolved_auth is Auth.PLATFORM
    find_key = desk.store.find_key if desk.store is not None else _no_key
    app.state.gatekeeper = Gatekeeper(settings, find_key, Sessions(), Tokens.of(settings))
    open_paths = {*CLOUD_ROUTES, *(path for path in (routes.health, routes.predict) if path)}
    app.add_middleware(LimitWords, films={"/v1/predict", "/v1/studies", "/invocations", "/score", routes.predict or ""})
    app.add_middleware(
        LimitBody,
        max_bytes=round(settings.max_body_mb * 1e6),
        max_held_bytes=round(settings.max_bodies_mb * 1e6),
    )
    app.add_middleware(
        Throttle,
        per_minute=settings.rate_per_minute,
        trust_proxy=settings.trust_proxy,
        exempt=PROBES | {routes.health or "/ping"},
    )
    app.add_middleware(
        CheckOrigin,
        hosts=allowed_hosts(settings),
        any_address=not settings.on_loopback,
        open_paths=open_paths,
        platform=platform,
    )
    app.add_middleware(SecureHeaders, tls=settings.tls_certificate is not None)
    app.add_middleware(CountRequests, metrics=desk.metrics)
    if app.state.telemetry is not None:
        app.add_middleware(Trace, tracer=app.state.telemetry.tracer)
    app.add_middleware(AccessLog)


def _bundle_info(entry: Model) -> BundleInfo:
    title = entry.predictor.card.name if entry.predictor else ""
    return BundleInfo(entry.name, entry.bundle_id or "", title, entry.predictor is not None)


def _no_key(_: str) -> None:
    return None


@contextlib.asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    desk: Desk = app.state.desk
    tasks = [asyncio.create_task(asyncio.to_thread(desk.models.load_all)), asyncio.create_task(_keep_house(desk))]
    yield
    await desk.queue.drain(desk.settings.drain_s)
    for task in tasks:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
    if desk.store is not None:
        await asyncio.to_thread(desk.store.close)
    if app.state.gateway is not None:
        await asyncio.to_thread(app.state.gateway.close)
    if app.state.telemetry is not None:
        await asyncio.to_thread(app.state.telemetry.close)


async def _keep_house(desk: Desk) -> None:
    """Let old films go every minute, and old studies every hour."""
    due = datetime.now(UTC)
    while True:
        desk.films.trim()
        if desk.store is not None and desk.settings.keep_days is not None and datetime.now(UTC) >= due:
            due = datetime.now(UTC) + timedelta(hours=1)
            try:
                await asyncio.to_thread(desk.store.sweep, desk.settings.keep_days, actor=SYSTEM)
            except RentgenError as error:
                logger.error("Old studies were not deleted: %s", error)
        await asyncio.sleep(60)
