"""The `halfmap` command: made from the registry, with flags made from parameters.

It holds no default, unit conversion or check of its own: every value passes as text through `project.parameters`.
Only the module of the command that was asked for is imported.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import typer

from halfmap.cli import flags
from halfmap.cli.render import LiveDisplay, complain
from halfmap.errors import ComputeError, HalfmapError
from halfmap.jobs import registry
from halfmap.project.job import ImmediateCommand, JobType

DONE, OTHER, MISTAKE, INTERRUPTED = 0, 1, 2, 130

LIVE = registry.Entry(
    "live", "halfmap.web.command:COMMAND", "Classify while the microscope runs, in the browser", "Begin here"
)
"""The one command that is no job's."""

_UsageError: Any = typer.BadParameter.__base__  # wherever this version of typer keeps it


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 2 the user's mistake, 1 anything else, 130 interrupted."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or (len(words) == 1 and words[0] in registry.GROUPS):
        words.append("--help")
    try:
        if words[:2] == ["jobs", "rerun"]:
            words = _as_rerun(words)
        code = build_app(words)(args=words, prog_name="halfmap", standalone_mode=False)
    except HalfmapError as error:
        complain(str(error))
        code = OTHER if isinstance(error, ComputeError) else MISTAKE
    except _UsageError as error:
        said = error.format_message().rstrip(".")
        stop = "" if said.endswith("?") else "."
        complain(f"{said}{stop} See `{' '.join(['halfmap', *_known(words), '--help'])}`.")
        code = MISTAKE
    except Exception as error:  # noqa: BLE001 - the last resort, so that no traceback reaches a user
        notes = " ".join(getattr(error, "__notes__", []))
        complain(f"Unexpected {type(error).__name__}: {error}. {notes}")
        code = OTHER
    sys.exit(code or DONE)


def _known(words: Sequence[str]) -> list[str]:
    """Return the words at the beginning that name a command or group."""
    names = {entry.command for entry in (*registry.COMMANDS, LIVE)} | set(registry.GROUPS)
    return next((list(words[:n]) for n in (2, 1) if " ".join(words[:n]) in names), [])


def build_app(words: Sequence[str]) -> typer.Typer:
    """Return the application in which the command that ``words`` begin with is complete, and all others are a line.

    Parameters
    ----------
    words : the command line after ``halfmap``.
    """
    app = typer.Typer(
        name="halfmap",
        help="Cryo-EM from micrographs to maps. A command makes a job folder in the project and ends by printing "
        "the path of its main output.",
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode="rich",
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_top)
    groups: dict[str, typer.Typer] = {}
    for entry in (*registry.COMMANDS, LIVE):
        *group, name = entry.command.split(" ")
        home = app
        if group:
            if group[0] not in groups:
                groups[group[0]] = typer.Typer(help=registry.GROUPS[group[0]])
                app.add_typer(groups[group[0]], name=group[0], rich_help_panel=entry.panel)
            home = groups[group[0]]
        asked = list(words[: len(group) + 1]) == [*group, name]
        function = _command(entry) if asked else _line
        home.command(
            name,
            help=function.__doc__ if asked else entry.summary,
            short_help=entry.summary,
            rich_help_panel=None if group else entry.panel,
        )(function)
    return app


def _show_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(f"halfmap {version('halfmap')}")
        raise typer.Exit


def _top(
    version: bool = typer.Option(False, "--version", help="Show the version.", callback=_show_version, is_eager=True),
) -> None:
    pass


def _line() -> None:
    """Stand for a command in a list."""


def _command(entry: registry.Entry) -> Callable[..., None]:
    loaded = entry.load()
    if isinstance(loaded, ImmediateCommand):
        return flags.as_typer_function(loaded, lambda values, run: _answer(loaded, values))
    return flags.as_typer_function(loaded, lambda values, run: _run(loaded, values, run))


def _answer(command: ImmediateCommand, values: dict[str, Any]) -> None:
    from halfmap.project.parameters import build

    with _interrupt_told():
        for line in command.run(build(command.parameters, command.completed(values) if command.completed else values)):
            typer.echo(line)


def _run(job_type: JobType, values: dict[str, Any], run: dict[str, Any]) -> None:
    from halfmap.project.runner import continue_from_values, run_from_values, write_config

    if "write_config" in run:
        typer.echo(write_config(job_type, run["write_config"]))
        return
    out, settings, reference = run.pop("out", None), run.pop("settings", None), run.pop("continue", None)
    with _interrupt_told(), LiveDisplay() as display:
        if reference is not None:
            given = {**values, **({"out": out} if out else {}), **({"settings": settings} if settings else {})}
            result = continue_from_values(job_type, reference, given, options=run, display=display)
        else:
            result = run_from_values(job_type, values, options=run, out=out, settings=settings, display=display)
    typer.echo(result.main_output)


@contextmanager
def _interrupt_told() -> Iterator[None]:
    """Say where the state of an interrupted job is; typer alone would end with the code and no word."""
    try:
        yield
    except KeyboardInterrupt as error:
        complain(" ".join(["Interrupted.", *getattr(error, "__notes__", [])]))
        raise typer.Exit(INTERRUPTED) from error


def _as_rerun(words: list[str]) -> list[str]:
    """Return the command line that repeats a job: its command, its settings, and the flags that change them."""
    from halfmap.project.folder import find_job, find_project
    from halfmap.project.record import NAME, read_record

    rest = words[3:] if words[2:3] == ["--job"] else words[2:]
    if not rest or rest[0] in ("-h", "--help"):
        return words
    job = find_job(find_project(), rest[0])
    entry = registry.find(read_record(job.path)["command"])
    return [*entry.command.split(" "), "--settings", str(job.path / NAME), *rest[1:]]
