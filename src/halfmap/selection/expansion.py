"""Symmetry expansion: every particle once for each rotation of its point group."""

import numpy as np
import torch

from halfmap.data.particles import ParticleSet
from halfmap.errors import InconsistentDataError, InputError
from halfmap.geometry.symmetry import operators


def expand(particles: ParticleSet, symmetry: str) -> ParticleSet:
    """Return every particle once for each rotation of a point group.

    Parameters
    ----------
    particles : with poses, none of them a copy already.
    symmetry : the group: ``C4``, ``D2``, ``T``, ``O``, ``I1``…

    Returns
    -------
    ParticleSet
        The copies of a particle one after the other, their poses A S, their number in ``symmetry_copy``; 0 is the
        particle as it was. Offsets, uid and half-set are the particle's: copies are one physical object, so they
        share a uid as tilt images do, and a half-set can never hold only some of them.

    Raises
    ------
    InputError
        The group has one rotation, or there is no such group.
    InconsistentDataError
        The particles have no poses, or were expanded before.

    Notes
    -----
    A map with the symmetry gives the same projection at all copies; what differs between the parts of the
    particle can then be classified in one place of the map, with a mask and without moving poses.

    References
    ----------
    RELION's ``particle_symmetry_expand``; Nakane & Scheres 2021, Methods Mol. Biol. 2215, 145.
    """
    if "rotation" not in particles:
        raise InconsistentDataError(
            "Particles to expand must have poses (_rlnAngleRot, _rlnAngleTilt, _rlnAnglePsi); got none; refine them "
            "first."
        )
    if "symmetry_copy" in particles and np.any(particles["symmetry_copy"] != 0):
        raise InconsistentDataError(
            "Particles to expand must not be copies already; got some with halfmapSymmetryCopy above 0; expand the "
            "particles from which they come."
        )
    rotations = operators(symmetry)
    n = len(rotations)
    if n == 1:
        raise InputError(f"A symmetry to expand by must have several rotations; got {symmetry}; choose another group.")
    rows = np.repeat(np.arange(len(particles)), n)
    copies = np.tile(np.arange(n), len(particles))
    poses = torch.from_numpy(np.array(particles["rotation"]))[:, None] @ rotations
    return particles.take(rows).with_columns(rotation=poses.reshape(-1, 3, 3).numpy(), symmetry_copy=copies)
