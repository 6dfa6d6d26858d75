"""Sessions: what the session page shows and does."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, HTTPException, Path, Query, Request
from fastapi.responses import FileResponse, Response
from pydantic import BaseModel, ConfigDict, Field

from halfmap.sessions import plan
from halfmap.sessions.live2d import settings_of_run
from halfmap.sessions.session import Session
from halfmap.web.answers import Picture, as_json
from halfmap.web.permissions import operator, viewer
from halfmap.web.services import services_of

router = APIRouter()

Identity = Annotated[str, Path(max_length=100)]
Number = Annotated[int, Path(ge=0, le=10**6)]
Key = Annotated[str | None, Header(alias="idempotency-key", max_length=100)]
Plain = float | bool | str
_Strict = ConfigDict(extra="forbid")


class Place(BaseModel):
    """A folder below a root."""

    model_config = _Strict
    root: Annotated[str, Field(max_length=100)]
    path: Annotated[str, Field(max_length=1000)] = "."


class Values(BaseModel):
    """Settings that are changed, by name."""

    model_config = _Strict
    values: Annotated[dict[str, int | Plain | None], Field(max_length=100)] = {}


class Live2dSettings(BaseModel):
    """What ``latest_run.json`` of Live2D holds under ``settings``."""

    model_config = _Strict
    settings: Annotated[dict[str, Any], Field(max_length=100)]


class Selection(BaseModel):
    """Classes of a cycle, by number from 1."""

    model_config = _Strict
    cycle: Annotated[int, Field(ge=0, le=10**6)]
    classes: Annotated[list[int], Field(max_length=10_000)]
    selected: bool


class Export(BaseModel):
    """What is written for which programs."""

    model_config = _Strict
    kind: Literal["relion", "cistem", "live2d", "averages", "csv"]


class Thresholds(BaseModel):
    """Limits by name, see the micrographs' figures."""

    model_config = _Strict
    values: Annotated[dict[str, float], Field(max_length=20)]


def news(shown: dict[str, Any], cycles_after: int) -> dict[str, Any]:
    """Return a snapshot of a session without the cycles that whoever asks has already."""
    last = shown["cycles"][-1]["number"] if shown["cycles"] else 0
    return shown | {"last_cycle": last, "cycles": [one for one in shown["cycles"] if one["number"] > cycles_after]}


def session_of(request: Request, identity: str) -> Session:
    """Return the session of a route."""
    return services_of(request).catalogue.session(identity)


@router.get("/roots", dependencies=[viewer])
def roots(request: Request) -> dict[str, Any]:
    """Return the folders under which sessions may be opened."""
    return {"roots": [{"id": name, "name": name} for name in services_of(request).roots.folders]}


@router.get("/roots/{root}/folders", dependencies=[operator])
def folders(request: Request, root: Identity, path: Annotated[str, Query(max_length=1000)] = ".") -> dict[str, Any]:
    """Return the folders within a folder, and what was recognised in each."""
    return services_of(request).roots.listing(root, path)


@router.get("/sessions", dependencies=[viewer])
def sessions(request: Request) -> dict[str, Any]:
    """Return all sessions in short."""
    return {"sessions": services_of(request).catalogue.listing()}


@router.post("/sessions", dependencies=[operator])
def open_session(request: Request, place: Place) -> Response:
    """Open an acquisition folder, or return its session where it is open already."""
    return as_json(services_of(request).catalogue.open(place.root, place.path).snapshot())


@router.delete("/sessions/{session}", dependencies=[operator])
def forget_session(request: Request, session: Identity) -> dict[str, Any]:
    """Close a session; its files stay, and opening the folder again goes on from them."""
    services_of(request).catalogue.forget(session)
    return {"closed": session}


@router.get("/sessions/{session}", dependencies=[viewer])
def snapshot(
    request: Request,
    session: Identity,
    plots: bool = True,
    cycles_after: Annotated[int, Query(ge=0, le=10**6)] = 0,
) -> Response:
    """Return everything of a session but its cycles' classes and its micrographs.

    Pages leave out the plots, and cycles up to a number, which are as they were: so an answer stays small.
    ``last_cycle`` is the number of the newest in any case.
    """
    return as_json(news(session_of(request, session).snapshot(with_plots=plots), cycles_after))


@router.get("/sessions/{session}/plots", dependencies=[viewer])
def plots(request: Request, session: Identity) -> Response:
    """Return the curves of a session, times in seconds since 1970."""
    return as_json(session_of(request, session).plots())


@router.get("/sessions/{session}/settings/schema", dependencies=[viewer])
def settings_schema(request: Request, session: Identity) -> dict[str, Any]:
    """Return the JSON schema of the settings."""
    return session_of(request, session).settings_schema()


@router.post("/sessions/{session}/stage", dependencies=[operator])
def stage(request: Request, session: Identity, given: Values) -> dict[str, Any]:
    """Keep changed settings until a job starts; return all that are staged."""
    return {"staged": session_of(request, session).stage(given.values)}


