"""Slices on Ewald's sphere: against the exact Fourier sum, as adjoint pair, and kernels against tensor operations."""

import math

import finufft
import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from halfmap.errors import InputError
from halfmap.fourier import slices
from halfmap.fourier.band import FourierBand
from halfmap.grid import ImageGrid

SIDE, PIXEL_ANGSTROM, WAVELENGTH_ANGSTROM = 24, 2.0, 6.0
BAND = FourierBand(ImageGrid.square(SIDE, PIXEL_ANGSTROM), max_shell=9)
GRID = ImageGrid.cubic(SIDE, PIXEL_ANGSTROM)
ROTATIONS = torch.from_numpy(Rotation.random(5, random_state=0).as_matrix())


def blobs() -> torch.Tensor:
    """Blobs of 1.5 voxels within a quarter of the side."""
    centres = torch.from_numpy(np.random.default_rng(0).uniform(-4, 4, (20, 3)))
    away = (GRID.positions()[None] / PIXEL_ANGSTROM - centres[:, None, None, None]).square().sum(-1)
    return torch.exp(-away / (2 * 1.5**2)).sum(0)


@pytest.mark.parametrize("wavelength", [WAVELENGTH_ANGSTROM, -WAVELENGTH_ANGSTROM])
def test_curved_slices_agree_with_the_exact_sum_on_the_sphere(wavelength: float) -> None:
    volume = blobs()
    found = slices.extract(slices.prepare(volume, GRID, 4), ROTATIONS, BAND, wavelength_angstrom=wavelength)
    s = BAND.frequencies
    points = torch.cat([s, wavelength / 2 * s.square().sum(-1, keepdim=True)], dim=-1) @ ROTATIONS
    at = (points.reshape(-1, 3).T * (2 * math.pi * PIXEL_ANGSTROM)).contiguous().numpy()
    sums = finufft.nufft3d2(*at, volume.permute(2, 1, 0).contiguous().numpy() + 0j, eps=1e-12, isign=-1)
    expected = torch.from_numpy(sums).reshape(found.shape) / SIDE**2
    assert float((found - expected).abs().square().sum() / expected.abs().square().sum()) < 0.01**2  # interpolation
    flat = slices.extract(slices.prepare(volume, GRID, 4), ROTATIONS, BAND)
    assert float((flat - expected).abs().square().sum() / expected.abs().square().sum()) > 0.1**2  # it is no plane


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
def test_insertion_on_the_sphere_is_the_adjoint_of_extraction(dtype: torch.dtype) -> None:
    padded = slices.prepare(blobs().to(dtype.to_real()), GRID, 2)
    generator = np.random.default_rng(1)
    values = torch.view_as_complex(torch.from_numpy(generator.normal(size=(5, len(BAND), 2)))).to(dtype)
    taken = slices.extract(padded, ROTATIONS, BAND, wavelength_angstrom=WAVELENGTH_ANGSTROM)
    data, _ = slices.insert(values, None, ROTATIONS, BAND, padded.grid, wavelength_angstrom=WAVELENGTH_ANGSTROM)
    counted = data.conj() * padded.values
    right = (counted.sum() - counted[..., 0].sum() / 2).real
    assert float((values.conj() * taken).sum().real) == pytest.approx(float(right), rel=1e-4)


def test_kernels_of_curved_slices_agree_with_plain_tensor_operations() -> None:
    padded = slices.prepare(blobs(), GRID, 2)
    double = slices.extract(padded, ROTATIONS, BAND, wavelength_angstrom=WAVELENGTH_ANGSTROM)
    single = slices.PaddedTransform(values=padded.values.to(torch.complex64), grid=padded.grid)
    found = slices.extract(single, ROTATIONS, BAND, wavelength_angstrom=WAVELENGTH_ANGSTROM)
    assert torch.allclose(found.to(double.dtype), double, atol=1e-5 * float(double.abs().max()))  # single precision


def test_curved_slices_of_images_and_with_gradients_are_refused() -> None:
    padded = slices.prepare(blobs(), GRID, 2)
    with pytest.raises(InputError, match="Curved slices"):
        slices.extract(padded, ROTATIONS.clone().requires_grad_(), BAND, wavelength_angstrom=1.0)
    image = slices.prepare(blobs()[0], ImageGrid.square(SIDE, PIXEL_ANGSTROM), 2)
    with pytest.raises(InputError, match="Curved slices"):
        slices.extract(image, ROTATIONS, BAND, wavelength_angstrom=1.0)
