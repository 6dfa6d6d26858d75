import math

import pytest
import torch

from halfmap.errors import InputError
from halfmap.fourier import filters
from halfmap.grid import ImageGrid


@pytest.mark.parametrize("side", [64, 63])
def test_low_pass_falls_from_one_to_zero_over_two_shells_about_its_resolution(side: int) -> None:
    grid = ImageGrid.square(side, 1.5)
    # round(n · a / d) = 10 for this resolution though n · a / d = 10.3
    row = filters.low_pass(grid, side * 1.5 / 10.3, dtype=torch.float64)[0]
    assert torch.equal(row[:10], torch.ones(10, dtype=torch.float64))
    assert float(row[10]) == pytest.approx(0.5)
    assert torch.all(row[11:].abs() < 1e-12)


def test_edge_is_a_raised_cosine() -> None:
    grid = ImageGrid.square(64, 1.0)
    row = filters.low_pass(grid, 64 / 10, width_shells=8, dtype=torch.float64)[0]
    k = torch.arange(6, 15, dtype=torch.float64)
    assert torch.allclose(row[6:15], 0.5 + 0.5 * torch.cos(math.pi * (k - 6) / 8))


@pytest.mark.parametrize("shape", [(32, 32), (24, 32), (16, 16, 16), (15, 15, 15)])
def test_low_and_high_pass_of_one_resolution_add_to_one(shape: tuple[int, ...]) -> None:
    grid = ImageGrid(shape=shape, pixel_size_angstrom=2.0)
    total = filters.low_pass(grid, 12.0) + filters.high_pass(grid, 12.0)
    assert torch.equal(total, torch.ones(grid.rfft_shape))


def test_filters_of_a_non_square_micrograph_mean_the_same_resolution_on_both_axes() -> None:
    grid = ImageGrid(shape=(32, 64), pixel_size_angstrom=1.0)
    multiplier = filters.low_pass(grid, 8.0, dtype=torch.float64)
    assert float(multiplier[0, 8]) == pytest.approx(0.5)
    assert float(multiplier[4, 0]) == pytest.approx(0.5)


def test_b_factor_dampens_by_exp_of_minus_b_over_four_d_squared() -> None:
    grid = ImageGrid.cubic(16, 1.25)
    multiplier = filters.b_factor(grid, 100.0, dtype=torch.float64)
    assert float(multiplier[0, 0, 4]) == pytest.approx(math.exp(-100 / (4 * 5.0**2)))  # shell 4 is 5 Å
    assert float(multiplier[0, 8, 8]) == 0.0
    assert float(filters.b_factor(grid, -100.0, dtype=torch.float64)[0, 0, 8]) > 1


def test_filtering_keeps_the_mean_and_removes_what_is_beyond() -> None:
    grid = ImageGrid(shape=(20, 30), pixel_size_angstrom=1.0)
    x = grid.positions()[..., 0]
    image = 3 + torch.cos(2 * math.pi * 12 * x / 30)
    filtered = filters.apply_filter(image, grid, filters.low_pass(grid, 5.0, dtype=torch.float64))
    assert torch.allclose(filtered, torch.full_like(filtered, 3.0), atol=1e-12)


def test_a_resolution_far_beyond_nyquist_lets_everything_pass() -> None:
    grid = ImageGrid.square(16, 1.0)
    assert torch.equal(filters.low_pass(grid, 1e-6), torch.ones(grid.rfft_shape))


@pytest.mark.parametrize("value", [0.0, -3.0, float("nan")])
def test_a_resolution_that_is_not_positive_is_refused(value: float) -> None:
    with pytest.raises(InputError, match="must be positive"):
        filters.low_pass(ImageGrid.square(16, 1.0), value)
