"""The coarse pass finds what a search of all poses at once finds, for less."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch

from halfmap import keyed_random
from halfmap.errors import ComputeError
from halfmap.inference import coarse
from halfmap.inference.coarse import CoarsePoses, CoarseReferences, Pruning, coarse_pass
from halfmap.inference.posterior import Search, posteriors
from halfmap.inference.priors import Priors
from halfmap.inference.sampling import in_plane_grid
from halfmap.refinement.search import CUT_DEVIATIONS
from support.search_problems import (
    PARTICLES,
    SearchProblem,
    exact_posterior,
    found_posterior,
    lost_mass,
    pruned_mass,
    references_of,
    search_problem,
    volume_problem,
    weighted,
)

POWERS = (50.0, 100.0, 200.0)


def drawn(seed: int, purpose: str, n: int, *size: int) -> torch.Tensor:
    return torch.from_numpy(keyed_random.normal(seed, purpose, np.arange(n), size=size))


def a_pass(
    *, half_turns: bool, seed: int = 1, strength: float = 1.0, n_low: int = 0, kept_mass: float = 1.0
) -> CoarsePoses:
    """A coarse pass over random images, references and shifts; with ``half_turns`` False all rotations in full."""
    n, C, half, T, K = 7, 3, 5, 4, 40
    references = torch.view_as_complex(drawn(seed, "references", C, half, K, 2).float())
    weighted_images = strength * drawn(seed, "images", n, K, 2).float()
    power = strength * drawn(seed, "power", n, K).float().square()
    factors = torch.polar(torch.ones(T, K), drawn(seed, "phases", T, K).float())
    if not half_turns:
        references = torch.cat([references, references.conj()], dim=1)
    priors = Priors(
        fractions=torch.tensor([0.5, 0.5, 0.0], dtype=torch.float64),
        offset_sigma_angstrom=4.0,
        prior_offset_angstrom=drawn(seed, "means", C, 2),
    )
    return coarse_pass(
        weighted_images,
        power,
        CoarseReferences(
            values=references, half_turns=half_turns, damping=torch.ones(K), left_out=torch.zeros(K), n_low=n_low
        ),
        factors,
        priors,
        drawn(seed, "origins", n, T, 2),
        shift_area_angstrom2=1.5,
        pruning=Pruning(kept_mass=kept_mass, max_kept=0, nats=torch.zeros(n)),
    )


def assert_same(one: CoarsePoses, two: CoarsePoses) -> None:
    assert torch.equal(one.poses.first, two.poses.first)
    assert torch.equal(one.poses.row, two.poses.row)
    assert torch.equal(one.poses.shift, two.poses.shift)
    # sums of 80 numbers of order 1 in single precision
    np.testing.assert_allclose(one.scores, two.scores, atol=2e-4)
    np.testing.assert_allclose(one.share, two.share, atol=1e-5)


def test_one_product_serves_rotations_half_a_turn_apart() -> None:
    assert_same(a_pass(half_turns=True), a_pass(half_turns=False))


@pytest.mark.parametrize("n_low", [0, 10])
def test_parts_and_threads_change_nothing(n_low: int, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"half_turns": True, "n_low": n_low, "kept_mass": 0.99}
    whole = a_pass(**settings)
    monkeypatch.setattr(coarse, "SCORES_AT_ONCE", 2 * 30 * 4)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        assert_same(whole, a_pass(**settings))
    finally:
        torch.set_num_threads(before)


def test_images_whose_low_shells_tell_little_are_scored_whole() -> None:
    settings = {"half_turns": True, "strength": 0.01, "kept_mass": 0.99}
    assert_same(a_pass(n_low=10, **settings), a_pass(n_low=0, **settings))


def test_poses_come_by_image_then_row_then_shift() -> None:
    found = a_pass(half_turns=True, n_low=10, kept_mass=0.9, strength=0.3)
    keys = (found.poses.image() * 30 + found.poses.row) * 4 + found.poses.shift
    assert bool((keys[1:] > keys[:-1]).all())


def test_rotations_half_a_turn_apart_are_recognised() -> None:
    steps = {"offset_range_angstrom": 0.0, "offset_step_angstrom": 1.0}
    assert in_plane_grid(psi_step_degrees=12, perturbation=0.3, **steps).half_turns
    assert not in_plane_grid(psi_step_degrees=360 / 31, **steps).half_turns
    even = in_plane_grid(psi_step_degrees=12, **steps)
    order = torch.from_numpy(keyed_random.permutation(1, "rotations", 30))
    assert not replace(even, rotations=even.rotations[order]).half_turns


@cache
def a_problem(particle: str, power: float, n: int) -> SearchProblem:
    return search_problem(particle, power, n=n)


def test_images_that_are_not_finite_are_an_error() -> None:
    problem = a_problem("100 kDa", 200.0, 60)
    images = weighted(problem)
    images.masked[7] = torch.nan
    with pytest.raises(ComputeError, match="finite"):
        list(posteriors(images, references_of(problem), problem.model.priors, problem.search))


def assert_next_to_nothing(lost: torch.Tensor) -> None:
    assert float(lost.mean()) < 1e-3
    assert float(lost.quantile(0.99)) < 1e-2


def check_low_shells_first(particle: str, power: float, n: int) -> None:
    problem = a_problem(particle, power, n)
    # fewer shells first than by default, so that more poses are passed over
    found = [found_posterior(problem, replace(problem.search, low_share=share)) for share in (0.8, 1.0)]
    reduced, whole = lost_mass(exact_posterior(problem), n, *found)
    assert_next_to_nothing(reduced - whole)


def check_coarse_then_fine(particle: str, power: float, n: int) -> None:
    problem = a_problem(particle, power, n)
    (lost,) = lost_mass(exact_posterior(problem), n, found_posterior(problem, problem.search))
    assert_next_to_nothing(lost - pruned_mass(exact_posterior(problem), problem.search.kept_mass))


CHECKS = {"low shells first": check_low_shells_first, "coarse, then fine": check_coarse_then_fine}


@pytest.mark.parametrize("power", POWERS)
@pytest.mark.parametrize("particle", PARTICLES)
@pytest.mark.parametrize("reduction", CHECKS)
def test_reduced_searches_lose_next_to_no_posterior(reduction: str, particle: str, power: float) -> None:
    CHECKS[reduction](particle, power, 40)


@pytest.mark.slow
@pytest.mark.parametrize("power", POWERS)
@pytest.mark.parametrize("particle", PARTICLES)
@pytest.mark.parametrize("reduction", CHECKS)
def test_reduced_searches_lose_next_to_no_posterior_of_many_images(reduction: str, particle: str, power: float) -> None:
    CHECKS[reduction](particle, power, 500)


@cache
def a_volume_problem(particle: str, power: float, n: int, is_local: bool) -> SearchProblem:
    return volume_problem(particle, power, n=n, is_local=is_local)


def lost_besides_pruning(problem: SearchProblem, search: Search) -> torch.Tensor:
    """Return what a search loses of the exact posterior beyond what its last pruning leaves out, shape (n,)."""
    n, found = len(problem.particles), found_posterior(problem, search)
    lost = torch.zeros(n, dtype=torch.float64)
    for part, posterior in exact_posterior(problem):
        (mine,) = lost_mass(iter([(part, posterior)]), n, found)
        lost[part] = mine[part] - pruned_mass(iter([(part, posterior)]), search.kept_mass)
    return lost


WIDE = {"cut_deviations": CUT_DEVIATIONS, "max_kept": 0}
"""What is compared with volumes, but for the limit on samples, which at power 50 leaves out 1 % of the posterior."""


def check_local(particle: str, power: float, n: int) -> None:
    problem = a_volume_problem(particle, power, n, is_local=True)
    assert_next_to_nothing(lost_besides_pruning(problem, replace(problem.search, **WIDE)))


@pytest.mark.parametrize("power", POWERS)
@pytest.mark.parametrize("particle", PARTICLES)
def test_local_searches_against_volumes_lose_next_to_no_posterior(particle: str, power: float) -> None:
    check_local(particle, power, 8)


@pytest.mark.slow
@pytest.mark.parametrize("power", POWERS)
@pytest.mark.parametrize("particle", PARTICLES)
def test_local_searches_against_volumes_lose_next_to_no_posterior_of_many_images(particle: str, power: float) -> None:
    check_local(particle, power, 150)


def check_global(power: float, n: int) -> None:
    problem = a_volume_problem("100 kDa", power, n, is_local=False)
    assert_next_to_nothing(lost_besides_pruning(problem, replace(problem.search, **WIDE)))


def test_global_searches_against_volumes_lose_next_to_no_posterior() -> None:
    check_global(100.0, 4)


@pytest.mark.slow
@pytest.mark.parametrize("power", POWERS)
def test_global_searches_against_volumes_lose_next_to_no_posterior_of_many_images(power: float) -> None:
    check_global(power, 60)


def test_low_shells_first_pass_over_most_poses(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = []
    mark = coarse.dense_scores.mark_hopeful

    def counted(*arrays, **settings):
        marked, count = mark(*arrays, **settings)
        counts.append(count / marked[0].size)
        return marked, count

    monkeypatch.setattr(coarse.dense_scores, "mark_hopeful", counted)
    problem = a_problem("100 kDa", 200.0, 60)
    found_posterior(problem, replace(problem.search, low_share=0.9))
    assert np.median(np.concatenate(counts)) < 0.02
