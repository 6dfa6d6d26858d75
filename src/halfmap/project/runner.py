"""Running a job: its folder from claim to marker."""

import dataclasses
import errno
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from halfmap.compute.allocator import keep_large_blocks
from halfmap.compute.batching import is_out_of_memory
from halfmap.compute.threads import limited_threads
from halfmap.errors import ComputeError, HalfmapError, InputError, ProjectError
from halfmap.io.atomic import remove_partial, write_text
from halfmap.project import lock, record
from halfmap.project.events import Display, JobProgress, append_event
from halfmap.project.folder import ABORTED, FAILED, SUCCESS, JobFolder, claim, find_job, find_project, take
from halfmap.project.job import DEFAULT_SEED, JobContext, JobResult, JobType
from halfmap.project.options import RunOptions
from halfmap.project.parameters import build, parameters_of

ABORT_REQUESTS = ("ABORT_NOW", "RELION_JOB_ABORT_NOW")
"""Files that ask a running job to stop when they appear in its folder; the second is RELION's."""

_REPEATED_SIGNAL_SECONDS = 2.0
_OF_THE_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM}


def run_job(
    job_type: JobType,
    params: Any,
    *,
    options: RunOptions | None = None,
    out: str | Path | None = None,
    project: Path | None = None,
    display: Display | None = None,
) -> JobResult:
    """Run a new job in a folder of its own.

    Parameters
    ----------
    job_type : what to run.
    params : its parameters.
    options : where and with what to run.
    out : the job's folder; the next free number of the project where left out.
    project : its project; that of the working directory where left out.
    display : where a person watches.

    Raises
    ------
    HalfmapError
        Whatever the job, its inputs or its folder complained of; once begun, the folder is marked ``FAILED``.
    KeyboardInterrupt
        The job was interrupted or asked to stop; the folder is marked ``ABORTED`` and keeps its state.
    """
    project = find_project() if project is None else project
    params = _with_located_inputs(job_type, params, project)
    entry = record.make_record(job_type, params, project)
    job = claim(project, job_type.folder) if out is None else take(Path(out))
    entry["project"] = record.project_entry(job.path, project)
    return _run_in(job, job_type, params, entry, project, options or RunOptions(), display, continuing=False)


def run_from_values(
    job_type: JobType,
    values: Mapping[str, Any],
    *,
    options: Mapping[str, Any] | None = None,
    out: str | Path | None = None,
    settings: str | Path | None = None,
    project: Path | None = None,
    display: Display | None = None,
) -> JobResult:
    """Run a new job from values as a command line, a form or Python gives them.

    Parameters
    ----------
    values : field name → value.
    options : name of a run option → value.
    settings : a ``job.json``, settings file or job whose parameters stand where ``values`` has none.
    project : as of `run_job`.

    Raises
    ------
    InputError
        ``out`` is no path.
    HalfmapError
        As of `run_job`.
    """
    if out is not None and not isinstance(out, str | Path):
        raise InputError(f"`out` must be a path; got {out!r}; name the folder of the job, or leave it out.")
    chosen = build(RunOptions, options or {})
    project = find_project() if project is None else project
    stored = {} if settings is None else record.read_settings(project, settings, job_type)
    if job_type.config is not None and values.get("config") is not None:
        path = record.locate_input(project, Path(str(values["config"])), "config", "--config")
        stored = {**stored, **job_type.config.read(project, path)}
    params: Any = build(job_type.parameters, {**stored, **values})
    return run_job(job_type, params, options=chosen, out=out, project=project, display=display)


def write_config(job_type: JobType, path: str | Path) -> Path:
    """Write the commented configuration to begin with.

    Returns
    -------
    Path
        Of the file.

    Raises
    ------
    InputError
        The file is there already.
    """
    assert job_type.config is not None
    path = Path(path)
    if path.exists():
        raise InputError(f"--write-config must name a new file; got {path}, which exists; choose another name.")
    write_text(path, job_type.config.default_text())
    return path


