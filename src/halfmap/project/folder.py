"""The project folder and its job folders: numbers, names, aliases and notes."""

import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from halfmap.errors import InputError, ProjectError
from halfmap.project import lock

SUCCESS, FAILED, ABORTED = "SUCCESS", "FAILED", "ABORTED"
MARKERS = (SUCCESS, FAILED, ABORTED)
_RELION_MARKERS = {
    SUCCESS: "RELION_JOB_EXIT_SUCCESS",
    FAILED: "RELION_JOB_EXIT_FAILURE",
    ABORTED: "RELION_JOB_EXIT_ABORTED",
}
_JOB = re.compile(r"^job(\d{3,})$")
_REFERENCE = re.compile(r"^(?:job)?0*(\d+)$")
_ALIAS = re.compile(r"^[A-Za-z_][A-Za-z0-9_.-]*$")
_TRASH = "Trash"
_OF_A_FALSE_START = {"job.json", "run.log", FAILED}


def find_project(start: Path | None = None) -> Path:
    """Return the project folder: the nearest upwards with ``.halfmap/`` or ``default_pipeline.star``, else ``start``.

    Parameters
    ----------
    start : where to begin; the working directory where left out.
    """
    start = (Path.cwd() if start is None else start).resolve()
    for folder in (start, *start.parents):
        if (folder / ".halfmap").is_dir() or (folder / "default_pipeline.star").is_file():
            return folder
    return start


@dataclass(frozen=True, kw_only=True)
class JobFolder:
    """One job of a project.

    Parameters
    ----------
    path : absolute.
    """

    path: Path

    @property
    def number(self) -> int | None:
        """The job's number; None for a folder chosen with ``--out``."""
        match = _JOB.match(self.path.name)
        return int(match[1]) if match else None

    @property
    def marker(self) -> str | None:
        """``SUCCESS``, ``FAILED`` or ``ABORTED``; None while it runs, or after it was killed."""
        return next((name for name in MARKERS if (self.path / name).exists()), None)

    @property
    def state(self) -> str:
        """The job's state in a word: ``succeeded``, ``failed``, ``aborted``, ``running`` or ``killed``.

        ``unknown`` for another program's job without a marker, which may be running.
        """
        words = {SUCCESS: "succeeded", FAILED: "failed", ABORTED: "aborted"}
        marker = self.marker or next(
            (own for own, name in _RELION_MARKERS.items() if (self.path / name).exists()), None
        )
        if marker is not None:
            return words[marker]
        if not (self.path / "job.json").exists():
            return "unknown"
        owner = lock.holder(self.path)
        return "running" if owner is not None and not owner.is_gone else "killed"

    def mark(self, marker: str | None, reason: str = "") -> None:
        """Replace the folder's marker; None leaves it without one."""
        for name in MARKERS:
            if name != marker:
                (self.path / name).unlink(missing_ok=True)
        if marker is not None:
            (self.path / marker).touch()
            if reason:
                (self.path / marker).write_text(reason + "\n", encoding="utf-8")

    def reason(self) -> str:
        """Return why the job failed or was aborted, as its marker says."""
        return (self.path / self.marker).read_text(encoding="utf-8").strip() if self.marker else ""

    def aliases(self) -> list[str]:
        """Return the names that point at this folder."""
        siblings = (entry for entry in self.path.parent.iterdir() if entry.is_symlink())
        return sorted(entry.name for entry in siblings if entry.resolve() == self.path.resolve())

    def add_note(self, text: str) -> None:
        """Append a dated line to the job's ``note.txt``."""
        with _writing(self.path), open(self.path / "note.txt", "a", encoding="utf-8") as stream:
            stream.write(f"{datetime.now():%Y-%m-%d %H:%M} {text}\n")

    def note(self) -> str:
        """Return the job's notes."""
        path = self.path / "note.txt"
        return path.read_text(encoding="utf-8").rstrip("\n") if path.exists() else ""


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ProjectError(
            f"{path} must be writable; got '{error.strerror or error}'; free space on the disk, mend the folder's "
            "permissions, or choose another folder with --out."
        ) from error


def job_folders(project: Path) -> list[JobFolder]:
    """Return the numbered jobs of a project in the order of their numbers."""
    found = (JobFolder(path=path) for path in project.glob("*/job[0-9]*") if path.is_dir() and not path.is_symlink())
    return sorted((job for job in found if job.number is not None), key=lambda job: (job.number or 0, str(job.path)))


def next_number(project: Path) -> int:
    """Return 1 + the largest of all job numbers of the project, its trash and RELION's counter."""
    return 1 + max([_relion_counter(project), *_taken_numbers(project)])


