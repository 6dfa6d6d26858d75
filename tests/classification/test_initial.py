import numpy as np
import pytest
import torch

from halfmap.classification import initial
from halfmap.fourier import shells
from halfmap.geometry.shapes import soft_disc
from halfmap.grid import ImageGrid

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