@router.post("/sessions/{session}/stage-live2d", dependencies=[operator])
def stage_live2d(request: Request, session: Identity, given: Live2dSettings) -> dict[str, Any]:
    """Stage the settings of a run of Live2D; return all that are staged."""
    return {"staged": session_of(request, session).stage(settings_of_run(given.settings))}


@router.post("/sessions/{session}/start", dependencies=[operator])
def start(request: Request, session: Identity, given: Values, key: Key = None) -> Response:
    """Start a job now. 409 where the state does not allow it; twice with one Idempotency-Key starts once."""
    found = session_of(request, session)
    with services_of(request).once(f"start {session}", key) as is_first:
        if is_first:
            _require(found, "start")
            found.start_now(given.values)
    return as_json(found.snapshot())


@router.post("/sessions/{session}/start-automatic", dependencies=[operator])
def start_automatic(request: Request, session: Identity, given: Values, key: Key = None) -> Response:
    """Start jobs from now on whenever enough new particles have come."""
    found = session_of(request, session)
    with services_of(request).once(f"listen {session}", key) as is_first:
        if is_first:
            _require(found, "listen")
            found.start_automatic(given.values)
    return as_json(found.snapshot())


@router.post("/sessions/{session}/stop", dependencies=[operator])
def stop(request: Request, session: Identity) -> Response:
    """Stop all jobs after the cycle that runs."""
    found = session_of(request, session)
    found.stop()
    return as_json(found.snapshot())


@router.post("/sessions/{session}/stop-hard", dependencies=[operator])
def stop_hard(request: Request, session: Identity) -> Response:
    """Stop at once; the cycle that runs is lost, those before stay."""
    found = session_of(request, session)
    found.stop_hard()
    return as_json(found.snapshot())


@router.get("/sessions/{session}/cycles", dependencies=[viewer])
def cycles(request: Request, session: Identity) -> dict[str, Any]:
    """Return all cycles in short, the first first."""
    return {"cycles": session_of(request, session).cycles()}


@router.get("/sessions/{session}/cycles/{number}", dependencies=[viewer])
def cycle(request: Request, session: Identity, number: Number) -> Response:
    """Return a cycle with its classes."""
    found = _cycle(session_of(request, session), number)
    stamp = found.get("finished", "")
    url = f"api/v1/sessions/{session}/cycles/{number}/atlas.png?at={stamp.replace('+', '%2B')}"
    return as_json({**found, "atlas": {**found["atlas"], "url": url}})


@router.get("/sessions/{session}/cycles/{number}/atlas.png", dependencies=[viewer], response_class=Picture)
def atlas(request: Request, session: Identity, number: Number) -> Response:
    """Return the picture of all class averages of a cycle."""
    found = session_of(request, session)
    _cycle(found, number)
    path = found.atlas_path(number)
    if not path.is_file():
        raise HTTPException(404, "The cycle has no picture.")
    return FileResponse(path, media_type="image/png", headers={"cache-control": "private, max-age=31536000, immutable"})


@router.post("/sessions/{session}/select", dependencies=[operator])
def select(request: Request, session: Identity, given: Selection) -> dict[str, Any]:
    """Select or deselect classes; return the tracks that are selected."""
    found = session_of(request, session)
    _cycle(found, given.cycle)
    return {"tracks": found.select(given.cycle, given.classes, given.selected)}


@router.post("/sessions/{session}/undo", dependencies=[operator])
def undo(request: Request, session: Identity) -> dict[str, Any]:
    """Take back the last change of the selection; return the tracks that are selected."""
    return {"tracks": session_of(request, session).undo()}


@router.post("/sessions/{session}/thresholds", dependencies=[viewer])
def thresholds(request: Request, session: Identity, given: Thresholds) -> dict[str, Any]:
    """Return what thresholds on micrographs would leave; nothing is changed."""
    return session_of(request, session).thresholds(given.values)


@router.get("/sessions/{session}/log", dependencies=[viewer])
def log(request: Request, session: Identity, offset: Annotated[int, Query(ge=-1, le=2**53)] = -1) -> dict[str, Any]:
    """Return the log from an offset in bytes on, and the next offset; -1: its last 1,000 lines."""
    text, after = session_of(request, session).log(offset)
    return {"text": text, "next": after}


@router.post("/sessions/{session}/export", dependencies=[operator])
def export(request: Request, session: Identity, given: Export) -> dict[str, Any]:
    """Write what was found for other programs, into the session's own folder."""
    services = services_of(request)
    found = session_of(request, session)
    destination = services.work / session / "export" / given.kind
    path = found.export(given.kind, destination)
    return {"path": str(path.relative_to(services.work)), "folder": str(destination)}


def _cycle(session: Session, number: int) -> dict[str, Any]:
    if all(one["number"] != number for one in session.cycles()):
        raise HTTPException(404, "There is no such cycle.")
    return session.cycle(number)


def _require(session: Session, act: str) -> None:
    state = session.snapshot(with_plots=False)["state"]
    if plan.after(state, act) is None:
        raise HTTPException(409, f"The session is {state}; stop all jobs first.")
