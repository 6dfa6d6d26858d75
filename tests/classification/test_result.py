import numpy as np
import pytest
import torch

from halfmap import keyed_random
from halfmap.classification import closing
from halfmap.classification.result import FRC_THRESHOLD, frc_resolutions, weighted_by_frc
from halfmap.classification.state import References
from halfmap.fourier.band import FourierBand
from halfmap.fourier.shells import n_shells
from halfmap.geometry.shapes import soft_disc
from halfmap.grid import ImageGrid


def references(grid, n_classes=2, seed=4):
    images = torch.from_numpy(keyed_random.normal(seed, "images", np.arange(n_classes), size=grid.shape)).float()
    curves = torch.ones((n_classes, n_shells(grid)), dtype=torch.float64)
    return References(
        masked=0.5 * images,
        unmasked=0.5 * images,
        plain=images,
        fractions=torch.full((n_classes,), 1 / n_classes, dtype=torch.float64),
        prior_offset_angstrom=torch.zeros((n_classes, 2), dtype=torch.float64),
        offset_sigma_angstrom=5.0,
        ssnr=curves,
        prior_variance=curves,
        error_variance=curves,
        completeness=curves,
    )


def falling(grid):
    """An FRC of 1 at first, then falling through zero at half of the band."""
    shells = torch.arange(n_shells(grid), dtype=torch.float64)
    return (2 - 4 * shells / grid.side).clamp(max=1.0)[None].repeat(2, 1)


@pytest.mark.parametrize("side", [32, 33])
def test_averages_keep_their_shells_whatever_the_sign_of_dc(side):
    grid = ImageGrid(shape=(side, side), pixel_size_angstrom=2.0)
    curve = falling(grid)
    opposite = curve.clone()
    opposite[:, 0] = -1.0
    kept = weighted_by_frc(references(grid), opposite, grid, 0)
    assert kept.std() > 0.1
    torch.testing.assert_close(kept, weighted_by_frc(references(grid), curve, grid, 0))


def test_an_average_whose_halves_agree_is_left_as_it_is():
    grid = ImageGrid(shape=(32, 32), pixel_size_angstrom=2.0)
    band, made = FourierBand(grid), references(grid)
    kept = weighted_by_frc(made, torch.ones_like(falling(grid)), grid, 0)
    # rounding of a transform and back, of values of 0.03
    torch.testing.assert_close(band.gather(grid.rfft(kept)), band.gather(grid.rfft(made.plain)), atol=1e-6, rtol=1e-5)


def test_a_class_without_frc_keeps_its_regularised_average():
    grid = ImageGrid(shape=(32, 32), pixel_size_angstrom=2.0)
    made = references(grid)
    curve = falling(grid)
    curve[1] = torch.nan
    found = weighted_by_frc(made, curve, grid, 0)
    torch.testing.assert_close(found[1], made.unmasked[1])
    assert not torch.allclose(found[0], made.unmasked[0])


def test_a_first_shell_that_is_negative_by_chance_ends_nothing():
    grid = ImageGrid(shape=(32, 32), pixel_size_angstrom=2.0)
    made, curve = references(grid), falling(grid)
    curve[1, 1:3] = -0.2
    found = weighted_by_frc(made, curve, grid, 5)
    band = FourierBand(grid)
    whole, part = (band.gather(grid.rfft(one)).abs() for one in found)
    beyond = (band.shell_of > 3) & (band.shell_of < 12)
    assert bool((part[beyond] > 0).all())
    # beyond the join it ends there
    curve[1] = falling(grid)[1]
    curve[1, 6:9] = -0.2
    ended = band.gather(grid.rfft(weighted_by_frc(made, curve, grid, 5)))[1]
    assert float(ended[band.shell_of > 8].abs().max()) < 1e-6
    assert float(whole[band.shell_of == 9].min()) > 1e-4


def test_a_class_whose_halves_agree_nowhere_keeps_its_regularised_average():
    grid = ImageGrid(shape=(32, 32), pixel_size_angstrom=2.0)
    made, curve = references(grid), falling(grid)
    curve[1] = -0.1
    torch.testing.assert_close(weighted_by_frc(made, curve, grid, 5)[1], made.unmasked[1])


GRID = ImageGrid.square(40, 4.0)
MASK = soft_disc(GRID, 55.0, 20.0)
JOIN = 5


def resolution(*beyond):
    """Return the resolution of a class whose FRC is 1 in the shells that are joined, and then as given."""
    curve = torch.full((1, n_shells(GRID)), torch.nan, dtype=torch.float64)
    curve[0, : JOIN + 1] = 1
    curve[0, JOIN + 1 : JOIN + 1 + len(beyond)] = torch.tensor(beyond, dtype=torch.float64)
    return float(frc_resolutions(curve, GRID, JOIN, MASK)[0])


def test_a_class_has_the_resolution_where_its_halves_cease_to_agree():
    # between shells 8 and 9, of 160 Å
    assert resolution(0.9, 0.8, 0.243, 0.043, 0.9) == pytest.approx(160 / 8.5)
    # to the last shell that was compared
    assert 160 / 8 > resolution(0.9, 0.8, 0.7) > 160 / 9


@pytest.mark.parametrize(
    ("beyond", "is_real"),
    [
        ((0.3, 0.0), False),  # 1.7 deviations of a ring of 40 coefficients
        ((0.5, 0.0), False),
        ((0.6, 0.0), True),
        ((0.3,) * 3 + (0.0,), False),
        ((0.3,) * 6 + (0.0,), True),  # as little in as many rings is no chance
        ((0.1, 0.9, 0.9), False),  # what comes back is not looked at
        ((), False),
    ],
)
def test_halves_that_agree_no_better_than_noise_have_no_resolution(beyond, is_real):
    assert np.isfinite(resolution(*beyond)) == is_real


def test_of_classes_of_noise_one_in_a_thousand_has_a_resolution():
    def noise(purpose):
        return torch.from_numpy(keyed_random.normal(6, purpose, np.arange(4000), size=GRID.shape)).float()

    curves = closing.agreement(noise("one"), noise("two"), GRID, MASK, JOIN, 19)
    # a threshold alone takes every fifth for resolved
    assert 0.15 < float((curves[:, JOIN + 1] > FRC_THRESHOLD).double().mean()) < 0.25
    n_resolved = int(np.isfinite(frc_resolutions(curves, GRID, JOIN, MASK)).sum())
    # 3 deviations, on one side, are 1.35 in a thousand: 5.4 of 4000, and 16 by a chance of 1e-4
    assert n_resolved <= 16
