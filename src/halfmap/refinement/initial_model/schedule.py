"""What each mini-batch of an initial model does: pure functions of its number, tested as tables."""

from dataclasses import dataclass

from halfmap.geometry.symmetry import canonical_name
from halfmap.refinement.initial_model.params import InitialModelParams

SYMMETRIC_MINIBATCHES = 10
"""Mini-batches with the symmetry imposed, after its axes have been found."""

_FIRST_BATCH, _LEAST_LAST_BATCH, _MOST_LAST_BATCH = 200, 500, 2000
_LAST_SHARE = 0.05
_GROWTH_FROM, _GROWTH_TO = 0.2, 0.8
_FINE_FROM = 0.3
_COARSE_ORDER, _FINE_ORDER = 1, 2
_FIRST_MEMORY, _LAST_MEMORY = 0.8, 0.9


@dataclass(frozen=True, kw_only=True)
class MiniBatch:
    """What a mini-batch does.

    Parameters
    ----------
    n_particles : that take part.
    resolution_angstrom : of the details that are compared and kept.
    healpix_order : of the coarse rotations; the fine ones are one order finer.
    memory : share of the sums of earlier mini-batches that stays.
    has_symmetry : whether the symmetry is imposed.
    """

    n_particles: int
    resolution_angstrom: float
    healpix_order: int
    memory: float
    has_symmetry: bool


def n_iterations(params: InitialModelParams) -> int:
    """Return the number of mini-batches, the last one, of all particles, included."""
    return params.minibatches + _n_symmetric(params) + 1


def minibatch(params: InitialModelParams, iteration: int, n_particles: int) -> MiniBatch:
    """Return what an iteration does.

    Parameters
    ----------
    iteration : from 1 to `n_iterations`.
    n_particles : in all.

    Notes
    -----
    Mini-batches grow from 200 particles to 500, or a twentieth of all up to 2,000, for each class. Detail grows, as a
    frequency, from the first resolution to the finest in the middle three fifths of the mini-batches. The last
    iteration takes all particles, so that each has a class and a pose, and forgets what was before.
    """
    last = n_iterations(params)
    symmetric = canonical_name(params.symmetry) != "C1" and (
        params.symmetry_from_start or iteration > params.minibatches
    )
    x = min(1.0, (iteration - 1) / max(params.minibatches - 1, 1))
    grown = min(max((x - _GROWTH_FROM) / (_GROWTH_TO - _GROWTH_FROM), 0.0), 1.0)
    low, high = 1 / params.coarsest_angstrom, 1 / params.finest_angstrom
    large = min(max(_LAST_SHARE * n_particles, _LEAST_LAST_BATCH), _MOST_LAST_BATCH)
    size = round((_FIRST_BATCH + (large - _FIRST_BATCH) * x) * params.classes)
    # nothing that was summed without the symmetry's axes can be kept
    is_new = iteration == last or iteration == 1 or (_n_symmetric(params) > 0 and iteration == params.minibatches + 1)
    return MiniBatch(
        n_particles=n_particles if iteration == last else min(size, n_particles),
        resolution_angstrom=1 / (low + (high - low) * grown),
        healpix_order=_COARSE_ORDER if x < _FINE_FROM else _FINE_ORDER,
        memory=0.0 if is_new else _FIRST_MEMORY + (_LAST_MEMORY - _FIRST_MEMORY) * x,
        has_symmetry=symmetric,
    )


def total_visits(params: InitialModelParams, n_particles: int) -> int:
    """Return how many times particles are looked at in a whole run, all particles together."""
    return sum(minibatch(params, i + 1, n_particles).n_particles for i in range(n_iterations(params)))


def _n_symmetric(params: InitialModelParams) -> int:
    later = canonical_name(params.symmetry) != "C1" and not params.symmetry_from_start
    return SYMMETRIC_MINIBATCHES if later else 0
