"""The application: routes, what stands around them, and what runs beside them."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress

from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute, APIWebSocketRoute
from starlette.middleware.gzip import GZipMiddleware
from starlette.types import ASGIApp
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from halfmap.errors import HalfmapError, ProjectError
from halfmap.web import (
    routes_access,
    routes_events,
    routes_health,
    routes_jobs,
    routes_live2d,
    routes_maps,
    routes_micrographs,
    routes_pages,
    routes_sessions,
)
from halfmap.web.answers import REFUSALS, sentence_of
from halfmap.web.guard import Guard, Proxied
from halfmap.web.permissions import Demand, demands_of
from halfmap.web.services import Services

API = "/api/v1"
ROUTERS: tuple[tuple[str, APIRouter], ...] = (
    ("", routes_pages.router),
    ("", routes_health.router),
    ("", routes_live2d.router),
    (API, routes_access.router),
    (API, routes_sessions.router),
    (API, routes_micrographs.router),
    (API, routes_events.router),
    (API, routes_jobs.router),
    (API, routes_maps.router),
)
RETRY_SECONDS = 30.0
_PULSE_SECONDS = 1.0
_LEAST_PACKED_BYTES = 2000
_PACKING = 4  # of 9: on lists of numbers the rest gains some percent and takes three times as long


def make_app(services: Services) -> FastAPI:
    """Return the application with all its routes, without what guards it."""
    app = FastAPI(
        title="halfmap live",
        description="2D classification while a microscope runs. Send a token in the header X-Halfmap-Token.",
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        lifespan=_running,
        responses=REFUSALS,
    )
    app.state.services = services
    for prefix, router in ROUTERS:
        app.include_router(router, prefix=prefix)
    app.state.routes = declared_routes()
    app.add_exception_handler(HalfmapError, _explained)
    app.add_exception_handler(RequestValidationError, _unreadable)
    return app


def declared_routes() -> list[tuple[str, set[str], list[Demand]]]:
    """Return every route: its path, its methods (none of websockets), and what it demands of who calls it."""
    return [
        (prefix + route.path_format, set(getattr(route, "methods", ())), demands_of(route.dependencies))
        for prefix, router in ROUTERS
        for route in router.routes
        if isinstance(route, APIRoute | APIWebSocketRoute)
    ]


def guarded(app: FastAPI, hosts: Iterable[str]) -> ASGIApp:
    """Return the application behind its guard, as a server must run it.

    Parameters
    ----------
    hosts : names under which browsers may know the server, without port.
    """
    services: Services = app.state.services
    trusted = list(services.params.trusted_proxy)
    packed = GZipMiddleware(app, minimum_size=_LEAST_PACKED_BYTES, compresslevel=_PACKING)
    inner: ASGIApp = Guard(packed, services, hosts)
    if trusted:
        inner = ProxyHeadersMiddleware(inner, trusted_hosts=trusted)  # type: ignore[arg-type, assignment]
    return Proxied(inner, trusted)


async def _explained(request: Request, error: Exception) -> JSONResponse:
    """Answer with what a user can do: 409 where folders are not in the state that is needed, else 422."""
    return JSONResponse({"detail": str(error)}, 409 if isinstance(error, ProjectError) else 422)


async def _unreadable(request: Request, error: Exception) -> JSONResponse:
    errors = error.errors() if isinstance(error, RequestValidationError) else []
    return JSONResponse({"detail": sentence_of(errors)}, 422)


@asynccontextmanager
async def _running(app: FastAPI) -> AsyncIterator[None]:
    services: Services = app.state.services
    services.hub.attach(asyncio.get_running_loop())
    tasks = [asyncio.create_task(_resuming(services)), asyncio.create_task(_pulse(services))]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        await asyncio.to_thread(services.catalogue.close)


async def _resuming(services: Services) -> None:
    """Open the listed sessions, and again now and then those whose folders were not there."""
    while True:
        await asyncio.to_thread(services.catalogue.resume)
        await asyncio.sleep(RETRY_SECONDS)


async def _pulse(services: Services) -> None:
    """Measure by how much the loop is late, which nothing but computing or reading in it can make long."""
    while True:
        before = time.monotonic()
        await asyncio.sleep(_PULSE_SECONDS)
        services.loop_lag_seconds = max(0.0, time.monotonic() - before - _PULSE_SECONDS)
