"""The search as a step: what lies in a micrograph is found, by any number of workers, and after a pause alike."""

import numpy as np
import pytest
import torch

from halfmap.compute.in_process import InProcessExecutor
from halfmap.compute.processes import ProcessExecutor
from halfmap.compute.progress import SilentProgress
from halfmap.errors import InconsistentDataError, InputError, ShapeError
from halfmap.geometry.rotations import angular_distance_degrees, matrix_from_euler
from halfmap.template_matching.global_search import search
from halfmap.template_matching.global_search.background import local_background
from support.template_scenes import SIDE, noise, problem_of, scene, settings

SHAPE = (90, 110)
CORNERS = [(10, 12), (60, 40)]
ANGLES = [(33.0, 50.0, 70.0), (140.0, 75.0, 70.0)]


def in_chunks(problem, units=60):
    object.__setattr__(problem, "units_of_chunk", units)
    return problem


def searched(problem, executor=None, state=None):
    if executor is None:
        with InProcessExecutor(device="cpu", n_threads=1) as executor:
            return searched(problem, executor, state)
    state = search.start(problem) if state is None else state
    for further in search.advance(problem, state, executor, SilentProgress()):
        state = further
    assert search.is_done(problem, state)
    return state


@pytest.fixture(scope="module")
def micrograph():
    return scene(SHAPE, ANGLES, CORNERS, strength=14.0)


@pytest.fixture(scope="module")
def found(micrograph):
    problem = in_chunks(problem_of(micrograph, settings(step=15.0)), 600)
    return problem, searched(problem)


def local(**more):
    return settings(step=15.0, peak_distance=20.0, false_positives=0.01, **more)


def test_particles_are_found_where_and_as_they_lie(found):
    problem, state = found
    result = search.finish(problem, local(), state)
    assert len(result.peaks) == 2
    order = np.argsort(result.peaks.position.numpy()[:, 0])
    assert np.abs(result.peaks.position.numpy()[order] - np.array(CORNERS)).max() < 0.6
    truth = matrix_from_euler(*(torch.tensor(angle, dtype=torch.float64) for angle in zip(*ANGLES, strict=True)))
    off = angular_distance_degrees(result.rotations(result.peaks.pixel)[order.copy()], truth)
    # half a step of 15° along three axes
    assert float(off.max()) < 13.0
    assert result.mip[tuple(reversed(CORNERS[0]))] == pytest.approx(14.0, abs=2.5)


def test_a_particle_raises_its_own_background_but_not_the_local_one(found):
    problem, state = found
    around = search.finish(problem, local(), state)
    plain = search.finish(problem, local(normalisation="orientations"), state)
    assert torch.equal(plain.mip, around.mip)
    for x, y in CORNERS:
        assert float(plain.background_deviation[y, x]) > 1.5 * float(around.background_deviation[y, x])
        assert float(plain.scaled_mip[y, x]) < plain.cutoff < float(around.scaled_mip[y, x])


def coarse(micrograph):
    return in_chunks(problem_of(micrograph, settings(step=30.0)), 40)


def assert_same_bits(first, second):
    for name, values in vars(first.maps).items():
        assert torch.equal(values, getattr(second.maps, name)), name


def test_a_pause_changes_no_bit(micrograph):
    problem = coarse(micrograph)
    assert problem.n_chunks > 3
    with InProcessExecutor(device="cpu", n_threads=1) as executor:
        early = next(iter(search.advance(problem, search.start(problem), executor, SilentProgress())))
    assert_same_bits(searched(problem), searched(problem, state=early))


@pytest.mark.slow
def test_any_number_of_workers_gives_the_same_bits(micrograph):
    with ProcessExecutor(n_workers=2, devices=("cpu",), n_threads=1) as executor:
        shared = searched(coarse(micrograph), executor)
    assert_same_bits(searched(coarse(micrograph)), shared)


def test_the_best_of_defoci_and_pixel_sizes_is_told(micrograph):
    params = settings(
        step=10.0, phi_min_degrees=20.0, phi_max_degrees=50.0, theta_min_degrees=30.0, theta_max_degrees=70.0,
        psi_min_degrees=70.0, psi_max_degrees=70.0,
        defocus_min_angstrom=-4000.0, defocus_max_angstrom=4000.0, defocus_step_angstrom=4000.0,
        pixel_size_min_angstrom=-0.4, pixel_size_max_angstrom=0.4, pixel_size_step_angstrom=0.4,
    )  # fmt: skip
    problem = problem_of(micrograph, params)
    result = search.finish(problem, params, searched(problem))
    x, y = CORNERS[0]
    assert (problem.n_together, problem.n_correlations) == (9, 9 * len(problem.orientations))
    assert float(result.defocus_offset_angstrom[y, x]) == 0.0
    assert float(result.pixel_size_offset_angstrom[y, x]) == 0.0
    assert abs(float(result.phi_degrees[y, x]) - ANGLES[0][0]) < 5
    assert abs(float(result.theta_degrees[y, x]) - ANGLES[0][1]) < 5


def test_a_state_of_another_micrograph_and_too_large_a_search_are_told():
    problem = problem_of(noise((64, 64)), settings())
    other = search.start(problem_of(noise((64, 80)), settings()))
    with (
        InProcessExecutor(device="cpu", n_threads=1) as executor,
        pytest.raises(InconsistentDataError, match="maps of"),
    ):
        next(iter(search.advance(problem, other, executor, SilentProgress())))
    with pytest.raises(ShapeError, match="smaller than the micrograph"):
        problem_of(noise((SIDE - 4, 64)), settings())
    with pytest.raises(InputError, match="at most 2147483647 correlations"):
        problem_of(noise((64, 64)), settings(step=0.5, defocus_max_angstrom=1000.0, defocus_step_angstrom=1.0))


def test_a_background_is_that_of_the_noise_and_passes_over_what_stands_out():
    mean, deviation = 0.3 * noise((200, 260), 1), 1 + 0.05 * noise((200, 260), 2)
    bright = mean.clone()
    bright[80:104, 100:124] += 3.0
    for usual, deviations in (local_background(mean, deviation, 24), local_background(bright, deviation, 24)):
        assert float(usual.abs().max()) < 0.1
        # 1 + 0.3² + 0.05²
        assert float((deviations - 1.0925**0.5).abs().max()) < 0.05
