"""Sharpening: B-factors found and applied, MTF, weights, filters."""

import math

import numpy as np
import pytest
import torch

from halfmap.data.volumes import Volume
from halfmap.errors import InputError
from halfmap.fourier import filters, shells
from halfmap.grid import ImageGrid
from halfmap.io import mrc, star
from halfmap.postprocessing import sharpening
from halfmap.postprocessing.params import SharpeningParams
from halfmap.postprocessing.sharpening import MtfCurve, fsc_weight, guinier_fit, sharpen
from support.half_maps import half_maps, white
from support.shared_data import shared_data


def dampened(grid, b_factor_angstrom2):
    """White structure under a B-factor, in two halves without noise to speak of."""
    multiplier = torch.exp(-b_factor_angstrom2 / 4 * grid.frequencies().square().sum(-1))
    return half_maps(filters.apply_filter(white(grid, 0, "structure"), grid, multiplier), grid, noise=1e-6)


def ones(grid):
    return torch.ones(shells.n_shells(grid), dtype=torch.float64)


@pytest.mark.parametrize("side", [48, 49])
@pytest.mark.parametrize("b_factor", [60.0, 150.0, -40.0])
def test_guinier_fit_finds_the_b_factor_of_a_simulated_map(side, b_factor):
    grid = ImageGrid.cubic(side, 1.5)
    first, second = dampened(grid, b_factor)
    sharpened = sharpen(first, second, ones(grid), 3.0)
    assert sharpened.b_factor_angstrom2 == pytest.approx(-b_factor, abs=4)  # shells of few coefficients scatter
    after = sharpened.guinier.sharpened[sharpened.guinier.is_fitted][:-1]  # the last shell loses its corners
    assert float(after.std()) < 0.05
    assert sharpened.guinier.b_factor_angstrom2 == sharpened.b_factor_angstrom2


def test_fit_is_exact_on_a_line_and_keeps_to_its_range():
    x = torch.linspace(0, 0.1, 41, dtype=torch.float64)
    y = 3.0 - 25.0 * x
    y[x < 0.02] += 5.0
    y[35] = math.nan
    is_fitted, slope, intercept, correlation = guinier_fit(x, y, from_angstrom=0.02**-0.5, to_angstrom=0.09**-0.5)
    assert slope == pytest.approx(-25.0)
    assert intercept == pytest.approx(3.0)
    assert correlation == pytest.approx(-1.0)
    assert is_fitted.nonzero().flatten().tolist() == [n for n in range(8, 37) if n != 35]


def test_too_few_shells_give_no_b_factor_and_leave_amplitudes_alone():
    grid = ImageGrid.cubic(24, 6.0)  # Nyquist at 12 Å
    first, second = dampened(grid, 400.0)
    sharpened = sharpen(first, second, ones(grid), 12.0, SharpeningParams(fit_from_angstrom=13))
    assert sharpened.b_factor_angstrom2 == 0
    assert math.isnan(sharpened.guinier.slope_angstrom2)
    assert not sharpened.guinier.is_fitted.any()
    # without being told, the fit begins at 1.5 times the resolution of so coarse a map
    found = sharpen(first, second, ones(grid), 24.0)
    assert found.guinier.is_fitted.nonzero().flatten().tolist() == list(range(4, 13))
    assert found.b_factor_angstrom2 == pytest.approx(-400, abs=40)


def test_own_b_factor_is_applied_as_it_is():
    grid = ImageGrid.cubic(32, 2.0)
    first, second = dampened(grid, 100.0)
    sharpened = sharpen(first, second, ones(grid), 4.0, SharpeningParams(b_factor_angstrom2=-70))
    mean = (first.values + second.values) / 2
    expected = filters.apply_filter(mean, grid, filters.b_factor(grid, -70))
    assert torch.allclose(sharpened.volume.values, expected, atol=1e-5)
    assert sharpened.volume.values.dtype == torch.float32


