"""Poses of a species' particles when the species changes: its temporal samples, its frame, its symmetry."""

import numpy as np
import torch
from numpy.typing import NDArray

from halfmap.data.population import SpeciesParticles
from halfmap.errors import InputError
from halfmap.geometry import symmetry, symmetry_names
from halfmap.splines.trajectories import path, path_of_rotations


def resampled(particles: SpeciesParticles, n_samples: int) -> SpeciesParticles:
    """Give particles another number of temporal samples of position and rotation.

    Returns
    -------
    SpeciesParticles
        At evenly spread times, where the old path is; of one sample the same pose at all.
    """
    if particles.n_samples == n_samples:
        return particles
    times = torch.linspace(0, 1, n_samples, dtype=torch.float64) if n_samples > 1 else torch.tensor([0.5])
    position = path(torch.from_numpy(particles.position_angstrom), times)
    rotation = path_of_rotations(torch.from_numpy(particles.rotation), times)
    return particles.with_poses(position.numpy(), rotation.numpy())


def rotated(particles: SpeciesParticles, rotation: NDArray[np.float64]) -> SpeciesParticles:
    """Return poses for a map that was turned: what lay at v lies at R v now, so A becomes A Rᵀ.

    Parameters
    ----------
    rotation : R, (3, 3).
    """
    return particles.with_poses(particles.position_angstrom, particles.rotation @ rotation.T)


def shifted(particles: SpeciesParticles, shift_angstrom: NDArray[np.float64]) -> SpeciesParticles:
    """Return positions for a map that was moved: what lay at v lies at v − s now, so positions become p + A s.

    Parameters
    ----------
    shift_angstrom : s, (3,), in the frame of the map.

    Notes
    -----
    Every temporal sample moves by its own rotation, so that a particle's content stays where it was; M uses the first.
    """
    return particles.with_poses(particles.position_angstrom + particles.rotation @ shift_angstrom, particles.rotation)


def expanded(particles: SpeciesParticles, *, group: str, remaining: str) -> SpeciesParticles:
    """Return a copy of each particle for every rotation of its group that a smaller one does not make equivalent.

    Parameters
    ----------
    group : symmetry of the species so far.
    remaining : symmetry that it keeps.

    Returns
    -------
    SpeciesParticles
        Copies of a particle stand together, with its identity and half-set: they are one object.

    Raises
    ------
    InputError
        The smaller group is not contained in the other.
    """
    operators = symmetry.mates(group, remaining).numpy()
    if len(operators) * symmetry_names.order(remaining) != symmetry_names.order(group):
        raise InputError(
            f"The symmetry that remains must be contained in {group}; got {remaining}; choose C1 or a part of {group}."
        )
    copies = particles.take(np.repeat(np.arange(len(particles)), len(operators)))
    turns = np.tile(operators, (len(particles), 1, 1))[:, None]
    return copies.with_poses(copies.position_angstrom, copies.rotation @ turns)
