"""Jobs of a project as pages show them."""

import re
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from fastapi import HTTPException

from halfmap.errors import HalfmapError, InputError
from halfmap.jobs import registry
from halfmap.project import lock, record
from halfmap.project.events import recent_events
from halfmap.project.folder import JobFolder, job_folders
from halfmap.project.job import JobType
from halfmap.project.parameters import parameters_of
from halfmap.project.parameters_json import schema
from halfmap.web.services import Services

REPORT = "report.html"
MOST_FILES = 1000
PROGRAMS = ("executable",)
"""Parameters that name a program to run: pages cannot set them."""

_JOB = re.compile(r"^[A-Za-z0-9_-]+/job\d{3,}$")
_REFERENCE = re.compile(r"^(job)?\d+$|^[A-Za-z_][A-Za-z0-9_.-]*$")


def listing(project: Path) -> list[dict[str, Any]]:
    """Return all jobs in short, the newest first."""
    progress = _progress(project)
    return [_in_short(project, job, progress) for job in reversed(job_folders(project))]


def job_of(project: Path, identity: str) -> JobFolder:
    """Return a job by its folder within the project.

    Raises
    ------
    HTTPException
        404: there is no such job.
    """
    path = project / identity
    if not _JOB.match(identity) or not path.is_dir() or not path.resolve().is_relative_to(project):
        raise HTTPException(404, "There is no such job.")
    return JobFolder(path=path)


def described(project: Path, job: JobFolder) -> dict[str, Any]:
    """Return all that is known of a job."""
    entry: dict[str, Any] = {}
    with suppress(HalfmapError):
        entry = record.read_record(job.path)
    files = sorted(path for path in job.path.rglob("*") if path.is_file() and not path.name.startswith("."))
    return {
        **_in_short(project, job, _progress(project)),
        "parameters": entry.get("parameters", {}),
        "inputs": entry.get("inputs", {}),
        "used_by": _used_by(project, job),
        "versions": entry.get("versions", {}),
        "reason": job.reason(),
        "note": job.note(),
        "files": [path.relative_to(project).as_posix() for path in files[:MOST_FILES]],
    }


def holder_of(job: JobFolder) -> lock.Holder:
    """Return the process that runs a job.

    Raises
    ------
    HTTPException
        409: none does, or one on another machine.
    """
    found = lock.holder(job.path)
    if job.state != "running" or found is None or found.is_gone:
        raise HTTPException(409, "The job does not run.")
    if found.host != lock.Holder.this_process().host:
        raise HTTPException(409, f"The job runs on {found.host}; stop it there.")
    return found


@cache
def job_types() -> tuple[dict[str, str], ...]:
    """Return the commands that make jobs, in the order of the command line's help."""
    return tuple(
        {"command": entry.command, "summary": entry.summary, "group": entry.panel}
        for entry in registry.COMMANDS
        if isinstance(entry.load(), JobType)
    )


def job_type(command: str) -> JobType:
    """Return the job type of a command.

    Raises
    ------
    HTTPException
        404: none makes jobs.
    """
    if all(one["command"] != command for one in job_types()):
        raise HTTPException(404, "There is no such job type.")
    return registry.find_job(command)


def form_of(command: str) -> dict[str, Any]:
    """Return the JSON schema of a job's parameters, with which of them are inputs."""
    found = job_type(command)
    content = schema(found.parameters)
    for name in PROGRAMS:
        content["properties"].pop(name, None)
    return {**content, "command": command, "summary": found.summary, "inputs": list(found.inputs)}


def checked_values(services: Services, project: Path, found: JobType, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a form with all paths made real.

    Paths are relative to the project, or ``root:path`` below a root; numbers, folders and aliases of jobs stand for
    their outputs, as on the command line.

    Raises
    ------
    HTTPException
        404: a path names nothing, or leads out of the project and the roots.
    InputError
        A program is named.
    """
    checked = {name: value for name, value in values.items() if value is not None}
    for name in PROGRAMS:
        if name in checked:
            raise InputError(f"A page must not name programs to run; got {name}; start the job from a terminal.")
    for parameter in parameters_of(found.parameters):
        value = checked.get(parameter.name)
        if parameter.type is not Path or value is None:
            continue
        if isinstance(value, list):
            checked[parameter.name] = [_path(services, project, str(one)) for one in value]
        else:
            checked[parameter.name] = _path(services, project, str(value))
    return checked


def _path(services: Services, project: Path, text: str) -> str:
    root, colon, relative = text.partition(":")
    if colon and root in services.roots.folders:
        return str(services.roots.inside(root, relative))
    if text.startswith("/"):
        raise HTTPException(404, "A path must be relative to the project, or root:path.")
    if _REFERENCE.match(text) and not (project / text).exists():
        return text
    services.reachable(project / text)
    return str(project / text)


def _in_short(project: Path, job: JobFolder, progress: Mapping[str, Any]) -> dict[str, Any]:
    entry: dict[str, Any] = {}
    with suppress(HalfmapError):
        entry = record.read_record(job.path)
    identity = job.path.relative_to(project).as_posix()
    state = job.state
    changed = (job.path / record.NAME) if entry else job.path
    return {
        "id": identity,
        "number": job.number,
        "type": job.path.parent.name,
        "command": entry.get("command", ""),
        "state": state,
        "aliases": job.aliases(),
        "created": datetime.fromtimestamp(changed.stat().st_mtime, tz=UTC).isoformat(timespec="seconds"),
        "main_output": entry.get("main_output"),
        "made_from": _made_from(entry),
        "has_report": (job.path / REPORT).is_file(),
        "progress": progress.get(identity) if state == "running" else None,
    }


def _used_by(project: Path, job: JobFolder) -> list[str]:
    """Return the jobs that were given files of a job."""
    identity, found = job.path.relative_to(project).as_posix(), []
    for other in job_folders(project):
        with suppress(HalfmapError):
            if identity in _made_from(record.read_record(other.path)):
                found.append(other.path.relative_to(project).as_posix())
    return found


def _made_from(entry: Mapping[str, Any]) -> list[str]:
    """Return the jobs of the project whose files a job was given."""
    paths = [one["path"] for given in entry.get("inputs", {}).values() for one in given]
    found = {"/".join(path.split("/")[:2]) for path in paths}
    return sorted(one for one in found if _JOB.match(one))


def _progress(project: Path) -> dict[str, dict[str, Any]]:
    """Return the last progress of the jobs of which there is word among the newest events."""
    found = {}
    for event in recent_events(project):
        if event.get("event") == "progress":
            found[str(event.get("job"))] = {name: event.get(name) for name in ("label", "done", "total")}
    return found
