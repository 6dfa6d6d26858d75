"""First maps from particles alone: exact restarts, grey scale, recovery."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch

from halfmap import keyed_random
from halfmap.compute.in_process import InProcessExecutor
from halfmap.data.image_source import ArraySource
from halfmap.fourier import shells, slices
from halfmap.geometry.rotations import angular_distance_degrees, random_rotations
from halfmap.geometry.symmetric_volumes import rotate_volume
from halfmap.geometry.symmetry import operators
from halfmap.grid import ImageGrid
from halfmap.imaging import noise
from halfmap.imaging.projection import project_images
from halfmap.inference.symmetry_axes import without_round_part
from halfmap.io import states
from halfmap.refinement.initial_model import ab_initio
from halfmap.refinement.initial_model.maps import with_sign_turned
from halfmap.refinement.initial_model.params import InitialModelParams
from halfmap.refinement.initial_model.result import on_grid
from halfmap.refinement.initial_model.schedule import sign_trial
from halfmap.refinement.initial_model.state import InitialModelState
from support.model_images import particles_of
from support.volume_images import Views, drawn_views_images, volumes

PIXEL = 5.0


@cache
def a_case(n, side=32, symmetry="C1", pixel_variance=0.01):
    """Return true map, rotations, particles and images."""
    grid = ImageGrid.square(side, PIXEL)
    true = volumes(1, side, PIXEL, radius_angstrom=65.0, symmetry=symmetry, blob_angstrom=7.0, seed=3)
    true = true * len(operators(symmetry)) ** 0.5  # a mean over the group has less power than its parts
    views = Views(
        class_index=np.zeros(n, dtype=np.int64),
        rotation=random_rotations(1, "truth", np.arange(n)),
        origin_angstrom=4.0 * keyed_random.normal(1, "true origins", np.arange(n), size=2),
    )
    particles = particles_of(n, grid, n_micrographs=3)
    images = drawn_views_images(true, particles, views, grid, noise.white_spectrum(grid, pixel_variance))
    return true[0], views.rotation, particles, images.numpy()


def started(case, params, executor):
    _, _, particles, images = case
    grid = ImageGrid.square(images.shape[-1], PIXEL)
    problem = ab_initio.problem_of(particles, ArraySource(images=images, grid=grid), params, executor)
    return problem, ab_initio.start(problem, params)


def small(**given):
    return InitialModelParams(**{"mask_diameter_angstrom": 135.0, "minibatches": 10, **given})


def bits(state, folder):
    path = folder / "state.safetensors"
    history = {name: values for name, values in state.history.items() if name != "seconds"}
    states.save(path, replace(state, history=history))
    return path.read_bytes()


def test_a_loaded_state_goes_on_bit_for_bit(tmp_path):
    params = small(classes=2, mask_diameter_angstrom=110.0)
    with InProcessExecutor(n_threads=1) as executor:
        problem, state = started(a_case(60, side=24), params, executor)
        for _ in range(2):
            state = ab_initio.advance(problem, params, state, executor)
        states.save(tmp_path / "saved.safetensors", state)
        loaded = states.load(tmp_path / "saved.safetensors", InitialModelState)
        one = ab_initio.advance(problem, params, state, executor)
        other = ab_initio.advance(problem, params, loaded, executor)
    assert bits(one, tmp_path) == bits(other, tmp_path)
    assert one.fractions.sum() == pytest.approx(1.0)
    assert not np.isnan(one.references.numpy()).any()


@pytest.mark.parametrize("is_turned", [True, False])
def test_both_signs_of_what_is_not_round_are_tried_and_the_true_one_is_kept(is_turned, tmp_path):
    case = a_case(40, side=24, symmetry="O")
    true, path = case[0], tmp_path / "tried.safetensors"
    params = small(symmetry="O", mask_diameter_angstrom=110.0)
    first, last = sign_trial(params)
    with InProcessExecutor(n_threads=1) as executor:
        problem, state = started(case, params, executor)
        grid = problem.volume_grid
        begun = with_sign_turned(true, grid) if is_turned else true
        state = ab_initio.advance(problem, params, replace(state, iteration=first, references=begun[None]), executor)
        assert len(state.tried) == 1
        states.save(path, state)
        state = states.load(path, InitialModelState)
        while state.iteration < last:
            state = ab_initio.advance(problem, params, state, executor)
    assert state.tried == ()
    found, expected = (without_round_part(values, grid).flatten() for values in (state.references[0], true))
    assert float(torch.corrcoef(torch.stack([found, expected]))[0, 1]) > 0.9


def test_images_are_brought_to_no_more_than_the_finest_detail_needs():
    grid = ImageGrid.square(256, 1.0)
    side = ab_initio.working_side(small(resolution_angstrom=20.0), grid)
    assert side == 36  # 2 (256 / 20 + 2 + 2), up to a number that transforms quickly
    assert ab_initio.working_side(small(resolution_angstrom=1.5, first_resolution_angstrom=40.0), grid) == 256


def test_a_map_on_a_finer_grid_has_projections_of_the_same_grey_values():
    coarse, fine = ImageGrid.cubic(24, 8.0), ImageGrid.cubic(32, 6.0)
    values = volumes(1, 24, 8.0, radius_angstrom=70.0, blob_angstrom=10.0)[0].double()
    image_grid = ImageGrid.square(32, 6.0)
    finer = on_grid(values, coarse, image_grid)
    assert finer.grid == fine
    turn = random_rotations(1, "a view", np.array([0]))
    one = project_images(slices.prepare(values, coarse, padding=3), turn, ImageGrid.square(24, 8.0))
    other = project_images(slices.prepare(finer.values, fine, padding=3), turn, image_grid)
    assert float(other.max() / one.max()) == pytest.approx(1.0, abs=0.02)  # the maxima lie between pixels


def nearest_turn(found, true, ops):
    """Return how many degrees off poses are in the median, up to the map's own orientation, and this, for one hand."""
    best = (180.0, torch.eye(3, dtype=torch.float64))
    for i in range(12):
        for op in ops:
            turn = (true[i] @ op).T @ found[i]
            equivalents = (true[:, None] @ ops) @ turn
            off = float(angular_distance_degrees(found[:, None], equivalents).amin(1).median())
            if off < best[0]:
                best = (off, turn)
    return best


