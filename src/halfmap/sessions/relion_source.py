"""`RelionSource`: tables that RELION or halfmap leave in a project while a session runs."""

import math
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from halfmap.data.micrographs import MicrographSet
from halfmap.data.particles import ParticleSet
from halfmap.errors import HalfmapError
from halfmap.io import relion
from halfmap.sessions import stacks
from halfmap.sessions.observation import Micrograph, Observation, Setting, SourceKind, SourceSettings

_PROJECT_MARKS = ("default_pipeline.star", ".halfmap")


def particles_table(folder: Path) -> Path | None:
    """Return the newest table of extracted particles; None where there is none."""
    return _newest([folder / "particles.star", *folder.glob("Extract/job*/particles.star")])


def micrographs_table(folder: Path) -> Path | None:
    """Return the newest table of micrographs, with CTF where there is one; None where there is none."""
    return _newest([folder / "micrographs_ctf.star", *folder.glob("CtfFind/job*/micrographs_ctf.star")]) or _newest(
        [folder / "corrected_micrographs.star", *folder.glob("MotionCorr/job*/corrected_micrographs.star")]
    )


class RelionSource:
    """A project of RELION or halfmap, or one of its job folders.

    Parameters
    ----------
    folder : it.
    kind : ``relion``; ``micrographs`` of a `halfmap.sessions.raw_source.RawSource`.
    """

    def __init__(self, folder: Path, kind: SourceKind) -> None:
        self.folder = self.micrographs_folder = folder
        self.kind = kind

    def settings(self) -> SourceSettings:
        """Read what the table of particles says; see `halfmap.sessions.watching.Source`."""
        path = particles_table(self.folder)
        if path is None:
            return SourceSettings()
        return _settings_of(self._where(path), relion.read_particles(path))

    def poll(self, previous: Observation) -> Observation:
        """Look again; see `halfmap.sessions.watching.Source`."""
        memory: dict[str, Any] = dict(previous.remembered)
        found = replace(previous, number=previous.number + 1, notices=(), remembered=memory)
        found = replace(found, micrographs=self._micrographs(previous, memory))
        changed = self._read_particles(memory)
        rows: Mapping[str, stacks.TableRows] | None = memory.get("rows")
        if rows is None:
            return found
        settings: SourceSettings = memory["particle settings"]
        look = stacks.looked_at(
            self.folder,
            rows,
            previous.stacks,
            memory.get("keys", {}),
            memory.get("seen", {}),
            previous.waiting,
            exact=False,
            diameter_angstrom=settings.number("diameter_angstrom", 0.0),
            again=changed,
        )
        memory |= {"keys": look.keys, "seen": look.seen}
        return replace(found, settings=settings, stacks=look.stacks, waiting=look.waiting, notices=tuple(look.notices))

    def _read_particles(self, memory: dict[str, Any]) -> bool:
        """Read the table where it changed; one that is missing or half written leaves what was known."""
        path = particles_table(self.folder)
        try:
            if path is None:
                return False
            key = (str(path), stacks.signature_of(path))
            if key == memory.get("table"):
                return False
            particles = relion.read_particles(path)
            names = [str(name).partition("@")[2] for name in particles.get("image_name", "")[:1].tolist()]
            base = relion.resolve_paths(path, self.project_of(path), names) if names else self.folder
            rows = stacks.rows_by_stack(particles, os.path.relpath(base, self.folder))
        except (HalfmapError, OSError):
            return False
        memory |= {"table": key, "rows": rows, "particle settings": _settings_of(self._where(path), particles)}
        return True

    def _micrographs(self, previous: Observation, memory: dict[str, Any]) -> Mapping[str, Micrograph]:
        path = micrographs_table(self.micrographs_folder)
        try:
            if path is None:
                return previous.micrographs
            key = (str(path), stacks.signature_of(path))
            if key == memory.get("micrographs table"):
                return previous.micrographs
            table = relion.read_micrographs(path)
        except (HalfmapError, OSError):
            return previous.micrographs
        memory["micrographs table"] = key
        return _rows_of(table, previous, key[1][0] * 1e-9, self.project_of(path))

    def project_of(self, path: Path) -> Path:
        """Return the project folder of a table."""
        for folder in path.parents:
            if any((folder / mark).exists() for mark in _PROJECT_MARKS):
                return folder
        return self.folder

    def _where(self, path: Path) -> str:
        return str(path.relative_to(self.folder))


def _settings_of(where: str, particles: ParticleSet) -> SourceSettings:
    values = {}
    for name, column, unit in (
        ("pixel_size_angstrom", "pixel_size_angstrom", "Å"),
        ("box_pixel", "image_size_pixel", "px"),
    ):
        if column in particles.optics and len(particles.optics):
            value = float(particles.optics[column][0])
            values[name] = Setting(value=value, unit=unit, provenance=f"{where}: optics table")
    return SourceSettings(values=values)


def _rows_of(table: MicrographSet, previous: Observation, time_s: float, project: Path) -> Mapping[str, Micrograph]:
    n = len(table)
    u, v = (table.get(f"defocus_{axis}_angstrom", np.full(n, np.nan)) for axis in "uv")
    resolution = table.get("ctf_max_resolution_angstrom", np.full(n, np.nan))
    motion = np.full(n, np.nan)
    if "rlnAccumMotionTotal" in table:
        motion = np.array([_float(text) for text in table["rlnAccumMotionTotal"].tolist()])
    found = {}
    for row, path in enumerate(table["micrograph_name"].tolist()):
        name = Path(str(path)).stem
        old = previous.micrographs.get(name)
        found[name] = Micrograph(
            name=name,
            time_s=old.time_s if old is not None else _time_of(project / str(path), time_s),
            defocus_angstrom=0.5 * float(u[row] + v[row]),
            resolution_angstrom=float(resolution[row]),
            motion_angstrom=float(motion[row]),
        )
    return found


def _float(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _time_of(path: Path, otherwise: float) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return otherwise


def _newest(paths: list[Path]) -> Path | None:
    found = []
    for path in paths:
        try:
            found.append((path.stat().st_mtime_ns, str(path), path))
        except OSError:
            continue
    return max(found)[2] if found else None
