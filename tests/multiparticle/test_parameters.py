from dataclasses import replace

import numpy as np
import pytest
import torch

from halfmap.data.image_series import FrameSeries, SeriesOptics
from halfmap.geometry.rotations import matrix_from_rotation_vector, random_rotations, rotation_vector_from_matrix
from halfmap.imaging.deformation import tilt_matrices, views
from halfmap.imaging.series_transfer import image_ctf
from halfmap.multiparticle.parameter_layout import LOCAL, Layout
from halfmap.multiparticle.parameter_priors import shared_precision
from halfmap.multiparticle.parameters import apply, design
from halfmap.multiparticle.params import ParameterChoice
from halfmap.multiparticle.prepared_series import prepared
from halfmap.splines.grids import SplineGrid
from support.series_models import frame_series, particles_in, plain_frame_series, plain_tilt_series, tilt_series

EVERYTHING = {
    "image_warp": "3x2",
    "volume_warp": "2x3x2x3",
    "stage_angles": True,
    "doming": True,
    "positions": True,
    "angles": True,
    "defocus": True,
    "astigmatism": True,
    "phase_shift": True,
    "spherical_aberration": True,
    "magnification": True,
    "odd_zernike_order": 5,
    "even_zernike_order": 4,
}
ALL = ParameterChoice(**EVERYTHING)
RANDOM = np.random.default_rng(4)
OPTICS = SeriesOptics(
    pixel_size_angstrom=1.5,
    magnification=np.array([[1.01, 0.002], [0.003, 0.99]]),
    odd_zernike=RANDOM.normal(size=12),
    even_zernike=RANDOM.normal(size=8),
)
ASTIGMATISM = {
    "astigmatism_angstrom": SplineGrid.constant(400.0),
    "astigmatism_angle_degrees": SplineGrid.constant(35.0),
}


def tilts():
    model = plain_tilt_series()
    model["movement"] = 20 * model["movement"]  # bent enough for its slope to count
    return prepared(tilt_series(model, optics=OPTICS, defocus_angstrom=SplineGrid.constant(2e4), **ASTIGMATISM), ALL)


def frames():
    model = plain_frame_series()
    stage = np.repeat(np.repeat(model["stage"].mean((-2, -1), keepdims=True), 3, -1), 3, -2)
    defocus = SplineGrid.constant(1e4)
    return prepared(
        frame_series({**model, "stage": stage}, optics=OPTICS, defocus_angstrom=defocus, **ASTIGMATISM), ALL
    )


def poses(n_samples, size=(4000, 3600, 1500)):
    """Three particles that move and turn evenly."""
    turns = torch.from_numpy(RANDOM.uniform(0.03, 0.08, (3, 1, 3))) * torch.linspace(0, 1, n_samples)[:, None]
    rotations = matrix_from_rotation_vector(turns) @ random_rotations(2, "test", np.arange(3))[:, None]
    return particles_in(size, 3, n_samples), rotations


def seen_now(series, positions, rotations):
    """Return local parameters that have an absolute value, by name, and rotations."""
    seen = views(series, positions, rotations)
    table = image_ctf(series, positions, seen)
    delta = table.defocus_u_angstrom - table.defocus_v_angstrom
    double = torch.deg2rad(2 * table.defocus_angle_degrees)
    found = {
        "shift_x": seen.position_angstrom[..., 0],
        "shift_y": seen.position_angstrom[..., 1],
        "defocus": (table.defocus_u_angstrom + table.defocus_v_angstrom) / 2,
        "astigmatism_a": delta * double.cos(),
        "astigmatism_b": delta * double.sin(),
        "phase_shift": torch.deg2rad(table.phase_shift_degrees),
        "spherical_aberration": table.spherical_aberration_mm,
    }
    optics = series.optics
    named = zip(("11", "12", "21", "22"), optics.magnification.ravel(), strict=True)
    found |= {f"magnification_{entry}": torch.full_like(delta, value) for entry, value in named}
    for kind in ("odd_zernike", "even_zernike"):
        found |= {f"{kind}_{i}": torch.full_like(delta, value) for i, value in enumerate(getattr(optics, kind))}
    return found, seen.rotation


def change_of_images(series, positions, rotations, layout, shared, own):
    """Central differences of all local parameters, (P, T, len(LOCAL))."""
    ahead, turned_ahead = seen_now(*apply(series, positions, rotations, shared, own, layout))
    back, turned_back = seen_now(*apply(series, positions, rotations, -shared, -own, layout))
    turn = rotation_vector_from_matrix(turned_ahead @ turned_back.mT) / 2
    turns = {f"turn_{axis}": turn[..., i] for i, axis in enumerate("xyz")}
    return torch.stack([turns[name] if name in turns else (ahead[name] - back[name]) / 2 for name in LOCAL], dim=-1)