@pytest.mark.slow
@pytest.mark.parametrize("symmetry", ["C1", "D2"])
def test_a_map_is_recovered_up_to_its_hand(symmetry):
    case = a_case(400, symmetry=symmetry)
    true, rotations, _, _ = case
    params = small(symmetry=symmetry, minibatches=40)
    with InProcessExecutor(n_threads=1) as executor:
        problem, state = started(case, params, executor)
        while not ab_initio.is_done(params, state):
            state = ab_initio.advance(problem, params, state, executor)
        model = ab_initio.finish(problem, params, state)
    assert model.is_final
    assert model.symmetry == symmetry
    found = torch.from_numpy(np.array(model.particles["rotation"]))
    mirror = torch.diag(torch.tensor([1.0, 1.0, -1.0], dtype=torch.float64))
    hands = []
    for flip in (torch.eye(3, dtype=torch.float64), mirror):
        off, turn = nearest_turn(found, flip @ rotations @ flip, flip @ operators(symmetry) @ flip)
        hands.append((off, turn, flip))
    off, turn, flip = min(hands, key=lambda one: one[0])
    assert off < 8.0  # degrees: the fine steps are 7.5
    grid = ImageGrid.cubic(32, PIXEL)
    same_hand = true if flip is not mirror else torch.roll(true.flip(0), 1, 0)
    turned = rotate_volume(same_hand, grid, turn)
    one, other = grid.rfft(turned.double()), grid.rfft(model.volumes[0].values.double())
    # the model is centred by its density, the truth is not: compare where they fit best
    product = grid.irfft(one * other.conj())
    at = np.unravel_index(int(product.argmax()), product.shape)
    moved = torch.roll(model.volumes[0].values, [int(i) - 16 for i in at], (0, 1, 2)).double()
    curve = shells.fsc(one, grid.rfft(moved), grid)
    assert shells.resolution_at_threshold(curve, grid, 0.5) < 20.0  # Å
    if symmetry == "D2":
        assert float(model.symmetry_correlation[0]) > 0.9
