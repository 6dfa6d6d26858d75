"""`halfmap jobs …`: the jobs of a project, by number, folder or alias."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from halfmap.errors import InputError, ProjectError
from halfmap.jobs.text_table import aligned
from halfmap.project import record
from halfmap.project.folder import JobFolder, find_job, find_project, job_folders, move_to_trash, set_alias
from halfmap.project.job import ImmediateCommand, JobType


@dataclass(frozen=True, kw_only=True)
class ListParams:
    """What `jobs list` takes."""

    command: str | None = None
    """Only jobs of this command, such as extract or "pick log"."""


def list_jobs(params: ListParams) -> Iterator[str]:
    """Yield one line per job: number, state, folder, alias, command and main output."""
    project = find_project()
    rows = []
    for job in job_folders(project):
        entry = _entry(job)
        command = entry.get("command", "")
        if params.command in (None, command):
            folder = job.path.relative_to(project).as_posix()
            rows.append((str(job.number), job.state, folder, ", ".join(job.aliases()), command, _output(entry)))
    if not rows:
        yield f"No jobs in {project}."
        return
    rows.insert(0, ("job", "state", "folder", "alias", "command", "main output"))
    yield from aligned(rows)


@dataclass(frozen=True, kw_only=True)
class JobParams:
    """A job."""

    job: str
    """Number, folder or alias of the job."""


def show_job(params: JobParams) -> Iterator[str]:
    """Yield what is known of a job: state, dates, inputs, parameters, notes, and the command that repeats it."""
    project = find_project()
    job = find_job(project, params.job)
    entry = record.read_record(job.path)
    began = datetime.fromtimestamp((job.path / record.NAME).stat().st_mtime)
    yield f"{record.portable(project, job.path)}: {job.state}"
    if job.aliases():
        yield f"alias: {', '.join(job.aliases())}"
    yield f"command: halfmap {entry['command']}"
    yield f"recorded: {began:%Y-%m-%d %H:%M:%S} with " + ", ".join(f"{k} {v}" for k, v in entry["versions"].items())
    reason = job.reason()
    if reason:
        yield f"reason: {reason}"
    for name, inputs in entry["inputs"].items():
        for one in inputs:
            yield f"input {name}: {one['path']}"
    for name, value in entry["parameters"].items():
        yield f"parameter {name}: {value}"
    if job.note():
        yield from (f"note: {line}" for line in job.note().splitlines())
    yield f"again: {record.command_line(_job_type(entry), entry['parameters'])}"
    if entry["main_output"] is not None:
        yield f"main output: {entry['main_output']}"


@dataclass(frozen=True, kw_only=True)
class AliasParams(JobParams):
    """What `jobs alias` takes."""

    alias: str
    """The second name: letters, digits, '_', '-' and '.'."""


def alias_job(params: AliasParams) -> Iterator[str]:
    """Give the job the alias and yield its path."""
    project = find_project()
    yield record.portable(project, set_alias(project, find_job(project, params.job), params.alias))


@dataclass(frozen=True, kw_only=True)
class NoteParams(JobParams):
    """What `jobs note` takes."""

    text: tuple[str, ...] = ()
    """The note; the notes so far are shown where left out."""


def note_job(params: NoteParams) -> Iterator[str]:
    """Add a note to the job, and yield all its notes."""
    job = find_job(find_project(), params.job)
    if params.text:
        job.add_note(" ".join(params.text))
    yield from job.note().splitlines()


def rerun_job(params: JobParams) -> Iterator[str]:
    """Run the job again as it was, and yield the path of its main output."""
    from halfmap.project.runner import run_from_values

    job = find_job(find_project(), params.job)
    yield str(run_from_values(_job_type(record.read_record(job.path)), {}, settings=job.path).main_output)


@dataclass(frozen=True, kw_only=True)
class SaveParams(JobParams):
    """What `jobs save-settings` takes."""

    file: Path
    """The file to write, JSON."""


def save_settings(params: SaveParams) -> Iterator[str]:
    """Write the job's parameters into a file for ``--settings``, and yield its path."""
    entry = record.read_record(find_job(find_project(), params.job).path)
    record.write_settings(params.file, entry)
    yield str(params.file)


