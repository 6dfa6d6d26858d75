"""The FSC of half maps: what masks add, what is taken away again, where it is read."""

import math

import numpy as np
import pytest
import torch

from halfmap.data.volumes import Volume
from halfmap.errors import InconsistentDataError, InputError
from halfmap.fourier import filters, shells
from halfmap.grid import ImageGrid
from halfmap.io import mrc, star
from halfmap.postprocessing import half_map_fsc as module
from halfmap.postprocessing.half_map_fsc import half_map_fsc, random_phases, resolution_angstrom
from halfmap.postprocessing.params import FscParams
from halfmap.postprocessing.postprocess import postprocess
from support.half_maps import half_maps, particle, sphere_mask, white
from support.shared_data import shared_data

RANDOMISED = "rlnCorrectedFourierShellCorrelationPhaseRandomizedMaskedMaps"


@pytest.mark.parametrize("side", [24, 25])
def test_random_phases_keep_amplitudes_and_the_map_real(side):
    grid = ImageGrid.cubic(side, 2.0)
    before = grid.rfft(white(grid, 1))
    after = random_phases(before, grid, 5, seed=1, half=1)
    of_real_map = grid.rfft(grid.irfft(after))
    assert torch.allclose(of_real_map, after, atol=1e-12)
    assert torch.allclose(after.abs(), before.abs(), atol=1e-12)
    kept = shells.shell_radius(grid) < 5
    assert torch.equal(after[kept], before[kept])
    correlation = shells.fsc(before, after, grid)
    counts = shells.shell_counts(grid)
    assert (correlation[6:].abs() < 5 / torch.sqrt(counts[6:] / 2)).all()


def test_random_phases_of_the_halves_are_independent_and_keyed_by_the_seed():
    grid = ImageGrid.cubic(24, 2.0)
    transform = grid.rfft(white(grid, 1))
    first, second, again, other = (
        random_phases(transform, grid, 3, seed=seed, half=half) for seed, half in ((1, 1), (1, 2), (1, 1), (2, 1))
    )
    assert torch.equal(first, again)
    for unlike in (second, other):
        assert shells.fsc(first, unlike, grid)[5:].abs().mean() < 0.1


def test_correction_takes_away_what_a_hard_mask_adds():
    # strong signal at low resolution, noise alone beyond: a mask with a hard edge spreads the one over the other
    grid = ImageGrid.cubic(64, 2.0)
    signal = particle(grid, radius_angstrom=36, finest_angstrom=16)
    first, second = half_maps(40 * signal, grid, noise=1.0)
    mask = sphere_mask(grid, radius_angstrom=24, edge_angstrom=0)
    fsc = half_map_fsc(first, second, mask)
    beyond = slice(24, 33)
    assert fsc.unmasked[beyond].abs().max() < 0.05
    assert fsc.masked[beyond].min() > 0.9
    assert fsc.corrected[beyond].abs().max() < 0.08  # shells of about 500 independent values within the mask
    assert resolution_angstrom(fsc.masked, grid) == pytest.approx(4.0)  # never falls
    assert fsc.resolution_angstrom > 5


def test_correction_leaves_what_is_signal():
    grid = ImageGrid.cubic(48, 2.0)
    first, second = half_maps(particle(grid, radius_angstrom=30), grid, noise=0.8)
    fsc = half_map_fsc(first, second, sphere_mask(grid, radius_angstrom=34, edge_angstrom=10))
    assert fsc.randomise_from_shell is not None
    start = fsc.randomise_from_shell
    assert torch.equal(fsc.corrected[: start + 2], fsc.masked[: start + 2])
    assert (fsc.corrected - fsc.masked)[start + 4 :].abs().max() < 0.05
    assert fsc.corrected[10:].mean() > fsc.unmasked[10:].mean() + 0.2  # solvent is out


@pytest.mark.parametrize(("side", "cut"), [(48, 10), (49, 15)])
def test_resolution_is_where_the_signal_ends(side, cut):
    grid = ImageGrid.cubic(side, 2.0)
    sharp = filters.low_pass(grid, shells_to_angstrom(grid, cut), 0.0, dtype=torch.float64)
    signal = filters.apply_filter(3 * white(grid, 0, "structure"), grid, sharp)
    fsc = half_map_fsc(*half_maps(signal, grid, noise=1.0), None)
    assert shells_to_angstrom(grid, cut + 1.1) < fsc.resolution_angstrom < shells_to_angstrom(grid, cut)
    assert fsc.last_shell == cut


