"""Jobs of the project: list, log, report, start and stop."""

from pathlib import Path as FilePath
from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Path, Query, Request
from fastapi.responses import FileResponse, RedirectResponse, Response
from pydantic import BaseModel, ConfigDict, Field

from halfmap.project.options import RunOptions
from halfmap.project.parameters import build
from halfmap.sessions.log import SessionLog
from halfmap.web import job_listing
from halfmap.web.answers import as_json
from halfmap.web.permissions import open_to_all, operator, viewer
from halfmap.web.processes import end_process
from halfmap.web.roots import confined, files_of
from halfmap.web.routes_sessions import Identity, Key
from halfmap.web.services import Services, services_of

REPORT_POLICY = (
    "sandbox allow-scripts allow-downloads allow-popups; default-src 'none'; script-src 'unsafe-inline'; "
    "style-src 'unsafe-inline'; img-src 'self' data: blob:; font-src data:; frame-ancestors 'self'"
)
_REPORT_FILES = {".html": "text/html", ".png": "image/png", ".jpg": "image/jpeg", ".svg": "image/svg+xml"}

router = APIRouter()

Project = Annotated[str, Path(max_length=100)]
Job = Annotated[str, Path(max_length=200)]
Command = Annotated[str, Path(max_length=100)]


class Asked(BaseModel):
    """A job to start: its command, its parameters, and run options."""

    model_config = ConfigDict(extra="forbid")
    command: Annotated[str, Field(max_length=100)]
    values: Annotated[dict[str, Any], Field(max_length=500)] = {}
    devices: Annotated[str, Field(max_length=100)] = "auto"
    workers: Annotated[int | None, Field(ge=1, le=1024)] = None
    threads: Annotated[int | None, Field(ge=1, le=1024)] = None
    memory: Annotated[str | None, Field(max_length=20)] = None


def _project(services: Services, name: str) -> FilePath:
    found = services.projects.folders.get(name)
    if found is None:
        raise HTTPException(404, "There is no such project.")
    return found


@router.get("/projects", dependencies=[viewer])
def projects(request: Request) -> dict[str, Any]:
    """Return the projects of this server."""
    return {"projects": [{"id": name, "name": name} for name in services_of(request).projects.folders]}


@router.get("/projects/{project}/files", dependencies=[operator])
def files(request: Request, project: Project, path: Annotated[str, Query(max_length=1000)] = ".") -> dict[str, Any]:
    """Return the folders and files within a folder of the project, which a job may be given."""
    services = services_of(request)
    return files_of(_project(services, project), path, hidden=services.work.resolve())


@router.get("/roots/{root}/files", dependencies=[operator])
def files_of_root(
    request: Request, root: Identity, path: Annotated[str, Query(max_length=1000)] = "."
) -> dict[str, Any]:
    """Return the folders and files within a folder below a root, which a job may be given as ``root:path``."""
    services = services_of(request)
    if root not in services.roots.folders:
        raise HTTPException(404, "There is no such root.")
    return files_of(services.roots.folders[root], path, hidden=services.work.resolve())


@router.get("/projects/{project}/jobs", dependencies=[viewer])
def jobs(request: Request, project: Project) -> Response:
    """Return all jobs in short, the newest first, and what became of those that were asked for here."""
    services = services_of(request)
    return as_json({"jobs": job_listing.listing(_project(services, project)), "attempts": services.processes.listing()})


@router.post("/projects/{project}/jobs", dependencies=[operator])
def start_job(request: Request, project: Project, asked: Asked, key: Key = None) -> dict[str, Any]:
    """Start a job in a process of its own; mistakes in its parameters are found before."""
    services = services_of(request)
    folder = _project(services, project)
    found = job_listing.job_type(asked.command)
    values = job_listing.checked_values(services, folder, found, asked.values)
    options = {"devices": asked.devices, "workers": asked.workers, "threads": asked.threads, "memory": asked.memory}
    build(RunOptions, {name: value for name, value in options.items() if value is not None})
    if found.config is None:
        build(found.parameters, values)
    with services.once(f"job {project}", key) as is_first:
        if not is_first:
            raise HTTPException(409, "This job has been asked for already.")
        return services.processes.start(folder, asked.command, values, options)


@router.get("/projects/{project}/jobs/{job:path}/log", dependencies=[viewer])
def log(
    request: Request, project: Project, job: Job, offset: Annotated[int, Query(ge=-1, le=2**53)] = -1
) -> dict[str, Any]:
    """Return a job's log from an offset in bytes on, and the next offset; -1: its last 1,000 lines."""
    folder = job_listing.job_of(_project(services_of(request), project), job)
    text, after = SessionLog(folder.path / "run.log").read(offset)
    return {"text": text, "next": after}


@router.get(
    "/projects/{project}/jobs/{job:path}/report",
    dependencies=[viewer],
    response_class=RedirectResponse,
    status_code=303,
)
def report(request: Request, project: Project, job: Job) -> Response:
    """Lead to a job's report, which is shown without any right but to itself."""
    services = services_of(request)
    folder = job_listing.job_of(_project(services, project), job)
    if not (folder.path / job_listing.REPORT).is_file():
        raise HTTPException(404, "The job has no report.")
    ticket = services.access.ticket(f"{project}/{job}")
    ways_up = "../" * (job.count("/") + 4)  # relative, so that it holds behind a proxy's path too
    return RedirectResponse(f"{ways_up}reports/{ticket}/{project}/{job}/{job_listing.REPORT}", 303)


@router.get("/reports/{ticket}/{project}/{path:path}", dependencies=[open_to_all], include_in_schema=False)
def report_file(
    request: Request, ticket: Annotated[str, Path(max_length=100)], project: Project, path: Job
) -> Response:
    """Return a report, or a picture beside it, to whoever has the ticket for it."""
    services = services_of(request)
    parts = path.split("/")
    job, rest = "/".join(parts[:2]), "/".join(parts[2:])
    if not services.access.is_ticket(ticket, f"{project}/{job}"):
        raise HTTPException(404, "There is no such report.")
    found = confined(job_listing.job_of(_project(services, project), job).path, rest)
    kind = _REPORT_FILES.get(found.suffix)
    if kind is None or not found.is_file():
        raise HTTPException(404, "There is no such report.")
    headers = {"content-security-policy": REPORT_POLICY, "cross-origin-resource-policy": "cross-origin"}
    return FileResponse(found, media_type=kind, headers={**headers, "cache-control": "no-cache"})


@router.post("/projects/{project}/jobs/{job:path}/stop", dependencies=[operator])
def stop_job(request: Request, project: Project, job: Job) -> dict[str, Any]:
    """Interrupt a job, which keeps its state, and end it where it does not stop within 10 s."""
    folder = job_listing.job_of(_project(services_of(request), project), job)
    end_process(job_listing.holder_of(folder).pid)
    services_of(request).hub.publish("jobs")
    return {"state": folder.state}


@router.get("/projects/{project}/jobs/{job:path}", dependencies=[viewer])
def job(request: Request, project: Project, job: Job) -> Response:
    """Return all that is known of a job."""
    folder = _project(services_of(request), project)
    return as_json(job_listing.described(folder, job_listing.job_of(folder, job)))


@router.get("/job-types", dependencies=[viewer])
def job_types() -> dict[str, Any]:
    """Return the commands that make jobs."""
    return {"job_types": list(job_listing.job_types())}


@router.get("/job-types/{command}/schema", dependencies=[viewer])
def job_schema(command: Command) -> dict[str, Any]:
    """Return the JSON schema of a job's parameters, for a form."""
    return job_listing.form_of(command)
