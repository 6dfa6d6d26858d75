"""References: filtered by what the other half confirms, joined where coarse, ended by mask and resolution."""

import numpy as np
import pytest
import torch

from halfmap import keyed_random
from halfmap.data.volumes import Volume
from halfmap.errors import InconsistentDataError, InputError
from halfmap.fourier import slices
from halfmap.fourier.band import FourierBand
from halfmap.grid import ImageGrid
from halfmap.multiparticle.references import reference_pair
from support.tilt_windows import blobs

GRID = ImageGrid.cubic(48, 3.0)
BAND = FourierBand(ImageGrid.square(48, 3.0))
NEXT_TO_NONE = 1e-4
FRONT = torch.eye(3, dtype=torch.float64)


def _halves(noise):
    signal = blobs(GRID)
    draws = keyed_random.normal(1, "noise of halves", np.arange(2), size=GRID.shape)
    return [Volume(values=signal + noise * torch.from_numpy(one).float(), grid=GRID) for one in draws]


def _power(padded):
    shown = slices.extract(padded, FRONT, BAND)
    return BAND.shell_sum(shown.abs().square())


def test_perfect_halves_stay_as_they_are_up_to_the_resolution():
    halves = _halves(NEXT_TO_NONE)
    pair = reference_pair(*halves, 9.0, diameter_angstrom=110.0)
    whole = slices.extract(slices.prepare(halves[0].values, GRID), FRONT, BAND)
    last = int(48 * 3 / 9)
    inside, outside = BAND.shell_of <= last, BAND.shell_of > last + 1
    found = slices.extract(pair.halves[0], FRONT, BAND)
    difference = (found - whole)[inside].abs().square().sum() / whole[inside].abs().square().sum()
    assert float(difference) < 1e-3  # of the power: linear interpolation on two grids
    assert float(found[outside].abs().square().sum()) < 1e-4 * float(whole[inside].abs().square().sum())


def test_references_are_sampled_no_finer_than_they_need_to_be():
    pair = reference_pair(*_halves(NEXT_TO_NONE), 9.0, diameter_angstrom=100.0)
    grid = pair.halves[0].grid.grid
    assert 9 / 2 * 0.8 < grid.pixel_size_angstrom <= 9 / 2
    assert 1.2 * 100 < grid.side * grid.pixel_size_angstrom < 1.35 * 100


def test_noise_is_filtered_out_of_each_half_but_signal_kept():
    clean = reference_pair(*_halves(NEXT_TO_NONE), 6.5, diameter_angstrom=110.0)
    noisy = reference_pair(*_halves(0.5), 6.5, diameter_angstrom=110.0)
    assert float(noisy.signal[2]) > 0.9
    assert float(noisy.signal[20]) < 0.5
    clean_power, noisy_power = _power(clean.halves[0]), _power(noisy.halves[0])
    assert float(noisy_power[3] / clean_power[3]) == pytest.approx(1.0, abs=0.2)
    # a reference never has more power than the signal and its remaining uncertainty
    assert float(noisy_power[15:22].sum()) < 1.2 * float(clean_power[15:22].sum())


def test_halves_are_one_where_coarse_and_two_where_fine():
    pair = reference_pair(*_halves(0.5), 6.5, diameter_angstrom=110.0, join_angstrom=36.0)
    first, second = (slices.extract(half, FRONT, BAND) for half in pair.halves)
    last_joined = int(48 * 3 / 36)  # shell 4; the mask carries a little across
    difference, power = (BAND.shell_sum(x.abs().square()) for x in (first - second, first))
    assert float((difference / power)[1 : last_joined - 1].max()) < 0.01
    assert float((difference / power)[10]) > 0.05


def test_halves_coarser_than_half_their_box_make_references_all_the_same():
    pair = reference_pair(*_halves(NEXT_TO_NONE), 72.0, diameter_angstrom=72.0)
    assert all(float(_power(half).sum()) > 0 for half in pair.halves)


def test_what_does_not_belong_together_is_refused():
    first, second = _halves(0.1)
    other = ImageGrid.cubic(40, 3.0)
    with pytest.raises(InconsistentDataError):
        reference_pair(first, Volume(values=torch.zeros(40, 40, 40), grid=other), 9.0, diameter_angstrom=100.0)
    off_grid = Volume(values=torch.ones(40, 40, 40), grid=other)
    with pytest.raises(InconsistentDataError):
        reference_pair(first, second, 9.0, diameter_angstrom=100.0, mask=off_grid)
    with pytest.raises(InputError, match="that their maps hold"):
        reference_pair(first, second, 4.0, diameter_angstrom=100.0)
    negative = Volume(values=-first.values, grid=GRID)
    with pytest.raises(InputError, match="something in common"):
        reference_pair(first, negative, 9.0, diameter_angstrom=100.0)


def test_a_mask_ends_the_reference():
    mask = (GRID.positions().norm(dim=-1) < 12).float()
    pair = reference_pair(*_halves(NEXT_TO_NONE), 6.5, diameter_angstrom=110.0, mask=Volume(values=mask, grid=GRID))
    whole = reference_pair(*_halves(NEXT_TO_NONE), 6.5, diameter_angstrom=110.0)
    assert float(_power(pair.halves[0]).sum()) < 0.6 * float(_power(whole.halves[0]).sum())