def shells_to_angstrom(grid, shell):
    return grid.side * grid.pixel_size_angstrom / shell


def test_what_a_mask_spreads_beyond_the_band_of_the_maps_is_no_resolution():
    grid = ImageGrid.cubic(48, 2.0)
    band = 14
    sharp = filters.low_pass(grid, shells_to_angstrom(grid, band + 0.5), 0.0, dtype=torch.float64)
    halves = [
        Volume(values=filters.apply_filter(half.values, grid, sharp), grid=grid)
        for half in half_maps(particle(grid, radius_angstrom=30), grid, noise=0.3)
    ]
    mask = sphere_mask(grid, radius_angstrom=34, edge_angstrom=10)
    plain, told = half_map_fsc(*halves, mask), half_map_fsc(*halves, mask, band_shell=band)
    assert plain.resolution_angstrom < 0.95 * shells_to_angstrom(grid, band)
    assert told.resolution_angstrom == shells_to_angstrom(grid, band)
    assert told.last_shell == band
    assert told.is_limited_by_band
    for before, after in ((plain.unmasked, told.unmasked), (plain.masked, told.masked)):
        assert torch.equal(before[: band + 1], after[: band + 1])
    for curve in (told.unmasked, told.masked, told.randomised, told.corrected, told.particle):
        assert (curve[band + 1 :] == 0).all()
    directional = postprocess(*halves, mask, band_shell=band).directional
    assert directional.best_angstrom == shells_to_angstrom(grid, band)
    # a band to the last shell before Nyquist's leaves it to the sampling
    assert not half_map_fsc(*halves, mask, band_shell=23).is_limited_by_band


def test_without_a_mask_all_curves_are_one():
    grid = ImageGrid.cubic(24, 2.0)
    fsc = half_map_fsc(*half_maps(particle(grid, radius_angstrom=16), grid, noise=0.5), None)
    assert torch.equal(fsc.corrected, fsc.unmasked)
    assert torch.equal(fsc.masked, fsc.unmasked)
    assert fsc.randomise_from_shell is None
    assert fsc.unmasked.dtype == torch.float64


def test_curve_that_never_falls_is_not_corrected():
    grid = ImageGrid.cubic(24, 2.0)
    fsc = half_map_fsc(
        *half_maps(particle(grid, radius_angstrom=16), grid, noise=1e-4),
        sphere_mask(grid, radius_angstrom=18, edge_angstrom=8),
    )
    assert fsc.randomise_from_shell is None
    assert torch.equal(fsc.corrected, fsc.masked)
    assert fsc.resolution_angstrom == pytest.approx(4.0)


def test_phases_are_randomised_from_the_resolution_asked_for():
    grid = ImageGrid.cubic(32, 2.0)
    halves = half_maps(particle(grid, radius_angstrom=20), grid, noise=0.5)
    mask = sphere_mask(grid, radius_angstrom=22, edge_angstrom=8)
    fsc = half_map_fsc(*halves, mask, FscParams(randomise_from_angstrom=8.0))
    assert fsc.randomise_from_shell == 8
    assert fsc.randomise_from_angstrom == pytest.approx(8.0)
    for resolution in (1.0, 500.0):
        with pytest.raises(InputError, match=r"between the box and the Nyquist frequency, 64 and 4 Å; got"):
            half_map_fsc(*halves, mask, FscParams(randomise_from_angstrom=resolution))


def test_particle_fsc_is_that_of_a_box_full_of_particle():
    grid = ImageGrid.cubic(32, 2.0)
    halves = half_maps(particle(grid, radius_angstrom=20), grid, noise=1.0)
    fsc = half_map_fsc(*halves, None, FscParams(molecular_mass_kilodalton=20.0))
    assert fsc.box_over_particle == pytest.approx(0.476 * 64**3 / (20e3 / 0.81))
    # odds of signal to noise grow by that factor
    odds, unmasked_odds = fsc.particle / (1 - fsc.particle), fsc.unmasked / (1 - fsc.unmasked)
    assert torch.allclose(odds[1:], fsc.box_over_particle * unmasked_odds[1:])


def test_correction_of_a_table():
    masked = torch.tensor([1.0, 0.9, 0.8, 0.6, 0.5], dtype=torch.float64)
    randomised = torch.tensor([1.0, 0.9, 0.5, 0.2, 0.0], dtype=torch.float64)
    expected = torch.tensor([1.0, 0.9, 0.8, (0.6 - 0.2) / 0.8, 0.5], dtype=torch.float64)
    assert torch.allclose(module.corrected_fsc(masked, randomised, 1), expected)
    assert torch.isfinite(module.corrected_fsc(masked, torch.ones_like(masked), 1)).all()


