from dataclasses import replace

import numpy as np
import pytest
import torch

from halfmap.classification import initial
from halfmap.errors import InputError, ShapeError
from halfmap.fourier import shells
from halfmap.geometry.shapes import soft_disc
from halfmap.grid import ImageGrid
from halfmap.imaging import noise

UIDS = np.arange(1000, 1000 + 7 * 103, 7)


def test_classes_get_equal_numbers_of_particles_at_all_angles() -> None:
    classes, psi_degrees = initial.dealt_out(1, UIDS, 10)
    counts = np.bincount(classes, minlength=10)
    assert counts.max() - counts.min() <= 1
    assert psi_degrees.min() >= 0
    assert psi_degrees.max() < 360
    assert np.histogram(psi_degrees, bins=4, range=(0, 360))[0].min() > 12


def test_dealing_out_depends_on_uids_not_on_rows() -> None:
    forwards, backwards = initial.dealt_out(1, UIDS, 10), initial.dealt_out(1, UIDS[::-1], 10)
    for one, other in zip(forwards, backwards, strict=True):
        assert (one == other[::-1]).all()
    assert (forwards[0] != initial.dealt_out(2, UIDS, 10)[0]).any()


def _averages(grid: ImageGrid, n: int = 20, height: float = 1.0) -> torch.Tensor:
    disc = soft_disc(grid, 50.0, 20.0)
    return height * disc.expand(n, -1, -1) * (1 + 0.1 * torch.arange(n))[:, None, None]


@pytest.mark.parametrize("side", [64, 63])
def test_blobs_have_the_grey_scale_of_the_averages(side: int) -> None:
    grid = ImageGrid.square(side, 4.0)
    averages = _averages(grid)
    found = initial.blobs(averages, grid, 160.0, seed=1)
    assert torch.allclose(found.std((-2, -1)), averages.std((-2, -1)), rtol=1e-5)
    assert (found.mean((-2, -1)) > 0).double().mean() > 0.9  # negative blobs are half as strong
    assert torch.allclose(initial.blobs(100 * averages, grid, 160.0, seed=1), 100 * found, rtol=1e-4, atol=1e-4)


def test_blobs_fill_the_mask_and_differ_between_classes_and_seeds() -> None:
    grid = ImageGrid.square(64, 4.0)
    found = initial.blobs(_averages(grid), grid, 160.0, seed=1)
    power = found.square().mean(0)
    x = grid.positions()[..., 0]
    # D/7 of places and D/20 of their squares: a spread of √((160/7)² + (160/20)²/2 …) about 24 Å
    assert float(((power * x**2).sum() / power.sum()).sqrt()) == pytest.approx(22.0, abs=5.0)
    flat = found.flatten(1) - found.flatten(1).mean(1, keepdim=True)
    correlation = torch.corrcoef(flat)[~torch.eye(20, dtype=torch.bool)]
    assert float(correlation.max()) < 0.95
    assert not torch.allclose(found, initial.blobs(_averages(grid), grid, 160.0, seed=2))


@pytest.mark.parametrize("axis", [0, 1])
def test_blobs_lie_where_the_averages_are(axis: int) -> None:
    grid = ImageGrid.square(64, 4.0)
    one_side = (grid.positions()[..., axis] < 0).float().expand(30, -1, -1)
    found = initial.blobs(one_side, grid, 160.0, seed=1)
    assert float((found.square() * one_side).sum()) > 0.85 * float(found.square().sum())


def test_blobs_of_one_class_do_not_depend_on_the_number_of_classes() -> None:
    grid = ImageGrid.square(32, 4.0)
    many, few = (initial.blobs(_averages(grid, n), grid, 100.0, seed=1) for n in (8, 3))
    assert torch.equal(many[:3], few)


def test_blobs_of_a_wide_mask_stay_inside_the_image() -> None:
    grid = ImageGrid.square(16, 4.0)
    assert bool(torch.isfinite(initial.blobs(_averages(grid, 3), grid, 300.0, seed=1)).all())
    assert not initial.blobs(torch.zeros(2, 16, 16), grid, 40.0, seed=1).any()


