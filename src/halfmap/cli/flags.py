"""Flags from parameters: the function that typer reads.

Every value is passed on as the text that was typed; only yes/no flags are values already.
"""

import inspect
from collections.abc import Callable
from typing import Annotated, Any

import typer
from rich.markup import escape

from halfmap.errors import InputError
from halfmap.project.job import ImmediateCommand, JobType
from halfmap.project.options import RunOptions
from halfmap.project.parameters import Parameter, parameters_of

_RUN_PANEL = "Run options"
_POSITIONAL = "_positional"
_OFF = "_off"
_JOB_WORDS = ("out", "continue", "settings", "write_config")

Handler = Callable[[dict[str, Any], dict[str, Any]], None]


def as_typer_function(command: JobType | ImmediateCommand, handle: Handler) -> Callable[..., None]:
    """Return a function whose signature has the flags of a command.

    Parameters
    ----------
    command : what the flags are for.
    handle : takes the values of the parameters and those of the run options, as far as any were given.
    """
    parameters = parameters_of(command.parameters)
    is_job = isinstance(command, JobType)
    positional = command.inputs[:1] if isinstance(command, JobType) else command.positional
    inputs = command.inputs if isinstance(command, JobType) else command.positional
    run_options = parameters_of(RunOptions) if is_job else ()
    inputs_first = sorted(parameters, key=lambda p: inputs.index(p.name) if p.name in inputs else len(inputs))
    listed = [_argument(parameter) for name in positional for parameter in parameters if parameter.name == name]
    listed += [
        _option(p, "Inputs" if p.name in inputs else "Parameters", first=p.name in positional) for p in inputs_first
    ]
    listed += [_switch_off(p) for p in parameters if _is_switch(p)]
    if isinstance(command, JobType):
        listed += _job_options(
            begins_elsewhere=command.parameters_of_run is not None, takes_config=command.config is not None
        )
        listed += [_option(parameter, _RUN_PANEL) for parameter in run_options]

    def function(**given: Any) -> None:
        values = {p.name: given[p.name] for p in parameters if given[p.name] not in (None, [])}
        for parameter in parameters:
            typed = given.get(parameter.name + _POSITIONAL)
            if given.get(parameter.name + _OFF):
                typed = False
            if typed not in (None, []):
                if parameter.name in values:
                    raise InputError(
                        f"`{parameter.flag}` must be given once; got {parameter.shown(typed)} and "
                        f"{parameter.shown(values[parameter.name])}; leave one out."
                    )
                values[parameter.name] = typed
        run = {p.name: given[p.name] for p in run_options if given[p.name] is not None}
        run |= {name: given[f"job_{name}"] for name in _JOB_WORDS if given.get(f"job_{name}")}
        handle(values, run)

    function.__doc__ = escape(_help(command))
    function.__signature__ = inspect.Signature(listed)  # type: ignore[attr-defined]
    function.__annotations__ = {entry.name: entry.annotation for entry in listed}
    return function


def _help(command: JobType | ImmediateCommand) -> str:
    return command.summary.rstrip(".") + "."


def _entry(name: str, kind: Any, mark: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind, mark])


def _argument(parameter: Parameter) -> inspect.Parameter:
    mark = typer.Argument(
        metavar=parameter.flag.lstrip("-").upper(),
        show_default=False,
        hidden=True,
    )
    kind = list[str] | None if parameter.many else str | None
    return _entry(parameter.name + _POSITIONAL, kind, mark)


def _option(parameter: Parameter, panel: str, *, first: bool = False) -> inspect.Parameter:
    facts = ["also without its name"] if first else []
    if parameter.choices:
        facts.append("one of " + ", ".join(str(choice) for choice in parameter.choices))
    if parameter.unit:
        facts.append(parameter.unit)
    if parameter.bounds.in_words():
        facts.append(parameter.bounds.in_words())
    if parameter.required:
        facts.append("must be given")
    elif parameter.default not in (None, ()):
        facts.append(f"default {parameter.shown(parameter.default)}")
    if _is_switch(parameter) and parameter.default is not False:
        facts.append(f"{_off(parameter)} for no")
    text = " ".join(part for part in (parameter.help, f"({'; '.join(facts)})" if facts else "") if part)
    if _is_switch(parameter):
        mark = typer.Option(parameter.flag, help=escape(text), show_default=False, rich_help_panel=panel)
        return _entry(parameter.name, bool | None, mark)
    mark = typer.Option(
        parameter.flag,
        help=escape(text),
        metavar="PATH" if parameter.type.__name__ == "Path" else "VALUE" if parameter.length is None else "VALUES",
        show_default=False,
        rich_help_panel=panel,
    )
    return _entry(parameter.name, list[str] | None if parameter.many else str | None, mark)


def _is_switch(parameter: Parameter) -> bool:
    return parameter.type is bool and parameter.length is None


def _off(parameter: Parameter) -> str:
    return f"--no-{parameter.flag.removeprefix('--')}"


def _switch_off(parameter: Parameter) -> inspect.Parameter:
    """Return the other half of a yes-or-no flag, which the help names beside the first."""
    return _entry(parameter.name + _OFF, bool | None, typer.Option(_off(parameter), hidden=True, show_default=False))


def _job_options(*, begins_elsewhere: bool, takes_config: bool) -> list[inspect.Parameter]:
    go_on = "Go on with the job in this folder; only run options may be given with it."
    texts = {
        "out": "Folder of the job, instead of the next number of the project.",
        "continue": f"{go_on} Or begin a new job where another program's folder, or any iteration's file, ends."
        if begins_elsewhere
        else go_on,
        "settings": "Take parameters from a job.json, a settings file or a job; flags override them.",
    }
    if takes_config:
        texts["write_config"] = "Write a commented configuration to begin with into this new file, and do nothing else."
    return [
        _entry(
            f"job_{name}",
            str | None,
            typer.Option(
                "--" + name.replace("_", "-"), help=text, metavar="PATH", show_default=False, rich_help_panel=_RUN_PANEL
            ),
        )
        for name, text in texts.items()
    ]