@pytest.mark.oracle
def test_curves_of_real_half_maps_agree_with_relion():
    folder = shared_data("oracles/relion5_postprocess")
    halves = [mrc.read_volume(folder / f"run_half{i}_class001_unfil.mrc") for i in (1, 2)]
    mask = mrc.read_volume(folder / "mask.mrc")
    tables = star.read(folder / "postprocess.star")
    general, theirs = tables["general"], tables["fsc"]
    fsc = half_map_fsc(*halves, mask)
    assert fsc.box_over_particle == pytest.approx(float(general.value("rlnParticleBoxFractionSolventMask")), abs=1e-5)
    assert fsc.randomise_from_angstrom == pytest.approx(float(general.value("rlnRandomiseFrom")), abs=1e-5)
    # RELION counts the plane kx = 0 twice (see tests/jobs/test_volume.py, which sums its way and agrees to 1e-4)
    for curve, label in ((fsc.unmasked, "UnmaskedMaps"), (fsc.masked, "MaskedMaps")):
        expected = torch.from_numpy(theirs.numbers(f"rlnFourierShellCorrelation{label}"))
        assert (curve - expected).abs().max() < 0.02
    # random phases are drawn: RELION's curve must be one of ours
    drawn = torch.stack([half_map_fsc(*halves, mask, seed=seed).randomised for seed in range(12)])
    away = (torch.from_numpy(theirs.numbers(RANDOMISED)) - drawn.mean(0)).abs()
    spread = drawn.std(0).clamp_min(2e-4) * math.sqrt(1 + 1 / 12)
    assert ((away / spread)[9:] < 4.5).all()  # 28 shells, deviations from 12 draws
    corrected = torch.from_numpy(theirs.numbers("rlnFourierShellCorrelationCorrected"))
    assert (fsc.corrected - corrected).abs().max() < 0.06  # both the plane and the draw
    quantised = fsc.grid.side * 3.54 / fsc.last_shell
    shell = fsc.grid.side * 3.54 / float(general.value("rlnFinalResolution"))
    # RELION's shell 27 has 0.1415 and ours 0.1449, either side of 0.143
    assert fsc.last_shell in (round(shell), round(shell) + 1)
    assert fsc.resolution_angstrom <= quantised


# refusals


def test_halves_that_are_none_are_refused():
    grid = ImageGrid.cubic(16, 2.0)
    first, second = half_maps(particle(grid, radius_angstrom=10), grid, noise=0.5)
    with pytest.raises(InconsistentDataError, match="got the same values in both; name half 1"):
        half_map_fsc(first, first, None)
    other = Volume(values=second.values, grid=ImageGrid.cubic(16, 2.1))
    with pytest.raises(InconsistentDataError, match=r"pixel size of half map 1, 2 Å; got 2\.1 Å"):
        half_map_fsc(first, other, None)
    small = Volume(values=second.values[1:, 1:, 1:], grid=ImageGrid.cubic(15, 2.0))
    with pytest.raises(InconsistentDataError, match=r"16 × 16 × 16 voxels; got 15 × 15 × 15"):
        half_map_fsc(first, small, None)
    broken = Volume(values=second.values.clone(), grid=grid)
    broken.values[3, 4, 5] = np.nan
    with pytest.raises(InputError, match="Half map 2 must hold finite values"):
        half_map_fsc(first, broken, None)
    empty = Volume(values=torch.zeros(grid.shape), grid=grid)
    with pytest.raises(InputError, match="one value everywhere"):
        half_map_fsc(first, empty, None)


def test_mask_of_other_values_or_sides_is_refused():
    grid = ImageGrid.cubic(16, 2.0)
    halves = half_maps(particle(grid, radius_angstrom=10), grid, noise=0.5)
    with pytest.raises(InputError, match="from 0 to 1; got 2 to 2"):
        half_map_fsc(*halves, Volume(values=torch.full(grid.shape, 2.0), grid=grid))
    with pytest.raises(InconsistentDataError, match="The mask must have the box of the half maps"):
        half_map_fsc(*halves, sphere_mask(ImageGrid.cubic(18, 2.0), radius_angstrom=10, edge_angstrom=4))