def _taken_numbers(project: Path) -> set[int]:
    trashed = (JobFolder(path=path) for path in project.glob(f"{_TRASH}/*/job[0-9]*"))
    return {job.number for job in (*job_folders(project), *trashed) if job.number is not None}


def _relion_counter(project: Path) -> int:
    """Return the job counter of RELION's pipeline, 0 where there is none."""
    path = project / "default_pipeline.star"
    if not path.is_file():
        return 0
    match = re.search(r"^_rlnPipeLineJobCounter\s+(?:#\d+\s+)?(\d+)", path.read_text(errors="replace"), re.MULTILINE)
    return int(match[1]) if match else 0


def claim(project: Path, type_folder: str) -> JobFolder:
    """Make the folder of a new job.

    The number belongs to the whole project, whatever the type, so it is claimed by the `mkdir` of a folder
    that all types share; who finds it there takes the next.

    Raises
    ------
    ProjectError
        The project folder cannot be written to.
    """
    claims = project / ".halfmap" / "claims"
    with _writing(project):
        claims.mkdir(parents=True, exist_ok=True)
        number = next_number(project)
        while True:
            claimed = claims / f"job{number:03d}"
            try:
                os.mkdir(claimed)
            except FileExistsError:
                number = max(number + 1, next_number(project))
                continue
            try:
                if number not in _taken_numbers(project):  # its last holder may have finished since we looked
                    path = project / type_folder / f"job{number:03d}"
                    path.mkdir(parents=True)
                    return JobFolder(path=path)
            finally:
                os.rmdir(claimed)
            number = next_number(project)


def take(out: Path) -> JobFolder:
    """Make the folder that the user chose with ``--out``, or take that of a job which failed before it made anything.

    Raises
    ------
    ProjectError
        It holds files already, or cannot be made.
    """
    path = out.absolute()
    with _writing(path):
        path.mkdir(parents=True, exist_ok=True)
        found = {one.name for one in path.iterdir()}
        if found and found != _OF_A_FALSE_START:
            what = "a job" if "job.json" in found else "files"
            raise ProjectError(
                f"The folder of --out must be new or empty; got {path}, which holds {what}; choose another, "
                "remove it, or go on with its job by --continue."
            )
    return JobFolder(path=path.resolve())


def find_job(project: Path, reference: str | Path) -> JobFolder:
    """Return the job that a number (``8``, ``job008``), a path or an alias names.

    Raises
    ------
    ProjectError
        There is no such job.
    """
    text = str(reference).rstrip("/")
    match = _REFERENCE.match(text)
    if match:
        for job in job_folders(project):
            if job.number == int(match[1]):
                return job
    for base in (Path.cwd(), project):
        path = (base / text).resolve()
        if (path / "job.json").is_file():
            return JobFolder(path=path)
    for entry in sorted(project.glob(f"*/{text}")) if _ALIAS.match(text) else []:
        if entry.is_symlink() and entry.is_dir():
            return JobFolder(path=entry.resolve())
    names = [job.path.relative_to(project).as_posix() for job in job_folders(project)]
    known = f"use one of {', '.join(names[-12:])}" if names else "there is none yet"
    raise ProjectError(f"A job must be named by its number, folder or alias in {project}; got {text!r}; {known}.")


def set_alias(project: Path, job: JobFolder, alias: str) -> Path:
    """Give a job a second name beside its folder, as RELION does; an older alias of the job is replaced.

    Raises
    ------
    InputError
        The name is no plain word, or looks like a job's number.
    ProjectError
        The name is taken.
    """
    if not _ALIAS.match(alias) or _REFERENCE.match(alias):
        raise InputError(
            f"An alias must be a word of letters, digits, '_', '-' and '.' that begins with a letter and is no job "
            f"number; got {alias!r}; choose such a word."
        )
    link = job.path.parent / alias
    others = [entry for entry in project.glob(f"*/{alias}") if entry.resolve() != job.path.resolve()]
    if others:
        raise ProjectError(
            f"An alias must be free in the project; got {alias!r}, which is {others[0]}; choose another."
        )
    with _writing(job.path.parent):
        for older in job.aliases():
            (job.path.parent / older).unlink()
        link.symlink_to(job.path.name, target_is_directory=True)
    return link


def move_to_trash(project: Path, job: JobFolder) -> Path:
    """Move a job folder into the project's ``Trash``, aliases removed; nothing is deleted."""
    with _writing(project):
        for alias in job.aliases():
            (job.path.parent / alias).unlink()
        target = project / _TRASH / job.path.parent.name / job.path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists():
            target = target.with_name(f"{target.name}_{int(time.time())}")
        job.path.rename(target)
    return target
