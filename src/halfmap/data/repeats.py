"""Particles that stand twice in a classification: copies of an image, and picks that were found at one place.

Two picks beside each other may both be moved to the same particle. Its noise is then in both images, and were there one
in each half, the halves would agree in it.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from halfmap.data.particles import ParticleSet

NEAR_DIAMETERS = 0.25
"""Particles found at this distance or nearer, in diameters of the mask, are one and the same."""


def repeats(
    particles: ParticleSet, origin_angstrom: NDArray[np.float64], image: NDArray[np.int64], *, distance_angstrom: float
) -> NDArray[np.int64]:
    """Return the number of the particle that each row shows; rows that show the same one share it.

    Parameters
    ----------
    particles : n rows. Places are compared where they have ``micrograph_name`` and ``position_pixel``, and their optics
        groups ``micrograph_pixel_size_angstrom``.
    origin_angstrom : what was found, shape (n, 2); a particle lies at its position − origin.
    image : number of each row's image, shape (n,).
    distance_angstrom : at which two places are one.

    Returns
    -------
    int64, shape (n,), from 0 in the order of the rows. Chains of near ones are one particle.
    """
    n = len(particles)
    _, first, of_image = np.unique(image, return_index=True, return_inverse=True)
    pairs = [np.stack([np.arange(n), first[of_image]], axis=1)]
    optics = particles.optics
    if "position_pixel" in particles and "micrograph_name" in particles and "micrograph_pixel_size_angstrom" in optics:
        pixel = optics["micrograph_pixel_size_angstrom"][optics.rows_of(particles["optics_group"])]
        place = particles["position_pixel"] * pixel[:, None] - origin_angstrom
        known = np.flatnonzero(np.isfinite(place).all(axis=1))
        if len(known):
            _, micrograph = np.unique(particles["micrograph_name"][known].astype(str), return_inverse=True)
            order = np.argsort(micrograph, kind="stable")
            for rows in np.split(known[order], np.flatnonzero(np.diff(micrograph[order])) + 1):
                near = cKDTree(place[rows]).query_pairs(distance_angstrom, output_type="ndarray")
                pairs.append(rows[near])
    joined = np.concatenate(pairs)
    graph = coo_array((np.ones(len(joined), dtype=bool), (joined[:, 0], joined[:, 1])), shape=(n, n))
    found: NDArray[np.int64] = connected_components(graph, directed=False)[1].astype(np.int64)
    return found


def owners(uids: NDArray[np.int64], particle: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the least uid of all rows that show the same particle, shape (n,).

    Parameters
    ----------
    uids : of the rows, shape (n,).
    particle : of the rows, as of `repeats`.
    """
    found, inverse = np.unique(particle, return_inverse=True)
    least = np.full(len(found), np.iinfo(np.int64).max)
    np.minimum.at(least, inverse, uids)
    return least[inverse]
