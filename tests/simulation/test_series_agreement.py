from dataclasses import replace

import numpy as np
import pytest
import torch

from halfmap.errors import ShapeError
from halfmap.geometry.rotations import matrix_from_rotation_vector
from halfmap.simulation.series_agreement import compare_series, frame_of_map
from halfmap.simulation.series_params import TiltSeriesSimulationParams
from halfmap.simulation.tilt_series_truth import draw_tilt_series
from halfmap.splines.grids import SplineGrid

PARAMS = TiltSeriesSimulationParams(
    particles_per_series=(30,),
    margin_angstrom=100.0,
    tilt_step_degrees=10.0,
    image_warp_angstrom=0.0,
    defocus_error_angstrom=0.0,
    position_error_angstrom=2.0,
    angle_error_degrees=1.5,
)
COMPARED = {"diameter_angstrom": 80.0, "resolution_angstrom": 10.0}


def drawn(**settings):
    made = draw_tilt_series(0, replace(PARAMS, **settings), [80.0])
    poses = made.species[0]
    true = torch.from_numpy(poses.position_angstrom), torch.from_numpy(poses.rotation)
    start = torch.from_numpy(poses.starting_position_angstrom), torch.from_numpy(poses.starting_rotation)
    return made, true, start


def test_truth_agrees_with_itself():
    made, true, _ = drawn()
    found = compare_series(made.true, made.true, true, true, **COMPARED)
    assert found.n_views > 100
    others = [value for name, value in vars(found).items() if name != "n_views"]
    assert max(others) < 1e-5  # an angle of 0 is known to 1e-6 degrees


def test_errors_are_measured_in_the_images():
    made, true, start = drawn(defocus_error_angstrom=400.0, position_error_angstrom=2.0)
    found = compare_series(made.true, made.starting, true, start, **COMPARED)
    # rms of three turns of 1.5° each, of 30 draws: within 3 standard deviations
    assert found.angle_degrees == pytest.approx(1.5 * 3**0.5, rel=0.25)
    assert found.position_angstrom == pytest.approx(2.0, rel=0.25)
    given = made.starting.defocus_angstrom.values - made.true.defocus_angstrom.values
    assert found.defocus_angstrom == pytest.approx(float(given.square().mean().sqrt()), rel=0.1)


