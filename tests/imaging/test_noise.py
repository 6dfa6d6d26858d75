import pytest
import torch

from halfmap.errors import InputError, ShapeError
from halfmap.fourier.shells import n_shells
from halfmap.grid import ImageGrid
from halfmap.imaging import noise

GRIDS = [ImageGrid.square(32, 2.0), ImageGrid.square(33, 2.0), ImageGrid(shape=(24, 31), pixel_size_angstrom=2.0)]


def falling(grid: ImageGrid) -> torch.Tensor:
    return 1.0 / (1.0 + torch.arange(n_shells(grid), dtype=torch.float64)) + 0.2


@pytest.mark.parametrize("grid", GRIDS, ids=lambda grid: str(grid.shape))
def test_white_spectrum_has_the_variance_it_was_made_of(grid):
    assert noise.pixel_variance(noise.white_spectrum(grid, 3.0), grid).item() == pytest.approx(3.0)


@pytest.mark.parametrize("grid", GRIDS, ids=lambda grid: str(grid.shape))
def test_drawn_noise_has_the_stated_pixel_variance_and_spectrum(grid):
    spectrum = noise.with_pixel_variance(falling(grid), grid, 2.0)
    images = noise.draw(1, "noise", range(2000), grid, spectrum)
    assert images.dtype == torch.float32
    # Two million pixels of which long waves make few independent ones: 1.5 % is five standard errors.
    assert images.var().item() == pytest.approx(2.0, rel=0.015)
    torch.testing.assert_close(noise.measure(images, grid)[1:], spectrum[1:], rtol=0.06, atol=0)
    torch.testing.assert_close(noise.measure(images, grid)[0], spectrum[0], rtol=0.2, atol=0)


def test_each_image_belongs_to_its_uid_and_its_own_spectrum():
    grid = GRIDS[0]
    spectra = torch.stack([noise.white_spectrum(grid, 1.0), noise.with_pixel_variance(falling(grid), grid, 4.0)])
    together = noise.draw(1, "noise", [7, 9], grid, spectra)
    alone = noise.draw(1, "noise", [9], grid, spectra[1])
    assert together[1].equal(alone[0])
    assert not noise.draw(1, "noise", [9], grid, spectra[1], iteration=1)[0].equal(alone[0])


def test_impossible_spectra_are_refused():
    grid = GRIDS[0]
    with pytest.raises(InputError, match="spectrum must not be negative"):
        noise.with_pixel_variance(-falling(grid), grid, 1.0)
    with pytest.raises(ShapeError, match="one value for each of 17 shells"):
        noise.draw(1, "noise", [1], grid, torch.ones(5))
