"""Slices with the slopes at their points: kernel, plain tensor operations and finite turns agree."""

import pytest
import torch

from halfmap import keyed_random
from halfmap.errors import ShapeError
from halfmap.fourier import multilinear, slices
from halfmap.fourier.band import FourierBand
from halfmap.geometry.rotations import matrix_from_rotation_vector, random_rotations
from halfmap.grid import ImageGrid


def _padded() -> slices.PaddedTransform:
    grid = ImageGrid.cubic(16, 2.0)
    volume = torch.from_numpy(keyed_random.normal(1, "volume", 1, size=grid.shape)).to(torch.float32)
    return slices.prepare(volume, grid)


def test_slopes_of_kernel_and_plain_operations_agree():
    padded, band = _padded(), FourierBand(ImageGrid.square(20, 2.0))
    rotations = random_rotations(1, "rotations", range(3))
    values, slopes = slices.extract_with_gradients(padded, rotations, band)
    assert torch.allclose(values, slices.extract(padded, rotations, band), atol=1e-6)
    plain = multilinear.extract_sloping_slices(padded.values[None], rotations, padded.grid.coordinates(band))
    plain = plain * padded.grid.field_scale(band)
    plain[1:] *= 64.0  # Å: the side of the padded volume
    assert torch.allclose(values, plain[0], atol=1e-5 * float(plain[0].abs().max()))
    assert torch.allclose(slopes, plain[1:], atol=1e-5 * float(slopes.abs().max()))


@pytest.mark.parametrize("axis", range(3))
def test_turning_slices_change_as_slices_of_turned_volumes_do(axis):
    padded, band = _padded(), FourierBand(ImageGrid.square(16, 2.0))
    rotations = random_rotations(1, "rotations", range(4))
    _, turned = slices.extract_turning(padded, rotations, band)
    step = 1e-3 * torch.eye(3, dtype=torch.float64)[axis]
    ahead, behind = (
        slices.extract(padded, matrix_from_rotation_vector(way * step) @ rotations, band) for way in (1, -1)
    )
    # but for the few points that a step takes across a face of their cell
    wrong = (turned[axis] - (ahead - behind) / 2e-3).abs() > 0.01 * turned.abs().max()
    assert wrong.double().mean() < 0.05


def test_magnified_slices_are_read_at_magnified_frequencies():
    padded, band = _padded(), FourierBand(ImageGrid.square(16, 2.0), max_shell=5)
    rotations = random_rotations(1, "rotations", range(3))
    matrix = torch.tensor([[1.02, 0.01], [-0.03, 0.98]], dtype=torch.float64)
    full = torch.eye(3, dtype=torch.float64)
    full[:2, :2] = matrix
    values, slopes = slices.extract_with_gradients(padded, rotations, band, magnification=matrix)
    assert torch.allclose(values, slices.extract(padded, full.T @ rotations, band), atol=1e-6)
    step = torch.zeros(2, 2, dtype=torch.float64)
    step[0, 1] = 1e-3  # x is read further along by y
    ahead, behind = (
        slices.extract_with_gradients(padded, rotations, band, magnification=matrix + way * step)[0] for way in (1, -1)
    )
    wrong = (slopes[0] * band.frequencies[:, 1] - (ahead - behind) / 2e-3).abs() > 0.01 * slopes.abs().max() * 0.1
    assert wrong.double().mean() < 0.05


def test_turning_slices_are_of_volumes():
    grid = ImageGrid.square(16, 2.0)
    padded = slices.prepare(torch.zeros(16, 16), grid)
    with pytest.raises(ShapeError, match="must be of a volume"):
        slices.extract_turning(padded, torch.eye(3, dtype=torch.float64), FourierBand(grid))
