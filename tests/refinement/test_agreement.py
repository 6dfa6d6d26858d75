"""Figures of a refinement against the truth: frames that are known, maps whose noise is known."""

import numpy as np
import pytest
import torch

from halfmap import keyed_random
from halfmap.data.volumes import Volume
from halfmap.errors import ShapeError
from halfmap.fourier.resample import shift
from halfmap.geometry import symmetry as groups
from halfmap.geometry.rotations import matrix_from_rotation_vector, random_rotations
from halfmap.geometry.symmetric_volumes import rotate_volume
from halfmap.grid import ImageGrid
from halfmap.refinement import agreement
from halfmap.refinement.agreement import Frame
from support import half_maps

UIDS = np.arange(1, 301)


def turned(degrees: float, purpose: str) -> torch.Tensor:
    vectors = torch.from_numpy(keyed_random.normal(1, purpose, UIDS, size=3))
    return matrix_from_rotation_vector(vectors * np.radians(degrees) / 3**0.5)


@pytest.mark.parametrize(("symmetry", "free"), [("C1", 3), ("C3", 1), ("D2", 0), ("O", 0)])
def test_the_frame_of_a_refinement_is_found_among_errors_and_equivalents(symmetry: str, free: int) -> None:
    """A tenth of the particles is lost altogether."""
    true = random_rotations(1, "true", UIDS)
    origin = keyed_random.normal(1, "origins", UIDS, size=2)
    frame = Frame(
        rotation=random_rotations(2, "frame", np.array([7]))[0],
        centre_angstrom=torch.tensor([3.0 * (free == 3), -2.0 * (free == 3), 5.0 * (free > 0)]).double(),
    )
    operators = groups.operators(symmetry)
    equivalent = true @ operators[UIDS % len(operators)]
    found = turned(2.0, "errors") @ equivalent @ frame.rotation
    found[::10] = random_rotations(3, "lost", UIDS[::10])
    seen = origin - (equivalent[:, :2] @ frame.centre_angstrom).numpy()
    seen += 0.5 * keyed_random.normal(1, "errors of origins", UIDS, size=2)
    fitted = agreement.fitted_frame(true, origin, found, seen, symmetry)
    errors = agreement.pose_errors(fitted, true, origin, found, seen, symmetry)
    # the mean of 270 errors of 2° about three axes and of as many of 0.5 Å
    apart = groups.distance_degrees(fitted.rotation.mT, frame.rotation.mT, symmetry)
    assert float(apart) < 0.5
    moved = operators.mean(0) @ (fitted.centre_angstrom - frame.centre_angstrom)
    assert float(moved.norm()) < 0.2
    # medians of a Maxwell distribution of mean square 2², and of a Rayleigh one of deviation 0.5
    np.testing.assert_allclose(np.median(errors.angle_degrees), 1.54 * 2 / 3**0.5, rtol=0.15)
    np.testing.assert_allclose(np.median(errors.shift_angstrom), 0.5 * 1.18, rtol=0.2)


def test_the_true_map_is_brought_to_where_the_refinement_sees_it() -> None:
    grid = ImageGrid.cubic(32, 4.0)
    values = torch.exp(-(grid.positions() - torch.tensor([12.0, -8.0, 20.0])).square().sum(-1) / 200).float()
    frame = Frame(
        rotation=matrix_from_rotation_vector(torch.tensor([0.3, -0.2, 0.9]).double()),
        centre_angstrom=torch.tensor([4.0, 2.0, -6.0]).double(),
    )
    seen = agreement.in_frame(Volume(values=values, grid=grid), frame).values
    at = frame.rotation.mT @ (torch.tensor([12.0, -8.0, 20.0]).double() - frame.centre_angstrom)
    expected = torch.exp(-(grid.positions() - at).square().sum(-1) / 200)
    assert float((seen - expected).abs().max()) < 2e-3
    # and a view of it is that of the truth
    back = rotate_volume(seen, grid, frame.rotation.mT)
    assert float((shift(back.double(), grid, frame.centre_angstrom) - values).abs().max()) < 4e-3


def test_halves_promise_what_their_mean_keeps() -> None:
    """Independent noise: √(2F / (1 + F)) is the FSC with the truth."""
    grid = ImageGrid.cubic(48, 4.0)
    signal = half_maps.particle(grid, radius_angstrom=55.0, b_factor_angstrom2=600.0)
    first, second = half_maps.half_maps(signal, grid, noise=0.2)
    mask = half_maps.sphere_mask(grid, radius_angstrom=60.0, edge_angstrom=24.0)
    truth = Volume(values=signal.float(), grid=grid)
    found = agreement.map_agreement(first, second, truth, mask, join_resolution_angstrom=40.0)
    assert int(found.compared.sum()) >= 4
    assert not bool(found.compared[: int(48 * 4 / 40) + 1].any())
    mean, largest = found.calibration
    # shells of some hundred independent coefficients
    assert mean < 0.03
    assert largest < 0.08
    # noise that the halves share is promised as signal
    copied = agreement.map_agreement(
        first,
        Volume(values=first.values + 0.05 * (second.values - first.values), grid=grid),
        truth,
        mask,
        join_resolution_angstrom=40.0,
    )
    assert copied.calibration[0] > 4 * mean


def test_a_map_keeps_of_its_reference_what_both_show_near_its_low_pass() -> None:
    """Beyond the particle's size: a ball is its reference in the lowest shells only."""
    grid = ImageGrid.cubic(32, 6.0)
    values = half_maps.particle(grid, radius_angstrom=60.0, b_factor_angstrom2=600.0)
    particle = Volume(values=values.float(), grid=grid)
    other_scale = Volume(values=(3 * values + 0.02 * half_maps.white(grid, 1)).float(), grid=grid)
    ball = half_maps.sphere_mask(grid, radius_angstrom=60.0, edge_angstrom=24.0)
    assert agreement.kept_of_reference(particle, other_scale, 40.0) > 0.95
    assert agreement.kept_of_reference(ball, particle, 40.0) < agreement.LEAST_KEPT_OF_REFERENCE


def test_poses_of_other_particles_are_refused() -> None:
    rotations = random_rotations(1, "some", UIDS)
    with pytest.raises(ShapeError, match="of the same particles"):
        agreement.fitted_frame(rotations, np.zeros((300, 2)), rotations[:200], np.zeros((300, 2)), "C1")
