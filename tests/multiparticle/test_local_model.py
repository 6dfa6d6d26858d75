"""Gradient and Gauss-Newton Hessian of one image's likelihood, against autograd through the same forward model."""

import dataclasses

import numpy as np
import pytest
import torch

from halfmap.data.image_series import SeriesOptics
from halfmap.fourier import slices
from halfmap.geometry.rotations import matrix_from_rotation_vector
from halfmap.imaging.projection import magnified, shift_phases
from halfmap.imaging.series_transfer import CTF_PARAMETERS, ctf_gamma_derivative, image_ctf
from halfmap.multiparticle.local_model import best_scale, products
from halfmap.multiparticle.series_model import SpeciesModel, look
from halfmap.optics.aberrations import odd_phase
from halfmap.optics.ctf import ctf
from halfmap.units import electron_wavelength_angstrom
from support.tilt_windows import scene

NAMES = (
    "shift_x", "shift_y", "turn_x", "turn_y", "turn_z", *CTF_PARAMETERS, "magnification_11", "magnification_12",
    "magnification_21", "magnification_22", *(f"odd_zernike_{i}" for i in range(12)),
)  # fmt: skip


@pytest.fixture(scope="module")
def small():
    """Two particles in three tilts, with every aberration set."""
    drawn = scene(n=2, n_tilts=3, box=24, snr=0.5)
    series, state = drawn.start
    random = np.random.default_rng(1)
    optics = SeriesOptics(
        pixel_size_angstrom=4.0,
        odd_zernike=random.normal(scale=5, size=12),
        even_zernike=random.normal(scale=5, size=8),
        magnification=np.array([[1.01, 0.004], [-0.006, 0.99]]),
    )
    return dataclasses.replace(drawn, start=(series.with_values(optics=optics), state))


def _shown(drawn, p, t, change):
    """Return the model of a particle in an image whose local parameters have changed; double precision."""
    series, state = drawn.start
    band = drawn.images.bands[0].head(7)
    model = SpeciesModel(series, state, band, drawn.images.centre_angstrom[0], torch.ones(2, 3, dtype=torch.bool))
    table = image_ctf(series, state.position_angstrom, model.seen)
    by_name = dict(zip(NAMES, change, strict=True))
    a = by_name["astigmatism_a"]
    mean = table.defocus_u_angstrom[p, t] + by_name["defocus"]
    even = torch.stack([by_name[f"even_zernike_{i}"] + series.optics.even_zernike[i] for i in range(8)])
    odd = torch.stack([by_name[f"odd_zernike_{i}"] + series.optics.odd_zernike[i] for i in range(12)])
    # no astigmatism to begin with; its second component is added below
    transfer = ctf(
        band.frequencies,
        defocus_u_angstrom=mean + a / 2,
        defocus_v_angstrom=mean - a / 2,
        defocus_angle_degrees=torch.zeros((), dtype=torch.float64),
        voltage_kv=300.0,
        spherical_aberration_mm=table.spherical_aberration_mm[p, t] + by_name["spherical_aberration"],
        amplitude_contrast=0.07,
        phase_shift_degrees=torch.rad2deg(by_name["phase_shift"]),
        even_zernike=torch.cat([torch.zeros(1, dtype=torch.float64), even]),
        dtype=torch.float64,
    )
    x, y = band.frequencies.unbind(-1)
    # what b adds to γ: -πλ (b / 2) 2 x y, taken to first order, which is all that its derivative at zero needs
    slope = ctf_gamma_derivative(series, table, band.frequencies)[p, t].double()
    wavelength = electron_wavelength_angstrom(300.0)
    transfer = transfer + slope * (-np.pi * wavelength * by_name["astigmatism_b"] * x * y)
    matrix = torch.as_tensor(series.optics.magnification) + torch.stack(
        [by_name[f"magnification_{i}{j}"] for i in (1, 2) for j in (1, 2)]
    ).reshape(2, 2)
    turn = torch.stack([by_name[f"turn_{axis}"] for axis in "xyz"])
    rotation = matrix_from_rotation_vector(turn) @ model.seen.rotation[p, t]
    half = state.references.halves[int(state.subset[p]) - 1]
    double = slices.PaddedTransform(values=half.values.to(torch.complex128), grid=half.grid)
    view = slices.extract(double, magnified(rotation, matrix), band)
    moved = model.seen.position_angstrom[p, t] - drawn.images.centre_angstrom[0][p, t]
    moved = moved + torch.stack([by_name["shift_x"], by_name["shift_y"]])
    phase = odd_phase(band.frequencies, odd_zernike=odd, voltage_kv=300.0, spherical_aberration_mm=2.7)
    factor = shift_phases(band.frequencies, moved, torch.complex128) * torch.polar(torch.ones_like(phase), phase)
    weight = model._weights.of_image(t, band.frequencies).double()
    return factor * transfer * weight * view


