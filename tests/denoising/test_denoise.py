"""Denoising of a pair of half maps: noise, structure, what a half learns of the other, and what does not matter."""

import numpy as np
import pytest
import torch
from torch import Tensor

from halfmap.data.volumes import Volume
from halfmap.denoising import bands, denoise
from halfmap.denoising.network import GainNetwork
from halfmap.errors import InconsistentDataError, InputError
from halfmap.fourier import filters, shells
from halfmap.grid import ImageGrid
from support.half_maps import half_maps, particle, white

GRID = ImageGrid.cubic(40, 3.0)
TO = 7.5
LAST = int(GRID.side * GRID.pixel_size_angstrom / TO)
NOISE = 1.2


def fsc(first: Tensor, second: Tensor) -> Tensor:
    return shells.fsc(GRID.rfft(first.double()), GRID.rfft(second.double()), GRID)


@pytest.fixture(scope="module")
def truth() -> Tensor:
    """Return a ball of which one half is ordered, and the other blurred."""
    ordered = particle(GRID, radius_angstrom=36, b_factor_angstrom2=120.0)
    blurred = filters.apply_filter(ordered, GRID, filters.low_pass(GRID, 20.0, dtype=torch.float64))
    share = torch.sigmoid(GRID.positions(dtype=torch.float64)[..., 2] / 4)
    return share * ordered + (1 - share) * blurred


@pytest.fixture(scope="module")
def halves(truth):
    return half_maps(truth, GRID, noise=NOISE)


@pytest.fixture(scope="module")
def denoised(halves):
    return denoise.denoise(*halves, TO)


@pytest.mark.parametrize("side", [24, 25])
def test_bands_add_up_to_the_map_without_its_mean_up_to_the_limit(side):
    grid = ImageGrid.cubic(side, 2.0)
    total = torch.stack(list(bands.band_filters(grid, 9.0))).sum(0)
    radius = shells.shell_radius(grid)
    assert float(total[0, 0, 0]) == 0
    at_least = radius >= bands.band_shells(9.0)[0]
    assert torch.allclose(total[at_least & (radius <= 9)], torch.ones(()), atol=1e-6)
    assert float(total[radius >= 11].abs().max()) == 0


def test_energies_of_white_noise_are_the_power_of_each_band_everywhere():
    energies = bands.in_bands(white(GRID, 3).float(), GRID, 12.0)[1]
    counted = shells.multiplicity(GRID)
    for number, multiplier in enumerate(bands.band_filters(GRID, 12.0)):
        power = float((multiplier.double().square() * counted).sum()) / GRID.n_pixels
        # a mean over the box: the scatter of the noise's own power, 2 / √(coefficients of the lowest band)
        assert float(energies[2 * number].mean()) == pytest.approx(power, rel=0.6 if number == 0 else 0.2)
    wide, narrow = energies[-1], energies[-2]
    assert float(wide.std()) < 0.5 * float(narrow.std())


