from dataclasses import replace

import numpy as np
import pytest
import torch

from halfmap.errors import InputError, ShapeError
from halfmap.fourier import shells
from halfmap.geometry.shapes import soft_disc
from halfmap.grid import ImageGrid
from halfmap.imaging import noise
from halfmap.inference.first_noise import initial_noise, spectrum_sums


def _noise_images(grid: ImageGrid, n: int, spectrum: torch.Tensor) -> torch.Tensor:
    return noise.draw(1, "test of first noise", np.arange(n), grid, spectrum)


def _falling(grid: ImageGrid) -> torch.Tensor:
    k = torch.arange(shells.n_shells(grid), dtype=torch.float64)
    return noise.with_pixel_variance(1 / (1 + (k / 8) ** 2) + 0.2, grid, 1.0)


@pytest.mark.parametrize("side", [32, 33])
def test_noise_spectrum_is_that_of_what_the_images_do_not_share(side: int) -> None:
    grid = ImageGrid.square(side, 3.0)
    spectrum = _falling(grid)
    common = 5 * torch.exp(-grid.radii().square() / 200).float()
    sums = spectrum_sums(_noise_images(grid, 800, spectrum) + common, grid)
    found = initial_noise(sums, grid)
    # 800 images: 3.5 % in the first shells with eight coefficients, less beyond
    assert torch.allclose(found[1:], spectrum[1:], rtol=0.08)


def test_noise_of_masked_images_is_that_of_the_noise_without_mask() -> None:
    grid = ImageGrid.square(48, 3.0)
    spectrum = noise.white_spectrum(grid, 1.0)
    mask = soft_disc(grid, 45.0, 15.0)
    sums = spectrum_sums(_noise_images(grid, 400, spectrum) * mask, grid)
    found = initial_noise(sums, grid, mask_mean_square=float(mask.square().mean()))
    assert torch.allclose(found[2:], spectrum[2:], rtol=0.1)


def test_few_images_give_no_smaller_noise() -> None:
    grid = ImageGrid.square(32, 3.0)
    spectrum = noise.white_spectrum(grid, 1.0)
    images = _noise_images(grid, 300, spectrum)
    pairs = [initial_noise(spectrum_sums(images[i : i + 2], grid), grid)[2:].mean() for i in range(0, 300, 2)]
    assert float(torch.stack(pairs).mean()) == pytest.approx(float(spectrum[2]), rel=0.05)


def test_sums_of_chunks_add_up() -> None:
    grid = ImageGrid.square(32, 3.0)
    images = _noise_images(grid, 90, _falling(grid))
    whole = initial_noise(spectrum_sums(images, grid), grid)
    parts = spectrum_sums(images[:40], grid) + spectrum_sums(images[40:], grid)
    assert torch.allclose(initial_noise(parts, grid), whole, rtol=1e-6)


def test_shells_without_noise_take_a_neighbours() -> None:
    grid = ImageGrid.square(32, 3.0)
    spectrum = noise.white_spectrum(grid, 1.0)
    for empty in ([0, 1, 2], [7, 8], [15, 16]):
        images = _noise_images(grid, 50, spectrum)
        keep = torch.ones(shells.n_shells(grid))
        keep[empty] = 0.0
        images = grid.irfft(grid.rfft(images) * shells.spread(keep, grid))
        found = initial_noise(spectrum_sums(images, grid), grid)
        neighbour = empty[-1] + 1 if empty[0] == 0 else empty[0] - 1
        assert torch.equal(found[empty], found[neighbour].expand(len(empty)))
        assert (found > 0).all()


def test_images_that_are_all_alike_or_none_are_refused() -> None:
    grid = ImageGrid.square(32, 3.0)
    same = torch.ones(5, 32, 32) + soft_disc(grid, 20.0, 5.0)
    with pytest.raises(InputError, match="must differ"):
        initial_noise(spectrum_sums(same, grid), grid)
    with pytest.raises(InputError, match="at least one"):
        initial_noise(replace(spectrum_sums(same, grid), n_images=0), grid)
    with pytest.raises(ShapeError, match="shells"):
        initial_noise(spectrum_sums(same, grid), ImageGrid.square(16, 3.0))
