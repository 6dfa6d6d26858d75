"""A server of the pages that answers from a made-up session, under the same policy as the real one."""

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.websockets import WebSocket, WebSocketDisconnect

import halfmap.web
from halfmap.project.parameters_json import schema
from halfmap.sessions.settings import LiveSettings
from halfmap.web import job_listing
from halfmap.web.guard import POLICY
from support.made_up_session import SIDE, TILE, MadeUp

STATIC = Path(halfmap.web.__file__).parent / "static"


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


def _files(path: str) -> dict[str, Any]:
    """Return the files of a folder, the same in every one."""
    folders = ["Extract"] if path == "." else []
    return {"path": path, "folders": folders, "files": [{"name": "particles.star", "bytes": 5000}], "left_out": 0}


def _routes(made: MadeUp) -> list[Any]:
    def answer(path: str, value: Any, method: str = "GET") -> Route:
        async def endpoint(request: Request) -> Response:
            given = dict(request.query_params) if method == "GET" else await request.json()
            if method != "GET":
                assert path == "login" or request.headers["x-halfmap-csrf"] == "proof"
                made.asked.append((request.url.path.removeprefix("/api/v1/"), given))
            result = value(given, request.path_params) if callable(value) else value
            return result if isinstance(result, Response) else JSONResponse(result)

        return Route(f"/api/v1/{path}", endpoint, methods=[method])

    def stage(given: Any, _: Any) -> Any:
        if given["values"].get("classes") == 0:
            return JSONResponse({"detail": "classes must be at least 1; got 0."}, 422)
        made.staged = {**made.staged, **given["values"]}
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

    def set_limits(given: Any, _: Any) -> Any:
        made.limits_before.append(made.limits)
        made.limits = given["values"]
        return made.lost(made.limits)

    def undo_limits(_: Any, __: Any) -> Any:
        made.limits = made.limits_before.pop()
        return made.lost(made.limits)

    def judge(given: Any, _: Any) -> Any:
        said = {**made.judged, **given["micrographs"]}
        made.judged = {name: yes for name, yes in said.items() if yes is not None}
        return {"judged": made.judged}

    def close(_: Any, __: Any) -> Any:
        made.is_closed = True
        return {"closed": "s1"}

    def snapshot(given: Any, _: Any) -> Any:
        if made.is_closed:
            return JSONResponse({"detail": "There is no such session."}, 404)
        return made.page_snapshot(plots=given["plots"] == "true", cycles_after=int(given["cycles_after"]))

    def me(_: Any, __: Any) -> Any:
        if made.is_locked:
            return JSONResponse({"detail": "Log in with the token that halfmap live printed."}, 401)
        return {"name": "launch", "role": "admin", "csrf": "proof", "microscope": "Krios 1", "project": "demo"}

    def login(given: Any, _: Any) -> Any:
        if given["token"] != "right":
            return JSONResponse({"detail": "The token is wrong."}, 401)
        made.is_locked = False
        return {"logged_in": True}

    def stop_job(_: Any, __: Any) -> Any:
        made.job_state = "aborted"
        return {"state": "aborted"}

    def give_link(given: Any, _: Any) -> Any:
        made.links.append(
            {"id": f"link-{len(made.links)}", "name": given["name"], "role": given["role"], "expires": None}
        )
        return {
            "id": made.links[-1]["id"],
            "role": given["role"],
            "url": "http://127.0.0.1/?token=secret",
            "token": "secret",
        }

    def take_back_link(_: Any, path: Any) -> Any:
        made.links = [one for one in made.links if one["id"] != path["link"]]
        return {"taken_back": path["link"]}

    def micrographs(given: Any, _: Any) -> Any:
        start = int(given.get("offset", 0))
        out = made.left_out(made.limits)
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
                    "judged": made.judged.get(made.names[k]),
                    "left_out": k in out,
                }
                for k in rows
            ],
        }

    def picture(given: Any, _: Any) -> Any:
        made.looks.append(given)
        return Response(made.micrograph_png, media_type="image/png")

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
        "made_from": ["AutoPick/job002"],
    }
    more = {
        **job,
        "used_by": [],
        "reason": "",
        "files": ["Class2D/job003/map.mrc"],
        "parameters": {"classes": 50},
        "progress": None,
    }
    types = [{"command": "class2d", "summary": "Sort particles into classes."}]
    one = "sessions/s1"
    project = "projects/demo"
    return [
        answer("me", me),
        answer("login", login, "POST"),
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
        answer(one, snapshot),
        answer(one, close, "DELETE"),
        answer(f"{one}/plots", lambda *_: made.snapshot()["plots"]),
        answer(f"{one}/limits", set_limits, "POST"),
        answer(f"{one}/limits/undo", undo_limits, "POST"),
        answer(f"{one}/judge", judge, "POST"),
        answer("links", lambda *_: {"links": made.links}),
        answer("links", give_link, "POST"),
        answer("links/{link}", take_back_link, "DELETE"),
        answer(f"{project}/files", lambda given, _: _files(given["path"])),
        answer("roots/data/files", lambda given, _: _files(given["path"])),
        answer(f"{one}/settings/schema", schema(LiveSettings)),
        answer(f"{one}/stage", stage, "POST"),
        answer(f"{one}/stage-live2d", lambda given, _: {"staged": given["settings"]}, "POST"),
        answer(f"{one}/start", state("running"), "POST"),
        answer(f"{one}/start-automatic", state("listening"), "POST"),
        answer(f"{one}/stop", state("stopping"), "POST"),
        answer(f"{one}/stop-hard", state("stopped"), "POST"),
        answer(f"{one}/select", select, "POST"),
        answer(f"{one}/undo", undo, "POST"),
        answer(f"{one}/thresholds", lambda given, _: made.lost(given["values"]), "POST"),
        answer(f"{one}/export", lambda given, _: {"path": f"s1/export/{given['kind']}/main"}, "POST"),
        answer(f"{one}/cycles/{{number}}", cycle),
        answer(f"{one}/cycles/{{number}}/atlas.png", lambda *_: Response(made.atlas_png, media_type="image/png")),
        answer(f"{one}/log", log),
        answer(f"{one}/micrographs", micrographs),
        answer(
            f"{one}/micrographs/{{name:path}}/image.png",
            picture,
        ),
        answer(f"{one}/micrographs/{{name:path}}/picks", picks),
        answer(
            f"{one}/manual-pick",
            lambda *_: {"job": "ManualPick/job004", "path": "ManualPick/job004/autopick.star"},
            "POST",
        ),
        answer(
            f"{project}/jobs",
            {"jobs": [job, {**job, "id": "AutoPick/job002", "type": "AutoPick", "made_from": []}], "attempts": []},
        ),
        answer(
            f"{project}/jobs",
            lambda *_: {"attempt": 1, "command": "class2d", "pid": 1, "state": "running", "said": ""},
            "POST",
        ),
        answer(f"{project}/jobs/{{job:path}}/log", log),
        answer(f"{project}/jobs/{{job:path}}/report", lambda *_: PlainTextResponse("a report")),
        answer(f"{project}/jobs/{{job:path}}/stop", stop_job, "POST"),
        answer(f"{project}/jobs/{{job:path}}", lambda *_: {**more, "state": made.job_state}),
        answer("job-types", {"job_types": types}),
        answer("job-types/{command}/schema", lambda _, path: job_listing.form_of(path["command"])),
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
