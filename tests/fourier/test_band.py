import pickle

import numpy as np
import pytest
import torch

from halfmap.errors import InputError, ShapeError
from halfmap.fourier.band import FourierBand
from halfmap.grid import ImageGrid

SIDES = [16, 17, 8, 9]


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


def wave_numbers_of_half_the_plane(side: int, first: int, last: int) -> list[tuple[int, int, int]]:
    """Every pair of mates once, as (shell, ky, kx) in order."""
    found = []
    for ky in range(-(side // 2), side // 2 + 1):
        for kx in range(side // 2 + 1):
            shell = int(np.floor(np.hypot(kx, ky) + 0.5))
            if first <= shell <= last and (kx > 0 or ky > 0):
                found.append((shell, ky, kx))
    return sorted(found)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("first", [1, 2])
def test_band_holds_each_pair_of_mates_once_ordered_by_shell_ky_kx(side: int, first: int) -> None:
    band = FourierBand(ImageGrid.square(side, 1.5), min_shell=first)
    expected = wave_numbers_of_half_the_plane(side, first, side // 2 - 1)
    found = [
        (shell, ky, kx) for shell, (kx, ky) in zip(band.shell_of.tolist(), band.wave_numbers.tolist(), strict=True)
    ]
    assert found == expected
    assert len(band) == len(expected)


def test_number_of_coefficients_at_common_sizes() -> None:
    # half the lattice points of the disc |k| < 31.5 and 63.5 (Gauss' circle problem), without DC
    for side, radius in [(64, 31.5), (128, 63.5)]:
        k = np.arange(-side, side + 1)
        inside = (k[:, None] ** 2 + k**2 < radius**2).sum()
        assert len(FourierBand(ImageGrid.square(side, 1.0))) == (inside - 1) // 2


@pytest.mark.parametrize("side", SIDES)
def test_indices_and_frequencies_are_those_of_the_grid(side: int) -> None:
    grid = ImageGrid.square(side, 1.5)
    band = FourierBand(grid)
    assert torch.allclose(grid.frequencies().reshape(-1, 2)[band.indices], band.frequencies)


@pytest.mark.parametrize("side", SIDES)
def test_scattering_what_was_gathered_limits_the_band(side: int) -> None:
    grid = ImageGrid.square(side, 1.0)
    band = FourierBand(grid, min_shell=2, max_shell=side // 2 - 1)
    image = noise(3, side, side)
    found = grid.irfft(band.scatter(band.gather(grid.rfft(image))))
    axes = torch.fft.fftfreq(side, d=1 / side, dtype=torch.float64)
    shell = torch.floor(torch.hypot(axes[:, None], axes) + 0.5)
    inside = (shell >= 2) & (shell <= side // 2 - 1)
    expected = torch.fft.ifft2(torch.fft.fft2(image) * inside).real
    assert torch.allclose(found, expected, atol=1e-12)


@pytest.mark.parametrize("side", SIDES)
def test_gathering_what_was_scattered_returns_it(side: int) -> None:
    band = FourierBand(ImageGrid.square(side, 1.0))
    values = torch.complex(noise(2, len(band)), noise(2, len(band), seed=1))
    assert torch.equal(band.gather(band.scatter(values)), values)


@pytest.mark.parametrize("side", SIDES)
def test_parseval_holds_with_every_coefficient_counted_twice(side: int) -> None:
    grid = ImageGrid.square(side, 1.0)
    band = FourierBand(grid)
    first, second = noise(len(band), 2), noise(len(band), 2, seed=1)
    a, b = torch.view_as_complex(first), torch.view_as_complex(second)
    in_space = (grid.irfft(band.scatter(a)) * grid.irfft(band.scatter(b))).mean()
    assert float(2 * (band.as_real(a) @ band.as_real(b))) == pytest.approx(float(in_space), rel=1e-12)


@pytest.mark.parametrize("side", SIDES)
def test_head_is_a_prefix(side: int) -> None:
    band = FourierBand(ImageGrid.square(side, 1.0))
    for shell in range(1, band.max_shell + 1):
        head = band.head(shell)
        assert torch.equal(head.indices, band.indices[: len(head)])
        assert int(head.shell_of.max()) == shell


def test_the_band_of_another_pixel_size_has_the_same_limits_in_reciprocal_angstrom() -> None:
    band = FourierBand(ImageGrid.square(64, 1.5), min_shell=4, max_shell=20)
    other = band.for_grid(ImageGrid.square(96, 2.0))
    assert (other.min_shell, other.max_shell) == (8, 40)
    assert other.max_resolution_angstrom == pytest.approx(band.max_resolution_angstrom)
    assert band.for_grid(ImageGrid.square(64, 3.0)).max_shell == 31  # where the other grid ends


def test_shell_sums_count_each_coefficient_once() -> None:
    band = FourierBand(ImageGrid.square(12, 1.0), min_shell=2)
    sums = band.shell_sum(torch.ones(2, len(band)))
    assert sums[1].tolist() == [0, 0, *(int((band.shell_of == s).sum()) for s in range(2, 6))]


def test_as_complex_undoes_as_real() -> None:
    band = FourierBand(ImageGrid.square(12, 1.0))
    values = torch.view_as_complex(noise(3, len(band), 2))
    assert torch.equal(band.as_complex(band.as_real(values)), values)


def test_a_band_survives_pickling() -> None:
    band = FourierBand(ImageGrid.square(12, 1.0), max_shell=4)
    assert torch.equal(pickle.loads(pickle.dumps(band)).indices, band.indices)


def test_gradients_pass_through_gather_and_scatter() -> None:
    band = FourierBand(ImageGrid.square(8, 1.0))
    values = torch.view_as_complex(noise(len(band), 2)).requires_grad_()
    assert torch.autograd.gradcheck(lambda v: band.gather(band.scatter(v) * 2), (values,))


@pytest.mark.parametrize("shells", [(0, 3), (3, 2), (1, 8)])
def test_shells_out_of_range_are_refused(shells: tuple[int, int]) -> None:
    with pytest.raises(InputError, match="1 <= min_shell <= max_shell <= 7"):
        FourierBand(ImageGrid.square(16, 1.0), min_shell=shells[0], max_shell=shells[1])


def test_grids_of_no_square_image_are_refused() -> None:
    with pytest.raises(ShapeError, match="equal sides"):
        FourierBand(ImageGrid(shape=(8, 10), pixel_size_angstrom=1.0))
    with pytest.raises(ShapeError, match="square images"):
        FourierBand(ImageGrid.cubic(8, 1.0))
