"""What a 3D refinement takes over from an earlier one, of any program: half maps, halves, poses and sampling."""

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from halfmap.data.particles import ParticleSet
from halfmap.data.refinement_run import RefinementRun
from halfmap.data.volumes import Volume
from halfmap.errors import InconsistentDataError, InputError
from halfmap.grid import ImageGrid
from halfmap.refinement.state import PoseSampling, Progression, RefinementState

_SAME_PIXEL_SIZE = 1e-3


def check_earlier(run: RefinementRun) -> None:
    """Refuse an earlier refinement that has nothing to take over.

    Raises
    ------
    InputError
        It has done no iteration, or has ended.
    """
    if run.iteration < 1:
        raise InputError(
            "The refinement to start from must have done an iteration; got one that has only begun; name a later "
            "run_itNNN_optimiser.star, or begin with --reference."
        )
    if run.is_final:
        raise InputError(
            f"The refinement to start from must not have ended; got one that has, after iteration {run.iteration}; "
            "name the run_itNNN_optimiser.star of one of its iterations, or begin anew with --reference."
        )


def with_earlier_halves(particles: ParticleSet, run: RefinementRun) -> ParticleSet:
    """Return particles with the halves and poses that they have in a run.

    Raises
    ------
    InconsistentDataError
        The run does not know some of them.
    """
    rows = _rows(particles, run)
    names = ("random_subset", "rotation", "origin_angstrom")
    return particles.with_columns(**{name: run.particles[name][rows] for name in names})


def taken_over(state: RefinementState, run: RefinementRun, particles: ParticleSet, grid: ImageGrid) -> RefinementState:
    """Return a first state that has the maps, sampling and resolution of a run.

    Parameters
    ----------
    state : as it starts, with the run's poses and halves.
    particles : of the state.
    grid : of its maps.

    Notes
    -----
    Noise spectra and grey scales begin anew: programs state those of masked images or of whole ones.
    """
    halves = tuple(
        replace(half, reference=volume.values.float(), offset_sigma_angstrom=known.offset_sigma_angstrom)
        for half, known, volume in zip(state.halves, run.halves, maps_of(run, grid), strict=True)
    )
    rows = _rows(particles, run)
    of_particle = {name: run.particles.get(name, 0)[rows] for name in ("max_probability", "n_significant")}
    return replace(
        state,
        iteration=run.iteration,
        halves=(halves[0], halves[1]),
        orientations=replace(state.orientations, **of_particle),
        fsc=torch.from_numpy(np.array(run.fsc)),
        used_fsc=torch.from_numpy(np.array(run.used_fsc)),
        shell=max(1, min(run.current_size_pixel // 2, grid.side // 2 - 1)),
        sampling=PoseSampling(
            healpix_order=run.healpix_order,
            is_local=run.is_local,
            offset_range_angstrom=run.offset_range_angstrom,
            offset_step_angstrom=run.offset_step_angstrom,
            perturbation=run.perturbation,
        ),
        progression=Progression(),
    )


def maps_of(run: RefinementRun, grid: ImageGrid) -> tuple[Volume, Volume]:
    """Return the regularised half maps of a run.

    Raises
    ------
    InputError
        They have another box or pixel size than the particles.
    """
    found = []
    for half in run.halves:
        own = half.map.grid
        if own.shape != grid.shape or abs(own.pixel_size_angstrom / grid.pixel_size_angstrom - 1) > _SAME_PIXEL_SIZE:
            raise InputError(
                f"The refinement to start from must have maps of {grid.side} px of {grid.pixel_size_angstrom:.5g} Å, "
                f"the particles'; got {own.side} px of {own.pixel_size_angstrom:.5g} Å; begin anew with --reference, "
                "which fits maps to particles."
            )
        found.append(Volume(values=half.map.values, grid=grid))
    return found[0], found[1]


def _rows(particles: ParticleSet, run: RefinementRun) -> NDArray[np.int64]:
    """Return the row of each particle in a run; copies of one, which share its uid, in their order."""
    row_of = {key: row for row, key in enumerate(_numbered(run.particles.uid))}
    rows = np.array([row_of.get(key, -1) for key in _numbered(particles.uid)], dtype=np.int64)
    unknown = int((rows < 0).sum())
    if unknown:
        raise InconsistentDataError(
            f"Particles must be those of the refinement to start from; got {unknown} of {len(particles)} that it does "
            "not know; leave out --particles, or begin anew with --reference."
        )
    return rows


def _numbered(uids: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Return each uid with how often it has stood before."""
    seen: dict[int, int] = {}
    numbered = []
    for uid in uids.tolist():
        numbered.append((uid, seen.get(uid, 0)))
        seen[uid] = numbered[-1][1] + 1
    return numbered