def test_denoised_map_is_nearer_to_the_truth_in_every_shell(truth, halves, denoised):
    mean = (halves[0].values + halves[1].values) / 2
    before, after = (fsc(values, truth)[1 : LAST + 1] for values in (mean, denoised.mean.values))
    # an FSC does not change with the weight of a shell, so this is that of the map filtered by the FSC, too
    assert float((after - before).min()) > -0.03  # the chance of single shells, and seams between zones
    assert float((after - before)[LAST // 2 :].mean()) > 0.1


def test_denoised_map_is_nearer_to_the_truth_inside_the_particle_too(truth, halves, denoised):
    inside = (GRID.radii() < 36).double()
    mean = (halves[0].values + halves[1].values) / 2
    before, after = (fsc(values * inside, truth * inside)[1 : LAST + 1] for values in (mean, denoised.mean.values))
    assert float((after - before).mean()) > 0
    assert float((after - before)[LAST // 2 :].mean()) > 0.01


def test_noise_of_solvent_goes_and_its_level_stays(halves, denoised):
    outside = GRID.radii() > 52
    before, after = halves[0].values[outside], denoised.half1.values[outside]
    assert float(after.std()) < 0.3 * float(before.std())
    # the particle's mean is 0.18 and its height 1: a hundredth of that
    assert float(after.mean()) == pytest.approx(float(before.mean()), abs=0.01)


def test_denoised_half_does_not_show_the_noise_of_the_other(truth, halves, denoised):
    """In deviations of its FSC with noise that it cannot know."""
    shown = slice(3, LAST + 1)
    unknown = [float(fsc(denoised.half1.values, white(GRID, number))[shown].mean()) for number in range(10, 40)]
    own = float(fsc(denoised.half1.values, white(GRID, 1))[shown].mean())
    other = float(fsc(denoised.half1.values, white(GRID, 2))[shown].mean())
    assert abs(other) < 3.3 * np.std(unknown)
    assert own > 10 * np.std(unknown)  # what the test would see


def test_denoised_halves_of_noise_agree_as_little_as_noise():
    found = [
        denoise.denoise(*(Volume(values=white(GRID, 50 + 2 * seed + half).float(), grid=GRID) for half in (0, 1)), TO)
        for seed in range(2)
    ]
    curves = torch.stack([fsc(one.half1.values, one.half2.values)[3 : LAST + 1] for one in found])
    plain = torch.stack([fsc(white(GRID, n), white(GRID, n + 100))[3 : LAST + 1] for n in range(60, 100)])
    spread = plain.std(0)
    # the 99.9 % band of all shells of two runs together, if denoised noise were plain noise
    assert float((curves / spread).abs().max()) < 4.0
    assert abs(float((curves / spread).mean())) < 3.3 / curves.numel() ** 0.5
    strength = [float(one.half1.values.std() / white(GRID, 0).std()) for one in found]
    assert max(strength) < 0.1


def test_result_is_the_same_again_and_for_any_number_of_voxels_at_once(halves, denoised):
    again = denoise.denoised_by(denoised.denoiser, halves[0])
    assert torch.equal(again.values, denoised.half1.values)
    few = denoise.denoised_by(denoised.denoiser, halves[0], voxels_at_once=777)
    # matrix products of other heights round otherwise
    assert torch.allclose(few.values, again.values, atol=1e-5 * float(again.values.abs().max()))


def test_networks_learn_the_same_from_one_seed_and_a_little_else_from_another(halves, denoised):
    again, other = (denoise.denoise(*halves, TO, seed=seed) for seed in (1, 2))
    assert torch.equal(again.mean.values, denoised.mean.values)
    difference = float((other.mean.values - again.mean.values).std() / again.mean.values.std())
    assert 0 < difference < 0.15


def test_a_turned_or_mirrored_half_gives_the_turned_or_mirrored_map(halves, denoised):
    """Zones, bands and energies are round; an odd box turns about its centre voxel."""
    grid = ImageGrid.cubic(39, 3.0)
    odd = halves[0].values[1:, 1:, 1:].contiguous()
    plain = denoise.denoised_by(denoised.denoiser, Volume(values=odd, grid=grid)).values
    for change in (lambda values: values.transpose(0, 1).flip(1), lambda values: values.flip(0)):
        found = denoise.denoised_by(denoised.denoiser, Volume(values=change(odd).contiguous(), grid=grid)).values
        assert torch.allclose(found, change(plain), atol=1e-4 * float(plain.abs().max()))


def test_no_voxel_is_denoised_by_a_network_that_learned_from_it():
    share = denoise._share_of_first(GRID)
    learned = [set(denoise._voxels(share == number, 1, number).tolist()) for number in (0, 1)]
    assert float(share[list(learned[1])].min()) == 1  # used by network 0 alone
    assert float(share[list(learned[0])].max()) == 0
    assert not learned[0] & learned[1]


def test_network_begins_as_the_gains_it_is_given():
    network = GainNetwork()
    gains = torch.linspace(0.1, 0.9, bands.N_BANDS)
    network.start_at(gains, torch.arange(bands.N_BANDS) >= 2)
    energies = torch.linspace(0.1, 2.0, bands.N_ENERGIES)[None]
    with torch.no_grad():
        assert torch.allclose(network(energies), gains, atol=1e-6)
        network.answer.weight += 3.0
        changed = (network(energies) - gains).abs()[0] > 1e-3
    assert changed.tolist() == [False, False, True, True, True, True]


def test_boxes_that_are_not_cubic_are_denoised_as_they_are(truth, halves, denoised):
    grid = ImageGrid(shape=(28, 36, 40), pixel_size_angstrom=3.0)
    part = np.s_[6:34, 2:38, :]
    found = denoise.denoised_by(denoised.denoiser, Volume(values=halves[0].values[part].contiguous(), grid=grid))
    assert found.grid == grid
    assert float((found.values - truth[part]).std()) < 0.6 * NOISE


def test_maps_that_do_not_go_together_and_limits_out_of_reach_are_refused(halves):
    other = Volume(values=torch.zeros(36, 36, 36), grid=ImageGrid.cubic(36, 3.0))
    with pytest.raises(InconsistentDataError, match="Half maps must be on one grid"):
        denoise.denoise(halves[0], other, TO)
    for to in (5.0, 25.0):
        with pytest.raises(InputError, match=f"between 6 Å, its Nyquist frequency, and 20 Å.*got {to:g} Å"):
            denoise.denoise(*halves, to)
    with pytest.raises(InputError, match="must agree somewhere"):
        denoise.custom_limit_angstrom(float("inf"), GRID)
    assert denoise.custom_limit_angstrom(9.0, GRID) == 7.5
    assert denoise.custom_limit_angstrom(6.5, GRID) == 6.0
