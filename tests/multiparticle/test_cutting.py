"""Windows cut out of whole images: places, contrast, binning, and how wide they must be."""

import numpy as np
import pytest
import torch

from halfmap.data.image_source import ArraySource
from halfmap.errors import InputError
from halfmap.grid import ImageGrid
from halfmap.multiparticle.cutting import (
    CutImages,
    alias_free_length_angstrom,
    binned_grid,
    cut,
    kept_bytes,
    memory_bytes,
    prepared,
    windows,
)
from halfmap.multiparticle.noise import first_variance, mean_share
from halfmap.units import electron_wavelength_angstrom
from support.tilt_windows import tilt_series


def _dot(grid, x, y, width):
    """Return a dark dot at a place in pixels, on a slope."""
    columns, rows = torch.arange(grid.shape[1]), torch.arange(grid.shape[0])[:, None]
    distance = (columns - x) ** 2 + (rows - y) ** 2
    return (50 - 5 * torch.exp(-distance / (2 * width**2)) + 0.01 * columns - 0.02 * rows).float()


@pytest.mark.parametrize("shape", [(150, 200), (131, 97)])
@pytest.mark.parametrize("resolution", [6.0, 20.0])
def test_a_particle_lies_in_the_middle_of_its_window_whatever_the_binning(shape, resolution):
    grid = ImageGrid(shape=shape, pixel_size_angstrom=2.5)
    x, y = 61.3, 70.8
    binned = binned_grid(grid, resolution)
    assert binned.pixel_size_angstrom <= resolution / 2
    ready = prepared(_dot(grid, x, y, 4.0), grid, binned, 300.0)
    window = windows(binned, 80.0, resolution)
    position = torch.tensor([[x, y]], dtype=torch.float64) * 2.5
    values, centre = cut(ready, window, position)
    rest = position - centre
    assert float(rest.abs().max()) <= binned.pixel_size_angstrom / 2 + 1e-9
    # the phases of a dot at the rest: the particle is bright, and where it is said to be
    turned = values * torch.exp(2j * np.pi * (window.band.frequencies @ rest[0]))
    strong = turned.abs() > 0.2 * turned.abs().max()
    assert float(turned[strong].angle().abs().max()) < 0.15  # rad at the highest frequency: 0.02 px


def test_images_are_binned_no_further_than_the_resolution_allows():
    fine = ImageGrid(shape=(4092, 5760), pixel_size_angstrom=0.8)
    binned = binned_grid(fine, 10.0)
    assert 3.5 < binned.pixel_size_angstrom <= 10 / 2 / 1.15
    assert all(side % 2 == 0 for side in binned.shape)
    assert binned_grid(fine, 1.6) == ImageGrid(shape=(4096, 5760), pixel_size_angstrom=0.8)


def test_beyond_the_image_windows_are_empty():
    grid = ImageGrid(shape=(64, 64), pixel_size_angstrom=4.0)
    window = windows(grid, 64.0, 8.0)
    values, _ = cut(torch.ones(64, 64), window, torch.tensor([[-400.0, 0.0], [128.0, 128.0]], dtype=torch.float64))
    assert float(values[0].abs().max()) == 0.0
    assert float(values[1].abs().max()) < 1e-6  # a window of ones has no frequency but zero


def test_windows_hold_what_the_ctf_displaces():
    series = tilt_series(3)
    length = alias_free_length_angstrom(series, 30000.0, 4.0, 300.0)
    wavelength = electron_wavelength_angstrom(300.0)
    displaced = wavelength * 30000.0 / 4.0 - 2.7e7 * wavelength**3 / 4.0**3
    assert length == pytest.approx(300 + 2 * 1.1 * displaced, rel=1e-2)
    assert alias_free_length_angstrom(series, 0.0, 20.0, 300.0) < 301


def test_a_resolution_beyond_the_windows_is_refused():
    with pytest.raises(InputError, match="beyond their second shell"):
        windows(ImageGrid(shape=(64, 64), pixel_size_angstrom=4.0), 40.0, 60.0)


def test_only_used_images_are_read():
    grid = ImageGrid(shape=(64, 64), pixel_size_angstrom=4.0)

    read_numbers = []

    class Watched(ArraySource):
        def read(self, indices):
            read_numbers.extend(indices)
            return super().read(indices)

    source = Watched(images=np.random.default_rng(1).normal(size=(3, 64, 64)), grid=grid)
    window = windows(grid, 64.0, 10.0)
    images = CutImages(
        source,
        [window],
        [torch.full((2, 3, 2), 128.0, dtype=torch.float64)],
        resolution_angstrom=10.0,
        coarsest_angstrom=200.0,
        used=np.array([True, False, True]),
        memory_bytes=1e9,
    )
    assert [t for t, _ in images] == [t for t, _ in images] == [0, 2]
    assert read_numbers == [0, 2]


def test_noise_is_that_of_the_image_where_windows_reach_beyond_its_rim():
    grid = ImageGrid(shape=(310, 290), pixel_size_angstrom=4.0)  # no whole steps of binning
    noise = np.random.default_rng(1).normal(size=(1, *grid.shape)).astype(np.float32)
    window = windows(grid, 128.0, 8.0)
    along = torch.linspace(100.0, 1050.0, 60, dtype=torch.float64)
    near = [torch.stack([torch.full_like(along, x), along], dim=-1) for x in (20.0, 580.0, 4 * 289 - 20.0)]

    def variance(places):
        images = CutImages(ArraySource(images=noise, grid=grid), [window], [places[:, None]], resolution_angstrom=8.0,
                           coarsest_angstrom=400.0, used=np.ones(1, dtype=bool), memory_bytes=1e9)  # fmt: skip
        counted = torch.ones(len(places), 1, dtype=torch.bool)
        share = mean_share(images.share_recorded[0], counted)
        return (first_variance(images, [window.band], [counted])[0] / share)[0, 3:].mean(), float(share)

    found, shares = zip(*map(variance, near), strict=True)
    assert shares[1] == 1
    assert shares[0] == pytest.approx(1 / 2 + 20 / 128, abs=1 / 32)  # whole pixels
    assert shares[2] == pytest.approx(1 / 2 + 20 / 128, abs=1 / 32)
    for one in found:
        assert float(one / found[1]) == pytest.approx(1, abs=0.05)  # a window counts for one, as neighbours overlap


def test_memory_is_said_of_windows_as_they_are_kept_or_cut_again():
    grid = ImageGrid(shape=(64, 64), pixel_size_angstrom=4.0)
    window = windows(grid, 64.0, 10.0)
    position = [torch.full((n, 3, 2), 128.0, dtype=torch.float64) for n in (2, 5)]
    source = ArraySource(images=np.random.default_rng(1).normal(size=(3, 64, 64)), grid=grid)
    twice = kept_bytes([window] * 2, (2, 5), 3)

    def keeps(n_bytes: float) -> bool:
        images = CutImages(source, [window] * 2, position, resolution_angstrom=10.0, coarsest_angstrom=200.0,
                           used=np.ones(3, dtype=bool), memory_bytes=n_bytes)  # fmt: skip
        held = sum(values.nbytes for _, found in list(images) for values in found)
        assert twice == 2 * held
        return images.keeps

    said = [memory_bytes([window] * 2, (2, 5), 3, may_keep_bytes=n_bytes) for n_bytes in (twice, twice - 1)]
    assert (keeps(twice), keeps(twice - 1)) == (True, False)
    assert twice <= said[0] - said[1] < 1.25 * twice
    assert said[1] > twice / 3  # what one image takes, at the least
