"""`RawSource`: micrographs alone are watched, and their particles are those that the session has found itself."""

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from halfmap.errors import HalfmapError
from halfmap.io import relion
from halfmap.sessions import stacks
from halfmap.sessions.child import Child
from halfmap.sessions.observation import Observation, Setting, SourceSettings
from halfmap.sessions.preparation import (
    MISTAKE,
    PARTICLES,
    batch_plan,
    batches,
    next_batch,
    set_aside,
    write_batch,
)
from halfmap.sessions.relion_source import RelionSource, micrographs_table
from halfmap.sessions.settings import LiveSettings

_PAUSE = 20.0
"""How many times longer than a look for new ones, which found none, it is waited until the next."""


class RawSource(RelionSource):
    """A project of micrographs with their CTF, and a work folder with particles found in them.

    Parameters
    ----------
    folder : the project.
    work : the session's folder.
    """

    complaint = ""
    """What stands in the way of finding more, as of the last look; empty for nothing."""

    def __init__(self, folder: Path, work: Path) -> None:
        super().__init__(folder, "micrographs")
        self.work = work

    def settings(self) -> SourceSettings:
        """Read the pixel size of the micrographs; see `halfmap.sessions.watching.Source`."""
        path = micrographs_table(self.folder)
        if path is None:
            return SourceSettings()
        optics = relion.read_micrographs(path).optics
        if "micrograph_pixel_size_angstrom" not in optics or not len(optics):
            return SourceSettings()
        size = float(optics["micrograph_pixel_size_angstrom"][0])
        where = f"{path.relative_to(self.folder)}: optics table"
        return SourceSettings(
            values={"micrograph_pixel_size_angstrom": Setting(value=size, unit="Å", provenance=where)}
        )

    def next_batch(self, failed: Mapping[str, str]) -> tuple[int, dict[str, Path]]:
        """Return number and micrographs of the next batch; see `halfmap.sessions.preparation.next_batch`."""
        table = micrographs_table(self.folder)
        if table is None or self.settings().number("micrograph_pixel_size_angstrom", 0.0) <= 0:
            return 0, {}
        names = [str(name) for name in relion.read_micrographs(table)["micrograph_name"].tolist()]
        return next_batch(self.work, self.project_of(table), names, failed)

    @property
    def conditions(self) -> object:
        """What batches are made with besides the session's settings; another value where it has changed."""
        return None

    def write_batch(self, number: int, found: Mapping[str, Path], settings: LiveSettings) -> None:
        """Write down a batch."""
        table = micrographs_table(self.folder)
        assert table is not None
        size = self.settings().number("micrograph_pixel_size_angstrom", 0.0)
        write_batch(self.work, number, table, found, batch_plan(settings, size))

    def poll(self, previous: Observation) -> Observation:
        """Look again; see `halfmap.sessions.watching.Source`."""
        memory: dict[str, Any] = dict(previous.remembered)
        number = previous.number + 1
        micrographs = self._micrographs(previous, memory)
        rows: dict[str, stacks.TableRows] = dict(memory.get("rows", {}))
        read: set[str] = set(memory.get("batches", ()))
        aside: list[str] = []
        for batch in batches(self.work):
            if batch.name not in read:
                aside += [f"{name} is set aside: {reason}" for name, reason in set_aside(batch).items()]
                particles = relion.read_particles(batch / PARTICLES)
                rows |= stacks.rows_by_stack(particles, os.path.relpath(batch, self.folder))
                read.add(batch.name)
        picks: dict[str, int] = {}
        for one in rows.values():
            for name in one.particles["micrograph_name"].tolist():
                picks[Path(name).stem] = picks.get(Path(name).stem, 0) + 1
        memory |= {"rows": rows, "batches": tuple(sorted(read))}
        look = stacks.looked_at(
            self.folder,
            rows,
            previous.stacks,
            memory.get("keys", {}),
            memory.get("seen", {}),
            previous.waiting,
            exact=False,
            diameter_angstrom=0.0,
            again=False,
        )
        memory |= {"keys": look.keys, "seen": look.seen}
        return replace(
            previous,
            number=number,
            settings=self._read_settings(previous),
            micrographs={
                name: replace(one, picks=picks[name]) if name in picks else one for name, one in micrographs.items()
            },
            stacks=look.stacks,
            waiting=look.waiting,
            notices=(*look.notices, *aside),
            remembered=memory,
        )

    def _read_settings(self, previous: Observation) -> SourceSettings:
        try:
            return self.settings() if not previous.settings.values else previous.settings
        except (HalfmapError, OSError):
            return previous.settings


class Preparation:
    """Picks and extracts batches of new micrographs, one after the other, in a process of their own.

    Parameters
    ----------
    source : of the micrographs.
    devices, workers : of the jobs.
    heard : called, from a thread, whenever there may be something to do.
    """

    def __init__(self, source: RawSource, *, devices: str, workers: int | None, heard: Callable[[], None]) -> None:
        self._source, self._heard = source, heard
        self._options = (devices, str(workers or 0))
        self._child: Child | None = None
        self._batch: Mapping[str, Path] = {}
        self._failed: dict[str, str] = {}
        self._suspect: set[str] = set()
        self._conditions, self._complaint = source.conditions, ""
        self._next_look = 0.0

    def step(self, settings: LiveSettings, *, is_wanted: bool) -> str:
        """Begin a batch where none runs and there are new micrographs; return what went wrong, or nothing.

        Micrographs of a batch that failed are tried one by one, and left out where they fail alone; all are tried
        again when the conditions change.
        """
        told = self._hear()
        began = time.monotonic()
        if self._child is not None or not is_wanted or began < self._next_look:
            return told
        source = self._source
        number, found = source.next_batch(self._failed)
        if source.conditions != self._conditions:
            self._conditions = source.conditions
            if self._failed:  # under the conditions before: they may do now
                self._failed.clear()
                self._suspect.clear()
                number, found = source.next_batch(self._failed)
        if not found:  # thousands of movies on a share take long to look through
            now = time.monotonic()
            self._next_look = now + _PAUSE * (now - began)
        suspects = [name for name in found if name in self._suspect]
        if suspects:
            found = {suspects[0]: found[suspects[0]]}
        if found:
            source.write_batch(number, found, settings)
            self._batch = found
            arguments = ("halfmap.sessions.preparation", str(source.work), str(number), *self._options)
            self._child = Child(source.work, arguments, self._heard)
        if source.complaint != self._complaint:
            self._complaint = source.complaint
            told = told or source.complaint
        return told

    def close(self) -> None:
        """End the batch that runs; its micrographs come again."""
        if self._child is not None:
            self._child.end()
            self._child = None

    def _hear(self) -> str:
        child = self._child
        if child is None or child.is_alive:
            return ""
        self._child = None
        child.end()
        if child.process.returncode == 0:
            return ""
        reason = child.last_words().removeprefix(f"exit code {MISTAKE}: ")
        if len(self._batch) == 1:
            name = next(iter(self._batch))
            self._failed[name] = reason
            return f"No particles can be found in {name}, it is left out: {reason}"
        self._suspect |= set(self._batch)
        return f"Finding particles in {len(self._batch)} images has failed; they are tried one by one: {reason}"