def test_gradient_and_hessian_equal_those_of_autograd(small):
    series, state = small.start
    everything = torch.ones(2, 3, dtype=torch.bool)
    band = small.images.bands[0].head(7)
    model = SpeciesModel(series, state, band, small.images.centre_angstrom[0], everything)
    found = look(small.images, [model], [small.noise], NAMES, [None])[0]
    p, t = 1, 2
    sigma = small.sigma2**0.5

    def whitened(change):
        shown = found.scale[t] * _shown(small, p, t, change) / sigma
        return torch.view_as_real(shown).flatten()

    zero = torch.zeros(len(NAMES), dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(whitened, zero)
    x = torch.view_as_real(small.images.observed[0][p, t, : len(band)].to(torch.complex128)).flatten() / sigma
    residual = x - whitened(zero)
    hessian = jacobian.T @ jacobian
    unit = hessian.diagonal().rsqrt()
    # 1e-4 of each parameter's own curvature: single against double precision
    expected = hessian * unit[:, None] * unit
    torch.testing.assert_close(found.hessian[p, t] * unit[:, None] * unit, expected, atol=1e-4, rtol=0)
    gradient = -(jacobian.T @ residual) * unit
    torch.testing.assert_close(found.gradient[p, t] * unit, gradient, atol=1e-4 * float(residual.norm()), rtol=0)
    assert float(found.chi2[p, t]) == pytest.approx(float(residual.square().sum()), rel=1e-5)


def test_what_does_not_count_leaves_no_trace(small):
    series, state = small.start
    counted = torch.tensor([[True, False, True], [False, False, True]])
    band, centre = small.images.bands[0], small.images.centre_angstrom[0]
    model = SpeciesModel(series, state, band, centre, counted)
    found = look(small.images, [model], [small.noise], NAMES[:5], [None])[0]
    for nothing in (found.chi2, found.gradient, found.hessian):
        assert bool((nothing[~counted] == 0).all())
    assert bool((found.chi2[counted] > 0).all())


def test_a_lower_resolution_needs_only_the_beginning_of_the_windows(small):
    series, state = small.start
    everything = torch.ones(2, 3, dtype=torch.bool)
    band = small.images.bands[0].head(6)
    model = SpeciesModel(series, state, band, small.images.centre_angstrom[0], everything)
    found = look(small.images, [model], [small.noise], (), [None])[0]
    shells = small.images.observed[0][..., : len(band)].abs().square().sum(-1) / small.sigma2
    torch.testing.assert_close(found.products.data, shells.double(), rtol=1e-5, atol=0)


def test_scales_of_images_keep_to_that_of_the_series_where_images_say_little():
    cross, model = torch.tensor([0.0, 50.0, 5e6]), torch.tensor([0.0, 100.0, 1e7])
    found = best_scale(cross.double(), model.double(), prior_scale=2.0, prior_share=0.5)
    assert found.tolist() == pytest.approx([2.0, (50 + 2) / 101, 0.5], abs=1e-5)


def test_slopes_that_are_nearly_parallel_are_told_apart():
    parts = np.random.default_rng(1).normal(size=(2, 1500, 2)).astype(np.float32)
    one, other = torch.view_as_complex(torch.from_numpy(parts))
    model = torch.stack([one, one, one + 1e-4 * other])[None]
    slopes = products(one[None], model, torch.ones(1500)).slopes[0]
    left = slopes[1, 1] - slopes[0, 1] ** 2 / slopes[0, 0]  # once the first has been fitted
    # float32 rounds the second to 1e-7, and what it adds to the first to 1e-3
    assert float(left) == pytest.approx(1e-8 * float(other.abs().square().sum()), rel=0.01)


def test_plain_tensor_operations_agree_with_the_kernels(small):
    series, state = small.start
    everything = torch.ones(2, 3, dtype=torch.bool)
    band, centre = small.images.bands[0], small.images.centre_angstrom[0]
    halves = [
        slices.PaddedTransform(values=half.values.to(torch.complex128), grid=half.grid)
        for half in state.references.halves
    ]
    double = dataclasses.replace(state, references=dataclasses.replace(state.references, halves=tuple(halves)))
    rows = torch.arange(2)
    kernel, plain = (
        SpeciesModel(series, one, band, centre, everything).modelled(1, rows, NAMES) for one in (state, double)
    )
    # double precision has no kernel; near faces of a cell a point's slope may be that of either side
    scale = plain.abs().square().mean(-1, keepdim=True).sqrt()
    wrong = ((kernel - plain).abs() / scale) > 1e-3
    assert float(wrong.double().mean()) < 1e-3
