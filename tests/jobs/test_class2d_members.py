"""Particles of a class as pictures: each lies on the average."""

import numpy as np
import pytest
import torch

from halfmap.data.image_source import ArraySource
from halfmap.geometry.rotations import matrix_from_euler
from halfmap.grid import ImageGrid
from halfmap.jobs.class2d_members import aligned_images, members
from support.class_runs import PIXEL_SIZE, a_class_run

BLOBS = ((20.0, 4.0), (-8.0, 14.0))  # (x, y) in Å in the reference


def an_image(grid, rotation, origin):
    """Return blobs where a point v of the reference lies in an image, at (A v)_xy − origin."""
    positions = grid.positions()
    image = torch.zeros(grid.shape, dtype=torch.float64)
    for height, (x, y) in zip((1.0, 0.6), BLOBS, strict=True):
        at = (rotation @ torch.tensor([x, y, 0.0], dtype=torch.float64))[:2] - origin
        image += height * torch.exp(-(positions - at).square().sum(-1) / (2 * 6.0**2))
    return image.float()


@pytest.mark.parametrize("side", [32, 33])
def test_turned_and_shifted_images_lie_on_their_reference(side):
    grid = ImageGrid.square(side, 2.5)
    psi = np.array([0.0, 35.0, -120.0, 90.0])
    rotation = matrix_from_euler(np.zeros(4), np.zeros(4), psi)
    origin = torch.tensor([[0.0, 0.0], [4.0, -3.0], [-2.5, 5.0], [1.2, 1.0]], dtype=torch.float64)
    images = torch.stack([an_image(grid, rotation[i], origin[i]) for i in range(4)])
    reference = an_image(grid, torch.eye(3, dtype=torch.float64), torch.zeros(2, dtype=torch.float64))
    aligned = aligned_images(images, grid, rotation, origin)
    for one in aligned:
        torch.testing.assert_close(one, reference, atol=0.03, rtol=0)  # cubic interpolation of blobs of 2.4 px
    assert float((images[1] - reference).abs().max()) > 0.5


def test_members_are_normalised_low_passed_and_of_their_class():
    run = a_class_run(n_classes=3, n_particles=30, side=32)
    grid = ImageGrid.square(32, PIXEL_SIZE)
    noise = np.random.default_rng(2).normal(size=(30, 32, 32)).astype(np.float32)
    source = ArraySource(images=50 + 10 * noise, grid=grid)
    found = members(
        run,
        source,
        index=np.arange(30),
        background_mean=np.full(30, 50.0),
        background_deviation=np.full(30, 10.0),
    )
    assert set(found) == {1, 2, 3}
    assert found[1].shape == (10, 32, 32)
    deviation = np.std(found[1][:, 10:22, 10:22])
    assert 0.02 < deviation < 0.5  # of white noise of deviation 1, what a low-pass at 20 to 64 Å leaves


def test_large_images_are_made_smaller():
    run = a_class_run(n_classes=2, n_particles=4, side=32)
    grid = ImageGrid.square(128, PIXEL_SIZE / 4)
    source = ArraySource(images=np.zeros((4, 128, 128), dtype=np.float32), grid=grid)
    found = members(run, source, index=np.arange(4), background_mean=np.zeros(4), background_deviation=np.ones(4))
    assert found[1].shape == (2, 96, 96)
