"""What speaks against a micrograph, from its CTF and those of the others."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from halfmap.ctf_estimation.estimate import CtfEstimate

POOR_RESOLUTION_ANGSTROM = 10.0
"""Rings that end before this bear no detail of particles."""

STRONG_ICE_RING = 0.25
"""Excess of power at 3.6 to 4.0 Å from which there is crystalline ice."""

DEEP_RINGS = 1.5
"""Height of rings over the background that no ice and particles reach: 0.1 in real micrographs, 2 in carbon film."""

_DEVIATIONS = 5.0
_LEAST_ASTIGMATISM_ANGSTROM = 500.0
_MUCH_DEEPER = 3.0
_ENOUGH = 5
_LEAST_FOLD_DIFFERENCE_ANGSTROM = 300.0


def concerns(
    estimates: Sequence[CtfEstimate],
) -> list[tuple[str, ...]]:
    """Return for each micrograph what is unusual about its CTF.

    Parameters
    ----------
    estimates : of the micrographs whose CTF was found.

    Notes
    -----
    Judged alone: rings that end before 10 Å, a strong ring of crystalline ice, halves of the directions whose defoci
    differ, rings as strong as those of carbon film. Judged among five or more: astigmatism and rings far beyond the
    others', by five robust deviations, and by 500 Å or three times.
    """
    astigmatism = np.array([2 * one.lens.half_astigmatism_angstrom for one in estimates])
    depth = np.array([one.ring_depth for one in estimates])
    far_astigmatic = _far_above(astigmatism) & (astigmatism > _LEAST_ASTIGMATISM_ANGSTROM)
    deep = depth > DEEP_RINGS
    if len(depth):
        deep |= _far_above(depth) & (depth > _MUCH_DEEPER * np.median(depth))
    return [_of_one(one, bool(a), bool(d)) for one, a, d in zip(estimates, far_astigmatic, deep, strict=True)]


def _of_one(one: CtfEstimate, is_astigmatic: bool, is_deep: bool) -> tuple[str, ...]:
    said = []
    if one.max_resolution_angstrom > POOR_RESOLUTION_ANGSTROM:
        said.append(f"rings end at {one.max_resolution_angstrom:.1f} Å")
    if one.ice_ring_density > STRONG_ICE_RING:
        said.append("crystalline ice: a strong ring at 3.6 to 4.0 Å")
    if one.defocus_difference_angstrom > _LEAST_FOLD_DIFFERENCE_ANGSTROM:
        said.append(f"halves of the directions differ by {one.defocus_difference_angstrom:.0f} Å of defocus")
    if is_astigmatic:
        said.append(f"astigmatism of {2 * one.lens.half_astigmatism_angstrom:.0f} Å, far from the others'")
    if is_deep:
        said.append("rings much stronger than those of ice: carbon film?")
    return tuple(said)


def _far_above(values: NDArray[np.float64]) -> NDArray[np.bool_]:
    if len(values) < _ENOUGH:
        return np.zeros(len(values), dtype=bool)
    middle = np.median(values)
    spread = 1.4826 * np.median(np.abs(values - middle))
    return np.asarray(values > middle + _DEVIATIONS * spread)