def predicted(found, shared, own):
    """The same by a design, (P, T, len(LOCAL))."""
    change = torch.einsum("ptdq,pq->ptd", found.particle, own)
    for t, (columns, along) in enumerate(zip(found.columns, found.shared, strict=True)):
        change[:, t] += along @ shared[columns]
    whole = torch.zeros((*change.shape[:2], len(LOCAL)), dtype=torch.float64)
    whole[..., [LOCAL.index(name) for name in found.active]] = change
    return whole


def random_steps(layout, seed=0):
    """Small steps, each a thousandth of its prior's width."""
    random = np.random.default_rng(seed)
    widths = torch.cat([torch.full((block.n_parameters,), block.width) for block in layout.blocks] or [torch.zeros(0)])
    shared = 1e-3 * widths.double() * torch.from_numpy(random.normal(size=layout.n_shared))
    units = torch.tensor([{"Å": 5e-3, "rad": 1e-4}[unit] for unit in layout.particle_units], dtype=torch.float64)
    return shared, units * torch.from_numpy(random.normal(size=(3, layout.n_particle)))


def assert_first_order(measured, expected):
    """To 1e-5 of each local parameter's largest change: what is left is of third order in the steps."""
    size = expected.abs().amax((0, 1)).clamp_min(1e-7)
    assert ((measured - expected).abs() / size).max() < 1e-5


@pytest.mark.parametrize("name", list(EVERYTHING))
@pytest.mark.parametrize("kind", [tilts, frames])
def test_design_is_the_derivative_of_images_for_each_kind_of_parameter(kind, name):
    series = kind()
    layout = Layout(series, 3, 2, ParameterChoice(**{name: EVERYTHING[name]}))
    of_other_kind = {"tilts": ("doming",), "frames": ("volume_warp", "stage_angles")}[kind.__name__]
    assert (layout.n_parameters == 0) == (name in of_other_kind)
    positions, rotations = poses(2)
    shared, own = random_steps(layout)
    measured = change_of_images(series, positions, rotations, layout, shared, own)
    assert_first_order(measured, predicted(design(series, positions, rotations, layout), shared, own))
    assert (measured.abs().sum() > 0) == (layout.n_parameters > 0)


@pytest.mark.parametrize("n_samples", [1, 3])
@pytest.mark.parametrize("kind", [tilts, frames])
def test_design_of_everything_is_the_sum_of_its_parts(kind, n_samples):
    series = kind()
    layout = Layout(series, 3, n_samples, ALL)
    positions, rotations = poses(n_samples)
    shared, own = random_steps(layout, seed=1)
    measured = change_of_images(series, positions, rotations, layout, 0.1 * shared, 0.1 * own)
    assert_first_order(10 * measured, predicted(design(series, positions, rotations, layout), shared, own))


def test_each_shared_parameter_acts_through_its_own_column():
    series = tilts()
    layout = Layout(series, 3, 1, replace(ALL, positions=False, angles=False))
    positions, rotations = poses(1)
    found, own = design(series, positions, rotations, layout), torch.zeros(3, 0, dtype=torch.float64)
    for j in range(0, layout.n_shared, 7):
        shared = torch.zeros(layout.n_shared, dtype=torch.float64)
        shared[j] = 1e-3
        measured = change_of_images(series, positions, rotations, layout, shared, own)
        torch.testing.assert_close(measured, predicted(found, shared, own), atol=1e-9, rtol=1e-5)


def test_a_tilt_depends_on_the_nodes_of_its_own_image_warp_alone():
    series = tilts()
    layout = Layout(series, 3, 1, ParameterChoice(image_warp="3x2"))
    found = design(series, *poses(1), layout)
    for t in range(5):
        assert sorted(found.columns[t].tolist()) == [axis * 30 + t * 6 + i for axis in range(2) for i in range(6)]


def test_deeper_particles_of_inverted_series_need_less_defocus():
    series = tilts()
    layout = Layout(series, 3, 1, ParameterChoice(positions=True))
    found = design(series, *poses(1), layout)
    upright = design(series.with_values(are_angles_inverted=False), *poses(1), layout)
    row = found.active.index("defocus")
    torch.testing.assert_close(found.particle[:, :, row], -upright.particle[:, :, row])


def test_first_dose_of_a_volume_warp_stays():
    series = tilts()
    layout = Layout(series, 3, 1, ParameterChoice(volume_warp="2x3x2x3"))
    assert layout.n_shared == 3 * 2 * 12
    moved, _, _ = apply(series, *poses(1), torch.ones(layout.n_shared).double(), torch.zeros(3, 0), layout)
    change = moved.volume_warp_x_angstrom.values - series.volume_warp_x_angstrom.values
    assert change[0].abs().max() == 0
    torch.testing.assert_close(change[1:], torch.ones(2, 2, 3, 2, dtype=torch.float64))


def test_coma_of_frames_takes_its_tilt_along():
    series = frames()
    layout = Layout(series, 3, 1, ParameterChoice(odd_zernike_order=3))
    assert [block.name for block in layout.blocks] == ["odd aberrations of order 3"]
    theta = torch.tensor([0.0, 1.0, -2.0, 0.0], dtype=torch.float64)
    moved, _, _ = apply(series, *poses(1), theta, torch.zeros(3, 0), layout)
    change = moved.optics.odd_zernike - series.optics.odd_zernike
    np.testing.assert_allclose(change, [2, -4, 0, 1, -2, 0, 0, 0, 0, 0, 0, 0], atol=1e-12)


