"""`ParticleIndex`: the particles of a cycle and where each image lies; nothing is copied into a second stack."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from halfmap.data.optics_groups import OpticsGroups
from halfmap.data.particles import ParticleSet
from halfmap.errors import InputError
from halfmap.sessions.observation import Observation, StackParticles

OPTICS = ("voltage_kv", "spherical_aberration_mm", "amplitude_contrast", "pixel_size_angstrom")
_NUMBERS = (
    "defocus_u_angstrom",
    "defocus_v_angstrom",
    "defocus_angle_degrees",
    "phase_shift_degrees",
    "ctf_max_resolution_angstrom",
    "figure_of_merit",
)


@dataclass(frozen=True, kw_only=True, eq=False)
class ParticleIndex:
    """Particles and where their images lie.

    Parameters
    ----------
    particles : in the order of their stacks' names and of their places in them; image names hold from the
        acquisition folder.
    stacks : paths from the acquisition folder.
    signatures : of the stacks, int64, shape (stacks, 3).
    stack, section : of each image; int64, shape (n,).
    background_mean, background_deviation : of each image; float64, shape (n,).
    side_pixel : of the images.
    """

    particles: ParticleSet
    stacks: tuple[str, ...]
    signatures: NDArray[np.int64]
    stack: NDArray[np.int64]
    section: NDArray[np.int64]
    background_mean: NDArray[np.float64]
    background_deviation: NDArray[np.float64]
    side_pixel: int

    def __len__(self) -> int:
        return len(self.stack)

    def of_stacks(self, kept: NDArray[np.bool_]) -> "ParticleIndex":
        """Return the particles of some stacks, shape (stacks,)."""
        rows = np.flatnonzero(kept[self.stack])
        place = np.cumsum(kept) - 1
        return ParticleIndex(
            particles=self.particles.take(rows),
            stacks=tuple(name for name, is_kept in zip(self.stacks, kept.tolist(), strict=True) if is_kept),
            signatures=self.signatures[kept],
            stack=place[self.stack[rows]].astype(np.int64),
            section=self.section[rows],
            background_mean=self.background_mean[rows],
            background_deviation=self.background_deviation[rows],
            side_pixel=self.side_pixel,
        )


def index_of(observation: Observation) -> ParticleIndex:
    """Return the particles that can be used.

    Raises
    ------
    InputError
        There are none.

    Notes
    -----
    Where micrographs have images of different size, as while Warp exports them again, the size that most particles
    have counts; the others come back with their new stacks.
    """
    parts = [observation.stacks[name] for name in sorted(observation.stacks)]
    parts = [one for one in parts if len(one) and np.any(one.problem == "")]
    if not parts:
        raise InputError("There must be particles to classify; got none whose images are complete; wait for some.")
    counts: dict[tuple[tuple[int, int], float], int] = {}
    for one in parts:
        counts[_kind(one)] = counts.get(_kind(one), 0) + len(one)
    chosen = max(counts, key=lambda kind: counts[kind])
    parts = [one for one in parts if _kind(one) == chosen]
    keys = sorted({_optics_key(one, number) for one in parts for number in one.particles.optics.numbers.tolist()})
    columns: dict[str, list[NDArray]] = {}
    for one in parts:
        good = np.flatnonzero(one.problem == "")
        for name, values in _columns(one, keys).items():
            columns.setdefault(name, []).append(values[good])
    whole = {name: np.concatenate(values) for name, values in columns.items()}
    stack = np.repeat(np.arange(len(parts)), [int((one.problem == "").sum()) for one in parts])
    section, mean, deviation = (whole.pop(name) for name in ("section", "mean", "deviation"))
    optics = {name: np.array([key[place] for key in keys]) for place, name in enumerate(OPTICS)}
    optics["image_size_pixel"] = np.full(len(keys), chosen[0][1])
    optics["image_dimensionality"] = np.full(len(keys), 2)
    return ParticleIndex(
        particles=ParticleSet(columns=whole, optics=OpticsGroups(columns=optics)),
        stacks=tuple(one.stack for one in parts),
        signatures=np.array([one.signature for one in parts], dtype=np.int64),
        stack=stack.astype(np.int64),
        section=section,
        background_mean=mean,
        background_deviation=deviation,
        side_pixel=chosen[0][1],
    )


def _kind(one: StackParticles) -> tuple[tuple[int, int], float]:
    return one.shape, round(float(one.particles.optics["pixel_size_angstrom"][0]), 5)


def _optics_key(one: StackParticles, number: int) -> tuple[float, ...]:
    optics = one.particles.optics
    row = int(optics.rows_of([number])[0])
    return tuple(float(optics.get(name, np.nan)[row]) for name in OPTICS)


def _columns(one: StackParticles, keys: list[tuple[float, ...]]) -> dict[str, NDArray]:
    particles = one.particles
    number_of = {number: keys.index(_optics_key(one, number)) + 1 for number in particles.optics.numbers.tolist()}
    columns: dict[str, NDArray] = {
        "uid": particles.uid,
        "image_name": particles["image_name"],
        "micrograph_name": particles["micrograph_name"],
        "position_pixel": np.array(particles.get("position_pixel", 0.0)),
        "optics_group": np.array([number_of[number] for number in particles["optics_group"].tolist()], dtype=np.int64),
        "section": one.section,
        "mean": one.background_mean,
        "deviation": one.background_deviation,
    }
    return columns | {name: np.array(particles.get(name, 0.0)) for name in _NUMBERS}
