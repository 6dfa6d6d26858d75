"""Micrographs of a session: their list, pictures, picks, and picks edited by eye."""

import math
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field

from halfmap.jobs.micrograph_view import micrograph_png
from halfmap.sessions import micrograph_files
from halfmap.sessions.manual_picks import PickEdits
from halfmap.sessions.session import Session
from halfmap.web.answers import Picture, as_json
from halfmap.web.permissions import operator, viewer
from halfmap.web.routes_sessions import Identity, session_of
from halfmap.web.services import Services, services_of

router = APIRouter(prefix="/sessions/{session}")

Name = Annotated[str, Path(max_length=300)]
Limit = Annotated[float | None, Query(allow_inf_nan=False)]
Places = Annotated[dict[str, list[tuple[float, float]]], Field(max_length=100_000)]


class Edits(BaseModel):
    """What was changed by eye, by micrograph: positions (x, y) in pixels, and which micrographs are wanted."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)
    job: Annotated[str | None, Field(max_length=200)] = None
    added: Places = {}
    removed: Places = {}
    accepted: Annotated[dict[str, bool], Field(max_length=100_000)] = {}
    thresholds: Annotated[dict[str, float], Field(max_length=100_000)] = {}
    threshold: float | None = None


class Limits(BaseModel):
    """Limits by name; none takes all micrographs back."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)
    values: Annotated[dict[str, float], Field(max_length=20)]


class Judgements(BaseModel):
    """Which micrographs are wanted, by name; null takes back what was said."""

    model_config = ConfigDict(extra="forbid")
    micrographs: Annotated[dict[str, bool | None], Field(max_length=100_000)]


@router.get("/micrographs", dependencies=[viewer])
def micrographs(
    request: Request,
    session: Identity,
    offset: Annotated[int, Query(ge=0, le=10**9)] = 0,
    limit: Annotated[int, Query(ge=0, le=1000)] = 100,
    max_resolution_angstrom: Limit = None,
    min_defocus_angstrom: Limit = None,
    max_defocus_angstrom: Limit = None,
    max_motion_angstrom: Limit = None,
    min_picks: Limit = None,
) -> Response:
    """Return micrographs in the order of their time, and how many pass the limits."""
    limits = {
        "max_resolution_angstrom": max_resolution_angstrom,
        "min_defocus_angstrom": min_defocus_angstrom,
        "max_defocus_angstrom": max_defocus_angstrom,
        "max_motion_angstrom": max_motion_angstrom,
        "min_picks": min_picks,
    }
    given = {name: value for name, value in limits.items() if value is not None}
    return as_json(session_of(request, session).micrographs(offset, limit, given))


@router.post("/limits", dependencies=[operator])
def set_limits(request: Request, session: Identity, given: Limits) -> dict[str, Any]:
    """Leave micrographs beyond limits out of the session, from its next cycle on; return what is left."""
    return session_of(request, session).set_limits(given.values)


@router.post("/limits/undo", dependencies=[operator])
def undo_limits(request: Request, session: Identity) -> dict[str, Any]:
    """Take back the last change of the limits; return what is left."""
    return session_of(request, session).undo_limits()


@router.post("/judge", dependencies=[operator])
def judge(request: Request, session: Identity, given: Judgements) -> dict[str, Any]:
    """Say by eye which micrographs are wanted, whatever the limits say; return all that was said."""
    return {"judged": session_of(request, session).judge(given.micrographs)}


@router.get("/micrographs/{name}/image.png", dependencies=[viewer], response_class=Picture)
def image(
    request: Request,
    session: Identity,
    name: Name,
    low_pass: Annotated[float | None, Query(ge=0, le=1000)] = None,
    contrast: Annotated[float, Query(gt=0, le=20)] = 3.0,
) -> Response:
    """Return a micrograph: low-passed to a resolution in Å, black and white at so many standard deviations."""
    found = session_of(request, session)
    services = services_of(request)
    path = services.reachable(micrograph_files.micrograph_path(found.course.watch.source.micrographs_folder, name))
    picture = micrograph_png(
        path,
        pixel_size_angstrom=_pixel_size(found),
        low_pass_angstrom=low_pass or None,
        contrast_deviations=contrast,
    )
    return Picture(picture.data)


@router.get("/micrographs/{name}/picks", dependencies=[viewer])
def picks(
    request: Request, session: Identity, name: Name, job: Annotated[str | None, Query(max_length=200)] = None
) -> Response:
    """Return the picks of a micrograph: the session's own, or those of a picking job of the project.

    Beside them stand the sides of the micrograph in pixels, its pixel size, and the names of the numbers that each pick
    carries.
    """
    found, services = session_of(request, session), services_of(request)
    path = services.reachable(micrograph_files.micrograph_path(found.course.watch.source.micrographs_folder, name))
    height, width = micrograph_files.sides(path)
    if job:
        shown = micrograph_files.picks_of_job(services.project, _job_path(services, job), name)
    else:
        shown = micrograph_files.picks_of(found.course.observation, name)
    rows = [
        {
            "x": float(x),
            "y": float(y),
            **{
                label: float(values[row]) if math.isfinite(values[row]) else None
                for label, values in shown.labels.items()
            },
        }
        for row, (x, y) in enumerate(shown.position_pixel.tolist())
    ]
    return as_json(
        {
            "micrograph": name,
            "job": job,
            "width": width,
            "height": height,
            "pixel_size_angstrom": _pixel_size(found),
            "labels": list(shown.labels),
            "picks": rows,
        }
    )


@router.post("/manual-pick", dependencies=[operator])
def manual_pick(request: Request, session: Identity, edits: Edits) -> dict[str, Any]:
    """Save edited picks and the accepted micrographs as a new job ``ManualPick/jobNNN`` of the project."""
    found, services = session_of(request, session), services_of(request)
    path = micrograph_files.save_edited(
        services.project,
        found.course.watch.source.micrographs_folder,
        found.course.observation,
        PickEdits(
            added=edits.added,
            removed=edits.removed,
            accepted=edits.accepted,
            thresholds=edits.thresholds,
            threshold=edits.threshold,
        ),
        picks_path=_job_path(services, edits.job) if edits.job else None,
        left_out=found.course.left_out,
    )
    services.hub.publish("jobs")
    folder = path.parent.relative_to(services.project).as_posix()
    return {"job": folder, "path": path.relative_to(services.project).as_posix()}


def _job_path(services: Services, job: str) -> Any:
    return services.reach(next(iter(services.projects.folders)), job)


def _pixel_size(session: Session) -> float | None:
    given = session.course.observation.settings
    found = given.number("micrograph_pixel_size_angstrom", 0.0) or given.number("pixel_size_angstrom", 0.0)
    return found or micrograph_files.micrograph_pixel_size(session.course.watch.source.micrographs_folder)
