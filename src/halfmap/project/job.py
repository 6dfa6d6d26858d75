"""Job types, and what a running job is given.

A job is one file in ``jobs/``. At its top it imports no more than dataclasses and parameter classes, so that
``--help`` is quick; everything heavy is imported inside ``run``:

    @dataclass(frozen=True, kw_only=True)
    class ExtractJobParams(ExtractionParams):          # the step's parameters, inherited
        micrographs: Path
        "STAR file of the micrographs and their CTF."

        seed: int = 1
        "Seed of everything drawn at random."

    def run(context: JobContext, params: ExtractJobParams) -> Path:
        from halfmap.io import relion                  # heavy imports in here

        micrographs = relion.read_micrographs(params.micrographs)
        context.log(f"{len(micrographs)} micrographs")
        context.progress.start("Extracting", len(micrographs))
        for result in context.executor.map(_one_micrograph, tasks, progress=context.progress):
            ...
        output = context.folder / "particles.star"
        relion.write_particles(output, particles)      # names in it: context.relative(path)
        context.report(Report(...))
        return output

    JOB = JobType(
        command="extract", folder="Extract", parameters=ExtractJobParams, run=run,
        summary="Cut particles out of micrographs", inputs=("micrographs",),
    )

and one line in `halfmap.jobs.registry`. Paths among ``inputs`` reach ``run`` absolute and existing. A command that
makes no folder is an `ImmediateCommand`; its ``run`` takes the parameters and yields lines of text.
"""

import dataclasses
import importlib.metadata
import inspect
import keyword
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from halfmap.compute.memory import available_memory_bytes, format_memory
from halfmap.errors import InputError
from halfmap.io.atomic import replacing, write_text
from halfmap.project.options import RunOptions
from halfmap.project.parameters import Parameter, parameters_of

if TYPE_CHECKING:
    from halfmap.compute.executor import Executor
    from halfmap.project.events import JobProgress

DEFAULT_SEED = 1


