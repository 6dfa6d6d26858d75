"""Which micrographs a session leaves out: by limits on their figures, and by eye."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from halfmap.errors import InputError
from halfmap.sessions.observation import Micrograph, Observation, StackParticles

LIMITS = {
    "max_resolution_angstrom": ("resolution_angstrom", np.less_equal),
    "min_defocus_angstrom": ("defocus_angstrom", np.greater_equal),
    "max_defocus_angstrom": ("defocus_angstrom", np.less_equal),
    "max_motion_angstrom": ("motion_angstrom", np.less_equal),
    "min_picks": ("picks", np.greater_equal),
}
"""By name: the figure of a micrograph that is compared, and how it must compare for the micrograph to be kept."""


def check_limits(limits: Mapping[str, float]) -> None:
    """Refuse limits of unknown names and values that are no numbers.

    Raises
    ------
    InputError
        There is one.
    """
    for name, value in limits.items():
        if name not in LIMITS:
            raise InputError(f"A threshold must be one of {', '.join(LIMITS)}; got {name!r}; choose one of them.")
        if not np.isfinite(value):
            raise InputError(f"The threshold {name} must be a finite number; got {value}; give one, or leave it out.")


def is_kept(
    rows: list[Micrograph], limits: Mapping[str, float], judged: Mapping[str, bool] | None = None
) -> NDArray[np.bool_]:
    """Return which micrographs are kept.

    Parameters
    ----------
    limits : see `LIMITS`; a micrograph whose figure is not known does not keep within a limit on it.
    judged : by name, what was said by eye; it goes before the limits.

    Raises
    ------
    InputError
        A limit is not known.
    """
    check_limits(limits)
    kept = np.ones(len(rows), dtype=bool)
    for name, limit in limits.items():
        field, compare = LIMITS[name]
        kept &= compare(np.array([float(getattr(one, field)) for one in rows]), limit)
    for row, one in enumerate(rows):
        if judged and one.name in judged:
            kept[row] = judged[one.name]
    return kept


def left_out(seen: Observation, limits: Mapping[str, float], judged: Mapping[str, bool]) -> frozenset[str]:
    """Return the names of all micrographs that are left out, those among them of which nothing but particles is known.

    Parameters
    ----------
    limits, judged : see `is_kept`.
    """
    if not limits and not judged:
        return frozenset()
    rows = seen.in_order
    out = {one.name for one, kept in zip(rows, is_kept(rows, limits, judged).tolist(), strict=True) if not kept}
    unlisted = {name for one in seen.stacks.values() for name in one.micrographs} - set(seen.micrographs)
    return frozenset(out | {name for name in unlisted if not judged.get(name, not limits)})


def sifted(seen: Observation, out: frozenset[str]) -> Observation:
    """Return what is known of a source without the particles of micrographs that are left out."""
    if not out:
        return seen
    return replace(seen, stacks={path: rest for path, one in seen.stacks.items() if len(rest := _without(one, out))})


def _without(one: StackParticles, out: frozenset[str]) -> StackParticles:
    if not out.intersection(one.micrographs):
        return one
    rows = np.flatnonzero([name not in out for name in one.micrographs])
    return replace(
        one,
        particles=one.particles.take(rows),
        section=one.section[rows],
        background_mean=one.background_mean[rows],
        background_deviation=one.background_deviation[rows],
        problem=one.problem[rows],
    )