@dataclass(frozen=True, kw_only=True)
class ReportParams(JobParams):
    """What `jobs report` takes."""

    browser: bool = True
    """Open the report in a browser, not only print its path."""


def open_report(params: ReportParams) -> Iterator[str]:
    """Open the job's report in a browser and yield its path."""
    path = find_job(find_project(), params.job).path / "report.html"
    if not path.is_file():
        raise ProjectError(f"A job must have a report; got no {path}; see run.log beside it for how the job ended.")
    if params.browser:
        import webbrowser

        webbrowser.open(path.as_uri())
    yield str(path)


@dataclass(frozen=True, kw_only=True)
class CleanParams:
    """What `jobs clean` takes."""

    jobs: tuple[str, ...] = ()
    """Numbers, folders or aliases of jobs to move to the trash; failed, aborted and killed ones where left out."""


def clean_jobs(params: CleanParams) -> Iterator[str]:
    """Move jobs to the project's ``Trash``, and yield where each one went."""
    project = find_project()
    named = [find_job(project, reference) for reference in params.jobs]
    ended = ("failed", "aborted", "killed")
    chosen = named or [job for job in job_folders(project) if _entry(job) and job.state in ended]
    for job in chosen:
        if job.state == "running":
            raise ProjectError(f"A job must have ended before it is moved; got {job.path}, which runs; stop it first.")
        if job.state == "unknown":
            raise ProjectError(
                f"A job must have ended before it is moved; got {job.path}, of another program, without a marker that "
                "says so; use that program, or remove it by hand."
            )
        if job.number is None or not job.path.is_relative_to(project):
            raise InputError(f"Only numbered jobs of the project can be cleaned; got {job.path}; remove it by hand.")
    for job in chosen:
        was = record.portable(project, job.path)
        yield f"{was} → {record.portable(project, move_to_trash(project, job))}"
    if not chosen:
        yield "Nothing to clean."


def _entry(job: JobFolder) -> dict[str, Any]:
    """Return the job's record, empty for jobs of other programs."""
    return record.read_record(job.path) if (job.path / record.NAME).is_file() else {}


def _job_type(entry: dict[str, Any]) -> JobType:
    """Return the job type of a record."""
    from halfmap.jobs.registry import find_job

    return find_job(entry["command"])


def _output(entry: dict[str, Any]) -> str:
    return entry.get("main_output") or ""


LIST = ImmediateCommand(
    command="jobs list", parameters=ListParams, run=list_jobs, summary="List the jobs of the project"
)
SHOW = ImmediateCommand(
    command="jobs show",
    parameters=JobParams,
    run=show_job,
    summary="Show one job: state, parameters, inputs, notes",
    positional=("job",),
)
ALIAS = ImmediateCommand(
    command="jobs alias",
    parameters=AliasParams,
    run=alias_job,
    summary="Give a job a second name",
    positional=("job", "alias"),
)
NOTE = ImmediateCommand(
    command="jobs note",
    parameters=NoteParams,
    run=note_job,
    summary="Add a note to a job",
    positional=("job", "text"),
)
RERUN = ImmediateCommand(
    command="jobs rerun",
    parameters=JobParams,
    run=rerun_job,
    summary="Run a job again; flags of its command change values",
    positional=("job",),
)
SAVE_SETTINGS = ImmediateCommand(
    command="jobs save-settings",
    parameters=SaveParams,
    run=save_settings,
    summary="Save a job's parameters for --settings",
    positional=("job", "file"),
)
REPORT = ImmediateCommand(
    command="jobs report",
    parameters=ReportParams,
    run=open_report,
    summary="Open a job's report",
    positional=("job",),
)
CLEAN = ImmediateCommand(
    command="jobs clean",
    parameters=CleanParams,
    run=clean_jobs,
    summary="Move failed, aborted or named jobs to the trash",
    positional=("jobs",),
)
