"""The folders of a session's cycles: prepared as ``NNNN.part``, published as ``NNNN`` by one rename."""

import json
import os
import shutil
import signal
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from halfmap.errors import HalfmapError
from halfmap.io.atomic import write_json
from halfmap.project.lock import Holder
from halfmap.sessions.observation import Observation

CYCLES = "cycles"
REQUEST = "request.json"
INDEX = "particles.safetensors"
STATE = "state.safetensors"
CYCLE = "cycle.json"
DATA = "data.star"
CLASSES = "classes.mrcs"
ATLAS = "atlas.png"
CHILD = "child.json"

KEPT_CYCLES = 3
"""Newest cycles whose tables of particles and states are kept; of older ones classes, picture and numbers stay."""

_DAMAGED = ".damaged"
_LARGE = (INDEX, STATE, DATA)


def folder_of(work: Path, number: int) -> Path:
    """Return the folder of a published cycle."""
    return work / CYCLES / f"{number:04d}"


def part_of(work: Path, number: int) -> Path:
    """Return the folder in which a cycle is made."""
    return work / CYCLES / f"{number:04d}.part"


def published(work: Path, *, after: int = 0) -> list[dict[str, Any]]:
    """Return the cycles published after a number, in order, but those that cannot be read.

    Returns
    -------
    What ``cycle.json`` says, with the number of classes, ``n_classes``, in place of the classes: a session has
    hundreds of cycles with hundreds of classes.
    """
    found = []
    for folder in sorted((work / CYCLES).glob("[0-9]*")):
        if folder.name.isdigit() and int(folder.name) > after:
            try:
                one = read_cycle(work, int(folder.name))
            except (OSError, ValueError):
                continue
            classes = one.pop("classes")
            found.append({**one, "n_classes": len(classes), "last_track": max(entry["track"] for entry in classes)})
    return found


def set_damaged_aside(work: Path, cycles: Sequence[Mapping[str, Any]]) -> list[int]:
    """Move folders of cycles that cannot be read out of the way, to ``NNNN.damaged``; return their numbers."""
    whole = {one["number"] for one in cycles}
    damaged = [folder for folder in (work / CYCLES).glob("[0-9]*") if folder.name.isdigit()]
    damaged = sorted(folder for folder in damaged if int(folder.name) not in whole)
    for folder in damaged:
        shutil.rmtree(folder.with_suffix(_DAMAGED), ignore_errors=True)
        folder.rename(folder.with_suffix(_DAMAGED))
    return [int(folder.name) for folder in damaged]


def read_cycle(work: Path, number: int) -> dict[str, Any]:
    """Return ``cycle.json`` of a published cycle.

    Raises
    ------
    OSError, ValueError
        It is not there, or broken.
    """
    found: dict[str, Any] = json.loads((folder_of(work, number) / CYCLE).read_text())
    return found


def prepare(
    work: Path,
    number: int,
    *,
    observation: Observation,
    folder: Path,
    settings: Mapping[str, Any],
    plan: Mapping[str, Any],
    is_ab_initio: bool,
) -> None:
    """Write down what a cycle is made of, unless a part of it was begun: then it goes on with what that says.

    Parameters
    ----------
    observation : its particles are those of the cycle.
    folder : the acquisition folder.
    settings : of the job.
    plan : of the cycle, a `halfmap.sessions.plan.CyclePlan` as JSON holds it.
    is_ab_initio : whether the job began with random averages.

    Raises
    ------
    ProjectError
        The folder cannot be written to.
    InputError
        There are no particles.
    """
    part = part_of(work, number)
    request = {
        "cycle": number,
        "plan": dict(plan),
        "settings": dict(settings),
        "is_ab_initio": is_ab_initio,
        "folder": str(folder),
        "bright": observation.settings.flag("particles_are_bright", True),
    }
    with suppress(OSError, ValueError):
        before = json.loads((part / REQUEST).read_text())
        if before == request:
            return
    from halfmap.io import states  # loads torch, which a session without a job does without
    from halfmap.sessions.index import index_of

    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    states.save(part / INDEX, index_of(observation))
    write_json(part / REQUEST, request)


def publish(work: Path, number: int) -> None:
    """Make a complete part a cycle: what is in it is on the disc before it has the name."""
    part = part_of(work, number)
    for path in (*part.iterdir(), part):
        _synchronise(path)
    os.replace(part, folder_of(work, number))
    _synchronise(work / CYCLES)


def prune(work: Path) -> None:
    """Remove the large files of all cycles but the newest ones."""
    folders = sorted(one for one in (work / CYCLES).glob("[0-9]*") if one.name.isdigit())
    for folder in folders[:-KEPT_CYCLES]:
        for name in _LARGE:
            (folder / name).unlink(missing_ok=True)


def remove_parts(work: Path) -> None:
    """Remove cycles that were begun and are not wanted."""
    for part in (work / CYCLES).glob("*.part"):
        shutil.rmtree(part, ignore_errors=True)


def note_child(work: Path, pid: int) -> None:
    """Write down which process computes."""
    import psutil

    with suppress(psutil.NoSuchProcess):
        started = psutil.Process(pid).create_time()
        holder = Holder(host=Holder.this_process().host, pid=pid, start_time=started)
        write_json(work / CHILD, asdict(holder))


def end_orphan(work: Path) -> None:
    """Kill a process that a killed server has left computing here, if it still runs, and wait until it is gone."""
    try:
        holder = Holder(**json.loads((work / CHILD).read_text()))
    except (OSError, ValueError, TypeError):
        return
    if holder.host == Holder.this_process().host and not holder.is_gone:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(holder.pid, signal.SIGKILL)
        for _ in range(100):
            if holder.is_gone:
                break
            time.sleep(0.05)
    with suppress(OSError, HalfmapError):
        (work / CHILD).unlink()


def _synchronise(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