def test_weights_of_a_table():
    curve = torch.tensor([1.0, 0.5, 0.143, 0.01, 0.00005, 0.3], dtype=torch.float64)
    weights = fsc_weight(curve)
    assert weights[:3].tolist() == pytest.approx([1.0, math.sqrt(1 / 1.5), math.sqrt(0.286 / 1.143)])
    assert weights[4:].tolist() == [0.0, 0.0]  # nothing after the end, whatever the curve does


def test_weight_is_the_correlation_of_the_mean_with_the_truth():
    grid = ImageGrid.cubic(40, 2.0)
    truth = white(grid, 0, "structure")
    first, second = half_maps(truth, grid, noise=1.5)
    mean = grid.rfft((first.values.double() + second.values.double()) / 2)
    found = shells.fsc(mean, grid.rfft(truth), grid)[6:]
    half = torch.full_like(found, 1 / (1 + 1.5**2))
    assert torch.allclose(found, fsc_weight(half), atol=0.08)
    assert float((found - fsc_weight(half)).mean()) == pytest.approx(0, abs=0.01)


def test_mtf_is_divided_out():
    grid = ImageGrid.cubic(32, 2.0)
    curve = MtfCurve(
        frequency_per_pixel=torch.linspace(0, 0.5, 51, dtype=torch.float64),
        value=torch.linspace(1.0, 0.3, 51, dtype=torch.float64),
    )
    first, second = dampened(grid, 0.0)
    contrast = curve.at(shells.shell_frequencies(grid), 1.0)  # detector pixels of 1 Å: the map uses half the curve
    assert float(contrast[-1]) == pytest.approx(0.65)
    blur = shells.spread(contrast, grid)
    blurred = [
        Volume(values=filters.apply_filter(half.values.double(), grid, blur).float(), grid=grid)
        for half in (first, second)
    ]
    params = SharpeningParams(b_factor_angstrom2=0.0, mtf_pixel_size_angstrom=1.0)
    restored = sharpen(*blurred, ones(grid), 4.0, params, mtf=curve)
    plain = sharpen(first, second, ones(grid), 4.0, params)
    assert torch.allclose(restored.volume.values, plain.volume.values, atol=1e-5)
    assert torch.allclose(restored.guinier.mtf_corrected, plain.guinier.original, atol=1e-6)
    assert (restored.guinier.original < restored.guinier.mtf_corrected)[1:].all()


def test_mtf_of_a_detector_is_read_between_its_points_and_held_beyond():
    curve = MtfCurve(
        frequency_per_pixel=torch.tensor([0.0, 0.25, 0.5], dtype=torch.float64),
        value=torch.tensor([1.0, 0.6, 0.0], dtype=torch.float64),
    )
    at = curve.at(torch.tensor([0.0, 0.125, 0.375, 0.5, 2.0], dtype=torch.float64), 1.0)
    assert at.tolist() == pytest.approx([1.0, 0.8, 0.3, 0.01, 0.01])


@pytest.mark.parametrize(
    ("frequency", "value", "said"),
    [
        ([0.0, 0.5], [1.0], "at least two points"),
        ([0.0], [1.0], "at least two points"),
        ([0.5, 0.0], [0.3, 1.0], "must rise from 0"),
        ([0.0, 0.5], [100.0, 30.0], "between 0 and 2"),
    ],
)
def test_curves_that_are_no_mtf_are_refused(frequency, value, said):
    with pytest.raises(InputError, match=said):
        MtfCurve(frequency_per_pixel=torch.tensor(frequency), value=torch.tensor(value))