def continue_job(
    reference: str | Path,
    job_type: JobType,
    *,
    options: RunOptions | None = None,
    display: Display | None = None,
) -> JobResult:
    """Go on with a job from the state in its folder.

    Everything comes from the folder's ``job.json``. A job that has succeeded is left as it is, and that is said.

    Raises
    ------
    ProjectError
        It belongs to another command, is still running, or an input has changed.
    """
    job = find_job(find_project(), reference)
    entry = record.read_record(job.path)
    project = record.project_of(job.path, entry)
    if entry["command"] != job_type.command:
        raise ProjectError(
            f"`--continue` of `{job_type.command}` must name a job that it made; got {job.path}, made by "
            f"`{entry['command']}`; use `halfmap {entry['command']} --continue`."
        )
    if job.marker == SUCCESS and entry["main_output"] is not None and (project / entry["main_output"]).exists():
        if display is not None:
            display.message(f"{job.path} has succeeded already: nothing is left to do.")
        return JobResult(folder=job.path, main_output=project / entry["main_output"])
    record.check_inputs_unchanged(entry, project)
    params: Any = build(job_type.parameters, entry["parameters"])
    params = _with_located_inputs(job_type, params, project, bases=(project,))
    return _run_in(job, job_type, params, entry, project, options or RunOptions(), display, continuing=True)


def continue_from_values(
    job_type: JobType,
    reference: str | Path,
    values: Mapping[str, Any],
    *,
    options: Mapping[str, Any] | None = None,
    display: Display | None = None,
) -> JobResult:
    """Go on with a job as `continue_job`, as a command line or form asks for it.

    Parameters
    ----------
    reference : a job; or, where the job type can begin where another program ended, a file or folder that is none:
        then a new job is run with the parameters found there, of which ``values`` replaces some.
    values : parameters, ``out`` and ``settings``, as far as they were given.

    Raises
    ------
    InputError
        Anything but run options was given with a job.
    """
    foreign = None if job_type.parameters_of_run is None else _other_run(find_project(), reference)
    if foreign is not None and job_type.parameters_of_run is not None:
        given = {name: value for name, value in values.items() if name not in ("out", "settings")}
        return run_from_values(
            job_type,
            {**job_type.parameters_of_run(find_project(), foreign), **given},
            options=options,
            out=values.get("out"),
            settings=values.get("settings"),
            display=display,
        )
    if values:
        flags = {parameter.name: parameter.flag for parameter in parameters_of(job_type.parameters)}
        named = ", ".join(f"`{flags.get(name, '--' + name)}`" for name in values)
        raise InputError(
            f"With `--continue` only run options may be given; got {named}; leave them out, or use "
            "`halfmap jobs rerun` for a new job with other values."
        )
    return continue_job(reference, job_type, options=build(RunOptions, options or {}), display=display)


def _other_run(project: Path, reference: str | Path) -> Path | None:
    """Return the file or folder that a reference names where it is no job of halfmap."""
    for base in (Path.cwd(), project):
        path = base / reference
        if path.is_file():
            return path
        if path.is_dir() and not (path / record.NAME).is_file():
            return path
    try:
        job = find_job(project, reference)
    except ProjectError:
        return None
    return None if (job.path / record.NAME).is_file() else job.path


def _with_located_inputs(job_type: JobType, params: Any, project: Path, bases: tuple[Path, ...] = ()) -> Any:
    """Return the parameters with absolute paths of inputs that exist."""
    flags = {parameter.name: parameter.flag for parameter in parameters_of(job_type.parameters)}
    found: dict[str, Any] = {}
    for name, paths in record.input_paths(job_type, params).items():
        located = tuple(record.locate_input(project, path, name, flags[name], bases=bases) for path in paths)
        if name in job_type.main_files:
            located = tuple(_main_file(path, job_type.main_files[name]) for path in located)
        found[name] = located if isinstance(getattr(params, name), tuple) else located[0]
    return dataclasses.replace(params, **found)


def _main_file(path: Path, pattern: str) -> Path:
    """Return the one file of a folder that stands for it; a folder that has none or several, or a file, as it is."""
    found = list(path.glob(pattern)) if path.is_dir() else []
    return found[0] if len(found) == 1 else path