class Page(Protocol):
    """A report, as `halfmap.report.blocks.Report` is one: a dataclass that can turn itself into a page."""

    @property
    def command(self) -> str:
        """The command that made it; `JobContext.report` fills it in, with the three that follow."""

    @property
    def created(self) -> str:
        """Date and time."""

    @property
    def version(self) -> str:
        """Version of halfmap."""

    @property
    def status(self) -> str:
        """How the job stands."""

    def to_html(self, *, beside: dict[str, bytes] | None = None) -> str:
        """Return the page; what does not fit into it goes into ``beside``, by path relative to the page."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ConfigFile:
    """A configuration file, of another program say, from which a job can take its parameters.

    The job's parameters have a field ``config`` for it. Values that are given beside it go before what it says.

    Parameters
    ----------
    read : takes the project and the file, and returns the values of the parameters that it sets.
    default_text : returns a commented file to begin with, which ``--write-config`` writes.
    """

    read: Callable[[Path, Path], Mapping[str, Any]]
    default_text: Callable[[], str]


@dataclass(frozen=True, kw_only=True, eq=False)
class JobType:
    """A kind of job.

    Parameters
    ----------
    command : the words after ``halfmap``: ``pick log``.
    folder : the type folder in a project: ``AutoPick``.
    parameters : flat frozen dataclass of everything the job takes.
    run : does the work and returns the path of the main output.
    summary : one line without a full stop.
    inputs : names of the fields that hold input files; the first is positional on the command line. They are
        hashed into ``job.json``. A field may hold None, a path or a tuple of paths.
    outputs : files in its folder that stand for the job where an input of that name is asked for, instead of the main
        output: ``{"particles": "run_data.star"}``.
    main_files : by the name of an input, which file of a folder that is given for it stands for the folder:
        ``{"population": "*.population"}``. So what else changes in the folder keeps no job from being continued.
    parameters_of_run : for jobs that can go on from what another program left: takes the project and the path that
        ``--continue`` names, a file or a folder that is no job of halfmap, and returns the values of the parameters
        with which a new job begins where that ended.
    config : for jobs that take another program's configuration file.
    """

    command: str
    folder: str
    parameters: type
    run: Callable[["JobContext", Any], Path]
    summary: str
    inputs: tuple[str, ...]
    outputs: Mapping[str, str] = field(default_factory=dict)
    main_files: Mapping[str, str] = field(default_factory=dict)
    parameters_of_run: Callable[[Path, Path], Mapping[str, Any]] | None = None
    config: ConfigFile | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class ImmediateCommand:
    """A command that answers at once and makes no job folder.

    Parameters
    ----------
    command, parameters, summary : as of a `JobType`.
    run : takes the parameters and yields lines of text for the standard output.
    positional : names of the fields that are positional on the command line, in order.
    completed : takes the values that were given and returns them with those of a settings file below them; for commands
        that have one.
    """

    command: str
    parameters: type
    run: Callable[[Any], Iterable[str]]
    summary: str
    positional: tuple[str, ...] = ()
    completed: Callable[[Mapping[str, Any]], Mapping[str, Any]] | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class JobResult:
    """What a finished job leaves.

    Parameters
    ----------
    folder : the job's folder, absolute.
    main_output : the file that the next job takes, absolute.
    """

    folder: Path
    main_output: Path


class JobContext:
    """What a running job is given.

    Parameters
    ----------
    folder : the job's folder, absolute.
    project : the project's folder, absolute.
    command : the command line that repeats the job.
    options : where and with what to run.
    progress : takes ``start(label, total)``, ``advance(n)`` and ``message(text)``.
    log : writes a line into ``run.log``.
    is_cancelled : whether the user has asked the job to stop.
    seed : the seed of everything drawn at random.
    continuing : whether the folder holds the state of an earlier run to go on from.
    """

    def __init__(
        self,
        *,
        folder: Path,
        project: Path,
        command: str,
        options: RunOptions,
        progress: "JobProgress",
        log: Callable[[str], None],
        is_cancelled: Callable[[], bool],
        seed: int,
        continuing: bool,
    ) -> None:
        self.folder = folder
        self.project = project
        self.command = command
        self.options = options
        self.progress = progress
        self.log = log
        self.is_cancelled = is_cancelled
        self.seed = seed
        self.continuing = continuing
        self._executor: Executor | None = None

    def relative(self, path: str | Path) -> str:
        """Return a path as it is written into a STAR file: relative to the project where it lies in it."""
        absolute = self.resolve(path)
        return absolute.relative_to(self.project).as_posix() if absolute.is_relative_to(self.project) else str(absolute)

    def resolve(self, path: str | Path) -> Path:
        """Return the absolute path of one that is relative to the project."""
        return self.project / path

    @property
    def executor(self) -> "Executor":
        """The executor that the run options ask for, entered when first used and left with the job."""
        if self._executor is None:
            from halfmap.compute.executor import open_executor

            options = self.options
            opened = open_executor(
                devices=options.devices,
                workers=options.workers,
                threads=options.threads,
                memory_bytes=options.memory_bytes,
                scratch=options.scratch,
                cluster=options.cluster,
            )
            self._executor = opened.__enter__()
        return self._executor

    def __enter__(self) -> "JobContext":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        if self._executor is not None:
            executor, self._executor = self._executor, None
            if kind is not None:
                executor.cancel()
            executor.__exit__(kind, error, trace)

    def expect_memory(self, n_bytes: int, purpose: str, *, n_tasks: int = 1) -> None:
        """State the most memory that the work will need, before it starts to need it.

        Parameters
        ----------
        n_bytes : of one task.
        purpose : what it is for.
        n_tasks : how many such tasks there are; as many run at once as the executor has workers.

        Raises
        ------
        InputError
            It is more than ``--memory`` allows: nothing gave out, the limit was set too low.
        """
        at_once = min(n_tasks, self.executor.n_workers) if n_tasks > 1 else 1
        needed = n_bytes * at_once
        many = f" in each of {at_once} workers" if at_once > 1 else ""
        limit = self.options.memory_bytes
        if limit is not None and needed > limit:
            remedy = "raise --memory or use fewer --workers" if at_once > 1 else "raise --memory"
            raise InputError(
                f"The memory for {purpose}{many} must be at most the {format_memory(limit)} of --memory; "
                f"got {format_memory(needed)}; {remedy}."
            )
        self.progress.message(f"Needs at most {format_memory(needed)} of memory for {purpose}{many}.")
        if needed > (free := available_memory_bytes()):
            fewer = ", or use fewer --workers" if at_once > 1 else ""
            self.progress.message(
                f"Warning: only {format_memory(free)} of memory are free; if that is not enough, the work fails. Free "
                f"some, or ask for less at once{fewer}."
            )

    def report(self, report: Page) -> Path:
        """Write the job's ``report.html``, and what goes beside it.

        Command, date, version and status are filled in here, where the job has not said them itself.
        """
        page: Any = report
        signed = dataclasses.replace(
            page,
            command=page.command or self.command,
            created=page.created or f"{datetime.now():%Y-%m-%d %H:%M}",
            version=page.version or importlib.metadata.version("halfmap"),
            status=page.status or "finished",
        )
        beside: dict[str, bytes] = {}
        text = signed.to_html(beside=beside)
        for name, content in beside.items():
            with replacing(self.folder / name) as temporary:
                temporary.write_bytes(content)
        path = self.folder / "report.html"
        write_text(path, text)
        return path


def as_function(job_type: JobType | ImmediateCommand) -> Callable[..., Any]:
    """Return a job as a Python function of keyword parameters.

    It takes the parameters by their names, ``out=`` for the folder, and the run options; it makes the same folder,
    report and checks as the command, and returns a `JobResult`. An immediate command gives its lines of text.
    """
    parameters = parameters_of(job_type.parameters)
    if isinstance(job_type, ImmediateCommand):
        command = job_type

        def call(**values: Any) -> Any:
            from halfmap.project.parameters import build

            return list(command.run(build(command.parameters, values)))

        extra: tuple[Parameter, ...] = ()
    else:
        job = job_type

        def call(**values: Any) -> Any:
            from halfmap.project.runner import run_from_values

            out = values.pop("out", None)
            chosen = {p.name: values.pop(p.name) for p in extra if p.name in values}
            return run_from_values(job, values, options=chosen, out=out)

        extra = parameters_of(RunOptions)
    call.__name__ = call.__qualname__ = function_name(job_type.command)
    call.__module__ = "halfmap"
    call.__doc__ = _docstring(job_type, parameters, extra)
    call.__signature__ = _signature(parameters, extra, returns_job=bool(extra))  # type: ignore[attr-defined]
    return call


def function_name(command: str) -> str:
    """Return the name of a command's function: ``pick log`` → ``pick_log``; ``import``, a word of Python's own →
    ``import_files``.
    """
    name = command.replace(" ", "_").replace("-", "_")
    return f"{name}_files" if keyword.iskeyword(name) else name


def _signature(
    parameters: tuple[Parameter, ...], extra: tuple[Parameter, ...], *, returns_job: bool
) -> inspect.Signature:
    keyword = inspect.Parameter.KEYWORD_ONLY
    listed = [
        inspect.Parameter(p.name, keyword, default=inspect.Parameter.empty if p.required else p.default)
        for p in parameters
    ]
    if returns_job:
        listed.append(inspect.Parameter("out", keyword, default=None))
    listed += [inspect.Parameter(p.name, keyword, default=p.default) for p in extra]
    return inspect.Signature(listed, return_annotation=JobResult if returns_job else list[str])


def _docstring(
    job_type: JobType | ImmediateCommand, parameters: tuple[Parameter, ...], extra: tuple[Parameter, ...]
) -> str:
    lines = [job_type.summary.rstrip(".") + ".", "", "Parameters", "----------"]
    for parameter in parameters:
        lines += [f"{parameter.name} : {parameter.domain}", f"    {parameter.help}"]
    if extra:
        lines += ["out : a path", "    Folder of the job; the next free number of the project where left out."]
    for parameter in extra:
        lines += [f"{parameter.name} : {parameter.domain}", f"    {parameter.help}"]
    lines += ["", "Returns", "-------"]
    lines += ["JobResult : the job's folder and its main output."] if extra else ["list of str : lines of text."]
    return "\n".join(lines)