@pytest.mark.parametrize(
    ("switch", "measured", "expected"),
    [
        ({"astigmatism_error_angstrom": 300.0}, "astigmatism_angstrom", 300.0),
        ({"phase_shift_error_degrees": 10.0}, "phase_shift_degrees", 10.0),
        ({"spherical_aberration_error_mm": 0.4}, "spherical_aberration_mm", 0.4),
        ({"magnification_error_percent": 1.0}, "magnification_percent", 1.0),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_each_error_of_the_optics_has_its_column(switch, measured, expected):
    made, true, _ = drawn(**switch)
    found = compare_series(made.true, made.starting, true, true, **COMPARED)
    # of 2 to 26 draws
    assert 0.3 * expected < getattr(found, measured) < 2.0 * expected
    columns = {"astigmatism_angstrom", "phase_shift_degrees", "spherical_aberration_mm", "magnification_percent"}
    assert all(getattr(found, name) < 1e-6 for name in columns - {measured})


def test_aberrations_show_in_the_phases():
    made, true, _ = drawn(odd_aberration_rad=1.0, even_aberration_rad=0.0)
    found = compare_series(made.true, made.starting, true, true, **COMPARED)
    assert found.odd_phase_rad > 0.05
    assert found.ctf_phase_rad < 1e-9
    made, true, _ = drawn(even_aberration_rad=1.0)
    found = compare_series(made.true, made.starting, true, true, **COMPARED)
    assert found.odd_phase_rad < 1e-9
    assert found.ctf_phase_rad > 0.05


def test_it_does_not_matter_whether_warp_or_particle_moves():
    made, true, _ = drawn()
    beam = replace(made.true, tilt_angle_degrees=0.0 * made.true.tilt_angle_degrees)
    axis = torch.deg2rad(torch.tensor(PARAMS.axis_angle_degrees, dtype=torch.float64))
    moved = replace(beam, movement_x_angstrom=SplineGrid.constant(5.0))
    # the image is the volume turned by the axis angle; a particle that goes along with the warp stays
    along = torch.tensor([5 * float(axis.cos()), -5 * float(axis.sin()), 0.0], dtype=torch.float64)
    found = compare_series(beam, moved, true, (true[0] + along, true[1]), **COMPARED)
    assert found.position_angstrom < 1e-9
    assert compare_series(beam, moved, true, true, **COMPARED).position_angstrom == pytest.approx(5 / 2**0.5)


def test_what_of_odd_aberrations_is_a_shift_counts_as_one():
    made, true, _ = drawn()
    odd = np.zeros(12)
    odd[:2] = 2.0, -3.0  # sine and cosine of first order: y and x
    moved = replace(made.true, optics=replace(made.true.optics, odd_zernike=odd))
    found = compare_series(made.true, moved, true, true, **COMPARED)
    assert found.odd_phase_rad < 1e-9
    # a phase of c k is a shift by −c / 2π
    assert found.position_angstrom == pytest.approx(np.sqrt((2.0**2 + 3.0**2) / 2) / (2 * np.pi))
    shifted = replace(
        moved,
        movement_x_angstrom=SplineGrid.constant(3.0 / (2 * np.pi)),
        movement_y_angstrom=SplineGrid.constant(-2.0 / (2 * np.pi)),
    )
    assert compare_series(made.true, shifted, true, true, **COMPARED).position_angstrom < 1e-9


def test_frame_of_a_turned_and_shifted_map_is_found_and_taken_out():
    made, true, _ = drawn()
    turn = matrix_from_rotation_vector(torch.tensor([0.1, -0.3, 0.2], dtype=torch.float64))
    shift = torch.tensor([3.0, -2.0, 5.0], dtype=torch.float64)
    poses = true[0] + true[1] @ shift, true[1] @ turn
    frame = frame_of_map(true, poses)
    torch.testing.assert_close(frame.turn, turn, atol=1e-12, rtol=0)
    torch.testing.assert_close(frame.shift_angstrom, shift, atol=1e-9, rtol=0)
    found = compare_series(made.true, made.true, true, poses, frame=frame, **COMPARED)
    assert found.angle_degrees < 1e-5
    assert found.position_angstrom < 1e-9
    assert found.defocus_angstrom < 1e-9
    without = compare_series(made.true, made.true, true, poses, **COMPARED)
    assert without.angle_degrees > 10.0
    assert without.position_angstrom > 2.0


def test_images_that_are_not_used_do_not_count():
    made, true, start = drawn()
    used = made.starting.is_used.copy()
    used[1:] = False
    one = compare_series(made.true, replace(made.starting, is_used=used), true, start, **COMPARED)
    every = compare_series(made.true, made.starting, true, start, **COMPARED)
    assert 0 < one.n_views < every.n_views


def test_symmetric_particles_may_have_any_equivalent_pose():
    made, true, _ = drawn()
    half_turn = torch.diag(torch.tensor([-1.0, -1.0, 1.0], dtype=torch.float64))
    poses = true[0], true[1] @ half_turn
    assert compare_series(made.true, made.true, true, poses, symmetry="C2", **COMPARED).angle_degrees < 1e-5
    assert compare_series(made.true, made.true, true, poses, **COMPARED).angle_degrees == pytest.approx(180.0)


def test_other_particles_are_refused():
    made, true, _ = drawn()
    with pytest.raises(ShapeError, match="particles"):
        compare_series(made.true, made.true, true, (true[0][:5], true[1][:5]), **COMPARED)
