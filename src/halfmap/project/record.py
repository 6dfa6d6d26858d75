"""``job.json``: what a job was asked, of which inputs, with which versions."""

import hashlib
import importlib.metadata
import json
import os
import platform
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from halfmap.errors import FormatError, InputError, ProjectError
from halfmap.io.atomic import write_json
from halfmap.project.folder import find_job
from halfmap.project.job import DEFAULT_SEED, JobType
from halfmap.project.parameters import build, parameters_of
from halfmap.project.parameters_json import to_json

NAME = "job.json"
_BECOMES = "becomes"
_WHOLE_BYTES = 64 << 20
_SAMPLE_BYTES = 1 << 20


def hash_input(path: Path) -> dict[str, Any]:
    """Return what identifies the content of an input.

    Files up to 64 MiB are hashed as a whole (``"method": "whole"``). Of larger ones the first and last MiB are
    hashed, together with size and modification time (``"method": "head and tail"``). A folder stands for the names,
    sizes and modification times of its files (``"method": "listing"``).
    """
    digest = hashlib.blake2b(digest_size=20)
    if path.is_dir():
        for file in sorted(entry for entry in path.rglob("*") if entry.is_file()):
            status = file.stat()
            digest.update(f"{file.relative_to(path)}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
        return {"method": "listing", "blake2b": digest.hexdigest()}
    status = path.stat()
    with open(path, "rb") as stream:
        if status.st_size <= _WHOLE_BYTES:
            while block := stream.read(1 << 20):
                digest.update(block)
            return {"method": "whole", "size": status.st_size, "blake2b": digest.hexdigest()}
        digest.update(stream.read(_SAMPLE_BYTES))
        stream.seek(-_SAMPLE_BYTES, 2)
        digest.update(stream.read(_SAMPLE_BYTES))
    return {
        "method": "head and tail",
        "size": status.st_size,
        "modified_ns": status.st_mtime_ns,
        "blake2b": digest.hexdigest(),
    }


def hash_ends(path: Path) -> dict[str, Any]:
    """Return what tells the content of a file from others at the cost of 2 MiB: its size, first and last MiB hashed."""
    digest = hashlib.blake2b(digest_size=20)
    size = path.stat().st_size
    with open(path, "rb") as stream:
        digest.update(stream.read(_SAMPLE_BYTES))
        stream.seek(max(0, size - _SAMPLE_BYTES))
        digest.update(stream.read(_SAMPLE_BYTES))
    return {"size": size, "blake2b": digest.hexdigest()}


def input_paths(job_type: JobType, params: Any) -> dict[str, list[Path]]:
    """Return the input files of a job by field; fields without a value are left out."""
    found: dict[str, list[Path]] = {}
    for name in job_type.inputs:
        value = getattr(params, name)
        paths = list(value) if isinstance(value, tuple) else [] if value is None else [value]
        if paths:
            found[name] = [Path(path) for path in paths]
    return found


def locate_input(project: Path, path: Path, name: str, flag: str, *, bases: tuple[Path, ...] = ()) -> Path:
    """Return the absolute path of the input ``name``.

    It is looked for from ``bases``, which where left out are the working directory and the project. A job folder,
    number or alias stands for what that job has for an input of this name, else for its main output.

    Raises
    ------
    InputError
        There is no such file, nor such a job.
    """
    tried = list(dict.fromkeys((base / path).absolute() for base in (bases or (Path.cwd(), project))))
    for candidate in tried:
        if candidate.is_file() or (candidate.is_dir() and not (candidate / NAME).is_file()):
            return candidate
    try:
        job = find_job(project, path)
        record = read_record(job.path)
    except (ProjectError, FormatError):
        places = " and ".join(str(place) for place in tried)
        raise InputError(f"`{flag}` must be an existing file; got {path}; looked for {places}.") from None
    if record["main_output"] is None:
        raise InputError(
            f"`{flag}` must be a file or a finished job; got {path}, which has no output yet; wait for it."
        )
    return project_of(job.path, record) / record.get("outputs", {}).get(name, record["main_output"])


def portable(project: Path, path: Path) -> str:
    """Return a path relative to the project where it lies in it, else absolute."""
    return path.relative_to(project).as_posix() if path.is_relative_to(project) else str(path)


def make_record(job_type: JobType, params: Any, project: Path) -> dict[str, Any]:
    """Return the content of ``job.json`` of a job that begins; all paths in it are relative to the project."""
    inputs = input_paths(job_type, params)
    return {
        "command": job_type.command,
        "parameters": _portable_parameters(job_type, params, project),
        "seed": getattr(params, "seed", DEFAULT_SEED),
        "inputs": {
            name: [{"path": portable(project, path), **hash_input(path)} for path in paths]
            for name, paths in inputs.items()
        },
        "versions": versions(),
        "main_output": None,
        "outputs": {},
    }


def project_of(folder: Path, record: Mapping[str, Any]) -> Path:
    """Return the project that a job folder belongs to, wherever that now lies."""
    return (folder / record["project"]).resolve()


def project_entry(folder: Path, project: Path) -> str:
    """Return how ``job.json`` names the project: by the way up from the folder, or absolute where it lies outside."""
    return os.path.relpath(project, folder) if folder.is_relative_to(project) else str(project)


def _portable_parameters(job_type: JobType, params: Any, project: Path) -> dict[str, Any]:
    values = to_json(params)
    for name, paths in input_paths(job_type, params).items():
        texts = [portable(project, path) for path in paths]
        values[name] = texts if isinstance(getattr(params, name), tuple) else texts[0]
    return values


def versions() -> dict[str, str]:
    """Return the versions on which a result may depend."""
    found = {"python": platform.python_version()}
    for name in ("halfmap", "torch", "numpy", "numba", "scipy"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def write_record(folder: Path, record: Mapping[str, Any]) -> None:
    """Write ``job.json``."""
    write_json(folder / NAME, dict(record))


def read_record(folder: Path) -> dict[str, Any]:
    """Return the content of a folder's ``job.json``.

    Raises
    ------
    ProjectError
        The folder has none.
    FormatError
        It is no record of a job.
    """
    path = folder / NAME
    if not path.is_file():
        raise ProjectError(f"A job folder must hold {NAME}; got {folder}; name a folder that halfmap made.")
    return _read(path)


def expect_input(folder: Path, path: Path, becomes: Path) -> None:
    """Say in ``job.json`` what a job is about to make of one of its inputs: with that it can be continued, too.

    Parameters
    ----------
    folder : of the job.
    path : of the input.
    becomes : a file that holds what it will hold.
    """
    record = read_record(folder)
    project = project_of(folder, record)
    for entry in (entry for entries in record["inputs"].values() for entry in entries):
        if (project / entry["path"]).resolve() == path.resolve():
            entry[_BECOMES] = hash_input(becomes)
    write_record(folder, record)


def parameters_beside(path: Path, job_type: JobType) -> dict[str, Any]:
    """Return the parameters of the job of halfmap that left a file or folder, but for its inputs.

    None are returned where no job of this type did.
    """
    folder = path if path.is_dir() else path.parent
    if not (folder / NAME).is_file():
        return {}
    record = read_record(folder)
    if record.get("command") != job_type.command:
        return {}
    return {name: value for name, value in record["parameters"].items() if name not in job_type.inputs}


def _read(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise FormatError(path, expected="JSON", found=str(error), remedy="give a job.json or settings file") from error
    if not isinstance(record, dict):
        raise FormatError(path, expected="a JSON object", found=type(record).__name__)
    return record


def read_settings(project: Path, source: str | Path, job_type: JobType) -> dict[str, Any]:
    """Return parameter values from a settings file, a ``job.json``, or a job named by number, folder or alias.

    Raises
    ------
    InputError
        They belong to another command.
    """
    path = Path(source)
    if path.is_dir() or not path.exists():
        path = find_job(project, source).path / NAME
    record = _read(path)
    if "parameters" not in record:
        return record
    if record.get("command", job_type.command) != job_type.command:
        raise InputError(
            f"`--settings` of `{job_type.command}` must come from the same command; got those of "
            f"`{record['command']}` in {path}; use a job.json that `{job_type.command}` made."
        )
    return dict(record["parameters"])


def command_line(job_type: JobType, values: Mapping[str, Any]) -> str:
    """Return the command that makes a job of these parameters; those at their defaults are left out.

    Parameters
    ----------
    values : the parameters as ``job.json`` holds them.
    """
    params: Any = build(job_type.parameters, values)
    words = ["halfmap", *job_type.command.split(" ")]
    for parameter in parameters_of(job_type.parameters):
        value = getattr(params, parameter.name)
        if value is None or (not parameter.required and value == parameter.default):
            continue
        if parameter.type is bool:
            words.append(parameter.flag if value else f"--no-{parameter.flag.removeprefix('--')}")
        elif parameter.many:
            words += [word for item in value for word in (parameter.flag, str(item))]
        else:
            words += [parameter.flag, parameter.written(value)]
    return shlex.join(words)


def write_settings(path: Path, record: Mapping[str, Any]) -> None:
    """Write the command and the parameters of a record into a file that `read_settings` takes."""
    write_json(path, {"command": record["command"], "parameters": record["parameters"]})


def check_inputs_unchanged(record: Mapping[str, Any], project: Path) -> None:
    """Compare the inputs with what they were when the job began.

    Raises
    ------
    ProjectError
        One is missing or has changed.
    """
    for name, entries in record["inputs"].items():
        for entry in entries:
            path = project / entry["path"]
            then = {key: value for key, value in entry.items() if key not in ("path", _BECOMES)}
            if not path.exists():
                raise ProjectError(f"The input {name} must still be there; {path} is missing; bring it back.")
            if hash_input(path) not in (then, entry.get(_BECOMES)):
                raise ProjectError(
                    f"The input {name} must be unchanged since the job began; got another content or date of {path}; "
                    "restore the file, or begin a new job."
                )