def _run_in(
    job: JobFolder,
    job_type: JobType,
    params: Any,
    entry: dict[str, Any],
    project: Path,
    options: RunOptions,
    display: Display | None,
    *,
    continuing: bool,
) -> JobResult:
    name = record.portable(project, job.path)

    def emit(kind: str, **values: Any) -> None:
        with suppress(OSError):  # events never end a job
            append_event(project, kind, job=name, **values)

    with ExitStack() as stack:
        stack.enter_context(_system_errors_explained(job.path))
        before = lock.acquire(job.path)
        stack.callback(lock.release, job.path)
        remove_partial(job.path)
        stack.callback(remove_partial, job.path)  # a worker that was killed cannot do it itself
        log = _Log(job.path / "run.log")
        stack.callback(log.close)
        signalled = stack.enter_context(_signals())
        stack.enter_context(_end_noted(job, job_type, emit, log))
        progress = JobProgress(emit=emit, log=log.line, display=display)
        for request in ABORT_REQUESTS:
            (job.path / request).unlink(missing_ok=True)
        job.mark(None)
        if before is not None:
            progress.message(f"Took over the lock of {before}, which is gone.")
        log.line(f"{'Continues' if continuing else 'Begins'}: halfmap {job_type.command} in {job.path}")
        if continuing and entry["versions"] != record.versions():
            progress.message(f"The job was begun with other versions: {_listed(entry['versions'])}.")
        log.line(f"Versions: {_listed(record.versions())}")
        record.write_record(job.path, entry)
        emit("started", command=job_type.command, continuing=continuing)

        def is_cancelled() -> bool:
            return signalled.is_set() or any((job.path / request).exists() for request in ABORT_REQUESTS)

        keep_large_blocks()
        if options.threads is not None:
            stack.enter_context(limited_threads(options.threads))
        context = JobContext(
            folder=job.path,
            project=project,
            command=record.command_line(job_type, entry["parameters"]),
            options=options,
            progress=progress,
            log=log.line,
            is_cancelled=is_cancelled,
            seed=getattr(params, "seed", DEFAULT_SEED),
            continuing=continuing,
        )
        with context:
            main_output = context.resolve(job_type.run(context, params))
            if is_cancelled():
                raise KeyboardInterrupt
        if not main_output.exists():
            raise FileNotFoundError(errno.ENOENT, "the job has left no main output", str(main_output))
        entry["main_output"] = record.portable(project, main_output)
        entry["outputs"] = {
            name: record.portable(project, job.path / file)
            for name, file in job_type.outputs.items()
            if (job.path / file).exists()
        }
        record.write_record(job.path, entry)
        job.mark(SUCCESS)
        emit("finished", main_output=entry["main_output"])
        log.line(f"Finished: {entry['main_output']}")
    return JobResult(folder=job.path, main_output=main_output)


@contextmanager
def _end_noted(job: JobFolder, job_type: JobType, emit: Callable[..., Any], log: "_Log") -> Iterator[None]:
    """Leave marker, event and traceback of a job that does not succeed, as far as the disk still takes them."""
    try:
        yield
    except BaseException as error:
        interrupted = isinstance(error, KeyboardInterrupt | SystemExit)
        reason = "interrupted" if interrupted else str(error) or type(error).__name__
        with suppress(OSError):
            log.line("".join(traceback.format_exception(error)).rstrip())
        with suppress(OSError):
            job.mark(ABORTED if interrupted else FAILED, reason)
        emit("aborted" if interrupted else "failed", reason=reason)
        if interrupted:
            error.add_note(f"The state is kept: go on with `halfmap {job_type.command} --continue {job.path}`.")
        else:
            error.add_note(f"The traceback is in {job.path / 'run.log'}.")
        raise


@contextmanager
def _system_errors_explained(folder: Path) -> Iterator[None]:
    """Turn what the disk and the memory refuse into errors that say what to do."""
    try:
        yield
    except HalfmapError:
        raise
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        said = (str(error).splitlines() or ["out of memory"])[0]
        raise ComputeError(
            f"The job must fit into memory; got '{said}'; use fewer --workers or a machine with "
            f"more memory, then --continue {folder}."
        ) from error
    except OSError as error:
        if error.errno not in _OF_THE_DISK:
            raise
        raise ProjectError(
            f"{error.filename or folder} must be readable and writable; got '{error.strerror}'; free space on the "
            f"disk or mend the permissions, then use --continue {folder}."
        ) from error


def _listed(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())


@contextmanager
def _signals() -> Iterator[threading.Event]:
    """Let SIGTERM interrupt like SIGINT while the block runs; yield what tells that either came.

    A second signal within two seconds is the same wish sent twice (to the process and to its group) and must
    not cut off the tidying that the first began.
    """
    signalled = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield signalled
        return
    first = [0.0]

    def interrupt(number: int, frame: Any) -> None:
        if signalled.is_set() and time.monotonic() - first[0] < _REPEATED_SIGNAL_SECONDS:
            return
        first[0] = time.monotonic()
        signalled.set()
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield signalled
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Log:
    """``run.log``: dated entries, each written through at once."""

    def __init__(self, path: Path) -> None:
        self._stream = open(path, "a", encoding="utf-8", buffering=1)  # noqa: SIM115 - closed by the job's exit stack

    def line(self, text: str) -> None:
        """Write one entry."""
        self._stream.write(f"{datetime.now():%Y-%m-%d %H:%M:%S} {text}\n")

    def close(self) -> None:
        """Close the file; a full disk has been told of already."""
        with suppress(OSError):
            self._stream.close()
