import math

import numpy as np
import pytest
import torch

from halfmap.errors import ShapeError
from halfmap.fourier import shells
from halfmap.grid import ImageGrid

SHAPES = [(16, 16), (15, 15), (12, 16), (15, 12), (8, 8, 8), (9, 9, 9)]


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


@pytest.mark.parametrize("shape", SHAPES)
def test_shell_sums_count_every_coefficient_of_the_whole_transform_once(shape: tuple[int, ...]) -> None:
    grid = ImageGrid(shape=shape, pixel_size_angstrom=1.7)
    image = noise(*shape)
    half = grid.rfft(image)
    whole = torch.fft.fftn(image, norm="forward").abs() ** 2
    axes = [torch.fft.fftfreq(side, dtype=torch.float64) * max(shape) for side in shape]
    radius = torch.stack(torch.meshgrid(*axes, indexing="ij")).norm(dim=0)
    shell = torch.floor(radius + 0.500001).long()
    expected = torch.stack([whole[shell == s].mean() for s in range(shells.n_shells(grid))])
    assert torch.allclose(shells.power_spectrum(half, grid), expected, rtol=1e-10)  # float64 rounding


@pytest.mark.parametrize("shape", SHAPES)
def test_fsc_of_a_map_with_itself_is_one_and_with_its_negative_minus_one(shape: tuple[int, ...]) -> None:
    grid = ImageGrid(shape=shape, pixel_size_angstrom=1.0)
    half = grid.rfft(noise(*shape).float())
    assert torch.allclose(shells.fsc(half, half, grid), torch.ones(1, dtype=torch.float64), atol=1e-6)
    assert torch.allclose(shells.fsc(half, -3 * half, grid), -torch.ones(1, dtype=torch.float64), atol=1e-6)


def test_fsc_of_two_noisy_copies_is_the_signals_share_of_the_power() -> None:
    grid = ImageGrid.cubic(32, 1.0)
    signal, first, second = (noise(32, 32, 32, seed=seed) for seed in range(3))
    curve = shells.fsc(grid.rfft(signal + first), grid.rfft(signal + second), grid)
    # signal and noise have equal power: ½; shells from 5 on hold over 150 independent coefficients
    assert torch.all((curve[5:] - 0.5).abs() < 4 * math.sqrt(1 / 150))
    assert abs(float(curve[5:].mean()) - 0.5) < 0.03


def test_fsc_is_zero_where_a_shell_is_empty() -> None:
    grid = ImageGrid.square(8, 1.0)
    empty = torch.zeros(grid.rfft_shape, dtype=torch.complex64)
    assert torch.equal(shells.frc(empty, empty, grid), torch.zeros(5, dtype=torch.float64))


def test_fsc_treats_leading_axes_as_a_batch() -> None:
    grid = ImageGrid.square(12, 1.0)
    first, second = grid.rfft(noise(3, 12, 12)), grid.rfft(noise(3, 12, 12, seed=1))
    curves = shells.frc(first, second, grid)
    assert torch.allclose(curves[1], shells.frc(first[1], second[1], grid))


@pytest.mark.parametrize(
    ("values", "expected_shell"),
    [
        ([1, 0.9, 0.5, 0.1, 0.0], 2.0),
        ([1, 0.9, 0.6, 0.4, 0.0], 2.5),
        ([1, 0.9, 0.4, 0.9, 0.0], 1.8),  # the first crossing counts
        ([1, 1, 1, 1, 0.6], 4.0),  # never falls below: the last shell
    ],
)
def test_resolution_is_interpolated_between_shells(values: list[float], expected_shell: float) -> None:
    grid = ImageGrid.cubic(8, 2.0)
    found = shells.resolution_at_threshold(torch.tensor(values), grid, 0.5)
    # a value equal to the threshold is not below it
    assert found == pytest.approx(16.0 / expected_shell, rel=1e-6)


def test_resolution_of_a_curve_that_begins_below_is_infinite() -> None:
    grid = ImageGrid.cubic(8, 2.0)
    assert shells.resolution_at_threshold(torch.zeros(5), grid) == float("inf")


@pytest.mark.parametrize("shape", SHAPES)
def test_spreading_a_curve_and_averaging_it_returns_the_curve(shape: tuple[int, ...]) -> None:
    grid = ImageGrid(shape=shape, pixel_size_angstrom=1.0)
    curve = noise(2, shells.n_shells(grid))
    assert torch.allclose(shells.radial_mean(shells.spread(curve, grid, beyond=7.0), grid), curve)


def test_shells_of_a_non_square_micrograph_are_equally_spaced_in_reciprocal_angstrom() -> None:
    grid = ImageGrid(shape=(10, 20), pixel_size_angstrom=1.5)
    index = shells.shell_index(grid)
    assert int(index[0, 3]) == 3
    assert int(index[3, 0]) == 6
    assert float(shells.shell_frequencies(grid)[6]) == pytest.approx(6 / 30)


def test_a_curve_of_another_grid_is_refused() -> None:
    with pytest.raises(ShapeError, match="5 values; got 4"):
        shells.spread(torch.zeros(4), ImageGrid.square(8, 1.0))
