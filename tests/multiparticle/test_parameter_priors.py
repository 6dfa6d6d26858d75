import numpy as np
import pytest
import torch

from halfmap.multiparticle.parameter_layout import Layout
from halfmap.multiparticle.parameter_priors import particle_precision, shared_precision
from halfmap.multiparticle.parameter_update import with_shared
from halfmap.multiparticle.params import ParameterChoice, PriorWidths
from halfmap.optics.aberrations import even_phase, odd_phase
from support.series_models import frame_series, plain_frame_series, plain_tilt_series, tilt_series

FAR = 1e9  # no prior to speak of
TILT_DOSES = np.array(plain_tilt_series()["dose"])


def energy(precision, theta):
    return (theta @ precision @ theta / 2).item()


def tilt_layout(choice, **widths):
    return Layout(tilt_series(plain_tilt_series()), 3, 1, ParameterChoice(**choice), PriorWidths(**widths))


def test_width_counts_each_node():
    layout = tilt_layout({"stage_angles": True}, stage_angle_degrees=2.0, stage_angle_step_degrees=FAR)
    theta = torch.arange(15, dtype=torch.float64)
    assert energy(shared_precision(layout), theta) == pytest.approx(theta.square().sum().item() / 8)


def test_steps_count_between_tilts_in_order_of_dose():
    layout = tilt_layout({"defocus": True}, defocus_angstrom=FAR, defocus_step_angstrom=10.0)
    theta = torch.tensor([3.0, -1.0, 4.0, 1.0, -5.0], dtype=torch.float64)
    expected = np.square(np.diff(theta.numpy()[np.argsort(TILT_DOSES)])).sum() / 200
    assert energy(shared_precision(layout), theta) == pytest.approx(expected)


def test_bends_cost_and_slopes_in_space_do_not():
    widths = {"image_warp_angstrom": FAR, "image_warp_step_angstrom": FAR, "image_warp_bend_angstrom": 2.0}
    layout = tilt_layout({"image_warp": "4x3"}, **widths)
    x, y = torch.meshgrid(torch.arange(4.0), torch.arange(3.0), indexing="xy")
    precision = shared_precision(layout)

    def of(field):
        theta = torch.zeros(2, 5, 3, 4, dtype=torch.float64)
        theta[0, 1] = field
        return energy(precision, theta.flatten())

    assert of(1 + 3 * x - 2 * y) == pytest.approx(0, abs=1e-12)
    assert of(x**2) == pytest.approx(2 * 3 * 2**2 / (2 * 2**2))  # 2 second differences of 2 in each of 3 rows
    assert of(y**2) == pytest.approx(1 * 4 * 2**2 / (2 * 2**2))


def test_frozen_doses_of_a_volume_warp_hold_their_neighbours():
    widths = {"volume_warp_angstrom": FAR, "volume_warp_step_angstrom": 5.0, "volume_warp_bend_angstrom": FAR}
    layout = tilt_layout({"volume_warp": "1x1x1x4"}, **widths)
    theta = torch.tensor([2.0, 2.0, 5.0, 0, 0, 0, 0, 0, 0], dtype=torch.float64)
    assert energy(shared_precision(layout), theta) == pytest.approx((2**2 + 0 + 3**2) / 50)


@pytest.mark.parametrize("series", [tilt_series(plain_tilt_series()), frame_series(plain_frame_series())])
def test_every_parameter_has_a_prior(series):
    choice = ParameterChoice(
        image_warp="2x2", volume_warp="2x2x2x3", stage_angles=True, doming=True, positions=True, angles=True,
        defocus=True, astigmatism=True, phase_shift=True, spherical_aberration=True, magnification=True,
        odd_zernike_order=5, even_zernike_order=4,
    )  # fmt: skip
    layout = Layout(series, 3, 3, choice)
    for precision, n in ((shared_precision(layout), layout.n_shared), (particle_precision(layout), layout.n_particle)):
        assert precision.shape == (n, n)
        torch.testing.assert_close(precision, precision.T)
        torch.linalg.cholesky(precision)


def test_positions_cost_by_width_and_by_step():
    series = tilt_series(plain_tilt_series())
    widths = PriorWidths(position_angstrom=4.0, position_step_angstrom=2.0)
    layout = Layout(series, 3, 2, ParameterChoice(positions=True), widths)
    theta = torch.tensor([1.0, 0, 0, 3.0, 0, 0], dtype=torch.float64)
    assert energy(particle_precision(layout), theta) == pytest.approx((1 + 9) / 32 + 2**2 / 8)


def mean_square(phase):
    """The mean of a function of frequencies over the disc up to 3 Å."""
    axis = (np.arange(200) + 0.5) / 100 - 1
    grid = torch.from_numpy(np.stack(np.meshgrid(axis, axis), axis=-1)) / 3
    inside = grid.norm(dim=-1) <= 1 / 3
    return float(phase(grid)[inside].square().mean())


@pytest.mark.parametrize("kind", ["odd", "even"])
@pytest.mark.parametrize("series", [tilt_series(plain_tilt_series()), frame_series(plain_frame_series())])
def test_aberrations_cost_by_the_phase_that_they_turn_together(series, kind):
    choice = ParameterChoice(odd_zernike_order=5) if kind == "odd" else ParameterChoice(even_zernike_order=4)
    layout = Layout(series, 3, 1, choice, PriorWidths(aberration_rad=0.5))
    theta = torch.from_numpy(np.random.default_rng(1).normal(size=layout.n_shared))
    changed = with_shared(series, theta, layout).optics
    before = series.optics
    if kind == "odd":
        coefficients = np.subtract(changed.odd_zernike, before.odd_zernike)
        turned = mean_square(
            lambda s: odd_phase(s, odd_zernike=coefficients, voltage_kv=300.0, spherical_aberration_mm=2.7)
        )
    else:
        coefficients = np.subtract(changed.even_zernike, before.even_zernike)
        turned = mean_square(lambda s: even_phase(s, [0.0, *coefficients]))
    assert energy(shared_precision(layout), theta) == pytest.approx(turned / 0.5**2 / 2, rel=0.01)


def test_a_coma_that_does_not_shift_is_likelier_than_one_that_does():
    precision = shared_precision(tilt_layout({"odd_zernike_order": 3}))
    still, moving = (torch.tensor([0, tilt, 0, 0, 9.0, 0], dtype=torch.float64) for tilt in (18.0, 0.0))
    assert energy(precision, still) == pytest.approx(1 / 16, rel=0.01)  # 27 r³ cos α: ⟨(3 r)⁶ cos²⟩ is 1/8
    assert energy(precision, moving) > 10 * energy(precision, still)