@pytest.mark.parametrize("side", [64, 63])
def test_first_references_are_masked_and_hold_low_frequencies_only(side: int) -> None:
    grid = ImageGrid.square(side, 4.0)
    found = initial.first_references(_averages(grid), grid, 160.0, seed=1, mask_edge_angstrom=20.0)
    assert not found[:, grid.radii() > 100.5].any()
    power = shells.power_spectrum(grid.rfft(found.double()), grid).mean(0)
    cut = round(0.07 * side)
    assert float(power[cut + 4 :].sum()) < 2e-3 * float(power[1 : cut + 1].sum())
    finer = initial.first_references(
        _averages(grid), grid, 160.0, seed=1, mask_edge_angstrom=20.0, low_pass_angstrom=10.0
    )
    power_finer = shells.power_spectrum(grid.rfft(finer.double()), grid).mean(0)
    assert float(power_finer[cut + 4 :].sum()) > 10 * float(power[cut + 4 :].sum())
    assert torch.allclose(power_finer[1 : cut - 1], power[1 : cut - 1], rtol=0.2)


def test_first_low_pass_is_50_angstrom_at_3_5_angstrom_pixels() -> None:
    assert initial.first_low_pass_angstrom(3.5) == pytest.approx(50.0)


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
    sums = initial.spectrum_sums(_noise_images(grid, 800, spectrum) + common, grid)
    found = initial.initial_noise(sums, grid)
    # 800 images: 3.5 % in the first shells with eight coefficients, less beyond
    assert torch.allclose(found[1:], spectrum[1:], rtol=0.08)


def test_noise_of_masked_images_is_that_of_the_noise_without_mask() -> None:
    grid = ImageGrid.square(48, 3.0)
    spectrum = noise.white_spectrum(grid, 1.0)
    mask = soft_disc(grid, 45.0, 15.0)
    sums = initial.spectrum_sums(_noise_images(grid, 400, spectrum) * mask, grid)
    found = initial.initial_noise(sums, grid, mask_mean_square=float(mask.square().mean()))
    assert torch.allclose(found[2:], spectrum[2:], rtol=0.1)


def test_few_images_give_no_smaller_noise() -> None:
    grid = ImageGrid.square(32, 3.0)
    spectrum = noise.white_spectrum(grid, 1.0)
    images = _noise_images(grid, 300, spectrum)
    pairs = [
        initial.initial_noise(initial.spectrum_sums(images[i : i + 2], grid), grid)[2:].mean() for i in range(0, 300, 2)
    ]
    assert float(torch.stack(pairs).mean()) == pytest.approx(float(spectrum[2]), rel=0.05)


def test_sums_of_chunks_add_up() -> None:
    grid = ImageGrid.square(32, 3.0)
    images = _noise_images(grid, 90, _falling(grid))
    whole = initial.initial_noise(initial.spectrum_sums(images, grid), grid)
    parts = initial.spectrum_sums(images[:40], grid) + initial.spectrum_sums(images[40:], grid)
    assert torch.allclose(initial.initial_noise(parts, grid), whole, rtol=1e-6)


def test_shells_without_noise_take_a_neighbours() -> None:
    grid = ImageGrid.square(32, 3.0)
    spectrum = noise.white_spectrum(grid, 1.0)
    for empty in ([0, 1, 2], [7, 8], [15, 16]):
        images = _noise_images(grid, 50, spectrum)
        keep = torch.ones(shells.n_shells(grid))
        keep[empty] = 0.0
        images = grid.irfft(grid.rfft(images) * shells.spread(keep, grid))
        found = initial.initial_noise(initial.spectrum_sums(images, grid), grid)
        neighbour = empty[-1] + 1 if empty[0] == 0 else empty[0] - 1
        assert torch.equal(found[empty], found[neighbour].expand(len(empty)))
        assert (found > 0).all()


def test_images_that_are_all_alike_or_none_are_refused() -> None:
    grid = ImageGrid.square(32, 3.0)
    same = torch.ones(5, 32, 32) + soft_disc(grid, 20.0, 5.0)
    with pytest.raises(InputError, match="must differ"):
        initial.initial_noise(initial.spectrum_sums(same, grid), grid)
    with pytest.raises(InputError, match="at least one"):
        initial.initial_noise(replace(initial.spectrum_sums(same, grid), n_images=0), grid)
    with pytest.raises(ShapeError, match="shells"):
        initial.initial_noise(initial.spectrum_sums(same, grid), ImageGrid.square(16, 3.0))
