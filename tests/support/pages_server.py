"""A server of the pages that answers from a made-up session, under the same policy as the real one."""

import asyncio
import io
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import uvicorn
from PIL import Image
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.websockets import WebSocket, WebSocketDisconnect

import halfmap.web
from halfmap.project.parameters_json import schema
from halfmap.sessions.settings import LiveSettings
from halfmap.web.guard import POLICY

STATIC = Path(halfmap.web.__file__).parent / "static"
TILE = 64
SIDE = 512


class MadeUp:
    """A session of some classes and cycles, changed by what a page asks; it notes all that it was asked."""

    def __init__(self, *, classes: int = 24, cycles: int = 12, micrographs: int = 60) -> None:
        rng = np.random.default_rng(1)
        self.asked: list[tuple[str, Any]] = []
        self.sockets: set[WebSocket] = set()
        self.loop: asyncio.AbstractEventLoop | None = None
        self.n_classes, self.columns = classes, int(np.ceil(np.sqrt(classes)))
        self.selected: list[int] = []
        self.before: list[list[int]] = []
        self.state = "stopped"
        self.staged: dict[str, Any] = {}
        self.text = "".join(f"line {k}\n" for k in range(1200)) + "<script>window.broken = true</script>\n"
        self.cycles = [self._cycle(number) for number in range(1, cycles + 1)]
        self.times = (1.79e9 + 60 * np.arange(micrographs)).tolist()
        self.resolution = (4 + rng.gamma(2, 1, micrographs)).tolist()
        self.picks = rng.integers(10, 300, micrographs).tolist()
        self.defocus = rng.uniform(8000, 22000, micrographs).tolist()
        self.motion = rng.gamma(2, 3, micrographs).tolist()
        self.names = [f"grid1_{k:04d}.mrc" for k in range(micrographs)]
        self.atlas_png = _png(_blobs(rng, classes, self.columns))
        self.micrograph_png = _png(np.clip(rng.normal(128, 40, (SIDE, SIDE)), 0, 255).astype(np.uint8))
        self.positions = rng.uniform(40, SIDE - 40, (12, 2)).round(1).tolist()

    def _cycle(self, number: int) -> dict[str, Any]:
        kind = "seed" if number == 1 else "startup" if number < 6 else "refinement"
        rng = np.random.default_rng(number)
        resolution = max(8.0, 40 - 4.0 * number)
        classes = [
            {
                "index": k + 1,
                "track": k + 101,
                "particles": int(rng.integers(0, 900)),
                "weight": float(rng.uniform(0, 900)),
                "resolution_angstrom": resolution + float(rng.uniform(0, 9)) if k % 7 else None,
                "score": float(rng.uniform()),
                "angular_entropy": None,
            }
            for k in range(self.n_classes)
        ]
        return {
            "number": number,
            "kind": kind,
            "resolution_angstrom": resolution,
            "fraction": 1.0,
            "particles": sum(one["particles"] for one in classes),
            "finished": "2026-11-27T10:00:00+00:00",
            "settings": {},
            "classes": classes,
        }

    def add_cycle(self) -> None:
        """Publish a cycle, and tell the pages."""
        self.cycles.append(self._cycle(len(self.cycles) + 1))
        self.tell({"type": "cycle", "number": len(self.cycles)})

    def tell(self, event: dict[str, Any]) -> None:
        """Send an event to all pages."""
        assert self.loop is not None

        async def send() -> None:
            for socket in list(self.sockets):
                await socket.send_json({"seq": time.time_ns(), "session": "s1", **event})

        asyncio.run_coroutine_threadsafe(send(), self.loop).result(5)

    def snapshot(self) -> dict[str, Any]:
        """Return the session as `halfmap.sessions.session.Session.snapshot` does."""
        n = self.cycles[-1]["particles"] if self.cycles else 0
        curve = {"t": self.times}
        found = {
            "pixel_size_angstrom": {
                "value": 1.06,
                "unit": "Å",
                "provenance": "previous.settings: PixelSizeX, BinTimes",
            },
            "diameter_angstrom": {"value": 166, "unit": "Å", "provenance": "previous.settings: Picking/Diameter"},
            "net_name": {"value": "BoxNet2_<b>1</b>", "unit": "", "provenance": "previous.settings: Picking/ModelPath"},
        }
        numbers = [one["number"] for one in self.cycles]
        return {
            "id": "s1",
            "name": "apoferritin & <i>friends</i>",
            "folder": "/data/apo",
            "kind": "warp2",
            "state": self.state,
            "why_idle": "No job runs: 1,200 of 50,000 new particles have come.",
            "microscope": "Krios 1",
            "seq": 4,
            "job": None,
            "progress": None,
            "source": {
                "settings": found,
                "particles": n + 1200,
                "micrographs": len(self.names),
                "last_image": None,
                "lag_s": 4000.0,
                "quarantine": [{"name": "grid1_0007.mrc", "reason": "its stack is shorter than its table", "tries": 3}],
                "disk_free_bytes": 5e9,
                "notices": ["The box has changed from 128 to 160: classes begin anew."],
            },
            "settings": {},
            "staged": self.staged,
            "counts": {"classified": n, "since_last": 1200, "threshold": 50000, "rate_per_hour": 21000.0, "eta": None},
            "cycles": [
                {**{k: v for k, v in one.items() if k != "settings"}, "classes": self.n_classes} for one in self.cycles
            ],
            "selection": {"tracks": self.selected, "can_undo": bool(self.before)},
            "plots": {
                "particles": {**curve, "y": np.cumsum(self.picks).tolist()},
                "micrographs": {**curve, "y": list(range(1, len(self.names) + 1))},
                "ctf_resolution": {**curve, "y": self.resolution},
                "defocus": {**curve, "y": self.defocus},
                "motion": {**curve, "y": self.motion},
                "picks": {**curve, "y": self.picks},
                "convergence": {
                    "cycle": numbers,
                    "log_likelihood": [-1e6 / k for k in numbers],
                    "changed_percent": [90 / k for k in numbers],
                    "mean_probability": [1 - 0.5 / k for k in numbers],
                },
            },
        }

    def choose(self, tracks: list[int]) -> None:
        """Change the selection."""
        self.before.append(self.selected)
        self.selected = tracks