def test_nothing_changes_by_parameters_of_zero():
    for series in (tilts(), frames()):
        layout = Layout(series, 3, 2, ALL)
        positions, rotations = poses(2)
        zero = torch.zeros(layout.n_shared).double(), torch.zeros(3, layout.n_particle).double()
        before, turned_before = seen_now(series, positions, rotations)
        after, turned_after = seen_now(*apply(series, positions, rotations, *zero, layout))
        torch.testing.assert_close(after, before)
        torch.testing.assert_close(turned_after, turned_before)


def test_astigmatism_of_frames_that_turns_over_stays_smooth_between_nodes():
    series = frames().with_values(
        astigmatism_angstrom=SplineGrid.constant(50.0, (1, 3, 3)),
        astigmatism_angle_degrees=SplineGrid.constant(1.0, (1, 3, 3)),
    )
    layout = Layout(series, 3, 1, ParameterChoice(astigmatism=True))
    theta = torch.zeros(18, dtype=torch.float64)
    theta[9:] = torch.tensor([-10.0, 10, -10, 10, -10, 10, -10, 10, -10])  # across the angle's wrap from 0 to 180°
    moved, _, _ = apply(series, *poses(1), theta, torch.zeros(3, 0), layout)
    angles = moved.astigmatism_angle_degrees.values
    assert angles.max() - angles.min() < 15  # degrees; a wrapped angle would lie 180 apart


def test_names_tell_parameters_apart():
    for series in (tilts(), frames()):
        layout = Layout(series, 3, 2, ALL)
        assert len(set(layout.names)) == layout.n_shared == len(layout.units)
        assert len(set(layout.particle_names)) == layout.n_particle == len(layout.particle_units)


def test_motion_pyramids_begin_at_zero_only_if_their_size_is_new():
    series = prepared(frames(), ParameterChoice(image_warp="2x2"))
    assert isinstance(series, FrameSeries)
    assert [grid.shape for grid in series.pyramid_x_angstrom] == [(6, 2, 2)]
    moved = series.with_values(pyramid_x_angstrom=(SplineGrid.constant(3.0, (6, 2, 2)),))
    assert prepared(moved, ParameterChoice(image_warp="2x2")).pyramid_x_angstrom[0].values.max() == 3.0
    assert prepared(moved, ParameterChoice(image_warp="3x3")).pyramid_x_angstrom[0].values.max() == 0.0


def test_updates_are_differentiable():
    series = tilts()
    layout = Layout(series, 3, 1, ParameterChoice(image_warp="1x1", positions=True, angles=True, defocus=True))
    positions, rotations = poses(1)

    def place(shared, own):
        moved = apply(series, positions, rotations, shared, own, layout)
        seen = views(*moved)
        return seen.position_angstrom, image_ctf(moved[0], moved[1], seen).defocus_u_angstrom, seen.rotation

    inputs = torch.zeros(layout.n_shared).double(), torch.zeros(3, layout.n_particle).double()
    assert torch.autograd.gradcheck(place, [values.requires_grad_() for values in inputs], atol=1e-4)


def test_a_movement_of_all_images_that_positions_undo_is_a_gauge():
    still = {**plain_tilt_series(), "movement": np.zeros((2, 1, 1, 1)), "volume_warp": np.zeros((3, 1, 1, 1, 1))}
    series = tilt_series(still)
    layout = Layout(series, 3, 1, ParameterChoice(image_warp="2x2", positions=True))
    step = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    shared = (tilt_matrices(series) @ step)[:, :2].T[:, :, None].expand(2, 5, 4)
    change = predicted(design(series, *poses(1), layout), shared.flatten(), step.expand(3, 3))
    assert change[..., :2].abs().max() < 1e-12


@pytest.mark.parametrize("n_particles", [0, 2])
@pytest.mark.parametrize(
    "series",
    [tilt_series(plain_tilt_series(tilts=(12.0,), dose=(0.0,))), frame_series(plain_frame_series(n_frames=1))],
    ids=["tilt", "frame"],
)
def test_one_image_and_no_particles_are_no_trouble(series, n_particles):
    layout = Layout(series, n_particles, 2, ALL)
    positions, rotations = (values[:n_particles] for values in poses(2))
    found = design(series, positions, rotations, layout)
    assert found.particle.shape == (n_particles, 1, len(found.active), layout.n_particle)
    assert found.shared[0].shape == (n_particles, len(found.active), len(found.columns[0]))
    theta = torch.ones(layout.n_shared).double(), torch.ones(n_particles, layout.n_particle).double()
    moved, moved_to, _ = apply(series, positions, rotations, *theta, layout)
    assert torch.isfinite(views(moved, moved_to, rotations).position_angstrom).all()
    torch.linalg.cholesky(shared_precision(layout))
