"""Whether the server lives, and its figures for Prometheus."""

import shutil
from typing import Any

from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import PlainTextResponse, Response

from halfmap.web.permissions import open_to_all, viewer
from halfmap.web.services import services_of

MOST_LAG_SECONDS = 5.0
_STATES = ("stopped", "running", "listening", "stopping", "failed", "unavailable")

router = APIRouter()


@router.get("/health/live", dependencies=[open_to_all])
def live() -> dict[str, Any]:
    """Answer: the server lives."""
    return {"status": "ok"}


@router.get("/health/ready", dependencies=[open_to_all])
def ready(request: Request) -> dict[str, Any]:
    """Answer where the server can serve: 503 where its loop is late or its folder is gone."""
    services = services_of(request)
    if services.loop_lag_seconds > MOST_LAG_SECONDS or not services.work.is_dir():
        raise HTTPException(503, "The server is not ready.")
    return {"status": "ok"}


@router.get("/metrics", dependencies=[viewer], response_class=PlainTextResponse)
def metrics(request: Request) -> Response:
    """Return figures in the text format of Prometheus."""
    services = services_of(request)
    listed = services.catalogue.listing()
    states = {state: sum(one["state"] == state for one in listed) for state in _STATES}
    lines = [
        "# TYPE halfmap_sessions gauge",
        *(f'halfmap_sessions{{state="{state}"}} {n}' for state, n in states.items()),
        "# TYPE halfmap_session_particles gauge",
        *(f'halfmap_session_particles{{session="{one["id"]}"}} {one["particles"]}' for one in listed if "kind" in one),
        "# TYPE halfmap_session_cycles gauge",
        *(f'halfmap_session_cycles{{session="{one["id"]}"}} {one["cycles"]}' for one in listed if "kind" in one),
        "# TYPE halfmap_clients gauge",
        f"halfmap_clients {services.hub.n_clients}",
        "# TYPE halfmap_clients_dropped_total counter",
        f"halfmap_clients_dropped_total {services.hub.dropped}",
        "# TYPE halfmap_loop_lag_seconds gauge",
        f"halfmap_loop_lag_seconds {services.loop_lag_seconds:.6f}",
        "# TYPE halfmap_disk_free_bytes gauge",
        f"halfmap_disk_free_bytes {shutil.disk_usage(services.work).free}",
    ]
    return PlainTextResponse("\n".join(lines) + "\n")