def _blobs(rng: np.random.Generator, n: int, columns: int) -> np.ndarray:
    y, x = np.mgrid[:TILE, :TILE] - TILE / 2
    picture = np.full((-(-n // columns) * TILE, columns * TILE), 90, dtype=np.uint8)
    for k in range(n):
        a, b, angle = *rng.uniform(6, 22, 2), rng.uniform(0, np.pi)
        u, v = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
        tile = 90 + 140 * np.exp(-(((u / a) ** 2 + (v / b) ** 2) ** 2)) + rng.normal(0, 9, u.shape)
        row, column = divmod(k, columns)
        picture[row * TILE : (row + 1) * TILE, column * TILE : (column + 1) * TILE] = np.clip(tile, 0, 255)
    return picture


def _png(pixels: np.ndarray) -> bytes:
    kept = io.BytesIO()
    Image.fromarray(pixels).save(kept, "PNG")
    return kept.getvalue()


def _tetrahedron() -> dict[str, Any]:
    corners = [[10, 10, 10], [50, 50, 10], [50, 10, 50], [10, 50, 50]]
    return {
        "vertices": [value - 30 for corner in corners for value in corner],
        "triangles": [0, 1, 2, 0, 3, 1, 0, 2, 3, 1, 3, 2],
        "level": 0.5,
        "mean": 0.0,
        "deviation": 0.25,
        "minimum": -1.0,
        "maximum": 2.0,
    }


def _routes(made: MadeUp) -> list[Any]:
    def answer(path: str, value: Any, method: str = "GET") -> Route:
        async def endpoint(request: Request) -> Response:
            given = await request.json() if method == "POST" else dict(request.query_params)
            if method == "POST":
                assert request.headers["x-halfmap-csrf"] == "proof"
                made.asked.append((request.url.path.removeprefix("/api/v1/"), given))
            result = value(given, request.path_params) if callable(value) else value
            return result if isinstance(result, Response) else JSONResponse(result)

        return Route(f"/api/v1/{path}", endpoint, methods=[method])

    def stage(given: Any, _: Any) -> Any:
        if given["values"].get("classes") == 0:
            return JSONResponse({"detail": "classes must be at least 1; got 0."}, 422)
        made.staged = given["values"]
        return {"staged": made.staged}

    def state(name: str) -> Any:
        def change(_: Any, __: Any) -> Any:
            made.state = name
            return made.snapshot()

        return change

    def select(given: Any, _: Any) -> Any:
        tracks = {index + 100 for index in given["classes"]}
        made.choose(sorted({*made.selected, *tracks} if given["selected"] else {*made.selected} - tracks))
        return {"tracks": made.selected}

    def undo(_: Any, __: Any) -> Any:
        made.selected = made.before.pop()
        return {"tracks": made.selected}

    def cycle(_: Any, path: Any) -> Any:
        number = int(path["number"])
        atlas = {"url": f"api/v1/sessions/s1/cycles/{number}/atlas.png", "tile_pixel": TILE, "columns": made.columns}
        return {**made.cycles[number - 1], "atlas": atlas, "orientation_hint": None}

    def log(given: Any, _: Any) -> Any:
        offset = max(0, int(given["offset"]))
        return {"text": made.text[offset:], "next": len(made.text)}

    def lost(given: Any, _: Any) -> Any:
        most = given["values"].get("max_resolution_angstrom", np.inf)
        gone = [k for k, one in enumerate(made.resolution) if one > most]
        particles = sum(made.picks[k] for k in gone)
        return {
            "micrographs": len(made.names),
            "micrographs_lost": len(gone),
            "micrographs_kept": len(made.names) - len(gone),
            "particles_lost": particles,
            "particles_kept": sum(made.picks) - particles,
        }

    def micrographs(given: Any, _: Any) -> Any:
        start = int(given.get("offset", 0))
        rows = range(start, min(len(made.names), start + int(given.get("limit", 100))))
        return {
            "total": len(made.names),
            "passing": len(made.names),
            "micrographs": [
                {
                    "name": made.names[k],
                    "time": "2026-11-27T10:00:00+00:00",
                    "defocus_angstrom": made.defocus[k],
                    "accepted": None,
                    "resolution_angstrom": made.resolution[k],
                    "motion_angstrom": made.motion[k],
                    "picks": made.picks[k],
                }
                for k in rows
            ],
        }

    def picks(_: Any, path: Any) -> Any:
        return {
            "micrograph": path["name"],
            "job": None,
            "width": SIDE,
            "height": SIDE,
            "pixel_size_angstrom": 6.0,
            "labels": ["figure_of_merit"],
            "picks": [{"x": x, "y": y, "figure_of_merit": 0.1 * k} for k, (x, y) in enumerate(made.positions)],
        }

    job = {
        "id": "Class2D/job003",
        "type": "Class2D",
        "state": "succeeded",
        "command": "class2d",
        "has_report": True,
        "created": "2026-11-27T10:00:00+00:00",
    }
    more = {**job, "reason": "", "files": ["Class2D/job003/map.mrc"], "parameters": {"classes": 50}, "progress": None}
    types = [{"command": "class2d", "summary": "Sort particles into classes."}]
    one = "sessions/s1"
    project = "projects/demo"
    return [
        answer("me", {"name": "launch", "role": "admin", "csrf": "proof", "microscope": "Krios 1", "project": "demo"}),
        answer("roots", {"roots": [{"id": "data", "name": "data"}]}),
        answer(
            "roots/data/folders",
            lambda given, _: {
                "root": "data",
                "path": given.get("path", "."),
                "kind": None,
                "left_out": 0,
                "folders": []
                if "path" in given
                else [{"name": "apo", "path": "apo", "kind": "warp2"}, {"name": "old", "path": "old", "kind": None}],
            },
        ),
        answer(
            "sessions",
            lambda *_: {
                "sessions": [
                    {
                        "id": "s1",
                        "name": "apo",
                        "state": made.state,
                        "kind": "warp2",
                        "particles": 9000,
                        "cycles": 12,
                        "last_image": None,
                    }
                ]
            },
        ),
        answer("sessions", lambda *_: made.snapshot(), "POST"),
        answer(one, lambda *_: made.snapshot()),
        answer(f"{one}/settings/schema", schema(LiveSettings)),
        answer(f"{one}/stage", stage, "POST"),
        answer(f"{one}/start", state("running"), "POST"),
        answer(f"{one}/start-automatic", state("listening"), "POST"),
        answer(f"{one}/stop", state("stopping"), "POST"),
        answer(f"{one}/stop-hard", state("stopped"), "POST"),
        answer(f"{one}/select", select, "POST"),
        answer(f"{one}/undo", undo, "POST"),
        answer(f"{one}/thresholds", lost, "POST"),
        answer(f"{one}/export", lambda given, _: {"path": f"s1/export/{given['kind']}/main"}, "POST"),
        answer(f"{one}/cycles/{{number}}", cycle),
        answer(f"{one}/cycles/{{number}}/atlas.png", lambda *_: Response(made.atlas_png, media_type="image/png")),
        answer(f"{one}/log", log),
        answer(f"{one}/micrographs", micrographs),
        answer(
            f"{one}/micrographs/{{name:path}}/image.png",
            lambda *_: Response(made.micrograph_png, media_type="image/png"),
        ),
        answer(f"{one}/micrographs/{{name:path}}/picks", picks),
        answer(
            f"{one}/manual-pick",
            lambda *_: {"job": "ManualPick/job004", "path": "ManualPick/job004/autopick.star"},
            "POST",
        ),
        answer(
            f"{project}/jobs", {"jobs": [job, {**job, "id": "AutoPick/job002", "type": "AutoPick"}], "attempts": []}
        ),
        answer(
            f"{project}/jobs",
            lambda *_: {"attempt": 1, "command": "class2d", "pid": 1, "state": "running", "said": ""},
            "POST",
        ),
        answer(f"{project}/jobs/{{job:path}}/log", log),
        answer(f"{project}/jobs/{{job:path}}/report", lambda *_: PlainTextResponse("a report")),
        answer(f"{project}/jobs/{{job:path}}", more),
        answer("job-types", {"job_types": types}),
        answer("job-types/class2d/schema", schema(LiveSettings)),
        answer(f"{project}/maps/{{path:path}}/mesh", _tetrahedron()),
        answer(
            f"{project}/maps/{{path:path}}/slices.png", lambda *_: Response(made.micrograph_png, media_type="image/png")
        ),
    ]


@contextmanager
def served(made: MadeUp) -> Iterator[str]:
    """Serve the pages from a thread; yield their address."""

    async def socket(connection: WebSocket) -> None:
        made.loop = asyncio.get_running_loop()
        await connection.accept()
        made.sockets.add(connection)
        try:
            while True:
                await connection.receive_text()
        except WebSocketDisconnect:
            made.sockets.discard(connection)

    class Policy:
        def __init__(self, app: Any) -> None:
            self.app = app

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            async def signed(message: Any) -> None:
                if message["type"] == "http.response.start":
                    message["headers"].append((b"content-security-policy", POLICY.encode()))
                await send(message)

            await self.app(scope, receive, signed)

    routes = [
        Route("/", lambda _: FileResponse(STATIC / "index.html")),
        Route("/favicon.ico", lambda _: Response(status_code=204)),
        WebSocketRoute("/api/v1/ws", socket),
        *_routes(made),
    ]
    app = Starlette(routes=routes)
    app.mount("/static", StaticFiles(directory=STATIC))
    with listening(Policy(app)) as address:
        yield address


@contextmanager
def listening(app: Any) -> Iterator[str]:
    """Serve an application from a thread at a free port; yield its address."""
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/"
    finally:
        server.should_exit = True
        thread.join()
