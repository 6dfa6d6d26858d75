"""Symmetry expansion: all copies of a particle look the same at a map with the symmetry, and stay one particle."""

import numpy as np
import pytest
import torch

from halfmap.data.half_sets import HalfSets, with_random_subsets
from halfmap.errors import InconsistentDataError, InputError
from halfmap.fourier import slices
from halfmap.fourier.band import FourierBand
from halfmap.geometry.symmetry import operators
from halfmap.geometry.symmetry_names import order
from halfmap.grid import ImageGrid
from halfmap.imaging.projection import project
from halfmap.selection.expansion import expand
from support.particle_sets import a_particle_set


def a_symmetric_map(grid, symmetry):
    """Return Gaussian blobs at all equivalents of three points: symmetric exactly, not by interpolation."""
    points = torch.tensor([[4.0, 1.0, 0.5], [1.0, 3.0, 4.0], [0.3, -2.0, 5.5]], dtype=torch.float64)
    equivalents = (operators(symmetry)[:, None] @ points[:, :, None])[..., 0].reshape(-1, 3)
    axis = torch.arange(24, dtype=torch.float64) - 12
    x, y, z = (torch.exp(-((axis - equivalents[:, k, None]) ** 2) / (2 * 1.4**2)) for k in range(3))
    return torch.einsum("pz,py,px->zyx", z, y, x).float()


@pytest.mark.parametrize("symmetry", ["C2", "C5", "D2", "T", "O", "I1"])
def test_projections_of_a_symmetric_map_are_equal_at_all_copies(symmetry):
    grid = ImageGrid(shape=(24, 24, 24), pixel_size_angstrom=2.0)
    volume = a_symmetric_map(grid, symmetry)
    image_grid = ImageGrid(shape=(24, 24), pixel_size_angstrom=2.0)
    band = FourierBand(image_grid, max_shell=6)
    particles = expand(a_particle_set(n=2), symmetry)
    values = project(slices.prepare(volume, grid), torch.from_numpy(particles["rotation"].copy()), band)
    values = values.reshape(2, order(symmetry), -1)
    first = values[:, :1]
    spread = (values - first).abs().square().sum(-1) / first.abs().square().sum(-1)
    between = (values[0, 0] - values[1, 0]).abs().square().sum() / values[0, 0].abs().square().sum()
    assert spread.max() < 1e-3  # of the power: what is left is interpolation between slices
    assert between > 20 * spread.max()


def test_copies_share_all_but_pose_and_number_and_begin_with_the_particle_itself():
    before = a_particle_set(n=5)
    after = expand(before, "d2")
    assert len(after) == 20
    np.testing.assert_array_equal(after["symmetry_copy"], np.tile(np.arange(4), 5))
    for name in ("uid", "image_name", "origin_angstrom", "random_subset", "defocus_u_angstrom"):
        np.testing.assert_array_equal(after[name], np.repeat(before[name], 4, axis=0))
    originals = after.take(after["symmetry_copy"] == 0)
    np.testing.assert_allclose(originals["rotation"], before["rotation"], atol=1e-12)
    determinants = np.linalg.det(after["rotation"])
    np.testing.assert_allclose(determinants, 1, atol=1e-12)


def test_copies_land_in_one_half():
    bare = a_particle_set(n=30).without_columns("random_subset")
    halves = HalfSets(particles=with_random_subsets(expand(bare, "C3"), seed=4))
    assert not set(halves.first.uid) & set(halves.second.uid)
    assert set(np.unique(halves.first.uid, return_counts=True)[1]) == {3}


def test_what_cannot_be_expanded_is_refused():
    particles = a_particle_set(n=2)
    with pytest.raises(InconsistentDataError, match="copies already"):
        expand(expand(particles, "C2"), "C2")
    with pytest.raises(InconsistentDataError, match="poses"):
        expand(particles.without_columns("rotation"), "C2")
    with pytest.raises(InputError, match="several rotations"):
        expand(particles, "C1")
    with pytest.raises(InputError, match="symmetry must be one of"):
        expand(particles, "X3")
