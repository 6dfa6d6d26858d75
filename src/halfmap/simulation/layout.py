"""Where things lie in a micrograph: particles, junk, carbon, crystals."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from halfmap import keyed_random
from halfmap.simulation import dirt, truth
from halfmap.simulation.params import MicrographSimulationParams

PARTICLE, BROKEN, AGGREGATE = "particle", "broken", "aggregate"

_COVERAGE = 0.3
_TRIES_PER_PARTICLE = 30
_OVERLAP_DISTANCE = 0.5
_AGGREGATE_MEMBERS = (4, 9)
_AGGREGATE_SPACING = 0.6
_AGGREGATE_SHARE = 0.4
_ITEMS_PER_MICROGRAPH = 1 << 16


@dataclass(frozen=True, kw_only=True, eq=False)
class Layout:
    """What one micrograph shows.

    Parameters
    ----------
    number : of the micrograph, from 0; key of its draws.
    defocus : one value of each.
    position_pixel : float64, shape (n, 2), (x, y); items may lie outside the field and reach into it.
    rotation : float64, shape (n, 3, 3).
    class_number : int64, shape (n,), from 1.
    kind : text, shape (n,): ``particle``, ``broken`` or ``aggregate`` (each member of an aggregate is a row).
    crystals, carbon : dirt, or None.
    """

    number: int
    defocus: truth.Defocus
    position_pixel: NDArray[np.float64]
    rotation: NDArray[np.float64]
    class_number: NDArray[np.int64]
    kind: NDArray[np.str_]
    crystals: dirt.IceCrystals | None
    carbon: dirt.CarbonEdge | None

    def is_inside(self, size_pixel: tuple[int, int]) -> NDArray[np.bool_]:
        """Return which items have their centre on a pixel of the micrograph, width and height given."""
        x, y = self.position_pixel.T
        return (x > -0.5) & (x < size_pixel[0] - 0.5) & (y > -0.5) & (y < size_pixel[1] - 0.5)


def lay_out(number: int, params: MicrographSimulationParams, diameters_angstrom: Sequence[float]) -> Layout:
    """Draw what a micrograph shows.

    Parameters
    ----------
    number : of the micrograph, from 0.
    params : the settings.
    diameters_angstrom : of the specimens, one for each class.

    Notes
    -----
    Particles are thrown one after the other into the field widened by a particle's width and stay where
    they keep clear of what lies there already: at a mean diameter from each other, or at half of it for the share that
    may overlap; off the carbon and off crystals. Only what the seed and the micrograph's number say decides.
    """
    a = params.pixel_size_angstrom
    field = (params.size_pixel[0] * a, params.size_pixel[1] * a)
    largest = max(diameters_angstrom)
    crystals = carbon = None
    if params.has("ice_blobs"):
        crystals = dirt.ice_crystals(
            params.seed, number, field_angstrom=field, per_micrometre2=params.ice_blobs_per_micrometre2
        )
    if params.has("carbon"):
        carbon = dirt.carbon_edge(params.seed, number, field_angstrom=field, share=params.carbon_fraction)
    mean_area = math.pi / 4 * float(np.mean(np.square(diameters_angstrom)))
    per_field = _COVERAGE * field[0] * field[1] / mean_area
    if params.particles_per_micrograph is not None:
        per_field = params.particles_per_micrograph
    widened = (field[0] + largest) * (field[1] + largest) / (field[0] * field[1])
    quantiles = keyed_random.uniform(params.seed, "number of particles", number, size=2)
    n_particles = dirt.poisson_number(per_field * widened, float(quantiles[0]))
    n_junk = 0
    if params.has("junk"):
        n_junk = dirt.poisson_number(per_field * widened * params.junk_per_particle, float(quantiles[1]))

    n_tries = _TRIES_PER_PARTICLE * (n_particles + n_junk)
    tries = keyed_random.uniform(params.seed, "positions", number, size=(n_tries, 6))
    candidates = (tries[:, :2] * (np.array(field) + largest)) - largest / 2
    candidate_class = truth.class_of_quantile(tries[:, 4], len(diameters_angstrom), params.class_fractions)
    widths = np.asarray(diameters_angstrom)[candidate_class - 1]
    clear = _clear_of_dirt(candidates, widths, carbon, crystals)
    positions, classes, kinds = _throw(
        candidates[clear],
        candidate_class[clear],
        tries[clear][:, [2, 3, 5]],
        widths[clear],
        n_junk,
        n_particles,
        params,
    )
    uids = number * _ITEMS_PER_MICROGRAPH + np.arange(len(positions))
    rotation = truth.views(params.seed, "views", uids, preference=params.preferred_orientation)
    return Layout(
        number=number,
        defocus=truth.defocus(
            params.seed,
            np.array([number]),
            minimum_angstrom=params.min_defocus_angstrom,
            maximum_angstrom=params.max_defocus_angstrom,
            astigmatism_angstrom=params.astigmatism_angstrom,
        ),
        position_pixel=positions / a,
        rotation=rotation.numpy(),
        class_number=classes,
        kind=kinds,
        crystals=crystals,
        carbon=carbon,
    )


def _clear_of_dirt(
    positions: NDArray[np.float64],
    widths: NDArray[np.float64],
    carbon: dirt.CarbonEdge | None,
    crystals: dirt.IceCrystals | None,
) -> NDArray[np.bool_]:
    clear = np.ones(len(positions), dtype=bool)
    if carbon is not None:
        x, y = torch.from_numpy(positions).T
        clear &= carbon.distance_angstrom(x, y).numpy() < -0.6 * widths
    if crystals is not None and len(crystals.diameters_angstrom):
        distance = np.linalg.norm(positions[:, None] - crystals.positions_angstrom, axis=2)
        clear &= np.all(distance > 0.55 * crystals.diameters_angstrom + 0.5 * widths[:, None], axis=1)
    return clear


def _throw(
    candidates: NDArray[np.float64],
    candidate_class: NDArray[np.int64],
    draws: NDArray[np.float64],
    widths: NDArray[np.float64],
    n_junk: int,
    n_particles: int,
    params: MicrographSimulationParams,
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.str_]]:
    """Place junk, then particles; return positions in Å, classes and kinds."""
    placed = np.empty((0, 2))
    reach = np.empty(0)
    positions: list[NDArray[np.float64]] = []
    classes: list[int] = []
    kinds: list[str] = []
    n_placed = 0
    for position, number, draw, width in zip(candidates, candidate_class, draws, widths, strict=True):
        if n_placed == n_junk + n_particles:
            break
        kind = PARTICLE
        if n_placed < n_junk:
            kind = AGGREGATE if draw[1] < _AGGREGATE_SHARE else BROKEN
        closeness = _OVERLAP_DISTANCE if kind == PARTICLE and draw[0] < params.overlap_fraction else 1.0
        own_reach = width / 2
        if kind == AGGREGATE:
            members = _aggregate(draw, width)
            own_reach += float(np.linalg.norm(members, axis=1).max())
        if len(placed):
            distance = np.linalg.norm(placed - position, axis=1)
            # what overlaps may do so with particles, not with aggregates
            allowed = np.where(reach > width, reach + own_reach, closeness * (reach + own_reach))
            if (distance < allowed).any():
                continue
        placed = np.concatenate([placed, position[None]])
        reach = np.append(reach, own_reach)
        n_placed += 1
        centres = position + members if kind == AGGREGATE else position[None]
        positions.extend(centres)
        classes.extend([int(number)] * len(centres))
        kinds.extend([kind] * len(centres))
    return np.array(positions).reshape(-1, 2), np.array(classes, dtype=np.int64), np.array(kinds, dtype="U9")


def _aggregate(draw: NDArray[np.float64], width: float) -> NDArray[np.float64]:
    """Return the centres of an aggregate's members about its middle: a spiral of touching particles, some left out."""
    low, high = _AGGREGATE_MEMBERS
    n = low + int(draw[2] * (high - low + 1))
    golden = math.pi * (3 - math.sqrt(5))
    k = np.arange(n)
    angle = golden * k * (0.8 + 0.4 * draw[0]) + 2 * math.pi * draw[1]
    return _AGGREGATE_SPACING * width * np.sqrt(k)[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
