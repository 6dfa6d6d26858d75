"""`HalfSets`: two sets of particles that share nothing, the only thing gold-standard functions accept."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from halfmap import keyed_random
from halfmap.data.particles import ParticleSet
from halfmap.errors import InconsistentDataError

HALVES = (1, 2)


@dataclass(frozen=True, kw_only=True, eq=False)
class HalfSets:
    """Particles in two halves, by their column ``random_subset``.

    Parameters
    ----------
    particles : every particle has ``random_subset`` 1 or 2; no uid and no image is in both halves, and
        neither half is empty.

    Raises
    ------
    InconsistentDataError
        The halves are not complete, or share a particle.
    """

    particles: ParticleSet
    rows: tuple[NDArray[np.int64], NDArray[np.int64]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        subset = self.particles["random_subset"]
        other = subset[~np.isin(subset, HALVES)]
        if len(other):
            raise InconsistentDataError(
                f"Every particle's random_subset must be 1 or 2; got {other[0]} for {len(other)} of {len(subset)}; "
                "assign half-sets to them first."
            )
        first, second = (np.flatnonzero(subset == half) for half in HALVES)
        if not len(first) or not len(second):
            raise InconsistentDataError(
                f"Each half-set must have particles; got {len(first)} and {len(second)}; assign half-sets anew."
            )
        for name in ("uid", "image_name"):
            if name not in self.particles:
                continue
            values = self.particles[name]
            shared = set(values[first].tolist()) & set(values[second].tolist())
            if shared:
                raise InconsistentDataError(
                    f"A particle must be in one half-set only; got {len(shared)} values of {name} in both, for example "
                    f"{min(shared)}; remove duplicates with halfmap select duplicates, or assign half-sets anew."
                )
        object.__setattr__(self, "rows", (first, second))

    def __len__(self) -> int:
        return len(self.particles)

    @property
    def first(self) -> ParticleSet:
        """The particles of half 1."""
        return self.particles.take(self.rows[0])

    @property
    def second(self) -> ParticleSet:
        """The particles of half 2."""
        return self.particles.take(self.rows[1])

    @property
    def halves(self) -> tuple[ParticleSet, ParticleSet]:
        """Both halves."""
        return self.first, self.second


def with_random_subsets(particles: ParticleSet, seed: int, objects: ArrayLike | None = None) -> ParticleSet:
    """Return particles of which each has a half.

    Halves that a file gave (1 or 2) are kept. The others are drawn from the seed and the uid alone, so a
    particle stays in its half whatever is added to or taken from the set, and all images of one uid share
    a half; rows with the same image follow the first of them.

    Parameters
    ----------
    particles : may have the column ``random_subset``.
    seed : of the draw.
    objects : which rows show one physical object, as of `halfmap.data.repeats.repeats`: they share a half too.
    """
    drawn = keyed_random.integers(1, 3, seed, "half sets", particles.uid)
    given = particles.get("random_subset", 0)
    subset = np.where(np.isin(given, HALVES), given, drawn)
    keys = particles.get("image_name", particles.uid)
    for values in (particles.uid, keys, *([] if objects is None else [np.asarray(objects)])):
        subset = _following_the_first(subset, given, values)
    return particles.with_columns(random_subset=subset)


def _following_the_first(subset: NDArray, given: NDArray, values: NDArray) -> NDArray:
    """Let rows without a given half that share a value take the half of the first row, or of a given one."""
    _, group = np.unique(values, return_inverse=True)
    is_given = np.isin(given, HALVES)
    order = np.lexsort((np.arange(len(subset)), ~is_given, group))
    leaders = order[np.concatenate(([True], np.diff(group[order]) != 0))] if len(order) else order
    leading = np.empty(int(group.max()) + 1 if len(group) else 0, dtype=subset.dtype)
    leading[group[leaders]] = subset[leaders]
    return np.where(is_given, subset, leading[group])
