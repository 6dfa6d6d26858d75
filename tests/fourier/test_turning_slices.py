"""Slices with their derivatives by turns: kernel and plain tensor operations agree."""

import pytest
import torch

from halfmap import keyed_random
from halfmap.errors import ShapeError
from halfmap.fourier import multilinear, slices
from halfmap.fourier.band import FourierBand
from halfmap.geometry.rotations import random_rotations
from halfmap.grid import ImageGrid


def test_turning_slices_of_kernel_and_plain_operations_agree():
    grid = ImageGrid.cubic(16, 2.0)
    volume = torch.from_numpy(keyed_random.normal(1, "volume", 1, size=grid.shape)).to(torch.float32)
    padded = slices.prepare(volume, grid)
    band = FourierBand(ImageGrid.square(20, 2.0))
    rotations = random_rotations(1, "rotations", range(3))
    values, turned = slices.extract_turning(padded, rotations, band)
    assert torch.allclose(values, slices.extract(padded, rotations, band), atol=1e-6)
    plain = multilinear.extract_turning_slices(padded.values[None], rotations, padded.grid.coordinates(band))
    plain = plain * padded.grid.field_scale(band)
    assert torch.allclose(torch.cat([values[None], turned]), plain, atol=1e-5 * float(plain.abs().max()))


def test_turning_slices_are_of_volumes():
    grid = ImageGrid.square(16, 2.0)
    padded = slices.prepare(torch.zeros(16, 16), grid)
    with pytest.raises(ShapeError, match="must be of a volume"):
        slices.extract_turning(padded, torch.eye(3, dtype=torch.float64), FourierBand(grid))
