"""Templates: projections of what was given, and what is no template refused."""

import pytest
import torch

from halfmap.errors import InputError, ShapeError
from halfmap.fourier.band import FourierBand
from halfmap.geometry.rotations import matrix_from_euler
from halfmap.grid import ImageGrid
from halfmap.template_matching.template import prepare_template

GRID = ImageGrid.cubic(32, 2.0)


def blobs(grid=GRID):
    position = grid.positions()
    centres = torch.tensor([[10.0, 0, 4], [-6, 12, 0], [0, -4, -12]], dtype=torch.float64)
    return torch.exp(-(position[..., None, :] - centres).square().sum(-1) / 18).sum(-1).to(torch.float32)


def test_a_slice_in_a_wider_box_is_the_projection_surrounded_by_zeros():
    template = prepare_template(blobs(), GRID)
    rotation = matrix_from_euler(*torch.tensor([20.0, 70.0, 45.0], dtype=torch.float64))
    narrow, wide = ImageGrid.square(32, 2.0), ImageGrid.square(44, 2.0)
    first = narrow.irfft(FourierBand(narrow).scatter(template.slices(rotation, FourierBand(narrow))))
    second = wide.irfft(FourierBand(wide).scatter(template.slices(rotation, FourierBand(wide))))
    difference = first - second[6:-6, 6:-6]
    # linear interpolation between samples of a transform padded twice
    assert float((difference - difference.mean()).abs().max()) < 0.02 * float(first.max() - first.min())


def test_another_pixel_size_makes_the_particle_larger_and_nothing_else():
    template = prepare_template(blobs(), GRID)
    larger = template.with_pixel_size(2.1)
    rotation = torch.eye(3, dtype=torch.float64)
    grid = ImageGrid.square(48, 2.0)
    band = FourierBand(grid)
    images = [grid.irfft(band.scatter(one.slices(rotation, band))) for one in (template, larger)]
    x = grid.positions()[..., 0]
    spread = [float((image.clamp(min=0.02) - 0.02).mul(x**2).sum() / (image.clamp(min=0.02) - 0.02).sum()) for image in
              (image / image.max() for image in images)]  # fmt: skip
    assert spread[1] / spread[0] == pytest.approx(1.05**2, rel=0.02)


def test_what_is_no_template_is_refused_with_what_to_do():
    with pytest.raises(ShapeError, match="cube of an even side"):
        prepare_template(torch.zeros(31, 31, 31), ImageGrid.cubic(31, 1.0))
    with pytest.raises(InputError, match="all alike"):
        prepare_template(torch.ones(32, 32, 32), GRID)
    with pytest.raises(InputError, match="invert it"):
        prepare_template(-blobs(), GRID)
