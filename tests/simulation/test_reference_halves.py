import pytest

from halfmap.fourier import shells
from halfmap.simulation.reference_halves import binary_mask, half_maps, species_box_pixel, true_map
from support.simulations import a_reference

REFERENCE = a_reference("compact-c1-80", 3.0)


def test_half_maps_have_the_resolution_that_was_asked_for():
    first, second = half_maps(REFERENCE, 12.0, seed=1, number=0)
    grid = first.grid
    curve = shells.fsc(grid.rfft(first.values), grid.rfft(second.values), grid)
    # one shell of this box is 1/168 Å
    assert 1 / shells.resolution_at_threshold(curve, grid) == pytest.approx(1 / 12, abs=1 / 168)
    true = grid.rfft(true_map(REFERENCE).values)
    to_truth = shells.fsc(grid.rfft(first.values), true, grid)
    middle = round(168 / 24)  # at half of the frequency noise is 6/64 of the signal
    assert float(to_truth[middle]) == pytest.approx((1 + 6 / 64) ** -0.5, abs=0.03)


def test_halves_differ_less_the_finer_their_resolution():
    first, second = half_maps(REFERENCE, 2.0, seed=1, number=0)
    assert first.grid.side == species_box_pixel(REFERENCE)
    # noise to signal at Nyquist, 6 Å, is 6/3⁶
    assert 0 < float((first.values - second.values).std()) < 0.1 * float(first.values.std())


def test_mask_is_binary_and_holds_nearly_all_density():
    mask, true = binary_mask(REFERENCE), true_map(REFERENCE)
    assert set(mask.values.unique().tolist()) == {0.0, 1.0}
    power = true.values.square()
    assert float((power * mask.values).sum() / power.sum()) > 0.97
    assert float(mask.values.mean()) < 0.3
