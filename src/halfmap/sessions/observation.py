"""What a watched folder holds: settings with their provenance, micrographs, and particles with whole stacks."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from halfmap.data.particles import ParticleSet
from halfmap.data.uids import uids_of_keys

SourceKind: TypeAlias = Literal["warp1", "warp2", "warptools", "relion", "micrographs", "movies"]
Signature: TypeAlias = tuple[int, int, int]
"""Time of change in ns, size and inode of a file: other numbers mean another content."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A value that was found, and where.

    Parameters
    ----------
    value : a number, text or yes and no.
    unit : of the number, or empty.
    provenance : file and entry, as ``previous.settings: Picking/Diameter``.
    """

    value: float | str | bool
    unit: str = ""
    provenance: str = ""


@dataclass(frozen=True, kw_only=True)
class SourceSettings:
    """What a source says of its particles.

    Parameters
    ----------
    values : by name, those that were found of pixel_size_angstrom, box_pixel, diameter_angstrom, net_name,
        score_threshold, exports_particles, particles_are_bright.
    """

    values: Mapping[str, Setting] = field(default_factory=dict)

    def number(self, name: str, default: float) -> float:
        """Return a number, ``default`` where it was not found."""
        return float(self.values[name].value) if name in self.values else default

    def text(self, name: str) -> str:
        """Return a text, empty where it was not found."""
        return str(self.values[name].value) if name in self.values else ""

    def flag(self, name: str, default: bool) -> bool:
        """Return yes or no, ``default`` where it was not found."""
        return bool(self.values[name].value) if name in self.values else default

    @property
    def restart_key(self) -> tuple[float, str, float]:
        """Box, network and threshold: where one of them changes, particles are others, and classes begin anew."""
        return self.number("box_pixel", 0.0), self.text("net_name"), self.number("score_threshold", 0.0)

    @property
    def mask_radius_angstrom(self) -> float | None:
        """The radius that is guessed: 1.2 times the particle's; None where its diameter is not known."""
        diameter = self.number("diameter_angstrom", 0.0)
        return float(int(0.6 * diameter)) if diameter > 0 else None

    def to_json(self) -> dict[str, Any]:
        """Return them as JSON holds them."""
        return {
            name: {"value": one.value, "unit": one.unit, "provenance": one.provenance}
            for name, one in self.values.items()
        }


@dataclass(frozen=True, kw_only=True)
class Micrograph:
    """A micrograph as it is listed; NaN where a number is not known.

    Parameters
    ----------
    name : without folder.
    time_s : when its metadata were written, by the clock of the machine that did, in seconds since 1970.
    defocus_angstrom, resolution_angstrom, motion_angstrom : mean defocus, reach of its CTF, mean frame motion.
    picks : particles found; -1: not known.
    accepted : None: nobody has said.
    """

    name: str
    time_s: float
    defocus_angstrom: float = float("nan")
    resolution_angstrom: float = float("nan")
    motion_angstrom: float = float("nan")
    picks: int = -1
    accepted: bool | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class StackParticles:
    """The particles of a stack that is whole and has been measured; Warp and RELION write one for each micrograph.

    Parameters
    ----------
    stack : its path from the source's folder.
    signature : of the stack when it was measured.
    particles : with uid (`identities`), image_name, micrograph_name, position_pixel and CTF, in the order of the table.
    section : 0-based place of each image in the stack; int64, shape (n,).
    shape : (y, x) of the images.
    background_mean, background_deviation : of each image; float64, shape (n,).
    problem : text, why an image cannot be used; empty where it can.
    """

    stack: str
    signature: Signature
    particles: ParticleSet
    section: NDArray[np.int64]
    shape: tuple[int, int]
    background_mean: NDArray[np.float64]
    background_deviation: NDArray[np.float64]
    problem: NDArray[np.object_]

    def __len__(self) -> int:
        return len(self.section)

    @cached_property
    def micrographs(self) -> tuple[str, ...]:
        """The micrograph of each image, without folder and ending."""
        names = [str(name) for name in self.particles["micrograph_name"].tolist()]
        stems = {name: Path(name).stem for name in set(names)}
        return tuple(stems[name] for name in names)


@dataclass(frozen=True, kw_only=True)
class Quarantined:
    """What cannot be used for now.

    Parameters
    ----------
    name : of the micrograph or file.
    reason : why, in a few words.
    tries : looks at it that found it so.
    """

    name: str
    reason: str
    tries: int = 1


@dataclass(frozen=True, kw_only=True, eq=False)
class Observation:
    """All that is known of a source after some looks.

    Parameters
    ----------
    number : of the look.
    settings : as last read.
    stacks : by path.
    micrographs : by name.
    waiting : by path of the stack, what has particles in the table but no whole stack yet.
    notices : what happened at this look, a sentence each.
    remembered : of readers: signatures of what they have read.
    """

    number: int = 0
    settings: SourceSettings = field(default_factory=SourceSettings)
    stacks: Mapping[str, StackParticles] = field(default_factory=dict)
    micrographs: Mapping[str, Micrograph] = field(default_factory=dict)
    waiting: Mapping[str, Quarantined] = field(default_factory=dict)
    notices: tuple[str, ...] = ()
    remembered: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @cached_property
    def n_particles(self) -> int:
        """Particles that can be used."""
        return sum(int((one.problem == "").sum()) for one in self.stacks.values())

    @cached_property
    def particles_of(self) -> Mapping[str, int]:
        """Particles of each micrograph that can be used; of one without whole stacks those that were found in it."""
        counts = {name: max(one.picks, 0) for name, one in self.micrographs.items()}
        counted = Counter[str]()
        for one in self.stacks.values():
            good = (one.problem == "").tolist()
            counted.update(name for name, is_good in zip(one.micrographs, good, strict=True) if is_good)
        return {**counts, **counted}

    @cached_property
    def quarantine(self) -> list[Quarantined]:
        """What is waited for, and images that cannot be used."""
        bad = [
            Quarantined(name=one.stack, reason=f"{int((one.problem != '').sum())} images: {_first(one.problem)}")
            for one in self.stacks.values()
            if np.any(one.problem != "")
        ]
        return [*self.waiting.values(), *bad]

    @cached_property
    def in_order(self) -> list[Micrograph]:
        """The micrographs in the order of their time."""
        return sorted(self.micrographs.values(), key=lambda one: (one.time_s, one.name))

    @cached_property
    def last_image_s(self) -> float | None:
        """When the newest micrograph's metadata or stack were written; None before the first."""
        times = [one.time_s for one in self.micrographs.values()]
        times += [one.signature[0] * 1e-9 for one in self.stacks.values()]
        return max(times, default=None)


def identities(particles: ParticleSet, section: NDArray[np.int64], signature: Signature) -> NDArray[np.int64]:
    """Return the uids of a stack's particles: by micrograph, place in the stack, position, and the stack's state.

    Notes
    -----
    Warp replaces a micrograph's rows in place when it is processed again, so a row's number says nothing; and a stack
    that was written anew shows other particles, even where names and numbers are the same.
    """
    position = particles.get("position_pixel", np.nan)
    changed, size, _ = signature
    return uids_of_keys(
        f"{name}\0{place}\0{x:.2f}\0{y:.2f}\0{changed}\0{size}"
        for name, place, (x, y) in zip(
            particles["micrograph_name"].tolist(), section.tolist(), position.tolist(), strict=True
        )
    )


def _first(problem: NDArray[np.object_]) -> str:
    return str(problem[problem != ""][0])
