"""What each mini-batch of an initial model does: pure functions of its number, tested as tables."""

import math
from dataclasses import dataclass

from halfmap.geometry.symmetry_names import canonical_name
from halfmap.refinement.initial_model.params import InitialModelParams

SYMMETRIC_MINIBATCHES = 10
"""Mini-batches with the symmetry imposed, after its axes have been found."""

_SIGN_FROM, _SIGN_TO = 0.3, 0.5
_CLASSES_TO, _ANEW_TO = 0.75, 0.85
"""Shares of the run: where classes are chosen, and where detail, which begins anew with their trial, is the finest."""
_LAST_SHARE, _MOST_LAST_BATCH = 0.05, 2000
_FINE_FROM = 0.3
_COARSE_ORDER, _FINE_ORDER, _FINEST_ORDER = 1, 2, 3
_STEP_OF_DETAIL = 0.55
"""Share of the smallest detail that a fine step may move the mask's edge by."""


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """How mini-batches change in the course of a run.

    Parameters
    ----------
    first_batch, least_last_batch : particles for each class.
    growth_from, growth_to : shares of the run between which detail grows.
    middle_from, middle_to : shares of the run between which it stays in the middle.
    first_memory, last_memory : shares of earlier sums that stay.
    memory_of_beliefs : share of earlier noise spectra, spreads of offsets and shares of classes that stays.
    """

    first_batch: int
    least_last_batch: int
    growth_from: float
    growth_to: float
    first_memory: float
    last_memory: float
    memory_of_beliefs: float
    middle_from: float = math.nan
    middle_to: float = math.nan


_ORDINARY = _Plan(
    first_batch=200,
    least_last_batch=500,
    growth_from=0.2,
    growth_to=0.8,
    first_memory=0.8,
    last_memory=0.9,
    memory_of_beliefs=0.9,
)
_POLYHEDRAL = _Plan(
    first_batch=600,
    least_last_batch=800,
    growth_from=0.1,
    growth_to=0.9,
    middle_from=0.3,
    middle_to=0.7,
    first_memory=0.0,
    last_memory=0.0,
    memory_of_beliefs=0.5,
)


@dataclass(frozen=True, kw_only=True)
class MiniBatch:
    """What a mini-batch does.

    Parameters
    ----------
    n_particles : that take part.
    resolution_angstrom : of the details that are compared and kept.
    healpix_order : of the coarse rotations; the fine ones are one order finer.
    memory : share of the sums of earlier mini-batches that stays.
    memory_of_beliefs : share of earlier noise spectra, spreads of offsets and shares of classes that stays.
    has_symmetry : whether the symmetry is imposed.
    """

    n_particles: int
    resolution_angstrom: float
    healpix_order: int
    memory: float
    memory_of_beliefs: float
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

    Of several classes detail begins anew in the middle (`class_trial`) and is the finest from 85 % on.

    Of T, O and I a mini-batch has 600 particles to 800 and makes a map of its own, and detail stays in the middle from
    30 to 70 % of the mini-batches: there, where rotations are told coarsely, the map is to have found itself.
    """
    last = n_iterations(params)
    symmetric = canonical_name(params.symmetry) != "C1" and (
        params.has_symmetry_from_start or iteration > params.minibatches
    )
    x = min(1.0, (iteration - 1) / max(params.minibatches - 1, 1))
    plan = _POLYHEDRAL if params.is_polyhedral else _ORDINARY
    resolution = _detail_angstrom(params, plan, x)
    large = min(max(_LAST_SHARE * n_particles, plan.least_last_batch), _MOST_LAST_BATCH)
    size = round((plan.first_batch + (large - plan.first_batch) * x) * params.classes)
    # nothing that was summed without the symmetry's axes can be kept
    is_new = iteration == last or iteration == 1 or (_n_symmetric(params) > 0 and iteration == params.minibatches + 1)
    return MiniBatch(
        n_particles=n_particles if iteration == last else min(size, n_particles),
        resolution_angstrom=resolution,
        healpix_order=_polyhedral_order(params, resolution) if params.is_polyhedral else _order(x),
        memory=0.0 if is_new else plan.first_memory + (plan.last_memory - plan.first_memory) * x,
        memory_of_beliefs=0.0 if iteration == last else plan.memory_of_beliefs,
        has_symmetry=symmetric,
    )


def sign_trial(params: InitialModelParams) -> tuple[int, int]:
    """Return after which mini-batch of T, O and I both signs begin to be tried, and after which one is chosen.

    Notes
    -----
    From 30 to 50 % of the mini-batches: by then a map has found what it has beside its mean over all directions, and a
    turned one needs some five mini-batches to take the lead.
    """
    return round(_SIGN_FROM * params.minibatches), round(_SIGN_TO * params.minibatches)


def class_trial(params: InitialModelParams) -> tuple[int, int]:
    """Return after which mini-batch small classes begin anew for a trial, and after which one is chosen.

    Notes
    -----
    From 50 to 75 % of the mini-batches: by then one class may have taken all, and its map tells poses. Detail begins
    anew with the trial, as classes part by what is coarse.
    """
    return round(_SIGN_TO * params.minibatches), round(_CLASSES_TO * params.minibatches)


def total_visits(params: InitialModelParams, n_particles: int) -> int:
    """Return how many times particles are looked at in a whole run, all particles together."""
    return sum(minibatch(params, i + 1, n_particles).n_particles for i in range(n_iterations(params)))


def _n_symmetric(params: InitialModelParams) -> int:
    later = canonical_name(params.symmetry) != "C1" and not params.has_symmetry_from_start
    return SYMMETRIC_MINIBATCHES if later else 0


def _detail_angstrom(params: InitialModelParams, plan: _Plan, x: float) -> float:
    """Return the detail at a share of the run: as a frequency it grows evenly."""
    low, high = 1 / params.coarsest_angstrom, 1 / params.finest_angstrom
    if params.classes > 1 and not params.is_polyhedral and x > _SIGN_TO:
        return 1 / (low + (high - low) * _share(x, _SIGN_TO, _ANEW_TO))
    if not params.is_polyhedral:
        return 1 / (low + (high - low) * _share(x, plan.growth_from, plan.growth_to))
    middle = 1 / params.middle_angstrom
    first = (middle - low) * _share(x, plan.growth_from, plan.middle_from)
    return 1 / (low + first + (high - middle) * _share(x, plan.middle_to, plan.growth_to))


def _share(x: float, start: float, stop: float) -> float:
    return min(max((x - start) / (stop - start), 0.0), 1.0)


def _order(x: float) -> int:
    return _COARSE_ORDER if x < _FINE_FROM else _FINE_ORDER


def _polyhedral_order(params: InitialModelParams, resolution_angstrom: float) -> int:
    """Return the order whose fine steps tell the smallest detail at the edge of the mask."""
    for order in (_FINE_ORDER, _FINEST_ORDER):
        fine_step = math.radians(30.0 / 2**order)
        if fine_step * params.mask_diameter_angstrom / 2 <= _STEP_OF_DETAIL * resolution_angstrom:
            break
    return order