def test_without_fsc_weighting_the_map_is_low_passed():
    grid = ImageGrid.cubic(40, 2.0)
    first, second = dampened(grid, 0.0)
    falling = torch.linspace(1, 0, shells.n_shells(grid), dtype=torch.float64)
    mean = (first.values + second.values) / 2
    for given, expected in ((None, 8.0), (16.0, 16.0)):
        params = SharpeningParams(b_factor_angstrom2=0, fsc_weighting=False, low_pass_angstrom=given)
        sharpened = sharpen(first, second, falling, 8.0, params)
        multiplier = filters.low_pass(grid, expected) * filters.b_factor(grid, 0.0)
        assert sharpened.low_pass_angstrom == expected
        assert torch.allclose(sharpened.volume.values, filters.apply_filter(mean, grid, multiplier), atol=1e-5)
    weighted = sharpen(first, second, falling, 8.0, SharpeningParams(b_factor_angstrom2=0))
    assert weighted.low_pass_angstrom is None
    multiplier = shells.spread(fsc_weight(falling), grid)
    assert torch.allclose(
        weighted.volume.values.double(), filters.apply_filter(mean.double(), grid, multiplier), atol=1e-5
    )


def log_amplitude_over_the_stored_half(values):
    """Mean amplitudes as RELION takes them: over the half transform as stored, the plane kx = 0 with full weight."""
    transform = np.abs(np.fft.rfftn(values.numpy().astype(np.float64), norm="forward"))
    side = values.shape[0]
    k = np.fft.fftfreq(side, 1 / side)
    shell = np.rint(np.sqrt(k[:, None, None] ** 2 + k[:, None] ** 2 + np.arange(side // 2 + 1) ** 2)).astype(int)
    sums = np.bincount(shell.ravel(), transform.ravel()) / np.bincount(shell.ravel())
    return np.log(sums[: side // 2 + 1])


@pytest.mark.oracle
def test_sharpening_agrees_with_relion_given_its_fsc():
    folder = shared_data("oracles/relion5_postprocess")
    first, second = (mrc.read_volume(folder / f"run_half{i}_class001_unfil.mrc") for i in (1, 2))
    tables = star.read(folder / "postprocess.star")
    general, guinier = tables["general"], tables["guinier"]
    curve = torch.from_numpy(tables["fsc"].numbers("rlnFourierShellCorrelationCorrected"))
    theirs = mrc.read_volume(folder / "postprocess.mrc").values
    b_factor = float(general.value("rlnBfactorUsedForSharpening"))

    ours = sharpen(first, second, curve, 9.803, SharpeningParams(fit_from_angstrom=15))
    assert ours.b_factor_angstrom2 == pytest.approx(b_factor, abs=2)  # 0.3 %: amplitudes over a plane counted once
    assert ours.guinier.intercept == pytest.approx(float(general.value("rlnFittedInterceptGuinierPlot")), abs=0.01)
    # what RELION calls the correlation of the fit is its square
    assert ours.guinier.correlation**2 == pytest.approx(float(general.value("rlnCorrelationFitGuinierPlot")), abs=1e-3)
    weighted = torch.from_numpy(guinier.numbers("rlnLogAmplitudesWeighted"))
    assert torch.equal(torch.isfinite(ours.guinier.weighted), weighted > -99)

    given = sharpen(first, second, curve, 9.803, SharpeningParams(b_factor_angstrom2=b_factor))
    away = given.volume.values - theirs
    assert float(away.std() / theirs.std()) < 1e-5  # single precision, and six digits of the FSC

    mean = (first.values + second.values) / 2
    expected = guinier.numbers("rlnLogAmplitudesOriginal")
    assert np.abs(log_amplitude_over_the_stored_half(mean) - expected)[1:].max() < 1e-4
    assert np.abs(ours.guinier.original.numpy() - expected)[1:].max() < 0.07  # low shells hold little but that plane


def test_shells_of_a_fit_are_counted_from_the_settings():
    with pytest.raises(InputError, match="--fit-from must be a lower resolution than --fit-to"):
        SharpeningParams(fit_from_angstrom=4, fit_to_angstrom=8)
    assert sharpening.FEWEST_FITTED_SHELLS == 8
